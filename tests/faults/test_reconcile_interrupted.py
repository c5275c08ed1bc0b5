"""`reconcile`, cut off at each of its contacts with the outside: the next run finishes, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.builders import CLUSTER
from tests.worlds import LEASE_S, Fault, Killed, Site, Wire, invariants, make_site
from wsctl.errors import WsctlError

ADOPT = "jupyter-{user}"


def broken() -> Site:
    """A site with one of each kind of harm."""
    site = make_site("n1", "n2")
    site.run("place", "alice", "ben", "carol", "dora")
    one, two = site.fleet["n1"], site.fleet["n2"]
    for user, engine in (("alice", one), ("carol", one), ("ben", two), ("dora", two)):
        assert engine._find(f"ws-u-{user}"), "the tests below rest on who is where"
    one.exit("ws-u-alice")
    del two._held["ws-u-ben"]
    labels = {"cluster": CLUSTER, "user": "carol", "generation": "1"}
    two.add("ws-u-carol", **labels)
    two.held("ws-u-dora").spec.labels["io.wsctl.generation"] = "9"  # type: ignore[index]
    ghost = {"cluster": CLUSTER, "user": "ghost", "generation": "2"}
    one.add("ws-u-ghost", host_port=8101, folder="/srv/workspaces/ghost", mount="/workspace", **ghost)
    one.data.add("ghost")
    two.data.add("erin")
    two.add("jupyter-erin", host_port=8100, folder="/srv/workspaces/erin", mount="/workspace")
    site.forget_calls()
    return site


def contacts() -> int:
    """How many there are when nothing goes wrong."""
    site = broken()
    wire = Wire()
    try:
        with site.process(wire) as commands:
            commands.reconcile(adopt=ADOPT)
        return len(wire.passed)
    finally:
        site.close()


@pytest.mark.parametrize(
    "fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.REFUSED], ids=str
)
def test_cut_off_anywhere_the_next_run_finishes(fault: Fault, record_property: Callable[[str, object], None]) -> None:
    struck = 0
    for at in range(contacts()):
        site = broken()
        there = {one.id for engine in site.fleet.engines.values() for one in engine._held.values()}
        wire = Wire(fault, at)
        try:
            with suppress(Killed, WsctlError), site.process(wire, parallel=1) as commands:
                commands.reconcile(adopt=ADOPT)
            struck += wire.struck
            site.clock.advance(LEASE_S)
            for _ in range(2):
                repairs = site.run("reconcile", adopt=ADOPT)
            assert repairs == [], f"{fault} at {at}: {repairs}"
            left = {one.id for engine in site.fleet.engines.values() for one in engine._held.values()}
            assert there <= left, f"{fault} at {at}: a container was removed"
            invariants(site)
            assert {p.user for p in site.store.placements()} >= {"alice", "ben", "carol", "dora", "erin", "ghost"}
        finally:
            site.close()
    assert struck > 30
    record_property("boundaries", struck)
