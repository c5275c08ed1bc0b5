"""Deciding: plans are asserted as the text that operators see."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.builders import CLUSTER, IMAGE, RESOURCES, capacity, cluster, container, placement, view
from wsctl.errors import BackendError, ImageMissing, NameTaken, NodeUnreachable, NotFound, Refused, Unschedulable
from wsctl.model import (
    Activity,
    ClusterView,
    DamagedPlacement,
    NodeState,
    NodeView,
    Placement,
    PlacementState,
    PullPolicy,
    ReadyProbe,
    Resources,
    Strategy,
    Usage,
    WorkspaceSpec,
)
from wsctl.moving import Home
from wsctl.plan import Claim, Plan, Release, Reserve
from wsctl.planner.decision import Decision
from wsctl.planner.idle import IdleEvidence, IdleLimits, Verdict, judge_idle, needs_look
from wsctl.planner.life import plan_mark, plan_remove, plan_restart, plan_stop, plan_undo
from wsctl.planner.place import plan_place, plan_start
from wsctl.signals import NetworkSample, Note

SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, ready=ReadyProbe("/", 30.0))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def text(decision: Decision) -> str:
    """What the operator would read."""
    assert decision.work is not None, decision.error
    return Plan((decision.work,)).render()


def one(node: NodeView, *placed: Placement) -> ClusterView:
    """A cluster of one node."""
    return cluster(node, placements=placed)


def place(state: ClusterView, user: str = "alice", spec: WorkspaceSpec = SPEC) -> Decision:
    """Plan to place with the default strategy."""
    return plan_place(user, spec, state, Strategy.SPREAD)


# ---------------------------------------------------------------------------------------------- place: new users


def test_a_new_user_is_reserved_before_anything_exists() -> None:
    decision = place(cluster(view("n1", usage=Usage(3, 3, 0, 0)), "n2"))
    assert text(decision) == (
        "+ reserve  alice on n2 port 20000   (spread: best of 2 that fit, 2 in all)\n"
        "+ create   ws-u-alice on n2   (new)\n"
        "+ start    ws-u-alice on n2\n"
        "? await    ws-u-alice on n2 answers on HTTP / within 30 s\n"
        "~ record   alice on n2 as running"
    )
    assert decision.work is not None
    assert decision.work.action == "created"
    assert set(decision.explain) == {"n1", "n2"}


def test_a_missing_image_is_pulled_first_and_a_tcp_probe_says_so() -> None:
    spec = replace(SPEC, ready=ReadyProbe(None, 5.0))
    plan = text(place(one(view("n1", image_present={IMAGE: False})), spec=spec))
    assert f"+ pull     {IMAGE} on n1   (not on the node)\n+ create" in plan
    assert "answers on its port within 5 s" in plan


def test_without_a_probe_nothing_is_awaited() -> None:
    assert "await" not in text(place(one(view("n1")), spec=replace(SPEC, ready=None)))


def test_nobody_fits_gives_every_reason() -> None:
    state = cluster(view("n1", state=NodeState.CORDONED, reason="disk"), view("n2", reachable=False, error="no route"))
    error = place(state).error
    assert isinstance(error, Unschedulable)
    assert "0 of 2 nodes fit" in error.message
    nodes = error.details["nodes"]
    assert isinstance(nodes, dict)
    assert "disk" in str(nodes["n1"])
    assert "no route" in str(nodes["n2"])


def test_an_orphan_with_the_users_name_is_replaced_but_a_foreign_one_is_left_alone() -> None:
    ours = place(one(view("n1", containers=[container("alice")])))
    assert "- keep     ws-u-alice on n1, stopped, as ws-q-alice-id-alice   (left over, in no placement)" in text(ours)
    foreign = place(one(view("n1", containers=[container("alice", cluster="other")])))
    assert foreign.error is not None
    assert "remove" not in str(foreign.work)


# ---------------------------------------------------------------------------------------------- place: homes


def test_a_removed_user_returns_to_their_files() -> None:
    state = replace(cluster(view("n1", usage=Usage(50, 50, 0, 0)), "n2"), homes={"alice": "n1"})
    assert "alice on n1 port 20000   (files of alice are there)" in text(place(state))


def test_files_on_a_node_that_is_out_keep_the_user_from_starting_empty_elsewhere() -> None:
    state = replace(cluster(view("n1", reachable=False, error="down"), "n2"), homes={"alice": "n1"})
    error = place(state).error
    assert isinstance(error, Unschedulable)
    assert "--fresh" in str(error.hint)
    assert "on n2" in text(plan_place("alice", SPEC, state, Strategy.SPREAD, fresh=True))


def test_shared_storage_makes_every_node_a_home() -> None:
    home = view("n1", state=NodeState.CORDONED)
    shared = replace(home, node=replace(home.node, storage="shared"))
    state = replace(cluster(shared, "n2"), homes={"alice": "n1"})
    assert "alice on n2" in text(place(state))


# ---------------------------------------------------------------------------------------------- place: placed users


def test_a_running_user_is_left_alone() -> None:
    decision = place(one(view("n1", containers=[container("alice")]), placement()))
    assert decision.work is not None
    assert (decision.work.action, decision.work.steps) == ("unchanged", ())
    assert decision.work.warnings == ()


def test_an_older_spec_is_told_not_applied() -> None:
    decision = place(one(view("n1", containers=[container("alice", spec="000000000000")]), placement()))
    assert decision.work is not None
    assert decision.work.steps == ()
    assert "wsctl restart alice --recreate" in decision.work.warnings[0]


@pytest.mark.parametrize("state", [s for s in PlacementState if s is not PlacementState.RUNNING])
def test_a_container_that_runs_although_recorded_otherwise_is_only_awaited(state: PlacementState) -> None:
    decision = place(one(view("n1", containers=[container("alice")]), placement(state=state)))
    assert text(decision) == (
        f"~ claim    alice on n1 as {'reserved' if state is PlacementState.RESERVED else 'starting'}, generation 2"
        f"   (runs, but recorded as {state})\n"
        "? await    ws-u-alice on n1 answers on HTTP / within 30 s\n"
        "~ record   alice on n1 as running"
    )
    assert decision.work is not None
    assert decision.work.action == ("created" if state is PlacementState.RESERVED else "started")


def test_a_stopped_user_is_started_where_they_live_even_when_cordoned() -> None:
    node = view("n1", state=NodeState.CORDONED, containers=[container("alice", state="exited")])
    decision = place(cluster(node, "n2", placements=[placement(state=PlacementState.STOPPED)]))
    assert text(decision).startswith(
        "~ claim    alice on n1 as starting, generation 2   (was stopped)\n+ start    ws-u-alice on n1\n"
    )
    assert decision.work is not None
    claim = decision.work.steps[0]
    assert isinstance(claim, Claim)
    assert claim.capacity == node.node.capacity
    assert not claim.new_container
    assert "n1 is cordoned" in decision.work.warnings[0]


def test_a_missing_container_is_made_anew() -> None:
    decision = place(one(view("n1"), placement(generation=4)))
    assert text(decision).splitlines()[:2] == [
        "~ claim    alice on n1 as starting, generation 5   (running, and its container is missing)",
        "+ create   ws-u-alice on n1",
    ]
    assert decision.work is not None
    claim = decision.work.steps[0]
    assert isinstance(claim, Claim)
    assert claim.new_container


def test_a_crash_after_reserve_goes_on_with_create() -> None:
    decision = place(one(view("n1"), placement(state=PlacementState.RESERVED)))
    assert decision.work is not None
    assert decision.work.action == "created"
    assert [step.verb for step in decision.work.steps] == ["claim", "create", "start", "await", "record"]


def test_a_stale_copy_is_replaced() -> None:
    node = view("n1", containers=[container("alice", generation=1)])
    decision = place(one(node, placement(generation=7, container_generation=6)))
    assert "- keep     ws-u-alice on n1, stopped, as ws-q-alice-id-alice   (stale copy)\n+ create" in text(decision)


def test_a_taken_port_moves_the_placement() -> None:
    node = replace(view("n1", containers=[container("alice", state="created")]), ports_foreign=frozenset({20000}))
    node = replace(node, ports_used=frozenset({20000}), last_port=20000)
    decision = place(one(node, placement(state=PlacementState.RESERVED)))
    assert text(decision).splitlines()[:3] == [
        "~ claim    alice on n1 port 20001 as reserved, generation 2   (port 20000 is taken on n1)",
        "- remove   ws-u-alice on n1   (its port is taken)",
        "+ create   ws-u-alice on n1",
    ]


def test_no_other_port_is_a_refusal() -> None:
    node = view("n1", ports=(20000, 20000), ports_used={20000}, last_port=20000)
    error = place(one(replace(node, ports_foreign=frozenset({20000})), placement())).error
    assert isinstance(error, Unschedulable)
    assert "widen `ports`" in str(error.hint)


def test_unreachable_is_not_empty() -> None:
    state = cluster(view("n1", reachable=False, error="no answer"), "n2", placements=[placement()])
    error = place(state).error
    assert isinstance(error, NodeUnreachable)
    assert "alice stays placed there" in error.message
    assert error.hint == "wsctl node check n1"


def test_a_node_outside_the_inventory_or_marked_down_is_refused() -> None:
    gone = place(cluster("n2", placements=[placement()])).error
    assert isinstance(gone, Refused)
    assert "not in the inventory" in gone.message
    down = place(one(view("n1", state=NodeState.DOWN, reason="fire"), placement())).error
    assert isinstance(down, Refused)
    assert "marked down (fire)" in down.message


def test_a_stopped_user_needs_room_to_come_back() -> None:
    full = Usage(workspaces=3, active=2, memory_bytes=RESOURCES.memory_bytes, cpus_milli=0)
    node = view("n1", usage=full, capacity=capacity(memory_bytes=RESOURCES.memory_bytes), containers=[])
    error = place(one(node, placement(state=PlacementState.STOPPED))).error
    assert isinstance(error, Unschedulable)
    assert "no room to start alice" in error.message


def test_a_needed_image_that_may_not_be_pulled_is_said_before_anything_is_claimed() -> None:
    node = view("n1", image_present={IMAGE: False})
    spec = replace(SPEC, pull=PullPolicy.NEVER)
    assert isinstance(place(one(node, placement()), spec=spec).error, ImageMissing)
    # The container is there, so its image isn't needed again.
    there = replace(node, containers=(container("alice", state="exited"),))
    assert place(one(there, placement(state=PlacementState.STOPPED)), spec=spec).error is None


def test_a_foreign_container_of_the_same_name_blocks_a_placed_user() -> None:
    node = view("n1", containers=[container("alice", cluster=None)])
    error = place(one(node, placement())).error
    assert isinstance(error, NameTaken)
    assert "no wsctl cluster" in error.message


def test_start_needs_a_placement() -> None:
    assert isinstance(plan_start("alice", SPEC, cluster("n1")).error, NotFound)
    node = view("n1", containers=[container("alice", state="exited")])
    assert "+ start" in text(plan_start("alice", SPEC, one(node, placement(state=PlacementState.STOPPED))))


def test_a_container_made_anew_takes_what_the_present_spec_says() -> None:
    bigger = replace(SPEC, resources=Resources(RESOURCES.memory_bytes * 2, 2000, 64))
    work = place(one(view("n1"), placement()), spec=bigger).work
    assert work is not None
    claim = work.steps[0]
    assert isinstance(claim, Claim)
    assert claim.resources == bigger.resources
    assert claim.capacity is not None


# ---------------------------------------------------------------------------------------------- stop, restart, rm


def test_stop_keeps_the_placement() -> None:
    assert text(plan_stop("alice", one(view("n1", containers=[container("alice")]), placement()))) == (
        "~ claim    alice on n1 as stopping, generation 2   (asked)\n"
        "- stop     ws-u-alice on n1\n"
        "~ record   alice on n1 as stopped"
    )


def test_stopping_the_stopped_changes_nothing_unless_it_runs() -> None:
    stopped = placement(state=PlacementState.STOPPED)
    quiet = plan_stop("alice", one(view("n1", containers=[container("alice", state="exited")]), stopped))
    assert quiet.work is not None
    assert (quiet.work.action, quiet.work.steps) == ("unchanged", ())
    assert "- stop" in text(plan_stop("alice", one(view("n1", containers=[container("alice")]), stopped)))


def test_stopping_a_missing_container_only_records_it() -> None:
    plan = text(plan_stop("alice", one(view("n1"), placement())))
    assert "- stop" not in plan
    assert "as stopped   (it doesn't run)" in plan


def test_stop_of_nobody_and_on_a_silent_node() -> None:
    assert isinstance(plan_stop("alice", cluster("n1")).error, NotFound)
    assert isinstance(plan_stop("alice", one(view("n1", reachable=False), placement())).error, NodeUnreachable)


def test_restart_reuses_the_container_and_recreate_does_not() -> None:
    state = one(view("n1", containers=[container("alice")]), placement())
    verbs = [step.verb for step in (plan_restart("alice", SPEC, state).work or Decision("x").work).steps]  # type: ignore[union-attr]
    assert verbs == ["claim", "stop", "start", "await", "record"]
    anew = plan_restart("alice", replace(SPEC, ready=None), state, recreate=True)
    assert text(anew) == (
        "~ claim    alice on n1 as starting, generation 2   (made anew from the present spec)\n"
        "- stop     ws-u-alice on n1\n"
        "- remove   ws-u-alice on n1\n"
        "+ create   ws-u-alice on n1\n"
        "+ start    ws-u-alice on n1\n"
        "~ record   alice on n1 as running"
    )
    assert isinstance(plan_restart("alice", SPEC, cluster("n1")).error, NotFound)


def test_restart_of_a_missing_or_stopped_container() -> None:
    missing = text(plan_restart("alice", SPEC, one(view("n1"), placement())))
    assert "+ create" in missing
    assert "- stop" not in missing
    exited = one(view("n1", containers=[container("alice", state="exited")]), placement(state=PlacementState.STOPPED))
    work = plan_restart("alice", SPEC, exited).work
    assert work is not None
    claim = work.steps[0]
    assert isinstance(claim, Claim)
    assert claim.capacity is not None


def test_restart_puts_a_stale_copy_aside() -> None:
    stale = one(view("n1", containers=[container("alice", generation=1)]), placement(container_generation=6))
    lines = text(plan_restart("alice", SPEC, stale)).splitlines()
    assert lines[1:3] == [
        "- keep     ws-u-alice on n1, stopped, as ws-q-alice-id-alice   (stale copy)",
        "+ create   ws-u-alice on n1",
    ]


def test_a_user_whose_row_is_damaged_is_refused_by_every_verb() -> None:
    row = DamagedPlacement("alice", "the row is damaged", "n1", 20000)
    state = replace(cluster(view("n1")), damaged={"alice": row}, homes={"alice": "n1"})
    for decision in (
        place(state),
        plan_start("alice", SPEC, state),
        plan_stop("alice", state),
        plan_restart("alice", SPEC, state),
        plan_remove("alice", SPEC, state),
        plan_remove("alice", SPEC, state, purge=True),
    ):
        assert isinstance(decision.error, BackendError)
        assert "the row is damaged" in decision.error.message


def test_removing_a_stopped_one_takes_no_room_again() -> None:
    """Found by the simulator: as `stopping` it took memory that somebody else had been given, unchecked."""
    stopped = one(view("n1", containers=[container("alice", state="exited")]), placement(state=PlacementState.STOPPED))
    runs_anyway = one(view("n1", containers=[container("alice")]), placement(state=PlacementState.STOPPED))
    for decision in (plan_remove("alice", SPEC, stopped), plan_stop("alice", runs_anyway)):
        assert decision.work is not None
        claim = decision.work.steps[0]
        assert isinstance(claim, Claim)
        assert claim.state is PlacementState.STOPPED


def test_remove_keeps_the_files_and_remembers_where() -> None:
    decision = plan_remove("alice", SPEC, one(view("n1", containers=[container("alice")]), placement()))
    assert text(decision) == (
        "~ claim    alice on n1 as stopping, generation 2   (asked)\n"
        "- stop     ws-u-alice on n1\n"
        "- remove   ws-u-alice on n1\n"
        "- release  alice from n1   (files stay)"
    )
    assert decision.work is not None
    last = decision.work.steps[-1]
    assert isinstance(last, Release)
    assert last.keep_home is True


def test_purge_comes_after_the_container_is_gone_and_before_the_release() -> None:
    exited = one(view("n1", containers=[container("alice", state="exited")]), placement())
    decision = plan_remove("alice", SPEC, exited, purge=True)
    assert text(decision).splitlines()[1:] == [
        "- remove   ws-u-alice on n1",
        "- purge    /srv/workspaces/alice on n1, all files, for good   (--purge-data)",
        "- release  alice from n1",
    ]
    assert decision.work is not None
    last = decision.work.steps[-1]
    assert isinstance(last, Release)
    assert last.keep_home is False


def test_remove_without_a_container_and_of_nobody() -> None:
    assert [s.verb for s in plan_remove("alice", SPEC, one(view("n1"), placement())).work.steps] == [  # type: ignore[union-attr]
        "claim",
        "release",
    ]
    error = plan_remove("alice", SPEC, cluster("n1")).error
    assert isinstance(error, NotFound)
    assert error.hint == "wsctl ls"
    silent = one(view("n1", reachable=False), placement())
    assert isinstance(plan_remove("alice", SPEC, silent).error, NodeUnreachable)


def test_files_of_a_removed_user_can_still_be_purged() -> None:
    state = replace(cluster("n1"), homes={"alice": "n1"})
    assert [s.verb for s in plan_remove("alice", SPEC, state, purge=True).work.steps] == ["purge", "release"]  # type: ignore[union-attr]
    meant = replace(state, home_generations={"alice": 7})
    assert [s.home for s in plan_remove("alice", SPEC, meant, purge=True).work.steps] == [Home("n1", 7)] * 2  # type: ignore[union-attr]
    assert isinstance(plan_remove("alice", SPEC, state).error, NotFound)
    nowhere = replace(cluster("n2"), homes={"alice": "n1"})
    assert isinstance(plan_remove("alice", SPEC, nowhere, purge=True).error, NotFound)


def test_undo_removes_only_what_is_ours() -> None:
    ours = one(view("n1", containers=[container("alice", state="created")]), placement(state=PlacementState.RESERVED))
    assert [step.verb for step in plan_undo("alice", ours, "refused").steps] == ["remove", "release"]
    theirs = one(view("n1", containers=[container("alice", cluster="other")]), placement())
    work = plan_undo("alice", theirs, "refused")
    assert [step.verb for step in work.steps] == ["release"]
    release = work.steps[0]
    assert isinstance(release, Release)
    assert release.keep_home is None


# ---------------------------------------------------------------------------------------------- marks


def test_marks() -> None:
    state = cluster("n1", view("n2", state=NodeState.CORDONED, reason="disk"))
    assert text(plan_mark("n1", NodeState.CORDONED, "disk", state)) == "~ mark     n1 as cordoned   (disk)"
    assert text(plan_mark("n2", NodeState.READY, "", state)) == "~ mark     n2 as ready   (was cordoned)"
    assert plan_mark("n2", NodeState.CORDONED, "", state).work.steps == ()  # type: ignore[union-attr]
    assert plan_mark("n2", NodeState.CORDONED, "fan", state).work.steps  # type: ignore[union-attr]
    assert isinstance(plan_mark("n9", NodeState.CORDONED, "", state).error, NotFound)


# ---------------------------------------------------------------------------------------------- idle


def sample(tx_bytes: int = 1000, age_s: float = 600, container_id: str = "id-alice") -> NetworkSample:
    """A network sample of alice's container, `age_s` old."""
    return NetworkSample("alice", container_id, tx_bytes, NOW - timedelta(seconds=age_s))


