"""Signs of life on real nodes: CPU, exec sessions, the gateway's log, notices, and what a return costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site


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
