"""`render-gateway --apply` and `--diff` on real Nginx processes, here and on a node behind SSH.

A missing nginx fails these tests: what they show can't be shown without one. `WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from tests.integration import labsite
from tests.integration.edges import Edge, here
from tests.integration.labsite import Ran, eventually
from wsctl.errors import GatewayError
from wsctl.model import Capacity, PlacementState, Resources, SshSettings
from wsctl.ports import Reservation
from wsctl.routes import GatewayHost, is_intact, parse_header
from wsctl.store import open_store
from wsctl.store.store import SqlStore
from wsctl.transport.gateways import Gateways

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")

INVENTORY = """\
version: 1
cluster: edges
defaults: {{ports: 1024-65535, capacity: {{memory: 64g, cpus: 100}}}}
workspace: {{image: a}}
gateway:
  mode: {mode}
  auto_apply: {auto}
  hosts:
{hosts}
nodes: {{here: {{address: local}}}}
"""


@dataclass
class Site:
    """An inventory of gateways, and placements that no node knows of."""

    folder: Path
    edges: dict[str, Edge]
    auto: bool = False
    mode: str = "map"
    extra: dict[str, str] = field(default_factory=dict)

    def inventory(self) -> Path:
        hosts = {name: edge.yaml() for name, edge in self.edges.items()} | self.extra
        lines = "\n".join(f"    {name}: {text}" for name, text in hosts.items())
        path = self.folder / "inventory.yaml"
        path.write_text(INVENTORY.format(hosts=lines, auto=str(self.auto).lower(), mode=self.mode))
        return path

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "wsctl", *words, "-i", str(self.inventory()), "-o", "json"]

    def run(self, *words: str, code: int | None = 0) -> Ran:
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, cwd=self.folder, timeout=90, check=False
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, f"exit {ran.code}\n{ran.out}\n{ran.err}"
        assert "Traceback" not in ran.err
        return ran

    def apply(self, *more: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """The items by gateway."""
        return {item["gateway"]: item for item in self.run("render-gateway", "--apply", *more, code=code).items}

    def store(self) -> SqlStore:
        return open_store("sqlite:///wsctl.db", cluster="edges", base=self.folder)

    def place(self, user: str, port: int) -> None:
        """A running workspace, as far as the state database knows."""
        store = self.store()
        wanted = Reservation(
            user, "here", "127.0.0.1", port, Resources(1 << 20, 10, 16), Capacity(1000, 1 << 40, 10**6)
        )
        placed = store.reserve(wanted)
        assert not isinstance(placed, str), placed
        assert store.settle(user, placed.generation, PlacementState.RUNNING)
        store.close()

    def remove(self, user: str) -> None:
        store = self.store()
        placement = store.placement(user)
        assert placement is not None
        assert store.release(user, placement.generation, keep_home=None)
        store.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One running Nginx here that serves alice."""
    edge = here(tmp_path)
    edge.prepare()
    made = Site(tmp_path, {"here": edge})
    made.place("alice", edge.workspace)
    (tmp_path / "here" / "conf.d" / "00-wsctl-map.conf").write_text(made.run("render-gateway").out)
    edge.start()
    eventually(lambda: edge.get("/ws/alice/")[0] == 200)
    edge.settle()
    try:
        yield made
    finally:
        edge.stop()