def active(age_s: float, source: str = "touch") -> Activity:
    """Activity of alice, `age_s` ago."""
    return Activity("alice", NOW - timedelta(seconds=age_s), source)


def known(
    activity: Activity | None, before: NetworkSample | None = None, now: NetworkSample | None = None, **more: Any
) -> IdleEvidence:
    """Evidence from a database that has had activity for a day."""
    return IdleEvidence(activity, before, now, **{"since": NOW - timedelta(days=1), **more})


IDLE = known(active(3600), sample(), sample(age_s=0))
RUNNING = one(view("n1", containers=[container("alice")]), placement())


@pytest.mark.parametrize(
    ("evidence", "verdict", "reason"),
    [
        (IDLE, Verdict.WOULD_STOP, "idle for 1h (last: touch), limit 30m"),
        (known(active(60), sample(), sample(age_s=0)), Verdict.KEPT, "active 1m ago (touch), limit 30m"),
        (known(active(-60), sample(), sample(age_s=0)), Verdict.KEPT, "active 0 s ago (touch), limit 30m"),
        (known(None, sample(), sample(age_s=0)), Verdict.UNKNOWN, "no activity was ever recorded; it counts from now"),
        (known(active(3600), None, sample()), Verdict.UNKNOWN, "first look at its network counters"),
        (
            known(active(3600), sample(container_id="old"), sample()),
            Verdict.UNKNOWN,
            "first look at its network counters",
        ),
        (known(active(3600), sample(), None), Verdict.UNKNOWN, "its network counters can't be read"),
        (
            known(active(3600), sample(5000), sample(10, 0)),
            Verdict.UNKNOWN,
            "its network counters started anew",
        ),
        (
            known(active(3600), sample(1000), sample(1256, 0)),
            Verdict.KEPT,
            "network: sent 256 bytes since the last look",
        ),
        (known(active(3600), sample(1000), sample(1255, 0)), Verdict.WOULD_STOP, "idle for 1h"),
    ],
)
def test_idle_verdicts(evidence: IdleEvidence, verdict: Verdict, reason: str) -> None:
    found = judge_idle("alice", RUNNING, evidence, IdleLimits(1800), NOW)
    assert found.verdict is verdict
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("state", "limit", "verdict", "reason"),
    [
        (one(view("n1", reachable=False), placement()), 1800, Verdict.UNKNOWN, "n1 does not answer"),
        (cluster("n2", placements=[placement()]), 1800, Verdict.UNKNOWN, "n1 is not in the inventory"),
        (one(view("n1"), placement()), 1800, Verdict.UNKNOWN, "its container is missing"),
        (
            one(view("n1", containers=[container("alice", generation=9)]), placement()),
            1800,
            Verdict.UNKNOWN,
            "its container is missing",
        ),
        (
            one(view("n1", containers=[container("alice", state="exited")]), placement()),
            1800,
            Verdict.UNKNOWN,
            "its container does not run",
        ),
        (RUNNING, None, Verdict.KEPT, "its class is never stopped"),
        (
            one(view("n1", containers=[container("alice")]), placement(state=PlacementState.MIGRATING)),
            1800,
            Verdict.KEPT,
            "migrating: an operation is under way",
        ),
    ],
)
def test_doubt_keeps(state: ClusterView, limit: float | None, verdict: Verdict, reason: str) -> None:
    found = judge_idle("alice", state, IDLE, IdleLimits(limit), NOW)
    assert found.verdict is verdict
    assert found.reason.startswith(reason)


