"""Where the users of a dead node go on, and with which files: plans as text, from any state that a user can be in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.builders import CAPACITY, IMAGE, RESOURCES, capacity, cluster, container, node, placement, view
from wsctl.errors import BackendError, NoCopy, NotFound, Unschedulable
from wsctl.failsteps import TakeOver
from wsctl.model import (
    ClusterView,
    DamagedPlacement,
    NodeState,
    NodeView,
    PlacementState,
    PullPolicy,
    ReadyProbe,
    Strategy,
    Usage,
    WorkspaceSpec,
)
from wsctl.planner.decision import Decision
from wsctl.planner.drift import differences
from wsctl.planner.failover import plan_failover, users_of
from wsctl.planner.reconcile import Rules, plan_repair
from wsctl.standbys import Backup, Backups, DataLoss, FailoverRules, LeftFiles, LeftState, Standby, by_user

S = PlacementState
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
RULES = FailoverRules(NOON + timedelta(hours=1))
ACCEPT = replace(RULES, loss=DataLoss.ACCEPT)
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, ready=ReadyProbe("/", 30.0), standby=1)
COPY = Standby("alice", "n2", "n1", 1, 1_767_268_800, NOON, NOON, 4)


def dead(name: str = "n1", **more: object) -> NodeView:
    return view(name, state=NodeState.DOWN, reachable=None, usage=Usage(1, 1, RESOURCES.memory_bytes, 1000), **more)  # type: ignore[arg-type]


def world(state: PlacementState = S.RUNNING, *others: NodeView, **changes: object) -> ClusterView:
    """alice lived on n1, which is marked down; a copy of her files is on n2."""
    nodes = others or (view(node("n2", "10.0.0.12")), view(node("n3", "10.0.0.13")))
    made = cluster(dead(), *nodes, placements=[placement(state=state)])
    return replace(made, **{"standbys": by_user([COPY]), **changes})  # type: ignore[arg-type]


def fail(of: ClusterView, rules: FailoverRules = RULES, spec: WorkspaceSpec = SPEC) -> Decision:
    return plan_failover("alice", spec, of, "n1", Strategy.SPREAD, rules)


def lines(decision: Decision) -> list[str]:
    assert decision.work is not None, decision.error
    return [step.line() for step in decision.work.steps]


def test_a_running_user_goes_on_with_their_standby_copy() -> None:
    decision = fail(world())
    assert lines(decision) == [
        "~ promote  the standby copy of alice on n2",
        "~ takeover alice from n1 to n2 port 20000 as starting, generation 2   "
        "(n1 is down; files as of 2026-01-01 12:00:00 UTC)",
        "+ create   ws-u-alice on n2",
        "+ start    ws-u-alice on n2",
        "? await    ws-u-alice on n2 answers on HTTP / within 30 s",
        "~ record   alice on n2 as running",
    ]
    assert decision.work is not None
    assert (decision.work.action, decision.work.base_generation, decision.work.warnings) == ("failed-over", 1, ())
    assert decision.explain["n1"]["reasons"][0] == "out of the question: it is the one that failed"  # type: ignore[index]


@pytest.mark.parametrize("state", [S.STOPPED, S.STOPPING])
def test_a_stopped_user_only_gets_another_node(state: PlacementState) -> None:
    full = view(node("n2", "10.0.0.12", capacity=capacity(memory_bytes=1)))
    assert lines(fail(world(state, full))) == [
        "~ promote  the standby copy of alice on n2",
        "~ takeover alice from n1 to n2 port 20000 as stopped, generation 2   "
        "(n1 is down; files as of 2026-01-01 12:00:00 UTC)",
    ]


@pytest.mark.parametrize("state", [S.RESERVED, S.STARTING, S.FAILED, S.MIGRATING])
def test_who_was_on_the_way_up_is_started(state: PlacementState) -> None:
    assert "+ start    ws-u-alice on n2" in lines(fail(world(state)))


def test_shared_storage_needs_no_copy() -> None:
    shared = replace(node("n3", "10.0.0.13"), storage="shared")
    of = world(S.RUNNING, view(node("n2", "10.0.0.12")), view(shared))
    of = replace(of, nodes={**of.nodes, "n1": dead(replace(node("n1"), storage="shared"))}, standbys={})  # type: ignore[arg-type]
    decision = fail(of)
    assert lines(decision)[0] == (
        "~ takeover alice from n1 to n3 port 20000 as starting, generation 2   (n1 is down; every node has the files)"
    )
    assert "doesn't see the shared files" in str(decision.explain["n2"])
    no_room = fail(replace(of, nodes={**of.nodes, "n3": view(shared, state=NodeState.CORDONED)}))
    assert isinstance(no_room.error, Unschedulable)
    assert no_room.error.message.startswith("no node for alice: 0 of 3 nodes fit")


def test_the_newest_copy_that_can_be_had_is_taken() -> None:
    newer = replace(COPY, node="n3", as_of=NOON + timedelta(minutes=5))
    assert lines(fail(world(standbys=by_user([COPY, newer]))))[0].endswith("on n3")
    closed = world(S.RUNNING, view(node("n2", "10.0.0.12")), view("n3", state=NodeState.CORDONED))
    assert lines(fail(replace(closed, standbys=by_user([COPY, newer]))))[0].endswith("on n2")


@pytest.mark.parametrize(
    "copy",
    [
        None,
        replace(COPY, as_of=None),
        replace(COPY, node="n1"),
        replace(COPY, user="bob"),
        replace(COPY, as_of=NOON - timedelta(days=1)),
    ],
    ids=["none", "never complete", "on the dead node", "somebody else's", "of an earlier placement"],
)
def test_without_a_copy_they_stay_down(copy: Standby | None) -> None:
    of = replace(world(), placements={"alice": placement(created_at=NOON - timedelta(hours=1))})
    of = replace(of, standbys=by_user([copy] if copy is not None else []))
    error = fail(of).error
    assert isinstance(error, NoCopy)
    assert error.message == "alice stays down: their files are on n1, and there is no other copy"
    assert error.hint == "bring n1 back; or wsctl node fail n1 --user alice --accept-data-loss"
    decision = fail(of, ACCEPT)
    assert lines(decision)[0].endswith("generation 2   (n1 is down; no copy of the files)")
    assert decision.work is not None
    assert decision.work.warnings == ("alice starts empty: their files are on n1",)


BACKUP = Backup("5" * 64, "n1", NOON - timedelta(hours=9))


def test_a_backup_is_used_where_the_loss_of_what_is_newer_is_accepted() -> None:
    alone = replace(world(), standbys={})
    known = Backups({"alice": BACKUP, "bob": replace(BACKUP, snapshot="6" * 64)})
    assert isinstance(fail(alone, replace(RULES, backups=known)).error, NoCopy), "nobody accepted that"
    decision = fail(alone, replace(ACCEPT, backups=known))
    assert lines(decision)[:2] == [
        "~ restore  the backup of alice on n2, snapshot 55555555",
        "~ takeover alice from n1 to n2 port 20000 as starting, generation 2   "
        "(n1 is down; files as of 2026-01-01 03:00:00 UTC, from the backup)",
    ]
    assert decision.work is not None
    (step,) = [step for step in decision.work.steps if isinstance(step, TakeOver)]
    assert (step.seen_at, step.leaves_files) == (int(BACKUP.at.timestamp() * 1_000_000), True)
    assert decision.work.warnings == (
        "alice has the files of the backup of 2026-01-01 03:00:00 UTC: what is newer is on n1",
    )
    elsewhere = fail(alone, replace(ACCEPT, backups=Backups({"alice": replace(BACKUP, node="n3")})))
    assert elsewhere.work is not None
    assert [s.seen_at for s in elsewhere.work.steps if isinstance(s, TakeOver)] == [0], "another node's clock"
    assert lines(fail(world(), replace(ACCEPT, backups=known)))[0].startswith("~ promote"), "a copy is newer"


def test_nobody_starts_without_files_while_backups_can_not_be_listed() -> None:
    alone = replace(world(), standbys={})
    error = fail(alone, replace(ACCEPT, backups=Backups(unknown="n2: wrong password"))).error
    assert isinstance(error, NoCopy)
    assert error.message.endswith("whether there is a backup isn't known: n2: wrong password")
    known = Backups({"alice": BACKUP}, unknown="n3: no answer")
    assert lines(fail(alone, replace(ACCEPT, backups=known)))[0].startswith("~ restore")


def test_a_copy_may_be_too_old() -> None:
    strict = replace(RULES, max_age_s=600.0)
    error = fail(world(), strict).error
    assert isinstance(error, NoCopy)
    assert "the newest copy is 1h old" in error.message
    assert lines(fail(world(), replace(strict, loss=DataLoss.ACCEPT)))[0].endswith("alice on n2"), "better than none"
    assert lines(fail(world(), replace(RULES, max_age_s=3600.0)))[0].endswith("alice on n2")


def test_the_copy_of_who_was_stopped_before_it_is_never_too_old() -> None:
    strict = replace(RULES, max_age_s=600.0)
    stopped = placement(state=S.STOPPED, updated_at=NOON)
    assert lines(fail(replace(world(), placements={"alice": stopped}), strict))[0].endswith("alice on n2")
    later = replace(stopped, updated_at=NOON + timedelta(seconds=1))
    assert isinstance(fail(replace(world(), placements={"alice": later}), strict).error, NoCopy)


def test_only_the_clock_of_the_failed_node_is_compared_with_its_files() -> None:
    def seen_at(copy: Standby) -> list[int]:
        decision = fail(world(standbys=by_user([copy])))
        assert decision.work is not None
        return [step.seen_at for step in decision.work.steps if isinstance(step, TakeOver)]

    assert seen_at(COPY) == [1_767_268_800]
    assert seen_at(replace(COPY, source="n3")) == [0], "they lived on n3 when it was made"


def test_a_copy_that_can_not_be_had_now_is_waited_for_whatever_loss_is_accepted() -> None:
    full = world(S.RUNNING, view(node("n2", "10.0.0.12", capacity=capacity(memory_bytes=1))), view("n3"))
    error = fail(full, ACCEPT).error
    assert isinstance(error, Unschedulable)
    assert error.message.startswith("alice can't go on where their standby copy is, on n2: not enough memory")
    assert error.hint == "wsctl node show n2   # make room there, then repeat the command"
    gone = fail(world(S.RUNNING, view("n3")), ACCEPT).error
    assert isinstance(gone, Unschedulable)
    assert gone.message == "alice can't go on where their standby copy is, on n2, which is not in the inventory"


def test_what_is_in_the_way_is_put_aside() -> None:
    there = container(id="deadbeefcafe", state="exited", generation=1)
    of = world(S.RUNNING, view(node("n2", "10.0.0.12"), containers=[there], image_present={IMAGE: False}))
    assert lines(fail(of))[0] == "- keep     ws-u-alice on n2, stopped, as ws-q-alice-deadbeef   (left over)"
    assert f"+ pull     {IMAGE} on n2   (not on the node)" in lines(fail(of))
    never = fail(of, spec=replace(SPEC, pull=PullPolicy.NEVER)).error
    assert isinstance(never, Unschedulable)
    foreign = world(S.RUNNING, view("n2", containers=[container(cluster=None)]))
    assert "container name taken" in str(fail(foreign).error)


def test_a_node_that_answers_after_all_has_its_container_stopped_first() -> None:
    of = world()
    alive = replace(of.nodes["n1"], reachable=True, containers=(container(id="deadbeefcafe"),))
    assert lines(fail(replace(of, nodes={**of.nodes, "n1": alive})))[:2] == [
        "- keep     ws-u-alice on n1, stopped, as ws-q-alice-deadbeef   (its node is given up)",
        "~ promote  the standby copy of alice on n2",
    ]


def test_who_was_taken_over_is_only_brought_to_run() -> None:
    left = LeftFiles("alice", "n1", 1, 5)
    began = placement(node="n2", state=S.STARTING, generation=2, container_generation=2)
    of = replace(world(), placements={"alice": began}, left=(left,), standbys={})
    assert users_of("n1", of) == ("alice",)
    decision = fail(of)
    assert lines(decision)[:2] == [
        "~ claim    alice on n2 as starting, generation 3   (starting, and its container is missing)",
        "+ create   ws-u-alice on n2",
    ]
    assert decision.work is not None
    assert decision.work.action == "failed-over"
    runs = replace(of, placements={"alice": replace(began, state=S.RUNNING)})
    assert users_of("n1", runs) == ()
    assert lines(fail(runs)) == []
    silent = replace(of, nodes={**of.nodes, "n2": view("n2", reachable=False)})
    assert fail(silent).error is not None
    assert users_of("n1", replace(of, placements={})) == ()


def test_who_can_not_be_acted_upon() -> None:
    assert isinstance(fail(replace(world(), placements={})).error, NotFound)
    damaged = replace(world(), placements={}, damaged={"alice": DamagedPlacement("alice", "port 0")})
    assert isinstance(fail(damaged).error, BackendError)


def test_those_who_ran_come_first() -> None:
    placements = [placement("a", state=S.STOPPED), placement("b"), placement("c", node="n2"), placement("d")]
    of = cluster(dead(), view("n2"), placements=placements)
    assert users_of("n1", of) == ("b", "d", "a")


# ---- reconcile


def repair(of: ClusterView, rules: Rules) -> Decision:
    return plan_repair("alice", SPEC, of, rules)


def test_reconcile_goes_on_with_a_failover() -> None:
    rules = Rules(failover=(Strategy.SPREAD, RULES))
    assert lines(repair(world(), rules)) == lines(fail(world()))
    assert lines(repair(world(), Rules())) == [], "not unless it is told to"
    up = replace(world(), nodes={**world().nodes, "n1": view("n1", reachable=False)})
    assert lines(repair(up, rules)) == [], "silent isn't dead"
    back = replace(world(), nodes={**world().nodes, "n1": view("n1", state=NodeState.DOWN)})
    assert lines(repair(back, rules)) == [], "it answers: they live there"
    none = repair(replace(world(), standbys={}), rules)
    assert isinstance(none.error, NoCopy)
    found = differences(replace(world(), standbys={}), lambda user, view: SPEC, rules, leave_out=())
    told = {(d.kind.value, d.user, d.safe) for d in found}
    assert told == {("failed-node", "alice", False), ("unreachable", None, False)}


def test_a_stopped_users_move_is_not_ended_on_a_dead_node() -> None:
    from wsctl.moving import Move

    move = Move("alice", "n1", "n2", "10.0.0.12", 20005, 0, 0, 0, active=False)
    of = world(S.STOPPED, moves={"alice": move})
    assert [step.verb for step in (repair(of, Rules()).work or pytest.fail("no work")).steps] == []


def test_left_states_are_those_of_the_table() -> None:
    assert {state.value for state in LeftState} == {"behind", "nothing", "conflict", "kept"}
    assert LeftFiles("alice", "n1", 7, 0).name == "alice-failed-7"
    assert CAPACITY.workspaces == 100
