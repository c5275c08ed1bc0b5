"""The pipeline, against a real SQLite store and leases: who is asked, what a setback leads to, what is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import CLUSTER, IMAGE, RESOURCES, capacity
from tests.worlds import Commands, Site, Wire, ending, invariants, make_site
from wsctl.errors import (
    BackendError,
    EngineError,
    ImageMissing,
    LeaseHeld,
    LeaseLost,
    NameTaken,
    NodeUnreachable,
    NotFound,
    NotReady,
    PlanChanged,
    PortTaken,
    Refused,
    Unschedulable,
)
from wsctl.model import NodeState, PlacementState, Strategy, WorkspaceSpec
from wsctl.plan import Plan
from wsctl.planner.decision import Decision
from wsctl.planner.life import plan_stop
from wsctl.ports import ContainerSpec, Reservation
from wsctl.records import Conflict
from wsctl.scheduler import tie_break
from wsctl.store import open_store
from wsctl.workflow import Operation, Outcome

NODES = ("n1", "n2", "n3")
RANKED = sorted(NODES, key=lambda name: -tie_break("alice", name))
"""The nodes as alice would take them when all are equally empty, the best first."""
BEST, SECOND, LAST = RANKED


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site()
    yield site
    site.close()


def one(outcomes: list[Outcome]) -> Outcome:
    """The only outcome."""
    (outcome,) = outcomes
    return outcome


def errors(outcomes: list[Outcome]) -> dict[str, str]:
    """The code of each target's error."""
    return {outcome.target: outcome.error.code for outcome in outcomes if outcome.error is not None}


# ------------------------------------------------------------------------------------------------- who is asked


def test_placing_one_new_user_asks_only_the_chosen_node(site: Site) -> None:
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    assert outcome.placement is not None
    assert (outcome.placement.node, outcome.placement.state) == (BEST, PlacementState.RUNNING)
    assert set(site.asked()) == {BEST}
    assert site.asked("containers", "facts") == {}
    assert set(outcome.explain) == set(NODES)
    invariants(site)


def test_a_placed_user_costs_a_question_to_their_node(site: Site) -> None:
    site.run("place", "alice")
    site.forget_calls()
    outcome = one(site.run("place", "alice"))
    assert outcome.action == "unchanged"
    assert outcome.placement is not None
    assert outcome.placement.generation == 1
    assert site.asked() == {BEST: 2}
    assert not site.fleet[BEST].effects()


def test_a_silent_best_node_leads_to_the_next_best(site: Site) -> None:
    site.fleet.cut(BEST)
    outcome = one(site.run("place", "alice"))
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    assert set(site.asked()) == {SECOND}
    invariants(site)


def test_when_no_node_answers_each_ones_reason_is_told(site: Site) -> None:
    for name in NODES:
        site.fleet.cut(name)
    error = one(site.run("place", "alice")).error
    assert isinstance(error, Unschedulable)
    nodes = error.details["nodes"]
    assert isinstance(nodes, dict)
    assert set(nodes) == set(NODES)
    assert all("no route to the host" in str(why) for why in nodes.values())
    assert not site.store.placements()


def test_who_loses_many_races_is_placed_in_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, lost = site.store.reserve, iter(range(60))

    def raced(wanted: Reservation, *, audit: Any = ()) -> Any:
        return reserve(wanted, audit=audit) if next(lost, None) is None else Conflict.PORT_TAKEN

    monkeypatch.setattr(site.store, "reserve", raced)
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    invariants(site)


def test_who_was_to_come_onto_a_node_that_is_marked_meanwhile_comes_onto_another(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, marked = site.store.reserve, []

    def late(wanted: Reservation, *, audit: Any = ()) -> Any:
        if not marked:
            marked.append(wanted.node)
            site.store.set_mark(wanted.node, NodeState.DRAINING, "", "somebody else")
        return reserve(wanted, audit=audit)

    monkeypatch.setattr(site.store, "reserve", late)
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error, marked) == ("created", None, [BEST])
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    invariants(site)


def test_many_users_ask_each_node_once_and_side_by_side(site: Site) -> None:
    together = threading.Barrier(len(NODES), timeout=20)

    def engines(name: str) -> Any:
        engine = site.fleet(name)

        class Slow:
            def __getattr__(self, attribute: str) -> Any:
                if attribute == "facts":
                    together.wait()
                return getattr(engine, attribute)

        return Slow()

    users = [f"user{number}" for number in range(9)]
    with site.process(engines=engines) as commands:
        outcomes = commands.place(*users)
    assert [outcome.target for outcome in outcomes] == users
    assert {outcome.action for outcome in outcomes} == {"created"}
    assert site.asked("containers") == {name: 1 for name in NODES}
    assert site.asked("create") == {name: 3 for name in NODES}
    invariants(site)