def test_every_signal_is_shown_with_source_and_age() -> None:
    found = judge_idle("alice", RUNNING, known(active(3600), sample(1000, 600), sample(9000, 0)), IdleLimits(1800), NOW)
    assert [signal["source"] for signal in found.signals] == ["touch", "network"]
    assert [signal["age_s"] for signal in found.signals] == [3600, 600]
    assert found.signals[1]["sent_bytes"] == 8000
    assert (found.seen, found.stops_at) == ("network", NOW + timedelta(minutes=30))
    assert found.last_active_at == NOW


def test_reserve_carries_what_the_database_checks() -> None:
    work = place(one(view("n1"))).work
    assert work is not None
    reserve = work.steps[0]
    assert isinstance(reserve, Reserve)
    assert (reserve.address, reserve.resources, reserve.workspace_class) == ("10.0.0.11", RESOURCES, "default")
    assert CLUSTER == "studio"


BUSY = IdleLimits(1800, busy_cpus=0.5)


def cpu(used_s: float, age_s: float = 600) -> NetworkSample:
    """A sample with CPU time."""
    return replace(sample(1000, age_s), cpu_ns=round(used_s * 1e9))


@pytest.mark.parametrize(
    ("evidence", "verdict", "reason"),
    [
        (known(active(3600), sample(), sample(age_s=0), execs=1), Verdict.KEPT, "exec: 1 open session"),
        (known(active(3600), None, None, execs=2), Verdict.KEPT, "exec: 2 open sessions"),
        (known(active(3600), cpu(10), cpu(310, 0)), Verdict.KEPT, "cpu: 0.50 cores since the last look, limit 0.5"),
        (known(active(3600), cpu(10), cpu(309, 0)), Verdict.WOULD_STOP, "idle for 1h"),
        (known(active(3600), sample(), cpu(310, 0)), Verdict.UNKNOWN, "first look at its CPU time"),
        (known(active(3600), cpu(310), cpu(10, 0)), Verdict.UNKNOWN, "its CPU counter started anew"),
        (known(active(3600), cpu(10), sample(age_s=0)), Verdict.WOULD_STOP, "idle for 1h"),
        (
            known(active(3600), sample(), sample(age_s=0), keep_until=NOW + timedelta(hours=2)),
            Verdict.KEPT,
            f"kept until {NOW + timedelta(hours=2):%Y-%m-%d %H:%M} UTC by an operator",
        ),
        (
            known(active(3600), sample(), sample(age_s=0), keep_until=NOW - timedelta(seconds=1)),
            Verdict.WOULD_STOP,
            "idle for 1h",
        ),
        (
            known(active(3600), sample(), sample(age_s=0), since=NOW - timedelta(minutes=5)),
            Verdict.UNKNOWN,
            "activity is recorded for 5m only, limit 30m",
        ),
        (
            known(active(3600), sample(), sample(age_s=0), since=None),
            Verdict.UNKNOWN,
            "it isn't known since when activity is recorded",
        ),
        (known(active(3600), sample(), sample(age_s=0), stale="the log is old"), Verdict.UNKNOWN, "the log is old"),
        (known(active(60), None, None, stale="the log is old"), Verdict.KEPT, "active 1m ago"),
        (known(active(60)), Verdict.KEPT, "active 1m ago"),
    ],
)
def test_more_signals(evidence: IdleEvidence, verdict: Verdict, reason: str) -> None:
    found = judge_idle("alice", RUNNING, evidence, BUSY, NOW)
    assert found.verdict is verdict
    assert found.reason.startswith(reason)


