"""Signs of life on real nodes: CPU, exec sessions, the gateway's log, notices, and what a return costs."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from tests.integration.labsite import Site
from wsctl.inventory import load
from wsctl.nodelook import look_at_node
from wsctl.transport import Connections


@pytest.fixture
def simple(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite alone."""
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        made.sweep()


def verdict(site: Site, user: str, *more: str) -> dict[str, object]:
    """What the reaper thinks of one user."""
    (item,) = site.json("reap-idle", "--explain", user, *more)["items"]
    found: dict[str, object] = item
    return found


def test_an_exec_session_keeps_and_its_end_lets_go(simple: Site) -> None:
    alice = simple.user()
    placed = simple.json("place", alice)
    node = simple.lab.nodes[placed["node"]]
    node.run(["docker", "exec", "-d", f"ws-u-{alice}", "sleep", "6"])
    time.sleep(1.2)
    found = verdict(simple, alice, "--idle", "1s")
    assert (found["verdict"], found["reason"]) == ("kept", "exec: 1 open session")
    assert simple.json("reap-idle", "--idle", "1s")["items"][0]["verdict"] == "kept"
    time.sleep(6.5)
    assert simple.json("reap-idle", "--idle", "1s")["items"][0]["verdict"] == "stopped"
    back = simple.json("start", alice)
    assert back["ready_ms"] > 50


def test_work_without_a_word_to_anybody_keeps(simple: Site) -> None:
    simple.edit("workspace:\n", "workspace:\n  busy_cpus: 0.15\n")
    alice = simple.user()
    placed = simple.json("place", alice)
    node = simple.lab.nodes[placed["node"]]
    # The session itself ends at once; what it started goes on.
    node.run(["docker", "exec", f"ws-u-{alice}", "sh", "-c", "(while :; do :; done) >/dev/null 2>&1 & exit 0"])
    time.sleep(8)
    found = verdict(simple, alice, "--idle", "1s")
    assert found["verdict"] == "kept"
    assert str(found["reason"]).startswith("cpu: 0."), found


def test_the_gateways_log_and_a_notice(simple: Site, tmp_path: Path) -> None:
    told = tmp_path / "told"
    hook = f"reap: {{notice: 2s, hook: [sh, -c, 'cat >> {told}']}}\nworkspace:\n"
    simple.edit("workspace:\n", hook)
    alice = simple.user()
    simple.run("place", alice)
    log = tmp_path / "ws.log"
    at = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    log.write_text(f'10.0.0.9 - - [{at}] "GET /ws/{alice}/ HTTP/1.1" 200 5 "-" "-"\n')
    time.sleep(1.1)
    assert simple.json("activity", "ingest", "--from", str(log))["users"] == 1
    time.sleep(1.5)
    assert simple.json("reap-idle", "--idle", "3s")["items"][0]["verdict"] == "kept"
    assert json.loads(told.read_text())["user"] == alice
    time.sleep(4)
    simple.run("activity", "ingest", "--from", str(log))
    assert simple.json("reap-idle", "--idle", "3s")["items"][0]["verdict"] == "stopped"
    assert len(told.read_text().splitlines()) == 1


def connected(site: Site, user: str) -> socket.socket:
    """A connection to the user's published port that says nothing."""
    shown = site.json("show", user)
    return socket.create_connection((shown["address"], shown["host_port"]), timeout=5)


def test_a_silent_connection_keeps_and_its_end_lets_go(simple: Site) -> None:
    alice = simple.user()
    simple.run("place", alice)
    with connected(simple, alice):
        time.sleep(1.2)
        simple.run("reap-idle", "--idle", "1s")  # what the probe has sent is seen here
        time.sleep(1.2)
        found = verdict(simple, alice, "--idle", "1s")
        assert (found["verdict"], found["reason"]) == ("kept", "connections: 1 open to its port")
        assert simple.json("reap-idle", "--idle", "1s")["items"][0]["verdict"] == "kept"
    time.sleep(1.2)
    assert simple.json("reap-idle", "--idle", "1s")["items"][0]["verdict"] == "stopped"


AWKS = [["gawk"], ["mawk"], ["busybox", "awk"]]


@pytest.mark.parametrize("awk", AWKS, ids=lambda words: words[0])
def test_a_nodes_shell_says_what_its_engine_says(simple: Site, tmp_path: Path, awk: list[str]) -> None:
    """With whatever awk a node has; and as an account without any rights."""
    alice = simple.user()
    placed = simple.json("place", alice)
    node = simple.lab.nodes[placed["node"]]
    node.run(["docker", "exec", "-d", f"ws-u-{alice}", "sleep", "60"])
    node.run(["docker", "exec", f"ws-u-{alice}", "sh", "-c", "wget -q -O /dev/null http://127.0.0.1:8080/ || true"])
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "awk").write_text(f'#!/bin/sh\nexec {shutil.which(awk[0])} {" ".join(awk[1:])} "$@"\n')
    (folder / "awk").chmod(0o755)
    fleet = Connections(load(simple.path).nodes, cluster=simple.tag)
    try:
        engine = fleet.engine(placed["node"])
        container = engine.container(f"ws-u-{alice}")
        assert container is not None
        with connected(simple, alice):
            by_shell = look_at_node(Local(node, folder), [container.id])
            by_engine = engine.signs(container.id)
    finally:
        fleet.close()
    assert isinstance(by_shell, dict), by_shell
    assert by_engine is not None
    one = by_shell[container.id]
    assert (one.execs, by_engine.execs) == (1, 1)
    assert one.connections == {8080: 1}
    assert one.tx_bytes is not None
    assert one.cpu_ns is not None
    assert 0 <= (by_engine.tx_bytes or 0) - one.tx_bytes < 200
    assert 0 <= (by_engine.cpu_ns or 0) - one.cpu_ns < 0.5e9


class Local:
    """Commands on a node of the lab, by nobody, with programs of `folder` before the others."""

    def __init__(self, node: Any, folder: Path) -> None:
        self.node, self.folder = node, folder
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o055)

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        path = f"PATH={self.folder}:/usr/sbin:/usr/bin:/sbin:/bin"
        done = self.node.run([*nobody, "env", path, *argv], check=False)
        return done.returncode, done.stdout + done.stderr
