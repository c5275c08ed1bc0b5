"""Every writer is cut off at every contact with the outside, in every way; the same command again finishes the job.

There is no resume code to test: a plan from what is observed is all there is. So each case is: run once to learn the
contacts, run again on a fresh site with a fault at the k-th, look at the invariants, and repeat the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import pytest

from tests.fakes import FakeEngine
from tests.worlds import EFFECTS, LEASE_S, Commands, Fault, Killed, Site, Wire, ending, invariants, make_site
from wsctl.errors import EngineError, LeaseHeld, NotFound, NotReady, PortTaken, WsctlError
from wsctl.model import NodeState
from wsctl.scheduler import tie_break
from wsctl.workflow import Outcome

HOME = max(("n1", "n2", "n3"), key=lambda name: tie_break("alice", name))
"""Where alice goes when all nodes are equally empty."""


def nothing(site: Site) -> None:
    """A site on which nobody ever was."""


def placed(site: Site) -> None:
    """alice runs, and so does somebody else."""
    site.run("place", "alice")
    site.run("place", "bob")


def stopped(site: Site) -> None:
    placed(site)
    site.run("stop", "alice")


def failed(site: Site) -> None:
    """alice's container runs but never became ready in time."""
    site.fleet[HOME].fail("await_ready", NotReady(HOME, "not within 30 s"))
    assert isinstance(site.run("place", "alice")[0].error, NotReady)


def container_lost(site: Site) -> None:
    placed(site)
    for name, one in site.of("alice"):
        site.fleet[name].remove(one.id)


def removed(site: Site) -> None:
    placed(site)
    site.run("rm", "alice")


def image_absent(site: Site) -> None:
    for engine in site.fleet.engines.values():
        engine.registry |= engine.images
        engine.images.clear()


def ports_busy(site: Site) -> None:
    for engine in site.fleet.engines.values():
        engine.busy_ports |= {20000, 20001}


def stopped_and_port_lost(site: Site) -> None:
    stopped(site)
    ports_busy(site)


def home_refuses(site: Site) -> None:
    """The node that is chosen first can create containers, but not start them."""
    site.fleet[HOME].fail("start", EngineError(HOME, "OCI runtime create failed"), times=10**6)


def idle(site: Site) -> None:
    """Everybody has been looked at once, and nobody came for an hour."""
    placed(site)
    site.run("reap")
    site.clock.advance(3600)


def working(site: Site) -> None:
    """alice has work on her node, and writes more of it while somebody copies."""
    placed(site)
    site.files.write("alice", "a first word")
    site.files.writes["alice"] = 1


def working_and_stopped(site: Site) -> None:
    working(site)
    site.run("stop", "alice")


def working_and_bob_stopped(site: Site) -> None:
    """The same, and bob lives there too, stopped."""
    site.run("cordon", *(name for name in site.nodes if name != HOME))
    site.run("place", "alice", "bob")
    site.run("stop", "bob")
    uncordoned(site)
    site.files.write("alice", "a first word")
    site.files.writes["alice"] = 1


def uncordoned(site: Site) -> None:
    for name in site.nodes:
        site.store.set_mark(name, NodeState.READY, "", "tests")


OTHER = next(name for name in ("n1", "n2", "n3") if name != HOME)
"""Where alice is moved to."""


@dataclass(frozen=True)
class Writer:
    """A command that changes something, and the site that it finds. `least` contacts must be found. One that `finishes`
    goes on after Ctrl-C until what it has begun is done."""

    before: Callable[[Site], None]
    command: Callable[[Commands], list[Outcome]]
    least: int
    purges: bool = False
    removes: bool = False
    moves: bool = False
    finishes: bool = False