def test_when_somebody_would_be_stopped() -> None:
    in_20_min = NOW + timedelta(minutes=20)
    assert judge_idle("alice", RUNNING, known(active(600)), IdleLimits(1800), NOW).stops_at == in_20_min
    assert judge_idle("alice", RUNNING, IDLE, IdleLimits(1800), NOW).stops_at == NOW
    assert judge_idle("alice", RUNNING, IDLE, IdleLimits(None), NOW).stops_at is None
    kept = known(active(600), keep_until=NOW + timedelta(hours=1))
    assert judge_idle("alice", RUNNING, kept, IdleLimits(1800), NOW).stops_at == NOW + timedelta(hours=1)


def aged(hours: float) -> ClusterView:
    """Alice, who was started so long ago."""
    return one(view("n1", containers=[container("alice")]), placement(updated_at=NOW - timedelta(hours=hours)))


@pytest.mark.parametrize(
    "evidence",
    [
        known(active(1)),
        known(None),
        known(active(1), sample(), sample(9000, 0), execs=3),
        known(active(1), keep_until=NOW + timedelta(hours=9)),
        known(active(1), since=None, stale="the log is old"),
    ],
)
@pytest.mark.parametrize("idle_s", [1800, None])
def test_a_maximum_age_stops_whatever_happens(evidence: IdleEvidence, idle_s: float | None) -> None:
    limits = IdleLimits(idle_s, max_age_s=12 * 3600)
    found = judge_idle("alice", aged(12), evidence, limits, NOW)
    assert (found.verdict, found.reason) == (Verdict.WOULD_STOP, "running for 12h, max_age 12h")
    found = judge_idle("alice", aged(11.9), evidence, limits, NOW)
    assert found.verdict is not Verdict.WOULD_STOP
    assert found.stops_at is not None
    assert found.stops_at <= NOW + timedelta(hours=0.1)