def test_many_placed_users_ask_only_their_nodes(site: Site) -> None:
    site.run("place", "alice", "bob")
    homes = {placement.node for placement in site.store.placements()}
    site.forget_calls()
    assert {outcome.action for outcome in site.run("place", "alice", "bob")} == {"unchanged"}
    assert set(site.asked()) == homes
    assert len(homes) == 2


def test_a_node_marked_down_is_not_waited_for(site: Site) -> None:
    site.store.set_mark(BEST, NodeState.DOWN, "fire", "me")
    assert one(site.run("place", "alice")).error is None
    assert BEST not in site.asked()


def test_least_loaded_looks_at_everybody_and_takes_the_idlest(site: Site) -> None:
    for name in NODES:
        for number in range(0 if name == LAST else 3):
            site.fleet[name].add(f"other{number}")
    with site.process() as commands:
        operation = commands.place_operation("alice", strategy=Strategy.LEAST_LOADED, everyone=True)
        outcome = one(commands.run(operation))
    assert outcome.placement is not None
    assert outcome.placement.node == LAST
    assert site.asked("facts") == {name: 1 for name in NODES}


def test_marking_a_node_asks_nobody(site: Site) -> None:
    site.fleet.cut("n1")
    assert one(site.run("cordon", "n1")).action == "cordoned"
    assert one(site.run("cordon", "n1")).action == "unchanged"
    assert site.asked() == {}
    assert site.store.marks()["n1"].reason == "asked"
    assert site.store.marks()["n1"].changed_by == "tests@here:1"


# ------------------------------------------------------------------------------------------------- ports and names


def test_a_port_taken_on_the_node_is_skipped_with_nothing_left_behind(site: Site) -> None:
    site.fleet[BEST].busy_ports |= {20000, 20001}
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    assert outcome.placement is not None
    assert (outcome.placement.node, outcome.placement.host_port) == (BEST, 20002)
    assert len(site.of("alice")) == 1
    invariants(site)


def test_a_port_published_by_a_foreign_container_is_never_tried(site: Site) -> None:
    for name in NODES:
        site.fleet[name].add("postgres", host_port=20000)
    outcomes = site.run("place", "alice", "bob")
    assert {outcome.placement.host_port for outcome in outcomes if outcome.placement} == {20001}
    assert sum(site.asked("start").values()) == 2
    invariants(site)


def test_a_range_of_one_port_that_is_taken_leads_to_another_node() -> None:
    site = make_site(**{BEST: {"ports": (20000, 20000)}})
    try:
        site.fleet[BEST].busy_ports.add(20000)
        outcome = one(site.run("place", "alice"))
        assert (outcome.action, outcome.error) == ("created", None)
        assert outcome.placement is not None
        assert outcome.placement.node == SECOND
        invariants(site)
    finally:
        site.close()


def test_no_free_port_anywhere_leaves_neither_container_nor_placement() -> None:
    site = make_site("n1", ports=(20000, 20000))
    try:
        site.fleet["n1"].busy_ports.add(20000)
        error = one(site.run("place", "alice")).error
        assert isinstance(error, Unschedulable)
        assert not site.of("alice")
        assert not site.store.placements()
        invariants(site)
    finally:
        site.close()


def test_a_stopped_user_whose_port_was_taken_moves_to_another_port(site: Site) -> None:
    site.run("place", "alice")
    site.run("stop", "alice")
    site.fleet[BEST].busy_ports.add(20000)
    for verb in ("start", "stop", "restart"):
        outcome = one(site.run(verb, "alice"))
        # Whether `restart` moves the port too or names it: never "the cluster keeps changing".
        assert outcome.error is None or isinstance(outcome.error, PortTaken), outcome.error
    site.run("place", "alice")
    assert site.store.placements()[0].host_port == 20001
    invariants(site)


def test_restart_on_a_lost_port_says_so_or_finds_another(site: Site) -> None:
    site.run("place", "alice")
    site.run("stop", "alice")
    site.fleet[BEST].busy_ports.add(20000)
    outcome = one(site.run("restart", "alice"))
    assert outcome.error is None or isinstance(outcome.error, PortTaken), outcome.error
    placement = site.store.placement("alice")
    assert placement is not None
    assert placement.generation <= 5, "the same start was tried over and over"


def test_a_name_taken_by_a_foreign_container_leads_to_another_node(site: Site) -> None:
    foreign = site.fleet[BEST].add("ws-u-alice")
    outcome = one(site.run("place", "alice"))
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    assert site.fleet[BEST].held("ws-u-alice") is foreign
    assert not site.fleet[BEST].effects()
    invariants(site)