WRITERS = {
    "place new": Writer(nothing, lambda c: c.place("alice"), 7),
    "place new, image absent": Writer(image_absent, lambda c: c.place("alice"), 8),
    "place new, ports busy": Writer(ports_busy, lambda c: c.place("alice"), 18),
    "place new, node refuses": Writer(home_refuses, lambda c: c.place("alice"), 14),
    "place removed": Writer(removed, lambda c: c.place("alice"), 7),
    "place stopped": Writer(stopped, lambda c: c.place("alice"), 7),
    "place stopped, port lost": Writer(stopped_and_port_lost, lambda c: c.place("alice"), 12),
    "place failed": Writer(failed, lambda c: c.place("alice"), 5),
    "place, container lost": Writer(container_lost, lambda c: c.place("alice"), 7),
    "start": Writer(stopped, lambda c: c.start("alice"), 7),
    "stop": Writer(placed, lambda c: c.stop("alice"), 5),
    "restart": Writer(placed, lambda c: c.restart("alice"), 8),
    "restart --recreate": Writer(placed, lambda c: c.restart("alice", recreate=True), 9),
    "rm": Writer(placed, lambda c: c.rm("alice"), 6, removes=True),
    "rm --purge-data": Writer(placed, lambda c: c.rm("alice", purge=True), 7, purges=True, removes=True),
    "rm --purge-data of a removed user": Writer(
        removed, lambda c: c.rm("alice", purge=True), 2, purges=True, removes=True
    ),
    "migrate-user": Writer(working, lambda c: c.migrate("alice", to=OTHER), 18, moves=True),
    "migrate-user, the scheduler chooses": Writer(working, lambda c: c.migrate("alice"), 18, moves=True),
    "migrate-user of a stopped user": Writer(
        working_and_stopped, lambda c: c.migrate("alice", to=OTHER), 12, moves=True
    ),
    "node drain": Writer(working_and_bob_stopped, lambda c: c.drain(HOME), 30, moves=True, finishes=True),
    "node cordon": Writer(nothing, lambda c: c.cordon("n1"), 1),
}

REAPER = Writer(idle, lambda c: c.reap(), 10)
"""Not among those that finish by themselves: what the reaper finds half-done it leaves alone, as it does in any doubt.
Any other command on the user finishes it."""


@cache
def reference(writer: Writer) -> tuple[list[str], dict[str, object]]:
    """All contacts of an undisturbed run, and where it ends."""
    site = make_site()
    try:
        writer.before(site)
        wire = Wire()
        with site.process(wire, parallel=1) as commands:
            outcomes = writer.command(commands)
        assert all(outcome.error is None for outcome in outcomes), outcomes
        invariants(site, purged=["alice"] if writer.purges else [])
        assert len(wire.passed) >= writer.least, wire.passed
        return wire.passed, ending(site)
    finally:
        site.close()


def cases(writer: Writer, fault: Fault) -> Iterator[tuple[int, Site, Wire]]:
    """A fresh site for each contact at which the fault makes a difference, with the wire that will strike there.

    Around a call that only reads, a death is the same as one around the effects beside it, and so is a lost reply.
    """
    contacts, _ = reference(writer)
    for at, contact in enumerate(contacts):
        if contact.partition(".")[2] not in EFFECTS and fault not in (Fault.LOST_BEFORE, Fault.REFUSED):
            continue
        site = make_site()
        try:
            writer.before(site)
            yield at, site, Wire(fault, at)
        finally:
            site.close()