def test_a_maximum_age_stops_nobody_in_doubt() -> None:
    limits = IdleLimits(None, max_age_s=60)
    state = one(view("n1", reachable=False), placement(updated_at=NOW - timedelta(hours=1)))
    assert judge_idle("alice", state, IDLE, limits, NOW).verdict is Verdict.UNKNOWN
    moving = placement(updated_at=NOW - timedelta(hours=1), state=PlacementState.MIGRATING)
    state = one(view("n1", containers=[container("alice")]), moving)
    assert judge_idle("alice", state, IDLE, limits, NOW).verdict is Verdict.KEPT


def test_a_notice_comes_before_the_stop_and_only_once() -> None:
    limits = IdleLimits(1800, notice_s=600)
    early = judge_idle("alice", RUNNING, known(active(1100)), limits, NOW)
    assert (early.notice, early.stops_at) == (None, NOW + timedelta(seconds=700))
    due = judge_idle("alice", RUNNING, known(active(1300)), limits, NOW)
    assert (due.verdict, due.stops_at) == (Verdict.KEPT, NOW + timedelta(seconds=600))
    assert due.notice is not None
    given = Note(due.notice, NOW - timedelta(seconds=100))
    told = judge_idle("alice", RUNNING, known(active(1300), notice=given), limits, NOW)
    assert (told.notice, told.stops_at) == (None, NOW + timedelta(seconds=500))