def test_a_name_taken_in_the_last_moment_is_undone_and_the_foreign_one_left_alone(site: Site) -> None:
    site.fleet[BEST].fail("create", NameTaken(BEST, "the name is already in use"))
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    assert not site.asked("remove")
    invariants(site)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("operation", ["create", "start"])
def test_a_node_that_refuses_a_new_user_is_undone_and_another_one_taken(site: Site, operation: str) -> None:
    site.fleet[BEST].fail(operation, EngineError(BEST, "no space left on device"))
    outcome = one(site.run("place", "alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    assert BEST not in {name for name, _ in site.of("alice")}
    invariants(site)


def test_a_node_that_cannot_pull_the_image_is_left_for_another(site: Site) -> None:
    site.fleet[BEST].images.clear()
    outcome = one(site.run("place", "alice"))
    assert outcome.placement is not None
    assert outcome.placement.node == SECOND
    assert site.asked("pull") == {BEST: 1}
    invariants(site)


def test_when_every_node_refuses_each_ones_reason_is_told_and_nothing_is_left(site: Site) -> None:
    for name in NODES:
        site.fleet[name].fail("create", EngineError(name, f"no space left on {name}"), times=9)
    outcome = one(site.run("place", "alice"))
    assert isinstance(outcome.error, Unschedulable)
    nodes = outcome.error.details["nodes"]
    assert isinstance(nodes, dict)
    assert all(f"no space left on {name}" in str(nodes[name]) for name in NODES)
    assert site.asked("create") == {name: 1 for name in NODES}
    assert not site.store.placements()
    assert not site.ours()
    invariants(site)


def test_one_node_that_refuses_everybody_is_not_asked_by_everybody(site: Site) -> None:
    site.fleet["n1"].fail("create", EngineError("n1", "no space left on device"), times=100)
    users = [f"user{number}" for number in range(12)]
    outcomes = site.run("place", *users)
    assert not errors(outcomes)
    assert {placement.node for placement in site.store.placements()} == {"n2", "n3"}
    invariants(site)


def test_a_container_that_is_not_ready_is_kept_and_recorded_as_failed(site: Site) -> None:
    site.fleet[BEST].fail("await_ready", NotReady(BEST, "not within 30 s: nobody accepts the connection"))
    outcome = one(site.run("place", "alice"))
    assert isinstance(outcome.error, NotReady)
    placement = site.store.placement("alice")
    assert placement is not None
    assert (placement.node, placement.state) == (BEST, PlacementState.FAILED)
    assert [container.state for _, container in site.of("alice")] == ["running"]
    invariants(site, settled=False)
    again = one(site.run("place", "alice"))
    assert (again.action, again.error) == ("started", None)
    assert site.asked("create") == {BEST: 1}
    invariants(site)


def test_a_placed_user_whose_node_refuses_stays_there(site: Site) -> None:
    site.run("place", "alice")
    site.run("stop", "alice")
    site.fleet[BEST].fail("start", EngineError(BEST, "cgroup: cannot allocate memory"))
    error = one(site.run("place", "alice")).error
    assert isinstance(error, EngineError)
    assert "cannot allocate memory" in error.message
    placement = site.store.placement("alice")
    assert placement is not None
    assert placement.node == BEST
    assert one(site.run("place", "alice")).error is None
    invariants(site)


def test_bringing_up_never_waits_for_counters(site: Site) -> None:
    """They only serve the reaper, and engines may take a second for each; after a start they are known anyway."""
    site.run("place", "alice")
    site.run("restart", "alice")
    assert not site.asked("signs")
    invariants(site)


def test_room_that_was_taken_meanwhile_is_said() -> None:
    site = make_site("n1", capacity=capacity(memory_bytes=RESOURCES.memory_bytes))
    try:
        site.run("place", "alice")
        site.run("stop", "alice")
        site.run("place", "bob")
        error = one(site.run("start", "alice")).error
        assert isinstance(error, Unschedulable)
        assert "no room to start alice" in error.message
        assert isinstance(one(site.run("place", "carol")).error, Unschedulable)
        invariants(site)
    finally:
        site.close()


def test_room_that_is_taken_between_the_decision_and_the_claim_is_said() -> None:
    site = make_site("n1", capacity=capacity(memory_bytes=RESOURCES.memory_bytes))
    try:
        site.run("place", "alice")
        site.run("stop", "alice")
        with site.process(store=Meanwhile(site.store, "claim", lambda: site.run("place", "bob"))) as commands:
            error = one(commands.start("alice")).error
        assert isinstance(error, Unschedulable)
        assert "no room to start alice any more" in error.message
        invariants(site)
    finally:
        site.close()


# ------------------------------------------------------------------------------------------------- lost nodes


@pytest.mark.parametrize("operation", ["create", "start", "await_ready"])
@pytest.mark.parametrize("happens", [True, False], ids=["reply lost", "request lost"])
def test_a_node_lost_in_the_middle_keeps_its_user(site: Site, operation: str, happens: bool) -> None:
    engine = site.fleet[BEST]
    if happens:
        engine.lose_reply(operation)
    else:
        engine.fail(operation, NodeUnreachable(BEST, "no answer within 15 s"))
    outcome = one(site.run("place", "alice"))
    assert isinstance(outcome.error, NodeUnreachable)
    assert outcome.error.exit_code == 8
    placement = site.store.placement("alice")
    assert placement is not None
    assert (placement.node, placement.state) == (BEST, PlacementState.RESERVED)
    assert set(site.asked()) == {BEST}, "placed nowhere else"
    invariants(site, settled=False)
    engine.freeze()
    assert isinstance(one(site.run("place", "alice")).error, NodeUnreachable)
    assert site.store.placement("alice") == placement
    engine.thaw()
    again = one(site.run("place", "alice"))
    assert (again.action, again.error) == ("created", None)
    assert len(site.of("alice")) == 1
    invariants(site)


def test_unreachable_is_not_empty(site: Site) -> None:
    site.run("place", "alice")
    site.fleet.cut(BEST)
    for verb in ("place", "start", "stop", "restart", "rm"):
        error = one(site.run(verb, "alice")).error
        assert isinstance(error, NodeUnreachable)
        assert "alice stays placed there" in error.message
    site.fleet.heal(BEST)
    invariants(site)
    assert set(site.asked()) == {BEST}


def test_one_bad_node_never_stops_the_rest(site: Site) -> None:
    users = [f"user{number}" for number in range(9)]
    site.run("place", *users)
    silent = site.store.placements()[0].node
    site.fleet[silent].freeze()
    outcomes = site.run("stop", *users)
    there = {placement.user for placement in site.store.placements() if placement.node == silent}
    assert len(there) == 3
    assert errors(outcomes) == dict.fromkeys(sorted(there), "node-unreachable")
    assert {outcome.action for outcome in outcomes if outcome.error is None} == {"stopped"}
    site.fleet[silent].thaw()
    assert not errors(site.run("stop", *users))
    invariants(site)


def test_an_undo_that_fails_concerns_only_its_user(site: Site) -> None:
    """The node refuses to start alice's container, and goes away before it can be removed."""
    users = ["alice", *(f"user{number}" for number in range(5))]
    site.run("place", *users[1:])
    engine = site.fleet[one_home(site, "alice", users)]
    engine.fail("start", EngineError(engine.name, "OCI runtime create failed"))
    engine.lose_reply("remove")
    outcomes = site.run("place", *users)
    assert errors(outcomes) == {"alice": "node-unreachable"}
    assert not errors(site.run("place", *users))
    invariants(site)


def one_home(site: Site, user: str, users: list[str]) -> str:
    """Where a new user would go."""
    with site.process() as commands:
        outcome = commands.run(commands.place_operation(*users), dry_run=True)[0]
    assert outcome.target == user
    assert outcome.work is not None
    return outcome.work.steps[0].node


# ------------------------------------------------------------------------------------------------- leases


def test_a_held_lease_is_busy(site: Site) -> None:
    with site.leases.acquire(["user:alice"], command="migrate-user"):
        error = one(site.run("place", "alice")).error
        assert isinstance(error, LeaseHeld)
        assert error.exit_code == 6
        assert "somebody@else:2 (migrate-user)" in error.message
        assert not site.asked()
    assert one(site.run("place", "alice")).error is None


def test_in_a_batch_only_the_held_user_is_busy(site: Site) -> None:
    seen: list[str] = []
    with site.leases.acquire(["user:bob"], command="migrate-user"):
        outcomes = site.run("place", "alice", "bob", "carol", report=lambda outcome: seen.append(outcome.target))
    assert errors(outcomes) == {"bob": "busy"}
    assert [outcome.target for outcome in outcomes] == ["alice", "bob", "carol"]
    assert sorted(seen) == ["alice", "bob", "carol"]
    assert {placement.user for placement in site.store.placements()} == {"alice", "carol"}
    invariants(site)


def test_nodes_have_leases_of_their_own(site: Site) -> None:
    with site.leases.acquire(["node:n1", "user:n2"], command="node drain"):
        assert errors(site.run("cordon", "n1", "n2")) == {"n1": "busy"}
    assert set(site.store.marks()) == {"n2"}


def test_a_lease_that_is_given_back_in_time_is_waited_for(site: Site) -> None:
    held = site.leases.acquire(["user:alice"], command="stop")
    threading.Timer(0.1, held.release).start()
    with site.process(lease_wait_s=20.0) as commands:
        assert one(commands.place("alice")).error is None


def test_a_broken_lease_stops_before_the_next_effect(site: Site) -> None:
    def broken() -> None:
        assert site.leases.break_lease("user:alice")
        time.sleep(0.6)  # a proof may be half a second old

    with site.process(store=Meanwhile(site.store, "reserve", broken)) as commands:
        error = one(commands.place("alice")).error
    assert isinstance(error, LeaseLost)
    assert not site.asked("create")
    assert one(site.run("place", "alice")).error is None
    invariants(site)


# ------------------------------------------------------------------------------------------------- races


class Meanwhile:
    """A store in front of which `act` happens once, right before `method` is called."""

    def __init__(self, real: Any, method: str, act: Callable[[], object]) -> None:
        self._real, self._method, self._act = real, method, act

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name != self._method:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            act, self._act = self._act, lambda: None
            act()
            return value(*args, **kwargs)

        return call


def reservation(site: Site, user: str, node: str, port: int = 20000) -> Reservation:
    """What somebody else's command writes."""
    at = site.nodes[node]
    return Reservation(user, node, at.address, port, RESOURCES, at.capacity)


def test_somebody_else_placed_the_user_first(site: Site) -> None:
    """As with a flushed Redis: the database decides, and the loser finishes what the winner began."""
    theirs = Meanwhile(site.store, "reserve", lambda: site.store.reserve(reservation(site, "alice", LAST)))
    with site.process(store=theirs) as commands:
        outcome = one(commands.place("alice"))
    assert outcome.error is None
    assert outcome.placement is not None
    assert outcome.placement.node == LAST
    invariants(site)


def test_somebody_else_took_the_port_first(site: Site) -> None:
    theirs = Meanwhile(site.store, "reserve", lambda: site.store.reserve(reservation(site, "bob", BEST)))
    with site.process(store=theirs) as commands:
        outcome = one(commands.place("alice"))
    assert (outcome.action, outcome.error) == ("created", None)
    site.run("place", "bob")
    invariants(site)


def test_somebody_else_took_the_last_room() -> None:
    site = make_site("n1", "n2", capacity=capacity(workspaces=1))
    try:
        best = max(("n1", "n2"), key=lambda name: tie_break("alice", name))
        other = "n1" if best == "n2" else "n2"
        theirs = Meanwhile(site.store, "reserve", lambda: site.store.reserve(reservation(site, "bob", best)))
        with site.process(store=theirs) as commands:
            outcome = one(commands.place("alice"))
        assert outcome.placement is not None
        assert outcome.placement.node == other
        assert isinstance(one(site.run("place", "carol")).error, Unschedulable)
        site.run("place", "bob")
        invariants(site)
    finally:
        site.close()


def test_a_generation_that_moved_is_decided_anew(site: Site) -> None:
    site.run("place", "alice")

    def theirs() -> None:
        claimed = site.store.claim("alice", 1, PlacementState.STOPPING)
        assert getattr(claimed, "generation", 0) == 2

    with site.process(store=Meanwhile(site.store, "claim", theirs)) as commands:
        outcome = one(commands.stop("alice"))
    assert (outcome.action, outcome.error) == ("stopped", None)
    assert outcome.placement is not None
    assert outcome.placement.generation == 3
    invariants(site)


def test_a_world_that_never_stands_still_is_given_up(site: Site) -> None:
    site.run("place", "alice")

    class Restless(Meanwhile):
        def __getattr__(self, name: str) -> Any:
            if name == "claim":
                current = site.store.placement("alice")
                assert current is not None
                site.store.claim("alice", current.generation, PlacementState.RUNNING)
            return getattr(site.store, name)

    with site.process(store=Restless(site.store, "", lambda: None)) as commands:
        error = one(commands.stop("alice")).error
    assert isinstance(error, Refused)
    assert error.exit_code == 5
    invariants(site)


def test_two_operators_place_the_same_users_at_once(tmp_path: Path) -> None:
    """No leases at all between them: each has its own, which the other never sees."""
    site = make_site(state=tmp_path / "state.db", capacity=capacity(workspaces=10))
    users = [f"user{number}" for number in range(8)]
    results: list[list[Outcome]] = []

    class Alone:
        def acquire(self, names: object, **_: object) -> Any:
            from wsctl.coordination.held import NothingHeld

            return NothingHeld()

    def operate() -> None:
        store = open_store(f"sqlite:///{tmp_path}/state.db", cluster=CLUSTER, base=tmp_path, clock=site.clock)
        with site.process(store=store, leases=Alone()) as commands:
            results.append(commands.place(*users))
        store.close()

    try:
        threads = [threading.Thread(target=operate) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(results) == 2
        assert {p.user for p in site.store.placements()} == set(users)
        invariants(site, settled=False)
        # Where they stepped on each other's toes, a user was told; once more, and all is well.
        assert not errors(site.run("place", *users))
        invariants(site)
    finally:
        site.close()


def test_who_must_choose_anew_leaves_the_others_what_they_plan() -> None:
    """Otherwise one taken port sets off a chain of lost races through the whole batch."""
    site = make_site("n1")
    site.fleet["n1"].busy_ports.add(20000)
    wire = Wire()
    with site.process(wire) as commands:
        outcomes = commands.place(*(f"user{number}" for number in range(8)))
    assert not errors(outcomes)
    assert (wire.passed.count("store.reserve"), wire.passed.count("store.claim")) == (8, 1)
    assert site.store.placements()[0].host_port == 20008
    invariants(site)
    site.close()


def test_a_refusing_node_doesnt_cost_somebody_else_their_reservation(site: Site) -> None:
    """Found by the simulator: who was refused undid the reservation that they found, which was another's by then."""
    engine = site.fleet[BEST]
    create = engine.create

    def refuse_late(spec: ContainerSpec) -> str:
        engine.create = create  # type: ignore[method-assign]
        before = site.store.placement("alice")
        assert before is not None
        assert site.store.release("alice", before.generation, keep_home=None)
        room = site.nodes[BEST].capacity
        site.store.reserve(Reservation("alice", BEST, before.address, before.host_port, before.resources, room))
        raise EngineError(BEST, "no space left on device")

    engine.create = refuse_late  # type: ignore[method-assign]
    outcome = one(site.run("place", "alice"))
    assert outcome.error is None
    assert "undone" not in {row.entry.action for row in site.store.audit()}
    invariants(site)


# ------------------------------------------------------------------------------------------------- confirming


def test_a_refused_confirmation_does_nothing(site: Site) -> None:
    site.run("place", "alice")
    before = ending(site)
    shown: list[str] = []

    def no(plan: Plan) -> None:
        shown.append(plan.render())
        raise Refused("not confirmed; nothing was changed")

    site.forget_calls()
    with pytest.raises(Refused, match="not confirmed"):
        site.run("rm", "alice", confirm=no)
    assert "- release  alice" in shown[0]
    assert ending(site) == before
    assert not site.fleet[BEST].effects()
    assert site.store.placements()[0].generation == 1
    invariants(site)


def test_what_was_confirmed_is_what_is_done(site: Site) -> None:
    site.run("place", "alice")
    outcome = one(site.run("rm", "alice", confirm=lambda plan: None))
    assert (outcome.action, outcome.error, outcome.placement) == ("removed", None, None)
    assert site.store.homes() == {"alice": BEST}
    invariants(site)


def test_a_plan_that_changed_after_it_was_confirmed_is_refused(site: Site) -> None:
    site.run("place", "alice")

    def meanwhile(plan: Plan) -> None:
        site.run("stop", "alice")

    with pytest.raises(PlanChanged) as caught:
        site.run("rm", "alice", confirm=meanwhile)
    assert caught.value.exit_code == 5
    assert "nothing was done" in caught.value.message
    assert [container.state for _, container in site.of("alice")] == ["exited"]
    assert site.store.placements()[0].state is PlacementState.STOPPED
    invariants(site)


def test_a_node_lost_after_the_confirmation_is_looked_at_again(site: Site) -> None:
    site.run("place", "alice")
    outcome = one(site.run("rm", "alice", confirm=lambda plan: site.fleet[BEST].freeze()))
    assert isinstance(outcome.error, NodeUnreachable)
    site.fleet[BEST].thaw()
    invariants(site)


def test_who_became_busy_after_the_confirmation_just_drops_out(site: Site) -> None:
    site.run("place", "alice", "bob")
    held = []

    def busy(plan: Plan) -> None:
        held.append(site.leases.acquire(["user:bob"], command="stop"))

    outcomes = site.run("rm", "alice", "bob", confirm=busy)
    held[0].release()
    assert errors(outcomes) == {"bob": "busy"}
    assert [p.user for p in site.store.placements()] == ["bob"]
    invariants(site)


def test_nothing_to_do_is_not_asked_about(site: Site) -> None:
    def never(plan: Plan) -> None:
        raise AssertionError("asked about nothing")

    assert isinstance(one(site.run("rm", "alice", confirm=never)).error, NotFound)


# ------------------------------------------------------------------------------------------------- rehearsing


def dump(site: Site) -> list[Any]:
    """Every row of every table."""
    database = site.store.database
    tables = [row[0] for row in database.read(lambda s: s.query(database.dialect.tables))]
    return [(name, database.read(lambda s, name=name: s.query(f"SELECT * FROM {name}"))) for name in sorted(tables)]


@pytest.mark.parametrize("verb", ["place", "start", "stop", "restart", "rm"])
def test_a_dry_run_changes_nothing_and_says_what_would_be(site: Site, verb: str) -> None:
    site.run("place", "alice", "bob")
    site.run("stop", "bob")
    site.forget_calls()
    before = dump(site)
    users = ["alice", "bob", "carol"]
    outcomes = site.run(verb, *users, dry_run=True)
    assert dump(site) == before
    assert not any(engine.effects() for engine in site.fleet.engines.values())
    assert [outcome.target for outcome in outcomes] == users
    assert all(outcome.work is not None or outcome.error is not None for outcome in outcomes)
    carol = outcomes[2]
    assert (carol.action == "created") if verb == "place" else isinstance(carol.error, NotFound)


def test_a_rehearsed_batch_counts_those_before(site: Site) -> None:
    users = [f"user{number}" for number in range(30)]
    plans = site.run("place", *users, dry_run=True)
    would = [step.text() for outcome in plans if outcome.work for step in outcome.work.steps[:1]]
    assert len(set(text.split(" on ")[1] for text in would)) == 30, "each (node, port) once"
    done = {o.target: o.placement for o in site.run("place", *users)}
    assert [f"{user} on {p.node} port {p.host_port}" for user, p in done.items() if p] == would


# ------------------------------------------------------------------------------------------------- stopping early


def test_ctrl_c_releases_the_leases_and_begins_nothing_more(site: Site) -> None:
    site.fleet[BEST].fail("start", KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        site.run("place", "alice")
    assert site.asked("start") == {BEST: 1}
    assert not site.asked("await_ready")
    assert not site.leases.ls()
    assert one(site.run("place", "alice")).error is None
    invariants(site)


def test_ctrl_c_in_a_batch_lets_no_thread_begin_another_effect(site: Site) -> None:
    users = [f"user{number}" for number in range(8)]
    struck = threading.Event()

    def press() -> None:
        struck.set()
        signal.pthread_kill(threading.main_thread().ident or os.getpid(), signal.SIGINT)
        time.sleep(0.3)

    engine = site.fleet["n1"]
    create = engine.create

    def slow(spec: Any) -> str:
        made = create(spec)
        if not struck.is_set():
            press()
        return made

    engine.create = slow  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        site.run("place", *users)
    assert not site.leases.ls()
    deadline = time.monotonic() + 10
    while any(t.name.startswith("node-") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    begun = {p.user for p in site.store.placements()}
    invariants(site, settled=False)
    del engine.create  # type: ignore[method-assign]
    assert not errors(site.run("place", *users))
    assert begun <= set(users)
    invariants(site)


def test_a_bug_is_raised_not_swallowed(site: Site) -> None:
    site.fleet[BEST].fail("create", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        site.run("place", "alice")
    assert not site.leases.ls()


def test_a_bug_in_a_thread_is_raised_too(site: Site) -> None:
    site.fleet["n2"].fail("create", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        site.run("place", *(f"user{number}" for number in range(6)))
    site.fleet["n2"].fail("facts", ZeroDivisionError("another"))
    with pytest.raises(ZeroDivisionError):
        site.run("place", *(f"new{number}" for number in range(6)))


def test_a_database_that_goes_away_concerns_the_command(site: Site) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise BackendError("the state database went away")

    with site.process(store=Gone()) as commands, pytest.raises(BackendError):
        commands.place("alice")
    assert not site.asked()


# ------------------------------------------------------------------------------------------------- the rest of life


def test_removed_users_come_back_to_their_files(site: Site) -> None:
    site.run("place", "bob", "carol", "alice")
    home = {p.user: p.node for p in site.store.placements()}["alice"]
    site.run("rm", "alice")
    for number in range(4):
        site.run("place", f"user{number}")
    assert one(site.run("place", "alice")).placement is not None
    assert {p.user: p.node for p in site.store.placements()}["alice"] == home
    invariants(site)


def test_files_on_a_silent_node_keep_a_removed_user_from_starting_empty(site: Site) -> None:
    site.run("place", "alice")
    site.run("rm", "alice")
    site.fleet.cut(BEST)
    error = one(site.run("place", "alice")).error
    assert isinstance(error, Unschedulable)
    assert "--fresh" in str(error.hint)
    assert not site.store.placements()


def test_purging_deletes_the_files_and_forgets_the_home(site: Site) -> None:
    site.run("place", "alice")
    assert one(site.run("rm", "alice", purge=True)).action == "purged"
    assert "alice" not in site.fleet[BEST].data
    assert not site.store.homes()
    invariants(site, purged=["alice"])


class Paused:
    """Leases whose holder falls asleep at the `at`-th check; meanwhile `act` happens. It wakes up with an old proof."""

    def __init__(self, real: Any, at: int, act: Callable[[], object]) -> None:
        self._real, self._left, self._act = real, at, act

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        self._held = self._real.acquire(*args, **kwargs)
        return self

    def check(self) -> None:
        self._held.check()
        self._left -= 1
        if self._left == 0:
            self._act()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.release()


@pytest.mark.parametrize(("removed", "at"), [(True, 1), (False, 4)], ids=["purge of a home", "purge of a placement"])
def test_a_late_purge_never_deletes_files_under_a_running_container(site: Site, removed: bool, at: int) -> None:
    """Fencing: A pauses right before its purge, its lease is gone, B places the user again. The lease is politeness;
    so the generation must be asked once more before what can't be taken back."""
    site.run("place", "alice")
    if removed:
        site.run("rm", "alice")
    under: list[str] = []
    purge = site.fleet[BEST].purge_data

    def watch(host_root: str, user: str, image: str) -> None:
        under.extend(container.state for _, container in site.of(user))
        purge(host_root, user, image)

    site.fleet[BEST].purge_data = watch  # type: ignore[method-assign]

    def b_comes() -> None:
        site.leases.break_lease("user:alice")
        assert one(site.run("place", "alice")).error is None

    with site.process() as commands:
        paused = replace(commands.world, leases=Paused(commands.world.leases, at, b_comes))  # type: ignore[arg-type]
        Commands(paused).rm("alice", purge=True)
    assert "running" not in under, "the files of a running user were deleted"
    invariants(site, purged=["alice"], settled=False)


def test_restart_recreate_applies_the_present_spec() -> None:
    site = make_site("n1")
    try:
        site.run("place", "alice")
        site.classes["default"] = newer = WorkspaceSpec(image=IMAGE, resources=RESOURCES, env={"NEW": "1"})
        assert one(site.run("place", "alice")).action == "unchanged"
        assert "older spec" in str(one(site.run("place", "alice")).work)
        assert one(site.run("restart", "alice")).action == "restarted"
        assert one(site.run("restart", "alice", recreate=True)).action == "restarted"
        ((_, container),) = site.of("alice")
        assert container.spec.env == {"NEW": "1", "WSCTL_USER": "alice"}
        assert container.spec.labels["io.wsctl.spec"] == newer.digest()
        invariants(site)
    finally:
        site.close()


def test_a_stale_copy_from_a_node_that_came_back_is_replaced(site: Site) -> None:
    site.run("place", "alice")
    site.run("restart", "alice", recreate=True)
    engine = site.fleet[BEST]
    engine.remove("ws-u-alice")
    engine.add("ws-u-alice", cluster=CLUSTER, user="alice", generation="1", state="exited")
    assert one(site.run("place", "alice")).action == "started"
    invariants(site)


def test_after_a_power_cut_place_brings_everybody_back(site: Site) -> None:
    users = [f"user{number}" for number in range(6)]
    site.run("place", *users)
    for engine in site.fleet.engines.values():
        engine.power_cycle()
    assert {outcome.action for outcome in site.run("place", *users)} == {"started"}
    invariants(site)


def test_spec_that_forbids_pulling_is_refused_before_anything_is_claimed() -> None:
    from wsctl.model import PullPolicy

    site = make_site(spec=WorkspaceSpec(image=IMAGE, resources=RESOURCES, pull=PullPolicy.NEVER))
    try:
        site.run("place", "alice")
        site.run("rm", "alice")
        site.fleet[BEST].images.clear()
        assert isinstance(one(site.run("place", "alice")).error, Unschedulable)
        site.run("place", "bob")
        home = site.store.placements()[0].node
        site.fleet[home].images.clear()
        site.fleet[home].remove("ws-u-bob")
        assert isinstance(one(site.run("place", "bob")).error, ImageMissing)
        assert site.store.placements()[0].generation == 1
    finally:
        site.close()


def test_an_operation_may_stop_whom_it_decides_on_by_itself(site: Site) -> None:
    """What `reap-idle` does: the decision is anybody's, the pipeline is the same."""
    site.run("place", "alice", "bob")

    def decide(user: str, view: Any) -> Decision:
        return plan_stop(user, view, cause="idle for 2h")

    with site.process() as commands:
        outcomes = commands.run(Operation("reap-idle", ("alice", "bob"), decide))
    assert {outcome.action for outcome in outcomes} == {"stopped"}
    invariants(site)


def test_no_targets_is_nothing(site: Site) -> None:
    assert site.run("place") == []
