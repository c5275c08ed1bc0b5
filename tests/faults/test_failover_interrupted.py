"""Failing over, copying standbys and fencing are cut off at every contact, in every way.

What must hold at each moment: one node has the truth of a user, nobody loses the files that their standby has, and
nothing of what the dead node has is deleted. What must follow: the same command, or `reconcile`, finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache

import pytest

from tests.faults.test_interruption import HOME, told
from tests.worlds import EFFECTS, LEASE_S, SPEC, Commands, Fault, Killed, Site, Wire, invariants, make_site
from wsctl.errors import WsctlError
from wsctl.model import NodeState, WorkspaceSpec

STRIKES = (Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.REFUSED)


def spared(site: Site) -> None:
    """alice and bob live on HOME with files, and have standby copies as new as those; carl has none and is stopped."""
    site.classes["default"] = _spec()
    for other in ("n1", "n2", "n3"):
        if other != HOME:
            site.run("cordon", other)
    site.run("place", "alice", "bob")
    for other in ("n1", "n2", "n3"):
        site.store.set_mark(other, NodeState.READY, "", "tests")
    for user in ("alice", "bob"):
        site.files.write(user, f"work of {user}")
    site.run("sync")
    site.run("stop", "bob")


def _spec() -> WorkspaceSpec:
    return replace(SPEC, standby=1)


def dead(site: Site) -> None:
    """The same, and the node was switched off."""
    spared(site)
    site.fleet[HOME].power_cycle()
    site.fleet[HOME].freeze()


def back(site: Site) -> None:
    """They went on elsewhere, and the node is back: it was only cut off, and somebody wrote there meanwhile."""
    spared(site)
    site.files.write("alice", "newer than the copy")
    site.files.newest["alice"] = "work of alice"
    site.fleet[HOME].freeze()
    site.run("fail", HOME)
    site.fleet[HOME].thaw()


def older(site: Site) -> None:
    """The standby copies are older than the files."""
    spared(site)
    site.clock.advance(600)
    site.files.write("alice", "newer than the copy")


@dataclass(frozen=True)
class Writer:
    """A command, the site that it finds, and what must be true when it was finished."""

    before: Callable[[Site], None]
    command: Callable[[Commands], object]
    finished: Callable[[Site], None]
    least: int


def went_on(site: Site) -> None:
    """Both have their files on another node, in the state that they had."""
    placed = {p.user: p for p in site.store.placements()}
    assert {user: p.state.value for user, p in placed.items()} == {"alice": "running", "bob": "stopped"}
    for user, p in placed.items():
        assert p.node != HOME
        assert site.files.live[(p.node, user)] == {"work": f"work of {user}"}
        assert site.files.live[(HOME, user)] == {"work": f"work of {user}"}, (
            "the dead node's files are nobody's to take"
        )


def fenced(site: Site) -> None:
    went = {p.user: p.node for p in site.store.placements()}
    assert HOME not in went.values()
    assert all(one.state != "running" for name, one in site.ours() if name == HOME)
    assert site.files.kept[(HOME, "alice-failed-1")] == {"work": "newer than the copy"}
    left = {one.user: (one.state.value, one.newer_files) for one in site.store.left_files()}
    assert left == {"alice": ("conflict", 1), "bob": ("kept", 0)}
    assert site.store.marks()[HOME].state is NodeState.CORDONED
    invariants(site)


def copied(site: Site) -> None:
    (copy,) = (copy for copy in site.store.standbys() if copy.user == "alice")
    assert site.standbys.complete_on[(copy.node, "alice")] == {"work": "newer than the copy"}
    assert copy.as_of is not None
    assert not site.files.ways
    invariants(site)


WRITERS = {
    "node fail": Writer(dead, lambda c: c.fail(HOME), went_on, 12),
    "reconcile when it is back": Writer(back, lambda c: c.reconcile(), fenced, 12),
    "node uncordon when it is back": Writer(back, lambda c: c.readmit(HOME), fenced, 8),
    "standby sync": Writer(older, lambda c: c.sync("alice"), copied, 5),
}


@cache
def reference(writer: Writer) -> list[str]:
    """All contacts of an undisturbed run."""
    site = make_site()
    try:
        writer.before(site)
        wire = Wire()
        with site.process(wire, parallel=1) as commands:
            writer.command(commands)
        writer.finished(site)
        assert len(wire.passed) >= writer.least, wire.passed
        return wire.passed
    finally:
        site.close()


def cases(writer: Writer, fault: Fault) -> Iterator[tuple[int, Site, Wire]]:
    for at, contact in enumerate(reference(writer)):
        if contact.partition(".")[2] not in EFFECTS and fault is not Fault.LOST_BEFORE:
            continue
        site = make_site()
        try:
            writer.before(site)
            yield at, site, Wire(fault, at)
        finally:
            site.close()


@contextmanager
def struck(site: Site, writer: Writer, wire: Wire) -> Iterator[None]:
    """The command with the fault, and what holds right after it."""
    with site.process(wire, parallel=1) as commands:
        if wire.fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            with pytest.raises(Killed):
                writer.command(commands)
        else:
            with suppress(WsctlError):
                writer.command(commands)
    assert wire.struck
    nothing_lost(site)
    invariants(site, settled=False)
    site.clock.advance(LEASE_S)
    yield


def nothing_lost(site: Site) -> None:
    """What either of them wrote before the last copy is on some other node than the dead one, complete."""
    for user in ("alice", "bob"):
        copies = [tree for (name, who), tree in site.standbys.complete_on.items() if who == user and name != HOME]
        copies += [tree for (name, who), tree in site.files.live.items() if who == user and name != HOME]
        assert any(tree.get("work") in (f"work of {user}", "newer than the copy") for tree in copies), copies


@pytest.mark.parametrize("fault", STRIKES, ids=lambda fault: fault.value)
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_the_same_command_finishes_what_was_cut_off_anywhere(writer: Writer, fault: Fault) -> None:
    for at, site, wire in cases(writer, fault):
        with told(fault, at, reference(writer)), struck(site, writer, wire):
            with site.process() as commands:
                writer.command(commands)
            if writer.finished is fenced:
                site.run("reconcile")  # the mark of `uncordon` may have been set, and a container be left
            writer.finished(site)


@pytest.mark.parametrize("fault", STRIKES, ids=lambda fault: fault.value)
def test_reconcile_finishes_a_failover(fault: Fault) -> None:
    writer = WRITERS["node fail"]
    for at, site, wire in cases(writer, fault):
        with told(fault, at, reference(writer)), struck(site, writer, wire):
            if HOME not in site.store.marks() or site.store.marks()[HOME].state is not NodeState.DOWN:
                continue  # nothing was begun
            site.run("reconcile")
            site.run("reconcile")
            went_on(site)


def test_a_node_that_returns_in_the_middle_of_it_loses_nothing() -> None:
    """Who wasn't taken over yet lives where they did; who was, lives elsewhere, and their old files are kept."""
    writer = WRITERS["node fail"]
    for at, site, wire in cases(writer, Fault.KILLED_AFTER):
        with told(Fault.KILLED_AFTER, at, reference(writer)), struck(site, writer, wire):
            site.fleet[HOME].thaw()
            site.run("reconcile")
            site.run("reconcile")
            invariants(site)
            for p in site.store.placements():
                assert site.files.live[(p.node, p.user)] == {"work": f"work of {p.user}"}
                assert p.state.value == ("running" if p.user == "alice" else "stopped")
            assert all(mark.state is not NodeState.DOWN for mark in site.store.marks().values())
