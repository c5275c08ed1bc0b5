"""The plan of `rebalance`: as few moves as it takes, never a worse cluster, never an impossible move."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import CLUSTER, GIB, IMAGE, capacity, cluster, container, node, placement, resources, view
from wsctl.model import ClusterView, NodeState, NodeView, Placement, PlacementState, Strategy, Usage, WorkspaceSpec
from wsctl.moving import Move
from wsctl.planner.balance import EPS, By, scene
from wsctl.planner.migrate import How, plan_migrate
from wsctl.planner.rebalance import Balance, plan_rebalance, spread
from wsctl.planner.relocation import with_move

SIZES = {"default": resources(2 * GIB, 1000), "large": resources(6 * GIB, 2000), "zoned": resources(2 * GIB, 1000)}
CLASSES = {
    name: WorkspaceSpec(IMAGE, takes, name=name, labels={"zone": "a"} if name == "zoned" else {})
    for name, takes in SIZES.items()
}


def spec_of(user: str, of: ClusterView) -> WorkspaceSpec:
    return CLASSES[of.placements[user].workspace_class]


def world(homes: dict[str, str], nodes: Iterable[NodeView], stopped: Iterable[str] = ()) -> ClusterView:
    """Users of `kind-name` on nodes; the counters are what they add up to."""
    placements: list[Placement] = []
    views = {one.node.name: one for one in nodes}
    for number, (user, home) in enumerate(sorted(homes.items())):
        kind = user.partition("-")[0] if "-" in user else "default"
        state = PlacementState.STOPPED if user in stopped else PlacementState.RUNNING
        placements.append(
            placement(
                user,
                home,
                20000 + number,
                resources=SIZES[kind],
                workspace_class=kind,
                state=state,
            )
        )
        active, takes, used = int(state.holds_resources), SIZES[kind], views[home].usage
        views[home] = replace(
            views[home],
            usage=Usage(
                used.workspaces + 1,
                used.active + active,
                used.memory_bytes + active * takes.memory_bytes,
                used.cpus_milli + active * takes.cpus_milli,
            ),
            ports_used=views[home].ports_used | {20000 + number},
            containers=(*views[home].containers, container(user, state="running" if active else "exited")),
        )
    return cluster(*views.values(), placements=placements)


def even(count: int, **more: object) -> list[NodeView]:
    return [view(node(f"n{number + 1}", f"10.0.0.{number + 11}"), **more) for number in range(count)]  # type: ignore[arg-type]


def plan(of: ClusterView, target: float = 0.05, **more: object) -> Balance:
    return plan_rebalance(of, spec_of, target=target, **more)  # type: ignore[arg-type]


def crowd(count: int, home: str = "n1") -> dict[str, str]:
    return {f"u{number:03}": home for number in range(count)}


def test_the_plan_of_a_new_node() -> None:
    found = plan(world(crowd(8), even(2)), 0.07)
    assert [one.line() for one in found.moves] == [
        "~ move     u000 from n1 to n2",
        "~ move     u001 from n1 to n2",
        "~ move     u002 from n1 to n2",
    ]
    assert (found.lower_bound, found.is_reached) == (3, True)
    assert found.before == {"n1": 8 * 2 / 64, "n2": 0.0}
    assert found.after == {"n1": 5 * 2 / 64, "n2": 3 * 2 / 64}
    assert plan(world(crowd(8), even(2)), 0.0).lower_bound == 4


def test_what_is_even_enough_stays() -> None:
    found = plan(world(crowd(8), even(2)), 0.25)
    assert (found.moves, found.lower_bound, found.is_reached) == ((), 0, True)
    assert plan(cluster()).moves == ()
    assert plan(world(crowd(8), even(1)), 0.0).moves == ()


def test_the_largest_move_if_that_takes_fewer_moves() -> None:
    found = plan(world({"large-a": "n1", **crowd(3)}, even(2)), 0.0)
    assert [one.user for one in found.moves] == ["large-a"]


def test_idle_users_go_first_and_busy_ones_stay() -> None:
    of = world(crowd(6), even(2))
    found = plan(of, 0.07, idle={"u003", "u005"})
    assert [(one.user, one.is_idle) for one in found.moves] == [("u003", True), ("u005", True)]
    assert found.moves[0].line() == "~ move     u003 from n1 to n2   (idle)"
    assert [one.user for one in plan(of, 0.07, leave={"u000", "u001"}).moves] == ["u002", "u003"]
    none = plan(of, 0.07, leave=set(of.placements))
    assert (none.moves, none.lower_bound, none.is_reached) == ((), None, False)


def test_at_most_so_many_moves() -> None:
    found = plan(world(crowd(8), even(2)), 0.0, most=2)
    assert (len(found.moves), found.lower_bound, found.is_reached) == (2, 4, False)
    assert found.spread_after < found.spread_before
    assert plan(world(crowd(8), even(2)), 0.0, most=0).moves == ()


def test_a_heavier_node_carries_more() -> None:
    nodes = [view("n1"), view(node("n2", weight=3.0))]
    found = plan(world(crowd(8), nodes), 0.01)
    assert (len(found.moves), found.after) == (6, {"n1": 2 * 2 / 64, "n2": 6 * 2 / 64 / 3})


@pytest.mark.parametrize(
    "other",
    [
        view("n2", state=NodeState.CORDONED),
        view("n2", state=NodeState.DRAINING),
        view("n2", state=NodeState.DOWN),
        view("n2", reachable=False),
        view("n2", excluded="refused"),
        view(node("n2", weight=0.0)),
    ],
)
def test_nodes_that_take_nobody_do_not_count(other: NodeView) -> None:
    assert plan(world(crowd(8), [view("n1"), other]), 0.0) == Balance(0.0, (), {"n1": 0.25}, {"n1": 0.25}, 0)
    third = plan(world({**crowd(8), "z": "n2"}, [view("n1"), other, view("n3")]), 0.0)
    assert {one.target for one in third.moves} == {"n3"}
    assert {one.source for one in third.moves} == {"n1"}


def test_labels_and_images_are_respected() -> None:
    homes = {f"zoned-{number}": "n1" for number in range(6)}
    nodes = [view(node("n1", labels={"zone": "a"})), view("n2"), view(node("n3", labels={"zone": "a"}))]
    found = plan(world(homes, nodes), 0.0)
    assert {one.target for one in found.moves} == {"n3"}
    assert (found.is_reached, found.spread_after) == (False, found.spread_before / 2)


def test_who_is_in_the_middle_of_something_stays() -> None:
    of = world(crowd(4), even(2))
    half = {**of.placements, "u000": replace(of.placements["u000"], state=PlacementState.STARTING)}
    stale = {**half, "u001": replace(half["u001"], container_generation=7)}
    moves = {"u002": Move("u002", "n1", "n2", "10.0.0.12", 20009, 0, 0, 0, False)}
    found = plan(replace(of, placements=stale, moves=moves), 0.0)
    assert [one.user for one in found.moves] == ["u003"]
    theirs = replace(of.nodes["n2"], containers=(container("u003", cluster=None),))
    other = replace(of, nodes={**of.nodes, "n2": theirs})
    assert "u003" not in [one.user for one in plan(other, 0.0).moves]


def test_by_number_the_stopped_count_too() -> None:
    of = world(crowd(8), even(2), stopped=[f"u{number:03}" for number in range(4)])
    assert plan(of, 0.0).spread_before == 4 * 2 / 64
    assert {one.user for one in plan(of, 0.0).moves} == {"u004", "u005"}
    assert plan(of, 0.0, by=By.WORKSPACES).before == {"n1": 0.08, "n2": 0.0}
    assert len(plan(of, 0.0, by=By.WORKSPACES).moves) == 4
    assert plan(of, 0.0, by=By.CPUS).before == {"n1": 4 / 32, "n2": 0.0}


def test_a_large_cluster_is_planned_near_the_lower_bound() -> None:
    rng = random.Random(7)
    nodes = even(40)
    homes = {f"{rng.choice(('default', 'large'))}-{n}": f"n{1 + min(rng.randrange(40), rng.randrange(40))}"
             for n in range(600)}  # fmt: skip
    found = plan(world(homes, nodes), 0.1)
    assert found.is_reached
    assert found.lower_bound is not None
    assert found.lower_bound <= len(found.moves) <= 1.1 * found.lower_bound + 1


# ------------------------------------------------------------------------------------------------------- properties


@st.composite
def worlds(draw: st.DrawFn) -> ClusterView:
    names = [f"n{number + 1}" for number in range(draw(st.integers(2, 4)))]
    nodes = []
    for name in names:
        offer = capacity(draw(st.integers(4, 9)), draw(st.integers(10, 40)) * GIB, draw(st.integers(6, 20)) * 1000)
        made = node(name, capacity=offer, weight=draw(st.sampled_from((0.5, 1.0, 1.0, 2.0))), ports=(20000, 20099),
                    labels={"zone": draw(st.sampled_from("ab"))})  # fmt: skip
        state = draw(st.sampled_from((NodeState.READY,) * 6 + (NodeState.CORDONED,)))
        nodes.append(view(made, state=state, reachable=draw(st.sampled_from((True,) * 8 + (False,)))))
    users = [f"{kind}-{number}" for number, kind in enumerate(draw(st.lists(st.sampled_from(list(SIZES)), max_size=6)))]
    homes = {user: draw(st.sampled_from(names)) for user in users}
    return world(homes, nodes, stopped=[user for user in users if draw(st.integers(0, 5)) == 0])


def carried_out(of: ClusterView, found: Balance) -> None:
    """Every move is one that `migrate-user --to` would make, with the others on their way."""
    seen = of
    for move in found.moves:
        assert seen.placements[move.user].node == move.source
        decision = plan_migrate(move.user, spec_of(move.user, seen), seen, move.target, Strategy.SPREAD, How())
        assert decision.error is None, decision.error
        seen = with_move(seen, decision)


def fewest(of: ClusterView, target: float, by: By) -> int | None:
    """The length of the shortest plan, found by trying them all: each move brings two loads closer to each other."""
    first = scene(of, spec_of, by)
    seen, layer = set[frozenset[tuple[str, str]]](), [frozenset[tuple[str, str]]()]
    people = {user: kind for kind in first.kinds for user in kind.users}

    def loads(moves: frozenset[tuple[str, str]]) -> dict[str, float]:
        used = {name: list(one.used) for name, one in first.nodes.items()}
        for user, there in moves:
            for part in range(4):
                used[people[user].source][part] -= people[user].gives[part]
                used[there][part] += people[user].takes[part]
        return {name: first.load(name, amounts) for name, amounts in used.items()}

    def has_room(moves: frozenset[tuple[str, str]]) -> bool:
        return all(
            sum(people[user].takes[part] for user, there in moves if there == name) <= one.room[part]
            for name, one in first.nodes.items()
            for part in range(4)
            if any(there == name for _, there in moves)
        )

    while layer:
        if any(spread(loads(moves)) <= target + EPS for moves in layer):
            return len(layer[0])
        following = []
        for moves in layer:
            before = loads(moves)
            for user, kind in people.items():
                if user in dict(moves):
                    continue
                for there in kind.targets:
                    more, high, low = moves | {(user, there)}, before[kind.source], before[there]
                    after = loads(more)
                    closer = after[kind.source] >= low - EPS and after[there] <= high + EPS and low < high - EPS
                    if closer and more not in seen and has_room(more):
                        seen.add(more)
                        following.append(more)
        layer = following
    return None


TARGETS = st.sampled_from((0.0, 0.05, 0.1, 0.2, 0.35))


@settings(max_examples=150, deadline=None)
@given(of=worlds(), target=TARGETS, by=st.sampled_from(By), most=st.sampled_from((None, None, 0, 1, 3)))
def test_never_worse_never_impossible(of: ClusterView, target: float, by: By, most: int | None) -> None:
    found = plan(of, target, by=by, most=most)
    assert len({one.user for one in found.moves}) == len(found.moves) <= (99 if most is None else most)
    assert found.spread_after < found.spread_before or not found.moves
    ready = {name for name, one in of.nodes.items() if one.mark.state is NodeState.READY and one.reachable}
    assert {name for one in found.moves for name in (one.source, one.target)} <= ready
    carried_out(of, found)
    if found.is_reached:
        assert found.lower_bound is not None
        assert found.lower_bound <= len(found.moves)
    turned = replace(of, nodes=dict(reversed(of.nodes.items())), placements=dict(reversed(of.placements.items())))
    assert plan(turned, target, by=by, most=most) == found


@settings(max_examples=120, deadline=None)
@given(of=worlds(), target=TARGETS, by=st.sampled_from(By))
def test_no_shorter_plan_exists(of: ClusterView, target: float, by: By) -> None:
    found, best = plan(of, target, by=by), fewest(of, target, by)
    assert (len(found.moves) if found.is_reached else None) == best
    if best is not None:
        assert found.lower_bound is not None
        assert found.lower_bound <= best


def test_the_cluster_of_these_tests_is_one() -> None:
    of = world({"zoned-1": "n1", "large-1": "n2"}, even(2))
    assert of.cluster == CLUSTER
    assert of.nodes["n2"].usage == Usage(1, 1, 6 * GIB, 2000)