def test_a_change_is_put_live_and_confirmed_and_nothing_else_is_touched(site: Site) -> None:
    edge = site.edges["here"]
    workers, before = edge.workers(), os.stat(edge.map_file)
    first = site.apply()["here"]
    assert (first["action"], first["routes"], first["reload_ms"], first["error"]) == ("unchanged", 1, None, None)
    assert (edge.workers(), edge.reloads()) == (workers, 0), "no change, no reload"
    assert os.stat(edge.map_file) == before, "no change, no write"

    site.place("bob", edge.workspace + 1)
    assert edge.get("/ws/bob/")[0] == 404
    diff = site.run("render-gateway", "--diff").items
    change = {
        "gateway": "here",
        "user": "bob",
        "change": "added",
        "from": None,
        "to": f"127.0.0.1:{edge.workspace + 1}",
    }
    assert diff == [change]
    assert site.apply("--dry-run")["here"]["action"] == "would-apply"
    assert edge.reloads() == 0

    second = site.apply()["here"]
    assert (second["action"], second["routes"]) == ("applied", 2)
    assert second["generation"] > first["generation"]
    assert second["confirm_ms"] >= 100, "longer than old workers accept connections"
    assert edge.get("/ws/bob/")[0] == 502, "routed, and nobody there"
    assert edge.reloads() == 1
    assert not edge.workers() & workers
    assert edge.beside() == ["00-wsctl-map.conf"], "nothing is left beside"
    assert is_intact(edge.live())
    assert site.run("render-gateway", "--diff").items == []


def test_a_file_of_somebody_else_that_nginx_refuses_is_named_and_the_old_map_stays(site: Site) -> None:
    edge = site.edges["here"]
    old = edge.live()
    edge.write("conf.d/50-theirs.conf", "server {\n    listen 127.0.0.1:1;\n    nonsense on;\n}\n")
    site.place("bob", 2000)
    error = site.run("render-gateway", "--apply", code=5).error
    assert error["code"] == "map-refused"
    assert f"{edge.root}/conf.d/50-theirs.conf:3: unknown directive" in error["message"]
    assert "isn't the map's fault" in error["message"]
    assert (error["details"]["file"], error["details"]["line"]) == (f"{edge.root}/conf.d/50-theirs.conf", 3)
    assert (edge.live(), edge.reloads()) == (old, 0)
    assert edge.beside() == ["00-wsctl-map.conf", "50-theirs.conf"]
    edge.sh(f"rm {edge.root}/conf.d/50-theirs.conf")
    assert site.apply()["here"]["action"] == "applied"


def test_a_refusal_that_only_the_new_map_causes_is_blamed_on_it(site: Site) -> None:
    """A map of theirs before ours fixes the hash sizes: Nginx calls ours duplicates."""
    edge = site.edges["here"]
    edge.sh(f"rm {edge.map_file}")
    edge.write("snippet.conf", "")
    edge.write("conf.d/0-theirs.conf", 'map $uri $theirs { default ""; }\n')
    error = site.run("render-gateway", "--apply", code=5).error
    assert "Nginx refuses the new map" in error["message"]
    assert f"{edge.map_file}:" in error["message"]
    assert edge.beside() == ["0-theirs.conf"], "there was no map, so there is none"


def test_an_nginx_that_does_not_run_is_said_and_the_old_map_is_back(site: Site) -> None:
    edge = site.edges["here"]
    edge.stop()
    old = edge.live()
    site.place("bob", 2000)
    error = site.run("render-gateway", "--apply", code=8).error
    assert error["code"] == "gateway"
    assert "the reload failed" in error["message"]
    assert "the old map is back" in error["message"]
    assert "is Nginx running" in error["hint"]
    assert (edge.live(), edge.beside()) == (old, ["00-wsctl-map.conf"])
    edge.start()
    assert site.apply()["here"]["action"] == "applied"


def test_a_reload_that_silently_keeps_the_old_configuration_is_noticed(site: Site) -> None:
    edge = site.edges["here"]
    old = edge.live()
    edge.reload = "['true']"
    site.place("bob", 2000)
    error = site.run("render-gateway", "--apply", code=8).error
    assert "still serves generation" in error["message"]
    assert "the old map is back" in error["message"]
    assert (edge.live(), edge.beside()) == (old, ["00-wsctl-map.conf"])
    edge.reload = ""
    edge.settle()
    assert site.apply()["here"]["action"] == "applied"


def test_a_gateway_without_the_snippet_cannot_confirm(site: Site) -> None:
    edge = site.edges["here"]
    old = edge.live()
    edge.write("snippet.conf", "")
    site.place("bob", 2000)
    error = site.run("render-gateway", "--apply", code=8).error
    assert "HTTP status 404" in error["message"]
    assert "--snippet" in error["hint"]
    assert edge.live() == old


