"""The main job on real nodes, with every pair of state and lease back ends: what operators do, and what they see."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site

BACKENDS = ["sqlite+rows", "sqlite+redis", "mysql+rows", "mysql+redis"]


def _make(lab: Lab, folder: Path, backends: str) -> Site:
    state, leases = backends.split("+")
    coordination = lab.redis_url if leases == "redis" else None
    if state == "sqlite":
        return Site(lab, folder, coordination=coordination)
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
    return Site(lab, folder, state=url, coordination=coordination)


@pytest.fixture(params=BACKENDS)
def site(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on each pair of back ends."""
    made = _make(lab, tmp_path, request.param)
    try:
        yield made
    finally:
        made.sweep()


@pytest.fixture
def simple(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite alone."""
    made = _make(lab, tmp_path, "sqlite+rows")
    try:
        yield made
    finally:
        made.sweep()


def fetch(address: str, port: int, path: str = "/") -> str:
    """A page of a workspace, straight from its node."""
    with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_the_life_of_a_workspace(site: Site) -> None:
    alice = site.user()
    placed = site.json("place", alice)
    assert placed["schema_version"] == 1
    assert {
        "user",
        "node",
        "address",
        "host_port",
        "container",
        "state",
        "generation",
        "last_active_at",
        "url_path",
    } <= {*placed}
    assert (placed["user"], placed["state"], placed["action"]) == (alice, "running", "created")
    assert (placed["generation"], placed["container"]) == (1, f"ws-u-{alice}")
    assert alice in fetch(placed["address"], placed["host_port"])
    assert site.containers() == [f"{placed['node']}/ws-u-{alice}"]

    again = site.json("place", alice)
    assert again["action"] == "unchanged"
    assert {k: again[k] for k in ("node", "host_port", "generation")} == {
        k: placed[k] for k in ("node", "host_port", "generation")
    }
    assert [item["user"] for item in site.json("ls")["items"]] == [alice]
    assert site.json("show", alice)["observed"] == "running"

    stopped = site.json("stop", alice)
    assert (stopped["state"], stopped["action"]) == ("stopped", "stopped")
    assert site.containers() == []
    assert site.json("stop", alice)["action"] == "unchanged"

    started = site.json("start", alice)
    assert (started["state"], started["action"], started["host_port"]) == ("running", "started", placed["host_port"])
    assert site.json("restart", alice)["action"] == "restarted"
    anew = site.json("restart", alice, "--recreate")
    assert anew["generation"] > started["generation"]
    assert alice in fetch(anew["address"], anew["host_port"])

    assert site.run("rm", alice, code=5).out == ""
    assert site.containers() != []
    assert site.json("rm", alice, "--yes")["action"] == "removed"
    assert site.containers(everything=True) == []
    assert site.run("show", alice, code=4)


def test_files_survive_rm_and_bring_the_user_home(simple: Site) -> None:
    alice = simple.user()
    first = simple.json("place", alice)
    node = simple.lab.nodes[first["node"]]
    (node.workspaces / alice / "thesis.txt").write_text("two years of work")
    simple.run("rm", alice, "-y")
    assert (node.workspaces / alice / "thesis.txt").exists()
    # Somebody else makes that node the fullest; alice goes there all the same.
    others = [simple.user(f"u{n}") for n in range(4)]
    simple.run("place", *others)
    second = simple.json("place", alice)
    assert second["node"] == first["node"]
    assert fetch(second["address"], second["host_port"], "/thesis.txt") == "two years of work"


def test_purge_needs_the_users_name_and_removes_just_their_folder(simple: Site) -> None:
    alice, bob = simple.user(), simple.user("bob")
    node = simple.lab.nodes[simple.json("place", alice)["node"]]
    simple.run("place", bob)
    (node.workspaces / alice / "deep").mkdir()
    (node.workspaces / alice / "deep" / "file").write_text("x")
    assert simple.run("rm", alice, "--purge-data", "--yes", code=5).out == ""
    assert simple.run("rm", alice, "--purge-data", stdin="bob\n", code=5).out == ""
    assert simple.run("rm", alice, "--purge-data", "--confirm", bob, code=5).out == ""
    assert (node.workspaces / alice / "deep" / "file").exists()
    assert simple.json("rm", alice, "--purge-data", "--confirm", alice)["action"] == "purged"
    assert not (node.workspaces / alice).exists()
    assert any((n.workspaces / bob).exists() for n in simple.lab.nodes.values())
    # What was removed with its files kept can be purged later.
    simple.run("rm", bob, "-y")
    simple.run("rm", bob, "--purge-data", stdin=f"{bob}\n")
    assert not any((n.workspaces / bob).exists() for n in simple.lab.nodes.values())


def test_many_users_spread_evenly_and_again_unchanged(site: Site) -> None:
    users = [site.user(f"u{n:02}") for n in range(9)]
    listed = site.folder / "users.txt"
    listed.write_text("# the class of today\n" + "\n".join(users) + "\n\n")
    placed = site.run("place", "--from", str(listed), "--parallel", "6", "-o", "json").items
    assert [item["user"] for item in placed] == users
    assert {item["action"] for item in placed} == {"created"}
    nodes = [item["node"] for item in placed]
    assert sorted(nodes.count(name) for name in set(nodes)) == [3, 3, 3]
    assert len({(item["node"], item["host_port"]) for item in placed}) == 9
    assert len(site.containers()) == 9
    again = site.run("place", "--from", "-", "-o", "json", stdin="\n".join(users)).items
    assert {item["action"] for item in again} == {"unchanged"}
    stopped = site.run("stop", *users[:4], "-o", "json").items
    assert [item["state"] for item in stopped] == ["stopped"] * 4
    assert len(site.json("ls", "--state", "stopped")["items"]) == 4


def test_two_at_once_place_one_user_once(site: Site) -> None:
    alice = site.user()
    both = [site.start("place", alice, "-o", "json") for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    codes = [process.returncode for process in both]
    assert codes == [0, 0], results
    actions = sorted(__import__("json").loads(out)["action"] for out, _ in results)
    assert actions == ["created", "unchanged"]
    assert len(site.containers(everything=True)) == 1


def test_idle_workspaces_are_stopped_and_active_ones_kept(site: Site) -> None:
    idle, touched, busy = (site.user(name) for name in ("idle", "touched", "busy"))
    placed = {item["user"]: item for item in site.run("place", idle, touched, busy, "-o", "json").items}
    import time

    # As in cron, where it has run before: a Redis that has just begun to record stops nobody.
    site.run("reap-idle", "--idle", "6s")
    time.sleep(6.5)
    site.run("touch", touched)
    fetch(placed[busy]["address"], placed[busy]["host_port"])
    dry = {item["user"]: item for item in site.json("reap-idle", "--idle", "6s", "--dry-run")["items"]}
    assert dry[idle]["verdict"] == "would-stop"
    assert len(site.containers()) == 3
    done = {item["user"]: item for item in site.json("reap-idle", "--idle", "6s")["items"]}
    assert {user: done[user]["verdict"] for user in done} == {idle: "stopped", touched: "kept", busy: "kept"}
    assert "touch" in done[touched]["reason"]
    assert "network" in done[busy]["reason"]
    assert {signal["source"] for signal in done[idle]["signals"]} == {"start", "network", "cpu"}
    assert site.json("show", idle)["state"] == "stopped"
    back = site.json("place", idle)
    assert (back["action"], back["node"], back["host_port"]) == (
        "started", placed[idle]["node"], placed[idle]["host_port"],
    )  # fmt: skip


def test_counters_that_were_never_seen_keep_the_workspace(simple: Site) -> None:
    alice = simple.user()
    simple.run("place", alice)
    import sqlite3

    with closing(sqlite3.connect(simple.folder / "wsctl.db")) as db, db:
        db.execute("DELETE FROM samples")
    import time

    time.sleep(1.1)
    first = simple.json("reap-idle", "--idle", "1s")["items"][0]
    assert (first["verdict"], first["reason"]) == ("unknown", "first look at its network counters")
    with closing(sqlite3.connect(simple.folder / "wsctl.db")) as db, db:
        db.execute("DELETE FROM activity")
    second = simple.json("reap-idle", "--idle", "1s")["items"][0]
    assert (second["verdict"], second["reason"]) == ("unknown", "no activity was ever recorded; it counts from now")
    assert simple.containers() != []


def test_the_route_map_is_checked_stable_and_routes_for_real(simple: Site) -> None:
    alice = simple.user()
    simple.run("place", alice)
    out = simple.lab.gateway_folder / f"{simple.tag}.conf"
    map_text = simple.run("render-gateway", "--check", "--out", str(simple.folder / "map.conf")).out
    assert "written" in map_text
    assert "unchanged" in simple.run("render-gateway", "--out", str(simple.folder / "map.conf")).out
    text = (simple.folder / "map.conf").read_text()
    assert simple.run("render-gateway").out == text == simple.run("render-gateway", "--out", "-").out
    assert f'"u:{alice}"' in text
    snippet = simple.run("render-gateway", "--snippet").out
    assert "proxy_pass http://$ws_upstream" in snippet
    if any(simple.lab.gateway_folder.glob("*.conf")):
        return  # somebody else's map is on the lab's Nginx; the demo and test_routes_nginx fetch through one
    slot = simple.lab.gateway_folder / f"{simple.tag}.snippet"
    try:
        out.write_text(text)
        slot.write_text(snippet)
        simple.lab.nginx_reload()
        import urllib.error

        with urllib.request.urlopen(f"{simple.lab.gateway_url}/ws/{alice}/", timeout=5) as answer:
            assert alice in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{simple.lab.gateway_url}/ws/nobody/", timeout=5)
    finally:
        out.unlink(missing_ok=True)
        slot.unlink(missing_ok=True)
        simple.lab.nginx_reload()


def test_cordoned_nodes_get_nobody_new(site: Site) -> None:
    assert site.json("node", "cordon", "n1", "n2", "--reason", "disk swap")["items"][0]["state"] == "cordoned"
    listed = {item["name"]: item for item in site.json("node", "ls")["items"]}
    assert (listed["n1"]["state"], listed["n1"]["reason"], listed["n3"]["state"]) == ("cordoned", "disk swap", "ready")
    placed = site.json("place", site.user(), "--explain")
    assert placed["node"] == "n3"
    assert placed["explain"]["n1"]["feasible"] is False
    assert "disk swap" in placed["explain"]["n1"]["reasons"][0]
    site.run("node", "cordon", "n3")
    error = site.run("place", site.user("bob"), "-o", "json", code=7).error
    assert error["code"] == "unschedulable"
    assert set(error["details"]["nodes"]) == {"n1", "n2", "n3"}
    site.run("node", "uncordon", "n1")
    assert site.json("place", site.user("bob"))["node"] == "n1"


@pytest.mark.parametrize("strategy", ["spread", "binpack", "least-loaded", "weighted", "round-robin", "hash"])
def test_every_strategy_places_and_explains(simple: Site, strategy: str) -> None:
    users = [simple.user(f"u{n}") for n in range(3)]
    dry = simple.run("place", *users, "--strategy", strategy, "--dry-run", "-o", "json").json
    assert dry["dry_run"] is True
    nodes = [work["steps"][0]["node"] for work in dry["plan"]]
    if strategy == "binpack":
        assert len(set(nodes)) == 1
    if strategy in ("spread", "round-robin", "weighted"):
        assert len(set(nodes)) == 3
    assert simple.json("ls")["items"] == []
    assert not (simple.folder / "wsctl.db").exists()


def test_a_class_of_its_own(simple: Site) -> None:
    simple.edit("workspace:\n", "workspace:\n  classes:\n    small: {memory: 32m, idle_after: null}\n")
    alice = simple.user()
    assert simple.json("place", alice, "--class", "small")["state"] == "running"
    shown = simple.json("show", alice)
    assert (shown["class"], shown["memory_bytes"]) == ("small", 32 * 1024 * 1024)
    assert simple.json("reap-idle", "--idle", "1ms")["items"][0]["verdict"] == "kept"
    simple.run("place", simple.user("bob"), "--class", "smal", code=4)


def test_containers_are_confined(simple: Site) -> None:
    alice = simple.user()
    placed = simple.json("place", alice)
    out = simple.lab.nodes[placed["node"]].run(["docker", "inspect", f"ws-u-{alice}"]).stdout
    import json

    (found,) = json.loads(out)
    host = found["HostConfig"]
    assert host["Privileged"] is False
    assert "no-new-privileges" in " ".join(host["SecurityOpt"])
    assert host["CapDrop"] == ["ALL"]
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 * 1024 * 1024, 500_000_000, 64)
    (bound,) = host["PortBindings"]["8080/tcp"]
    assert bound == {"HostIp": placed["address"], "HostPort": str(placed["host_port"])}
    assert [mount["Source"] for mount in found["Mounts"]] == [f"/srv/workspaces/{alice}"]
    labels = found["Config"]["Labels"]
    assert labels["io.wsctl.cluster"] == simple.tag
    assert labels["io.wsctl.user"] == alice
    assert labels["io.wsctl.generation"] == "1"
    assert len(labels["io.wsctl.spec"]) == 12
