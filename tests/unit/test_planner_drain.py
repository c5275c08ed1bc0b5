"""Who goes where when a node is emptied, as text, and whether there is room for all before anybody has moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import GIB, IMAGE, capacity, cluster, container, node, placement, resources, view
from wsctl.errors import BackendError, NodeUnreachable, Refused, Unschedulable
from wsctl.model import (
    ClusterView,
    DamagedPlacement,
    NodeState,
    NodeView,
    PlacementState,
    Strategy,
    Usage,
    WorkspaceSpec,
)
from wsctl.moving import CopyState, KeptCopy, Move
from wsctl.planner.decision import Decision
from wsctl.planner.drain import leftovers, may_drain, no_room, plan_drain, who_arrives, who_leaves, without_room
from wsctl.planner.migrate import How
from wsctl.planner.relocation import Within, begins
from wsctl.planner.relocation import lines as relocation_lines

SIZES = {"s": resources(2 * GIB), "m": resources(4 * GIB), "l": resources(8 * GIB)}
CLASSES = {
    name: WorkspaceSpec(IMAGE, takes, name=name, labels={"gpu": "yes"} if name == "l" else {})
    for name, takes in SIZES.items()
}


def spec_of(user: str, of: ClusterView) -> WorkspaceSpec:
    placed = of.placements.get(user)
    return CLASSES[placed.workspace_class if placed is not None else "s"]


def source(users: list[str], stopped: tuple[str, ...] = ()) -> tuple[NodeView, list[object]]:
    """n1 with users; the first letter is the class."""
    there = [container(user, state="exited" if user in stopped else "running") for user in users]
    placements: list[object] = [
        placement(
            user,
            "n1",
            20000 + number,
            workspace_class=user[0],
            resources=SIZES[user[0]],
            state=PlacementState.STOPPED if user in stopped else PlacementState.RUNNING,
        )
        for number, user in enumerate(users)
    ]
    return view("n1", containers=there), placements


def roomy(name: str, gib: int, most: int = 9, **labels: str) -> NodeView:
    return view(node(name, f"10.0.0.1{name[1:]}", capacity=capacity(most, gib * GIB), labels=labels))


def world(users: list[str], *others: NodeView, stopped: tuple[str, ...] = ()) -> ClusterView:
    first, placements = source(users, stopped)
    return cluster(first, *others, placements=placements)  # type: ignore[arg-type]


def drain(of: ClusterView, within: Within = Within(), **more: object) -> tuple[Decision, ...]:  # noqa: B008
    return plan_drain("n1", of, spec_of, Strategy.SPREAD, within, How(), **more)  # type: ignore[arg-type]


def test_the_plan() -> None:
    of = world(["s1", "m1", "l1", "s2"], roomy("n2", 32), roomy("n3", 32, gpu="yes"), stopped=("s2",))
    assert relocation_lines(drain(of)) == (
        "~ move     l1 from n1 to n3",
        "~ move     m1 from n1 to n2",
        "~ move     s1 from n1 to n2",
        "~ move     s2 from n1 to n3",
    )
    assert without_room(drain(of)) == ()


def test_each_sees_those_before() -> None:
    of = world(["s1", "s2", "s3", "s4"], roomy("n2", 4), roomy("n3", 4))
    assert sorted(step.node for one in drain(of) if (step := begins(one)) is not None) == ["n2", "n2", "n3", "n3"]


def test_if_spreading_fails_they_are_packed() -> None:
    """Spread gives the two that choose first a node each; then the third finds none that is empty, as it must be."""
    first, placements = source(["m1", "m2", "s3"])
    wide = WorkspaceSpec(IMAGE, resources(2 * GIB, 8000), name="s")

    def specs(user: str, of: ClusterView) -> WorkspaceSpec:
        return wide if user == "s3" else CLASSES["m"]

    nodes = [view(node(name, capacity=capacity(9, 10 * GIB, 8500))) for name in ("n2", "n3")]
    of = cluster(first, *nodes, placements=placements)  # type: ignore[arg-type]
    decisions = plan_drain("n1", of, specs, Strategy.SPREAD, Within(), How())
    targets = {step.user: step.node for one in decisions if (step := begins(one)) is not None}
    assert targets["m1"] == targets["m2"] != targets["s3"]


def test_no_room_says_who_and_why() -> None:
    of = world(["s1", "s2", "l1"], roomy("n2", 3), roomy("n3", 1))
    decisions = drain(of)
    error = no_room("n1", decisions)
    assert [one.target for one in without_room(decisions)] == ["l1", "s2"]
    assert error.message.startswith("no room was found elsewhere for 2 of 3 users of n1, so nobody was moved: l1 can't")
    assert error.hint == "wsctl node drain n1 --partial   # moves the 1 others"
    assert set(error.details["users"]) == {"l1", "s2"}  # type: ignore[call-overload]
    assert relocation_lines(decisions)[0].startswith("! stays    l1: ")


def test_a_stopped_user_needs_a_place_only() -> None:
    of = world(["m1", "m2"], roomy("n2", 4), stopped=("m2",))
    assert without_room(drain(of)) == ()
    assert len(without_room(drain(world(["m1", "m2"], roomy("n2", 4))))) == 1
    assert len(without_room(drain(world(["m1", "m2"], roomy("n2", 9, most=1), stopped=("m2",))))) == 1


@pytest.mark.parametrize("state", [NodeState.CORDONED, NodeState.DRAINING, NodeState.DOWN])
def test_nobody_goes_where_nobody_may(state: NodeState) -> None:
    shut = replace(roomy("n2", 64), mark=replace(view("n2").mark, state=state))
    (decision,) = drain(world(["s1"], shut))
    assert isinstance(decision.error, Unschedulable)
    (decision,) = drain(world(["s1"], replace(roomy("n2", 64), reachable=False)))
    assert isinstance(decision.error, Unschedulable)


def test_limits_by_name_and_label() -> None:
    of = world(["s1"], roomy("n2", 64), roomy("n3", 32, zone="b"), roomy("n4", 16, zone="b"))
    for within, target in ((Within(("n4",)), "n4"), (Within(labels={"zone": "b"}), "n3"), (Within(("n2", "n4")), "n2")):
        (decision,) = drain(of, within)
        assert (step := begins(decision)) is not None
        assert step.node == target
    (decision,) = drain(of, Within(("n2",), {"zone": "b"}))
    assert isinstance(decision.error, Unschedulable)
    assert "without zone=b" in decision.error.message


def test_who_is_left_alone() -> None:
    assert [one.target for one in drain(world(["s1", "s2"], roomy("n2", 64)), leave={"s1"})] == ["s2"]


def test_a_move_that_is_not_finished_is_and_first() -> None:
    of = world(["s1"], roomy("n2", 64))
    gone = placement("zoe", "n2", 20100, workspace_class="s", state=PlacementState.STARTING)
    of = replace(of, placements={**of.placements, "zoe": gone}, kept=(KeptCopy("zoe", "n1", 1, CopyState.LEAVING),))
    assert who_leaves("n1", of) == ("s1", "zoe")
    assert relocation_lines(drain(of)) == ("~ finish   the move of zoe", "~ move     s1 from n1 to n2")


def test_the_room_of_an_earlier_move_is_not_taken_twice() -> None:
    of = world(["m1"], roomy("n2", 4))
    taken = Usage(1, 1, 4 * GIB, 1000)
    nodes = {**of.nodes, "n2": replace(of.nodes["n2"], usage=taken)}
    move = Move("m1", "n1", "n2", "10.0.0.12", 20005, 4 * GIB, 1000, 512, True)
    midway = replace(of.placements["m1"], state=PlacementState.MIGRATING)
    assert without_room(drain(replace(of, nodes=nodes, moves={"m1": move}, placements={"m1": midway}))) == ()
    assert len(without_room(drain(replace(of, nodes=nodes)))) == 1
    assert who_arrives("n2", replace(of, moves={"m1": move})) == ("m1",)


def test_users_that_cannot_be_moved_are_decided_about_too() -> None:
    of = world(["s1", "s2"], roomy("n2", 64))
    half = replace(of.placements["s1"], state=PlacementState.RESERVED)
    of = replace(of, placements={**of.placements, "s1": half}, damaged={"x": DamagedPlacement("x", "bad", "n1")})
    errors = {one.target: type(one.error) for one in drain(of)}
    assert errors == {"s1": Refused, "s2": type(None), "x": BackendError}
    silent = replace(of, nodes={**of.nodes, "n1": view("n1", reachable=False)})
    assert {type(one.error) for one in drain(silent)} == {NodeUnreachable, BackendError}


def test_what_runs_there_and_belongs_nowhere() -> None:
    of = world(["s1"], roomy("n2", 64))
    more = (container("old"), container("other", cluster="theirs"), container("off", state="exited"))
    first = replace(of.nodes["n1"], containers=(*of.nodes["n1"].containers, *more))
    assert [one.user for one in leftovers("n1", replace(of, nodes={**of.nodes, "n1": first}))] == ["old"]


def test_a_node_that_is_down() -> None:
    assert may_drain("n1", cluster("n1")) is None
    error = may_drain("n1", cluster(view("n1", state=NodeState.DOWN)))
    assert isinstance(error, Refused)
    assert error.hint is not None


@settings(max_examples=100, deadline=None)
@given(
    users=st.lists(st.tuples(st.sampled_from("sml"), st.booleans()), max_size=8),
    gibs=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    most=st.integers(1, 6),
)
def test_no_node_gets_more_than_it_has(users: list[tuple[str, bool]], gibs: list[int], most: int) -> None:
    names = [f"{kind}{number}" for number, (kind, _) in enumerate(users)]
    stopped = tuple(name for name, (_, off) in zip(names, users, strict=True) if off)
    others = [roomy(f"n{number + 2}", gib, most, gpu="yes") for number, gib in enumerate(gibs)]
    of = world(names, *others, stopped=stopped)
    decisions = drain(of)
    assert sorted(one.target for one in decisions) == sorted(names)
    for gib, other in zip(gibs, others, strict=True):
        steps = [s for one in decisions if (s := begins(one)) is not None and s.node == other.node.name]
        assert len(steps) <= most
        assert len({step.port for step in steps}) == len(steps)
        assert sum(step.resources.memory_bytes for step in steps if step.is_active) <= gib * GIB
    again = replace(of, placements=dict(reversed(of.placements.items())), nodes=dict(reversed(of.nodes.items())))
    assert relocation_lines(drain(again)) == relocation_lines(decisions)
