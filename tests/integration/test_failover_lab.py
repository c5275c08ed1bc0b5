"""A node dies under its users: standby copies, going on elsewhere behind a real Nginx, and the day it comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.faults.struck import HOWS
from tests.integration.edges import Edge, here
from tests.integration.labsite import Site, eventually
from tests.worlds import EFFECTS

ALL = os.environ.get("WSCTL_FAULTS") == "all"
USERS = 30 if ALL else 5
ROOT = "/srv/workspaces"

MANIFEST = r"""cd "$1" && find . -printf '%p|%y|%m|%U|%G|%s|%T@|%l\n' |
sed 's/^\(.*|d|.*|.*|.*|\)[0-9]*\(|.*|.*\)$/\1\2/' |
LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"""

NASTY = r"""set -e; cd "$1"; mkdir deep many; ln -s missing dangling; echo one > deep/a; ln deep/a deep/b
printf x > "$(printf 'latin-\351')"; echo z > ' -rf --delete'; chmod 4711 deep/a; chown 1234:4321 deep
truncate -s 4M sparse; for n in $(seq 300); do echo $n > many/$n; done"""


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(fault_lab, tmp_path)
    made.edit("workspace:\n", "workspace:\n  standby: 1\n")
    try:
        yield made
    finally:
        fault_lab.repair()
        for node in made.lab.nodes.values():
            script = (
                f"rm -rf {ROOT}/.wsctl-*/*{made.tag}* {ROOT}/.wsctl-standby/.*/*{made.tag}* /run/wsctl-move/{made.tag}*"
            )
            node.run(["sh", "-c", script], check=False, timeout=20)
        made.sweep()


@pytest.fixture
def edge(site: Site, tmp_path: Path) -> Iterator[Edge]:
    made = here(tmp_path, "edge")
    made.prepare()
    site.path.write_text(site.path.read_text() + f"gateway:\n  auto_apply: true\n  hosts:\n    here: {made.yaml()}\n")
    site.run("render-gateway", "--out", made.map_file)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def sh(site: Site, node: str, script: str, *args: str) -> str:
    return str(site.lab.nodes[node].run(["sh", "-c", script, "sh", *args], timeout=60).stdout)


def manifest(site: Site, node: str, folder: str) -> str:
    return sh(site, node, MANIFEST, f"{ROOT}/{folder}")


def standbys(site: Site) -> dict[str, str]:
    return {item["user"]: item["node"] for item in site.json("standby", "ls")["items"]}


def on_n1(site: Site, count: int) -> list[str]:
    """Users who live on n1, each with a file that says who they are."""
    users = [site.user(f"u{number}") for number in range(count)]
    site.run("node", "cordon", "n2", "n3")
    site.run("place", *users, "--parallel", "16", timeout=240)
    site.run("node", "uncordon", "n2", "n3")
    sh(site, "n1", f'cd {ROOT}; for user in "$@"; do echo "$user was here" > "$user/word.txt"; done', *users)
    return users


def no_keys(site: Site) -> None:
    for name in site.lab.nodes:
        left = sh(site, name, "cat ~/.ssh/authorized_keys; ls /run/wsctl-move 2>/dev/null || :")
        assert site.tag not in left, left


def test_a_copy_is_whole_and_an_interrupted_one_costs_nothing(site: Site) -> None:
    (user,) = on_n1(site, 1)
    home = f"{ROOT}/{user}"
    sh(site, "n1", NASTY, home)
    (done,) = site.json("standby", "sync")["items"]
    assert (done["action"], done["source"]) == ("synced", "n1")
    spare = done["node"]
    first = manifest(site, "n1", user)
    assert manifest(site, spare, f".wsctl-standby/{user}") == first
    assert sh(site, spare, 'stat -c %a "$1"', f"{ROOT}/.wsctl-standby").strip() == "700", "nobody else looks in"
    no_keys(site)
    # Cut off in the middle of the next one: the older copy has its content, and the same again finishes.
    sh(
        site,
        "n1",
        'cd "$1"; echo other > deep/a; chmod 600 many/1; rm many/2; head -c 30000000 /dev/urandom > big',
        home,
    )
    command = site.start("standby", "sync", user, "--bwlimit", "2m")
    eventually(lambda: sh(site, spare, f"ls {ROOT}/.wsctl-standby/.wsctl-incoming/{user}/.big* 2>/dev/null || :"), 20)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    kept = manifest(site, spare, f".wsctl-standby/{user}")
    assert [line for line in kept.splitlines() if "many/1|" not in line] == [
        line for line in first.splitlines() if "many/1|" not in line
    ]
    site.run("lease", "break", f"standby:{user}", "--yes")
    (again,) = site.json("standby", "sync", user)["items"]
    assert (again["action"], again["node"]) == ("synced", spare)
    assert manifest(site, spare, f".wsctl-standby/{user}") == manifest(site, "n1", user)
    no_keys(site)
    site.run("rm", user, "--yes")
    assert user not in sh(site, spare, f"ls -A {ROOT}/.wsctl-standby {ROOT}/.wsctl-standby/.wsctl-incoming")


@pytest.mark.timeout(300)
def test_users_of_a_dead_node_go_on_behind_the_gateway(site: Site, edge: Edge) -> None:
    users = on_n1(site, USERS)
    site.run("standby", "sync", "--parallel", "4", timeout=240)
    spares = standbys(site)
    assert set(spares.values()) == {"n2", "n3"}, "they don't all go to one node"
    sh(site, "n1", 'echo "after the copy" > "$1/late.txt"', f"{ROOT}/{users[0]}")
    site.lab.kill("n1")
    refused = site.run("node", "fail", "n2", "--yes", code=5)
    assert "answers" in refused.err
    began = time.monotonic()
    answered: dict[str, float] = {}

    def watch(user: str) -> None:
        def answers() -> bool:
            status, text = edge.get(f"/ws/{user}/word.txt")
            return status == 200 and text == f"{user} was here\n"

        eventually(answers, 60)
        answered[user] = time.monotonic() - began

    with ThreadPoolExecutor(len(users)) as pool:
        command = site.start("node", "fail", "n1", "--yes", "-o", "json")
        list(pool.map(watch, users))
    out, err = command.communicate(timeout=60)
    assert command.returncode == 0, (out, err)
    assert len(answered) == len(users)
    assert {item["user"]: item["node"] for item in site.json("ls")["items"]} == spares
    site.lab.start("n1")
    first = site.run("reconcile", "-o", "json", code=9)
    kinds = [(item["kind"], item["user"]) for item in first.items]
    assert ("returned", None) in kinds
    assert ("conflict", users[0]) in kinds
    assert kinds.count(("wrong-node", users[1])) == 1
    assert not any(name.startswith("n1/ws-u-") for name in site.containers(everything=True))
    assert site.json("node", "show", "n1")["state"] == "cordoned"
    late = sh(site, "n1", 'cat "$1"/late.txt', f"{ROOT}/.wsctl-kept/{users[0]}-failed-1")
    assert late == "after the copy\n"
    site.run("standby", "settle", users[0], "--yes")
    site.run("node", "uncordon", "n1")
    settle(site)


def test_a_node_that_was_only_cut_off_is_fenced_before_it_is_used(site: Site, edge: Edge) -> None:
    users = on_n1(site, 2)
    site.run("standby", "sync")
    site.lab.cut("n1")
    site.run("node", "fail", "n1", "--yes", timeout=120)
    assert site.run("node", "uncordon", "n1", code=8).code == 8
    site.lab.heal("n1")
    running = [name for name in site.containers("n1") if name.startswith("n1/ws-u-")]
    assert len(running) == 2, "they ran on all the time"
    site.run("node", "uncordon", "n1")
    assert site.containers("n1") == []
    assert all(edge.get(f"/ws/{user}/word.txt")[0] == 200 for user in users)
    settle(site)


@pytest.mark.timeout(3600 if ALL else 300)
def test_struck_anywhere_the_same_command_finishes(site: Site) -> None:
    """kill -9 and lost replies at the effects of `node fail`, while the node answers: the most there is to be done."""
    (user,) = on_n1(site, 1)
    argv = ["node", "fail", "n1", "--force", "--yes", "--user", user]
    counts = site.folder / "counts"

    def strike(at: str, how: str) -> int:
        counts.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.faults.struck", str(counts), at, how, *argv, "-i", str(site.path)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False, cwd=os.getcwd()
        ).returncode

    def back_on_n1() -> None:
        site.run("node", "uncordon", "n1")
        site.run("migrate-user", user, "--to", "n1")
        site.run("reconcile", code=None)  # a copy beside the user's own files goes
        site.run("standby", "sync", user)

    site.run("standby", "sync", user)
    strikes = [("standbys.promote", "killed-after"), ("store.take_over", "killed-after")]
    if ALL:
        assert strike("-1", "-") == 0
        effects = [n for n, name in enumerate(counts.read_text().split()) if name.rpartition(".")[2] in EFFECTS]
        assert len(effects) >= 8
        strikes = [(str(n), how) for n in effects for how in HOWS]
        back_on_n1()
    for at, how in strikes:
        code = strike(at, how)
        assert code == -9 if how.startswith("killed") else code in (0, 8, 9, 10), (code, at, how)
        for lease in site.json("lease", "ls")["items"]:
            site.run("lease", "break", lease["name"], "--yes", code=None)
        site.run(*argv)
        shown = site.json("show", user)
        assert (shown["state"], shown["node"] != "n1") == ("running", True), (shown, at, how)
        assert sh(site, shown["node"], 'cat "$1/word.txt"', f"{ROOT}/{user}") == f"{user} was here\n"
        back_on_n1()
    settle(site)
