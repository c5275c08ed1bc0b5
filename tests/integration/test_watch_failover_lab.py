"""A node dies and nobody types anything: `wsctl watch` finds out, its users go on elsewhere, and it is let back in.

`WSCTL_FAULTS=all` does it with thirty users; how long they are gone is in the assertion.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.integration.edges import Edge
from tests.integration.labsite import Site, eventually
from tests.integration.test_failover_lab import edge, on_n1, site, standbys
from tests.integration.test_watch_lab import watching

__all__ = ["edge", "site"]

ALL = os.environ.get("WSCTL_FAULTS") == "all"
USERS = 30


@pytest.mark.skipif(not ALL, reason="WSCTL_FAULTS=all: a minute; the parts of it are tested one by one")
@pytest.mark.timeout(400)
def test_nobody_types_anything(site: Site, edge: Edge, tmp_path: Path) -> None:
    site.path.write_text(site.path.read_text() + "failover: {policy: automatic}\n")
    users = on_n1(site, USERS)
    site.run("standby", "sync", "--parallel", "4", timeout=240)
    assert len(standbys(site)) == USERS
    with watching(site) as watch, watching(site, "w2") as other:
        for user in users:
            assert edge.get(f"/ws/{user}/word.txt") == (200, f"{user} was here\n")
        began = time.monotonic()
        site.lab.kill("n1")
        answered: dict[str, float] = {}
        while len(answered) < USERS and time.monotonic() - began < 120:
            for user in users:
                if user not in answered and _answers(edge, user):
                    answered[user] = time.monotonic() - began
            time.sleep(0.2)
        assert len(answered) == USERS, (watch.events(), other.events())
        down = min(e["silent_s"] for w in (watch, other) for e in w.events() if e["event"] == "down")
        print(f"down after {down} s, all {USERS} answer after {max(answered.values()):.1f} s")
        assert max(answered.values()) <= 30
        eventually(lambda: any(w.said("done", "n1") for w in (watch, other)), 30)
        site.lab.start("n1")
        eventually(lambda: watch.said("returned", "n1") or other.said("returned", "n1"), 30)
        eventually(lambda: _state(site) == "cordoned", 60)
        assert site.containers("n1") == [], "what was stale there doesn't run"


def _answers(edge: Edge, user: str) -> bool:
    try:
        return edge.get(f"/ws/{user}/word.txt") == (200, f"{user} was here\n")
    except OSError:
        return False


def _state(site: Site) -> str:
    states = {item["name"]: item["state"] for item in site.json("node", "ls", "--no-probe")["items"]}
    return str(states["n1"])