def test_a_full_disk_leaves_the_old_map(site: Site) -> None:
    edge = site.edges["here"]
    old, folder = edge.live(), f"{edge.root}/conf.d"
    edge.sh(f"mount -t tmpfs -o size=32k wsctl-test {folder}")
    try:
        edge.write("conf.d/00-wsctl-map.conf", old)
        edge.sh(f"dd if=/dev/zero of={folder}/filler bs=1k 2>/dev/null", check=False)
        site.place("bob", 2000)
        error = site.run("render-gateway", "--apply", code=8).error
        assert "No space left on device" in error["message"]
        assert (edge.live(), edge.reloads()) == (old, 0)
        assert edge.beside() == ["00-wsctl-map.conf", "filler"]
        edge.sh(f"rm {folder}/filler")
        assert site.apply()["here"]["action"] == "applied"
    finally:
        edge.sh(f"umount -l {folder}")


def test_two_applies_at_once_make_one_reload(site: Site) -> None:
    edge = site.edges["here"]
    site.place("bob", 2000)
    argv = site.argv("render-gateway", "--apply")
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=site.folder) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(answer["items"][0]["action"] for answer in answers) == ["applied", "unchanged"]
    assert edge.reloads() == 1


def test_an_edited_map_is_replaced_only_by_force(site: Site) -> None:
    edge = site.edges["here"]
    edited = edge.live().replace(f"127.0.0.1:{edge.workspace}", "127.0.0.1:9")
    edge.write("conf.d/00-wsctl-map.conf", edited)
    error = site.run("render-gateway", "--apply", code=5).error
    assert error["code"] == "refused"
    assert "edited by hand" in error["message"]
    assert "--diff" in error["hint"]
    assert "--force" in error["hint"]
    assert edge.live() == edited
    (change,) = site.run("render-gateway", "--diff").items
    assert (change["change"], change["from"], change["to"]) == ("moved", "127.0.0.1:9", f"127.0.0.1:{edge.workspace}")
    edge.settle()
    assert site.apply("--force")["here"]["action"] == "applied"
    assert is_intact(edge.live())


def test_a_newer_map_is_not_replaced_by_an_older_one(site: Site) -> None:
    edge = site.edges["here"]
    site.place("bob", 2000)
    site.apply()
    # The state database of before: a backup.
    site.folder.joinpath("wsctl.db").unlink()
    site.place("alice", edge.workspace)
    edge.settle()
    error = site.run("render-gateway", "--apply", code=5).error
    assert "its map is older" in error["message"]
    assert edge.get("/ws/bob/")[0] == 502
    assert site.apply("--force")["here"]["action"] == "applied"
    assert edge.get("/ws/bob/")[0] == 404


@pytest.mark.parametrize("where", ["test", "reload"])
def test_a_run_killed_between_swap_and_confirmation_is_repaired_by_the_next(site: Site, where: str) -> None:
    edge = site.edges["here"]
    mark = f"{edge.root}/reached"
    setattr(edge, where, f"[sh, -c, 'touch {mark}; sleep 3']")
    site.place("bob", 2000)
    process = subprocess.Popen(site.argv("render-gateway", "--apply"), cwd=site.folder, stdout=subprocess.DEVNULL)
    eventually(lambda: os.path.exists(mark))
    process.send_signal(signal.SIGKILL)
    process.wait()
    header = parse_header(edge.live())
    assert header is not None
    assert header.count == 2, "swapped"
    assert is_intact(edge.live())
    assert edge.get("/ws/bob/")[0] == 404, "and not loaded"
    setattr(edge, where, "")
    edge.settle()
    site.run("lease", "break", "gateway:here", "--yes")
    assert site.apply()["here"]["action"] == "applied", "the file is current, but the workers are not"
    assert edge.get("/ws/bob/")[0] == 502
    assert edge.beside() == ["00-wsctl-map.conf"]


