"""The steps of a move, as text: from any state that a user can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import CAPACITY, IMAGE, RESOURCES, cluster, container, node, placement, view
from wsctl.errors import ImageMissing, NodeUnreachable, NotFound, Refused, Unschedulable
from wsctl.model import (
    ClusterView,
    NodeState,
    NodeView,
    Placement,
    PlacementState,
    PullPolicy,
    Strategy,
    Usage,
    WorkspaceSpec,
)
from wsctl.moving import CopyState, KeptCopy, Move, Pass, another_pass
from wsctl.planner.decision import Decision
from wsctl.planner.migrate import How, plan_migrate, plan_unmove
from wsctl.planner.reconcile import Rules, plan_repair

S = PlacementState
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES)
LEFT = KeptCopy("alice", "n2", 3, CopyState.LEAVING)
MOVE = Move("alice", "n1", "n2", "10.0.0.12", 20005, RESOURCES.memory_bytes, 1000, 512, True)
HELD = Usage(1, 1, RESOURCES.memory_bytes, 1000)


def world(state: PlacementState = S.RUNNING, *others: NodeView, runs: bool = True, **changes: object) -> ClusterView:
    there = container(state="running" if runs else "exited", host_port=20000)
    source = view("n1", containers=[there], usage=HELD)
    nodes = others or (view(node("n2", "10.0.0.12")),)
    made = cluster(source, *nodes, placements=[placement(state=state)])
    return replace(made, **changes)  # type: ignore[arg-type]


def migrate(of: ClusterView, to: str | None = None, how: How = How(), spec: WorkspaceSpec = SPEC) -> Decision:  # noqa: B008
    return plan_migrate("alice", spec, of, to, Strategy.SPREAD, how)


def verbs(decision: Decision) -> list[str]:
    assert decision.work is not None, decision.error
    return [f"{step.verb} {step.node}" for step in decision.work.steps]


def test_a_running_user_moves() -> None:
    decision = migrate(world())
    assert decision.work is not None
    assert decision.work.action == "migrated"
    assert [step.line() for step in decision.work.steps] == [
        "? check    that n1 can copy to n2",
        "~ begin    alice from n1 to n2 port 20000, generation 2   (spread: best of 1 that fit)",
        "+ prepare  a folder for alice on n2",
        "+ copy     files of alice from n1 to n2, in passes, while they work",
        "- stop     ws-u-alice on n1   (for the last pass)",
        "+ copy     files of alice from n1 to n2, the rest",
        "? verify   files of alice on n2 are those on n1, content by sample",
        "~ install  files of alice on n2",
        "~ swap     alice from n1 to n2 as starting",
        "+ create   ws-u-alice on n2",
        "+ start    ws-u-alice on n2",
        "~ record   alice on n2 as running",
        "- keep     ws-u-alice on n1, stopped, as ws-q-alice-id-alice   (moved away)",
        "~ aside    files of alice on n1, kept for 86400 s   (moved away)",
    ]


def test_the_options_of_a_move_are_in_its_steps() -> None:
    decision = migrate(world(), "n2", How(60.0, True, 1000, True))
    assert decision.work is not None
    said = {step.verb: step.to_dict() for step in decision.work.steps}
    assert (said["copy"]["bwlimit"], said["copy"]["compress"]) == (1000, True)
    assert said["verify"]["full"] is True
    assert said["aside"]["keep_s"] == 60.0
    assert said["begin"]["cause"] == "asked"


def test_a_stopped_user_moves_and_stays_stopped() -> None:
    assert verbs(migrate(world(S.STOPPED, runs=False))) == [
        "check n2", "begin n2", "prepare n2", "copy n2", "verify n2", "install n2", "swap n2", "keep n1", "aside n1",
    ]  # fmt: skip


def test_a_stopped_user_without_a_container_fits_where_no_memory_is() -> None:
    target = view("n2", usage=replace(HELD, memory_bytes=CAPACITY.memory_bytes))
    of = world(S.STOPPED, target, runs=False)
    of = replace(of, nodes={**of.nodes, "n1": view("n1")})
    assert verbs(migrate(of))[-2:] == ["swap n2", "aside n1"]
    assert isinstance(migrate(world(S.RUNNING, target)).error, Unschedulable)


def test_on_shared_storage_nothing_is_copied() -> None:
    def shared(name: str, **more: object) -> NodeView:
        return view(replace(node(name), storage="shared"), **more)  # type: ignore[arg-type]

    of = cluster(shared("n1", containers=[container()]), shared("n2"), placements=[placement()])
    assert verbs(migrate(of)) == [
        "begin n2", "stop n1", "swap n2", "create n2", "start n2", "record n2", "keep n1",
    ]  # fmt: skip
    mixed = replace(of, nodes={**of.nodes, "n2": view("n2")})
    assert "copy n2" in verbs(migrate(mixed))


def test_what_is_in_the_way_on_the_target_is_put_aside_first() -> None:
    target = view("n2", containers=[container(id="old", state="exited")], image_present={IMAGE: False})
    assert verbs(migrate(world(S.RUNNING, target)))[:5] == ["check n2", "begin n2", "keep n2", "pull n2", "prepare n2"]


def test_a_missing_image_that_may_not_be_pulled() -> None:
    target = view("n2", image_present={IMAGE: False})
    never = replace(SPEC, pull=PullPolicy.NEVER)
    assert isinstance(migrate(world(S.RUNNING, target), spec=never).error, Unschedulable)
    stopped = migrate(world(S.STOPPED, target, runs=False))
    assert "pull n2" not in verbs(stopped)


@pytest.mark.parametrize("state", [S.RESERVED, S.STOPPING])
def test_not_now(state: PlacementState) -> None:
    error = migrate(world(state)).error
    assert isinstance(error, Refused)
    assert error.hint is not None
    assert error.hint.startswith("wsctl ")


def test_nobody_and_nowhere() -> None:
    assert isinstance(migrate(cluster("n1", "n2")).error, NotFound)
    assert isinstance(migrate(world(), "n9").error, NotFound)
    assert isinstance(migrate(world(S.RUNNING, view("n2", state=NodeState.CORDONED))).error, Unschedulable)
    assert isinstance(migrate(world(S.RUNNING, view("n2", state=NodeState.CORDONED)), "n2").error, Unschedulable)
    assert isinstance(migrate(replace(world(), nodes={"n1": view("n1", reachable=False)})).error, NodeUnreachable)


def test_only_the_node_that_was_asked_for() -> None:
    of = world(S.RUNNING, view("n2"), view("n3"))
    assert "begin n3" in verbs(migrate(of, "n3"))
    assert "begin n2" in verbs(migrate(of, "n2"))


def test_to_where_they_are() -> None:
    decision = migrate(world(), "n1")
    assert decision.work is not None
    assert (decision.work.action, decision.work.steps) == ("unchanged", ())


def test_a_move_that_was_cut_off_goes_on_to_where_it_went() -> None:
    tight = replace(node("n2").capacity, workspaces=1)
    full = view(node("n2", capacity=tight), usage=HELD, ports_used=[20005])
    of = world(S.MIGRATING, full, view("n3"), runs=False, moves={"alice": MOVE})
    assert verbs(migrate(of))[:5] == ["check n2", "begin n2", "prepare n2", "copy n2", "verify n2"]
    assert "begin n3" in verbs(migrate(of, "n3"))


def after_swap(state: PlacementState, source: NodeView | None = None) -> ClusterView:
    """alice lives on n1 now, and has left n2."""
    old = source or view("n2", containers=[container(id="old", state="exited")])
    target = view("n1", containers=[container(host_port=20000)] if state is S.RUNNING else [])
    return replace(cluster(target, old, "n3", placements=[placement(state=state)]), kept=(LEFT,))


def test_after_the_swap_the_rest_is_done() -> None:
    assert verbs(migrate(after_swap(S.STARTING))) == [
        "claim n1", "create n1", "start n1", "record n1", "keep n2", "aside n2",
    ]  # fmt: skip
    assert verbs(migrate(after_swap(S.RUNNING), "n1")) == ["keep n2", "aside n2"]
    assert verbs(migrate(after_swap(S.STOPPED))) == ["keep n2", "aside n2"]
    assert verbs(migrate(after_swap(S.RUNNING), "n3"))[:4] == ["keep n2", "aside n2", "check n3", "begin n3"]


def test_after_the_swap_a_silent_source_waits() -> None:
    decision = migrate(after_swap(S.RUNNING, view("n2", reachable=False)))
    assert decision.work is not None
    assert (decision.work.action, decision.work.steps) == ("unchanged", ())
    assert "n2 doesn't answer" in decision.work.warnings[0]


def test_after_the_swap_a_start_that_can_not_be() -> None:
    foreign = container(cluster=None)
    of = after_swap(S.STARTING)
    assert migrate(replace(of, nodes={**of.nodes, "n1": view("n1", containers=[foreign])})).error is not None
    never = replace(SPEC, pull=PullPolicy.NEVER)
    bare = replace(of, nodes={**of.nodes, "n1": view("n1", image_present={IMAGE: False})})
    assert isinstance(migrate(bare, spec=never).error, ImageMissing)


def test_undoing() -> None:
    incoming = KeptCopy("alice", "n2", 2, CopyState.INCOMING)
    cut = world(S.MIGRATING, runs=False, moves={"alice": MOVE}, kept=(incoming,))
    assert verbs(plan_unmove("alice", SPEC, cut)) == ["claim n1", "start n1", "record n1", "discard n2"]
    stopped = world(S.STOPPED, runs=False, moves={"alice": MOVE}, kept=(incoming,))
    assert verbs(plan_unmove("alice", SPEC, stopped)) == ["claim n1", "record n1", "discard n2"]
    assert verbs(plan_unmove("alice", SPEC, world())) == []
    assert verbs(plan_unmove("alice", SPEC, cluster("n1"))) == []
    silent = replace(cut, nodes={**cut.nodes, "n1": view("n1", reachable=False)})
    assert isinstance(plan_unmove("alice", SPEC, silent).error, NodeUnreachable)


def repair(of: ClusterView) -> list[str]:
    return verbs(plan_repair("alice", SPEC, of, Rules(keep_s=5.0)))


def test_reconcile_cleans_up_after_moves() -> None:
    others = (KeptCopy("bob", "n2", 1, CopyState.KEPT, expired=True), KeptCopy("alice", "n9", 1, CopyState.INCOMING))
    kept = KeptCopy("alice", "n2", 7, CopyState.KEPT)
    assert repair(world(kept=(kept, *others))) == []
    assert repair(world(kept=(replace(kept, expired=True),))) == ["drop n2"]
    assert repair(world(kept=(KeptCopy("alice", "n2", 2, CopyState.INCOMING),))) == ["discard n2"]
    assert repair(world(S.RUNNING, view("n2", state=NodeState.DOWN), kept=(replace(kept, expired=True),))) == []
    assert repair(after_swap(S.RUNNING)) == ["keep n2", "aside n2"]
    stopped = world(S.STOPPED, runs=False, moves={"alice": MOVE})
    assert repair(stopped) == ["claim n1", "record n1"]


def test_reconcile_keeps_what_a_removed_user_left() -> None:
    gone = replace(cluster("n1", "n2"), kept=(LEFT,), homes={"alice": "n1"})
    assert repair(gone) == ["aside n2"]
    assert repair(replace(gone, homes={"alice": "n2"})) == []


def test_an_installed_copy_is_only_discarded_where_the_user_is_not() -> None:
    here = world(kept=(KeptCopy("alice", "n1", 2, CopyState.INCOMING), KeptCopy("alice", "n2", 2, CopyState.INCOMING)))
    decision = plan_repair("alice", SPEC, here)
    assert decision.work is not None
    assert [(step.node, step.to_dict()["installed"]) for step in decision.work.steps] == [("n1", False), ("n2", True)]


def test_a_placement_elsewhere_has_nothing_to_leave() -> None:
    lives_there: Placement = placement(node="n2")
    assert (
        repair(
            replace(
                cluster("n1", view("n2", containers=[container(host_port=20000)]), placements=[lives_there]),
                kept=(LEFT,),
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("passes", "again"),
    [
        ([(10**9, 30.0)], True),
        ([(10**9, 0.9)], False),
        ([(0, 30.0)], False),
        ([(10**9, 30.0), (10**8, 5.0)], True),
        ([(10**9, 30.0), (9 * 10**8, 25.0)], False),
        ([(10**9, 30.0), (10**8, 5.0), (10**7, 4.0), (10**6, 4.0), (10**5, 4.0)], False),
    ],
)
def test_passes_go_on_while_they_are_worth_it(passes: list[tuple[int, float]], again: bool) -> None:
    assert another_pass([Pass(*one) for one in passes]) is again