@contextmanager
def told(fault: Fault, at: int, contacts: list[str]) -> Iterator[None]:
    """Failures say where it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{fault.value}: {contacts[at]}, contact {at} of {contacts}")
        raise


def interrupt(site: Site, writer: Writer, wire: Wire) -> None:
    """The command, with the fault; whatever it raises must be what the fault is."""
    with site.process(wire, parallel=1) as commands:
        if wire.fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            with pytest.raises(Killed):
                writer.command(commands)
        elif wire.fault in (Fault.CTRL_C_BEFORE, Fault.CTRL_C_AFTER):
            with pytest.raises(KeyboardInterrupt):
                writer.command(commands)
        else:
            # What of it is an outcome and what is raised is for the workflow's own tests; here it's what is left.
            with suppress(WsctlError):
                writer.command(commands)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_the_same_command_finishes_what_was_cut_off_anywhere(
    writer: Writer, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    contacts, wanted = reference(writer)
    purged = ["alice"] if writer.purges else []
    struck = 0
    for at, site, wire in cases(writer, fault):
        struck += 1
        with told(fault, at, contacts):
            interrupt(site, writer, wire)
            assert wire.struck
            invariants(site, purged=purged, settled=False)
            if fault.name.startswith("CTRL_C"):
                later = {contact.partition(".")[2] for contact in wire.passed[at + 1 :]}
                assert writer.finishes or not later & EFFECTS, f"effects after Ctrl-C: {wire.passed[at:]}"
                assert not site.leases.ls()
            if fault.name.startswith("KILLED"):
                site.clock.advance(LEASE_S)
            with site.process() as commands:
                outcomes = writer.command(commands)
            for outcome in outcomes:
                done = writer.removes and isinstance(outcome.error, NotFound)
                assert outcome.error is None or done, outcome.error
            invariants(site, purged=purged)
            assert ending(site) == wanted
            if writer.moves:
                # Where the scheduler chooses, the same command after the end of the first moves her once more.
                assert {copy.state for copy in site.store.kept_copies()} == {"kept"}
                assert not site.store.moves()
                assert not site.files.incoming
    record_property("boundaries", struck)


@pytest.mark.parametrize("verb", ["place", "stop", "rm"])
@pytest.mark.parametrize("writer", [*WRITERS.values(), REAPER], ids=[*WRITERS, "reap-idle"])
def test_other_commands_finish_it_too(
    writer: Writer, verb: str, record_property: Callable[[str, object], None]
) -> None:
    contacts, _ = reference(writer)
    purged = ["alice"] if writer.purges else []
    struck = 0
    for at, site, wire in cases(writer, Fault.KILLED_AFTER):
        struck += 1
        with told(Fault.KILLED_AFTER, at, contacts):
            interrupt(site, writer, wire)
            site.clock.advance(LEASE_S)
            for user in ("alice", "bob"):
                outcome = site.run(verb, user)[0]
                gone = verb != "place" and isinstance(outcome.error, NotFound)
                assert outcome.error is None or gone, outcome.error
            if writer.moves:
                # What a move left on the node that the user isn't on any more is the affair of `reconcile`.
                repairs = site.run("reconcile")
                assert all(repair.repaired for repair in repairs), repairs
                assert all(copy.state == "kept" for copy in site.store.kept_copies())
                assert not site.store.moves()
                assert not site.files.incoming
            invariants(site, purged=purged)
            states = {p.state.value for p in site.store.placements()}
            assert states <= {"place": {"running"}, "stop": {"stopped"}, "rm": set()}[verb]
    record_property("boundaries", struck)


def test_a_killed_process_leaves_its_lease_for_a_while() -> None:
    site = make_site()
    try:
        interrupt(site, WRITERS["place new"], Wire(Fault.KILLED_AFTER, 4))
        busy = site.run("place", "alice")[0].error
        assert isinstance(busy, LeaseHeld)
        assert "tests@here:1" in busy.message
        site.clock.advance(LEASE_S)
        assert site.run("place", "alice")[0].error is None
        invariants(site)
    finally:
        site.close()


def test_a_process_that_was_only_asleep_can_not_undo_what_others_did() -> None:
    """Fencing: A stops after its claim, its lease runs out, B takes over; A wakes up and its next write is refused."""
    site = make_site()
    try:
        site.run("place", "alice")
        engine = site.fleet[HOME]

        def b_takes_over() -> None:
            site.clock.advance(LEASE_S)
            assert site.run("restart", "alice", recreate=True)[0].error is None

        def slow(real: Callable[..., None]) -> Callable[..., None]:
            def stop(*args: object) -> None:
                del engine.stop  # type: ignore[method-assign] - the instance's own, so that B and all later calls pass
                b_takes_over()
                real(*args)

            return stop

        engine.stop = slow(FakeEngine.stop.__get__(engine))  # type: ignore[method-assign]
        outcome = site.run("stop", "alice")[0]
        # A stopped B's container under its name, which is harmless and repaired by what A decides anew.
        assert outcome.error is None or "lost the lease" in outcome.error.message
        site.run("place", "alice")
        invariants(site)
    finally:
        site.close()


def test_ports_that_turn_out_taken_leave_nothing_behind() -> None:
    site = make_site("n1", "n2")
    try:
        for engine in site.fleet.engines.values():
            engine.fail("start", PortTaken(engine.name, "port is already allocated"), times=1)
        outcome = site.run("place", "alice")[0]
        assert outcome.error is None
        assert outcome.action == "created"
        invariants(site)
    finally:
        site.close()