def test_a_killed_run_whose_map_nginx_refuses_goes_back_to_the_map_before(site: Site) -> None:
    edge = site.edges["here"]
    old, mark = edge.live(), f"{edge.root}/reached"
    edge.test = f"[sh, -c, 'touch {mark}; sleep 3']"
    site.place("bob", 2000)
    process = subprocess.Popen(site.argv("render-gateway", "--apply"), cwd=site.folder, stdout=subprocess.DEVNULL)
    eventually(lambda: os.path.exists(mark))
    process.kill()
    process.wait()
    edge.test = "['false']"
    edge.settle()
    site.run("lease", "break", "gateway:here", "--yes")
    assert site.run("render-gateway", "--apply", code=5).error["code"] == "map-refused"
    assert edge.live() == old


def test_twenty_applies_under_load_fail_no_request(site: Site) -> None:
    edge = site.edges["here"]
    ended, failures, count = threading.Event(), [], [0]
    generations: list[int] = []

    def ask() -> None:
        while not ended.is_set():
            try:
                answer = edge.get("/ws/alice/")
            except OSError as error:
                answer = (0, repr(error))
            count[0] += 1
            if answer != (200, "a workspace"):
                failures.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    try:
        for number in range(20):
            if number % 2:
                site.remove("bob")
            else:
                site.place("bob", 2000 + number)
            assert site.apply()["here"]["action"] == "applied"
            generations.append(edge.generations())
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    elapsed = time.monotonic() - began
    assert failures == []
    assert count[0] > 500
    assert edge.reloads() == 20
    assert max(generations) <= 3, "old workers end: they don't pile up"
    assert elapsed >= 19, "at most one reload a second"


# --------------------------------------------------------------------------------------------------- with a node


@pytest.fixture
def far(lab: Lab, tmp_path: Path) -> Iterator[Edge]:
    """A running Nginx inside the first node, with an empty map."""
    node = next(iter(lab.nodes.values()))
    ssh = f"{{user: root, config: false, identity_file: {lab.folder / 'id_ed25519'}, known_hosts: {lab.known_hosts}}}"
    edge = Edge(f"/tmp/edge-{uuid.uuid4().hex[:8]}", node.address, ssh, node.enter)
    edge.prepare()
    empty = Site(tmp_path, {})
    edge.write("conf.d/00-wsctl-map.conf", empty.run("render-gateway").out)
    edge.start()
    try:
        yield edge
    finally:
        edge.stop()
        edge.sh(f"rm -rf {edge.root}")


def test_several_gateways_get_the_same_map_and_one_that_is_down_catches_up(site: Site, far: Edge) -> None:
    site.edges["far"] = far
    site.place("bob", 2000)
    far.settle()
    found = site.apply()
    assert {name: item["action"] for name, item in found.items()} == {"here": "applied", "far": "applied"}
    assert far.live() == site.edges["here"].live()
    assert far.beside() == ["00-wsctl-map.conf"]
    assert {item["action"] for item in site.apply().values()} == {"unchanged"}
    assert (far.reloads(), site.edges["here"].reloads()) == (1, 1)

    # One without an sshd, and one whose Nginx is down: the first is still served.
    site.extra["gone"] = "{address: 127.0.0.1, ssh: {port: 9, config: false}}"
    far.stop()
    site.place("carol", 2001)
    site.edges["here"].settle()
    ran = site.run("render-gateway", "--apply", code=9)
    items = {item["gateway"]: item for item in ran.items}
    assert {name: item["action"] for name, item in items.items()} == {
        "here": "applied", "far": "failed", "gone": "failed",
    }  # fmt: skip
    assert items["gone"]["error"]["code"] == "node-unreachable"
    assert items["far"]["error"]["code"] == "gateway"
    assert ran.error["details"]["failed"] == ["far", "gone"]
    assert site.edges["here"].get("/ws/carol/")[0] == 502

    del site.extra["gone"]
    far.start()
    found = site.apply()
    assert {name: item["action"] for name, item in found.items()} == {"here": "unchanged", "far": "applied"}


