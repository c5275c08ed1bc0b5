"""Emptying a real node, and evening out three: files intact, routed, killed half way, a target that dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.labsite import Site, eventually

COUNT = 3

ALL = os.environ.get("WSCTL_FAULTS") == "all"

FILL = """for user in "$@"; do cd "/srv/workspaces/$user"; mkdir -p many
for n in $(seq 50); do echo "$user $n" > many/$n; done
dd if=/dev/urandom of=big bs=1M count=2 status=none; ln many/1 many/link; chown 1234 many/2; done"""

SUMS = """cd "/srv/workspaces/$1" && find . -printf '%p %y %m %U %s %T@ %l\\n' | grep -v ' d ' | LC_ALL=C sort
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"""


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(fault_lab, tmp_path)
    try:
        yield made
    finally:
        fault_lab.repair()
        for node in made.lab.nodes.values():
            script = f"rm -rf /srv/workspaces/.wsctl-*/*-{made.tag}* /run/wsctl-move/{made.tag}.*"
            node.run(["sh", "-c", script], check=False, timeout=20)
        made.sweep()


def sh(site: Site, node: str, script: str, *args: str) -> str:
    return str(site.lab.nodes[node].run(["sh", "-c", script, "sh", *args], timeout=60).stdout)


def on_n1(site: Site, count: int = COUNT) -> list[str]:
    """Users who run on n1 with files; the last one is stopped."""
    users = [site.user(f"u{number}") for number in range(count)]
    site.run("node", "cordon", "n2", "n3")
    site.run("place", *users)
    site.run("node", "uncordon", "n2", "n3")
    sh(site, "n1", FILL, *users)
    site.run("stop", users[-1], "--grace", "0s")
    return users


def homes(site: Site) -> dict[str, str]:
    return {item["user"]: item["node"] for item in site.run("ls", "-o", "json").items}


def sums(site: Site, users: list[str]) -> dict[str, str]:
    where = homes(site)
    return {user: sh(site, where[user], SUMS, user) for user in users}


def answers(site: Site, user: str) -> bool:
    shown = site.json("show", user)
    with urllib.request.urlopen(f"http://{shown['address']}:{shown['host_port']}/", timeout=5) as answer:
        return int(answer.status) == 200


def is_empty(site: Site, node: str) -> bool:
    (seen,) = [item for item in site.run("node", "ls", "-o", "json").items if item["name"] == node]
    return seen["workspaces"] == 0 and seen["state"] == "draining" and not site.containers(node)


def test_drain_reboot_uncordon(site: Site) -> None:
    users = on_n1(site)
    before = sums(site, users)
    plan = site.run("node", "drain", "n1", "--dry-run", "-o", "json")
    assert {item["verdict"] for item in plan.items} == {"would-move"}
    assert min(item["size_bytes"] for item in plan.items) > 2 << 20
    found = site.run("node", "drain", "n1", "--yes", "--reason", "new kernel", "-o", "json", timeout=180)
    assert {item["user"]: item["verdict"] for item in found.items} == dict.fromkeys(users, "moved")
    assert all(item["downtime_ms"] > 0 for item in found.items if item["user"] != users[-1])
    assert is_empty(site, "n1")
    assert sums(site, users) == before
    assert all(answers(site, user) for user in users[:-1])
    assert site.json("show", users[-1])["state"] == "stopped"
    for item in found.items:
        assert sh(site, "n1", 'ls "$1"', item["kept_copy"]).split() == ["big", "many"]
    map_file = site.folder / "map.conf"
    site.run("render-gateway", "--out", str(map_file))
    routed = {line.split('"')[1] for line in map_file.read_text().splitlines() if '"u:' in line}
    assert {f"u:{user}" for user in users[:-1]} <= routed
    if ALL:
        site.lab.kill("n1")
        site.lab.start("n1")
        eventually(lambda: site.run("node", "check", "n1", code=None).code == 0, 60, 1.0)
    site.run("node", "uncordon", "n1")
    settle(site)


def test_killed_half_way_the_same_command_finishes(site: Site) -> None:
    users = on_n1(site, 2)
    before = sums(site, users)
    counts = site.folder / "counts"
    argv = ["node", "drain", "n1", "--yes", "--parallel", "2", "-i", str(site.path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.struck", str(counts), "store.swap", "killed-after", *argv],
        capture_output=True, timeout=120, check=False, cwd=os.getcwd(),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sum(home == "n1" for home in homes(site).values())
    assert 0 <= left < 2
    (n1, *_) = site.run("node", "ls", "-o", "json").items
    assert (n1["state"], n1["workspaces"]) == ("draining", left)
    assert f"{left} left" in n1["reason"]
    again = ("node", "drain", "n1", "--yes", "-o", "json")
    eventually(lambda: site.run(*again, code=None, timeout=180).code == 0, 120, 2.0)
    assert is_empty(site, "n1")
    assert sums(site, users) == before
    site.run("reconcile")
    assert all(answers(site, user) for user in users[:-1])
    settle(site)


def _moving(site: Site) -> int:
    return sum(int(item["moving"]) for item in site.run("node", "ls", "--no-probe", "-o", "json").items)


def test_rebalance_over_three_nodes(site: Site) -> None:
    users = on_n1(site)
    site.run("start", users[-1])
    before = sums(site, users)
    plan = site.json("rebalance", "--dry-run", "--target", "0.01%")
    assert (plan["moves"], plan["lower_bound"]) == (2, 2)
    assert plan["size_bytes"] > 4 << 20
    done = site.json("rebalance", "--target", "0.01%", "--yes", timeout=180)
    assert {item["verdict"] for item in done["items"]} == {"moved"}
    assert done["spread_after"] < 0.0001 < done["spread_before"]
    assert sorted(homes(site).values()) == ["n1", "n2", "n3"]
    assert sums(site, users) == before
    assert all(answers(site, user) for user in users)
    settle(site)


if ALL:  # each takes a minute

    def test_ctrl_c_lets_begun_moves_finish(site: Site) -> None:
        users = on_n1(site)
        sh(site, "n1", 'dd if=/dev/urandom of="/srv/workspaces/$1/more" bs=1M count=30 status=none', users[0])
        process = site.start("node", "drain", "n1", "--yes", "--parallel", "1", "--bwlimit", "12m")
        eventually(lambda: any(p.startswith("n1") for p in homes(site).values()) and _moving(site), 30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert "no further move begins; waiting for" in said
        assert not _moving(site)
        where = homes(site)
        assert sorted(where.values()).count("n1") == COUNT - 1
        moved = next(user for user in users if where[user] != "n1")
        if moved != users[-1]:
            assert answers(site, moved)
        assert site.run("reconcile", "--dry-run", "-o", "json").items == []
        site.run("node", "drain", "n1", "--yes", timeout=180)
        assert is_empty(site, "n1")
        settle(site)

    @pytest.mark.timeout(400)
    def test_a_target_that_dies_meanwhile(site: Site) -> None:
        users = on_n1(site)
        before = sums(site, users)
        for user in users[:2]:
            sh(site, "n1", 'dd if=/dev/zero of="/srv/workspaces/$1/more" bs=1M count=20 status=none', user)
        before |= sums(site, users[:2])
        process = site.start("node", "drain", "n1", "--yes", "--bwlimit", "8m", "-o", "json")
        eventually(lambda: _moving(site) >= 2, 30)
        time.sleep(0.5)
        site.lab.kill("n3")
        out, said = process.communicate(timeout=170)
        where = homes(site)
        assert "n1" not in where.values(), (out, said)
        reached = [user for user in users if where[user] != "n3"]
        assert {where[user] for user in reached} == {"n2"}
        assert sums(site, reached) == {user: before[user] for user in reached}
        assert is_empty(site, "n1")
        site.lab.start("n3")
        eventually(lambda: site.run("reconcile", code=None, timeout=120).code == 0, 120, 2.0)
        settle(site)