def test_a_stop_waits_for_the_notice() -> None:
    limits = IdleLimits(1800, notice_s=600)
    late = judge_idle("alice", RUNNING, IDLE, limits, NOW)
    assert (late.verdict, late.stops_at) == (Verdict.KEPT, NOW + timedelta(seconds=600))
    assert late.notice is not None
    for ago, verdict in ((599, Verdict.KEPT), (600, Verdict.WOULD_STOP)):
        evidence = replace(IDLE, notice=Note(late.notice, NOW - timedelta(seconds=ago)))
        assert judge_idle("alice", RUNNING, evidence, limits, NOW).verdict is verdict
    another = replace(IDLE, notice=Note("idle 2020-01-01", NOW - timedelta(hours=9)))
    assert judge_idle("alice", RUNNING, another, limits, NOW).notice == late.notice


def test_a_notice_comes_before_the_maximum_age_too() -> None:
    limits = IdleLimits(1800, max_age_s=12 * 3600, notice_s=600)
    due = judge_idle("alice", aged(12), known(active(1)), limits, NOW - timedelta(minutes=6))
    assert due.notice is not None
    late = judge_idle("alice", aged(12), known(active(1)), limits, NOW)
    assert (late.verdict, late.notice) == (Verdict.KEPT, due.notice)
    given = Note(due.notice, NOW - timedelta(seconds=600))
    assert judge_idle("alice", aged(12), known(active(1), notice=given), limits, NOW).verdict is Verdict.WOULD_STOP


def test_who_cannot_be_idle_yet_is_not_asked() -> None:
    limits = IdleLimits(1800)
    assert [needs_look(active(age), limits, NOW) for age in (0, 899, 900, 3600)] == [False, False, True, True]
    assert needs_look(None, limits, NOW)
    assert not needs_look(active(3600), IdleLimits(None, max_age_s=1), NOW)