def test_a_disk_that_fills_up_in_the_middle_of_an_upload_by_ssh_is_said(far: Edge, lab: Lab) -> None:
    """The command ends before it has read all that is sent to it."""
    folder = f"{far.root}/conf.d"
    old = far.live()
    ssh = SshSettings(
        "root", identity_file=str(lab.folder / "id_ed25519"), known_hosts=str(lab.known_hosts), config=False
    )
    words = tuple(far.nginx)
    host = GatewayHost("far", far.address, ssh, far.map_file, (*words, "-t"), (*words, "-s", "reload"), "http://h/")
    gateways = Gateways({"far": host})
    far.sh(f"mount -t tmpfs -o size=1m wsctl-test {folder}")
    try:
        far.write("conf.d/00-wsctl-map.conf", old)
        with pytest.raises(GatewayError, match="No space left on device"):
            gateways.gateway("far").upload("x" * (8 << 20))
        assert far.beside() == ["00-wsctl-map.conf"], "the part is removed"
        far.sh(f"mount -o remount,size=64m {folder}")
        gateways.gateway("far").upload("x" * (8 << 20))
        gateways.gateway("far").swap()
        assert gateways.gateway("far").read().text == "x" * (8 << 20)
        assert gateways.gateway("far").put_back(there_was_none=False)
        assert far.live() == old
    finally:
        gateways.close()
        far.sh(f"umount -l {folder}")


def test_the_only_gateway_unreachable_is_8_and_a_strange_host_key_is_refused(far: Edge, tmp_path: Path) -> None:
    site = Site(tmp_path, {}, extra={"gone": "{address: 127.0.0.1, ssh: {port: 9, config: false}}"})
    assert site.run("render-gateway", "--apply", code=8).error["code"] == "node-unreachable"
    strange = tmp_path / "known_hosts"
    strange.write_text("")
    known = far.ssh.partition("known_hosts: ")[2].rstrip("}")
    far.ssh = far.ssh.replace(known, str(strange))
    site = Site(tmp_path, {"far": far})
    error = site.run("render-gateway", "--apply", code=8).error
    assert (error["code"], error["hint"]) == ("host-key", "wsctl gateway trust far")
    (listed,) = site.run("gateway", "ls").items
    assert listed["state"] == "unknown"

    wrong = site.run("gateway", "trust", "far", "--fingerprint", "SHA256:AAAA", code=5).error
    assert strange.read_text() == "", "nothing was trusted"
    trusted = site.run("gateway", "trust", "far", "--fingerprint", wrong["details"]["fingerprint"]).json
    assert trusted["action"] == "trusted"
    assert site.apply()["far"]["action"] == "unchanged"
    (listed,) = site.run("gateway", "ls").items
    assert (listed["state"], listed["reason"]) == ("current", None)


def test_verbs_apply_at_their_end(lab: Lab, tmp_path: Path) -> None:
    """On real nodes: who is placed can be reached, who is stopped can't, without another command."""
    edge = here(tmp_path)
    edge.prepare()
    cluster = labsite.Site(lab, tmp_path)
    text = cluster.path.read_text()
    assert "gateway:" not in text
    cluster.path.write_text(f"{text}gateway: {{auto_apply: true, hosts: {{here: {edge.yaml()}}}}}\n")
    edge.write("conf.d/00-wsctl-map.conf", cluster.run("render-gateway").out)
    edge.start()
    alice = cluster.user()
    try:
        cluster.run("place", alice)
        assert edge.get(f"/ws/{alice}/")[0] == 200
        cluster.run("stop", alice)
        assert edge.get(f"/ws/{alice}/")[0] == 503
        edge.stop()
        ran = cluster.run("start", alice, code=9)
        assert "gateway here: the reload failed" in ran.err
        assert cluster.json("show", alice)["state"] == "running", "the placement stands"
        edge.start()
        cluster.run("place", alice)
        assert edge.get(f"/ws/{alice}/")[0] == 200, "even a verb that had nothing to do catches up"
    finally:
        edge.stop()
        cluster.sweep()
