"""Where standby copies are kept, and whose is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.builders import IMAGE, RESOURCES, capacity, cluster, node, placement, view
from wsctl.model import ClusterView, NodeState, NodeView, PlacementState, Strategy, Usage, WorkspaceSpec
from wsctl.planner.standby import is_due, is_exact, neighbours_of, plan_standby, wants
from wsctl.standbys import Standby, by_user

S = PlacementState
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, standby=1)
COPY = Standby("alice", "n2", "n1", 1, 5, NOON)


def world(*nodes: NodeView | str, **changes: object) -> ClusterView:
    others = nodes or (view("n2"), view("n3"))
    return replace(cluster(view("n1"), *others, placements=[placement()]), **changes)  # type: ignore[arg-type]


def chosen(of: ClusterView, spec: WorkspaceSpec = SPEC) -> str | None:
    return plan_standby("alice", spec, of, Strategy.SPREAD, neighbours_of(of)).node


def zoned(name: str, zone: str, **more: object) -> NodeView:
    return view(name, labels={"zone": zone}, **more)  # type: ignore[arg-type]


def test_who_wants_one() -> None:
    assert wants(placement(), SPEC, world())
    assert not wants(placement(), replace(SPEC, standby=0), world())
    assert not wants(placement(state=S.RESERVED), SPEC, world()), "there are no files yet"
    assert not wants(None, SPEC, world())
    assert not wants(placement(node="n9"), SPEC, world())
    shared = replace(world(), nodes={"n1": view(replace(node("n1"), storage="shared"))})
    assert not wants(placement(), SPEC, shared)


@pytest.mark.parametrize(
    ("copies", "state", "seconds", "due"),
    [
        ([], S.RUNNING, 0, True),
        ([replace(COPY, as_of=None)], S.RUNNING, 0, True),
        ([replace(COPY, node="n1")], S.RUNNING, 0, True),
        ([COPY], S.RUNNING, 299, False),
        ([COPY], S.RUNNING, 300, True),
        ([COPY, replace(COPY, node="n3", as_of=NOON - timedelta(days=1))], S.RUNNING, 299, False),
        ([COPY], S.STOPPED, 90_000, False),
        ([replace(COPY, generation=0)], S.STOPPED, 300, True),
        ([replace(COPY, source="n3")], S.STOPPED, 300, True),
    ],
)
def test_who_is_due(copies: list[Standby], state: PlacementState, seconds: int, due: bool) -> None:
    assert is_due(placement(state=state), copies, NOON + timedelta(seconds=seconds), 300.0) is due


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({}, True),
        ({"updated_at": NOON}, True),
        ({"updated_at": NOON + timedelta(seconds=1)}, False),  # begun in the stop's grace, or files came in since
        ({"generation": 2}, False),
        ({"node": "n3"}, False),
        ({"state": S.STOPPING}, False),
        ({"state": S.RUNNING}, False),
    ],
    ids=str,
)
def test_a_copy_is_exact_that_was_begun_when_all_was_still(changes: dict[str, Any], exact: bool) -> None:
    assert is_exact(COPY, placement(**{"state": S.STOPPED, **changes})) is exact
    assert is_due(placement(**{"state": S.STOPPED, **changes}), [COPY], NOON + timedelta(days=9), 300.0) is not exact
    assert not is_exact(replace(COPY, as_of=None), placement(state=S.STOPPED))


def test_a_copy_stays_where_it_is() -> None:
    assert chosen(world(standbys=by_user([replace(COPY, node="n3")]))) == "n3"
    begun = replace(COPY, node="n3", as_of=None)
    assert chosen(world(standbys=by_user([begun]))) == "n3", "what was begun is gone on with"
    assert chosen(world(standbys=by_user([begun, COPY]))) == "n2"
    own = replace(COPY, node="n1")
    assert chosen(world(standbys=by_user([own]))) in ("n2", "n3")


@pytest.mark.parametrize(
    "unfit",
    [
        view("n2", state=NodeState.CORDONED),
        view("n2", state=NodeState.DRAINING),
        view("n2", state=NodeState.DOWN),
        view("n2", reachable=False),
        view("n2", excluded="refused"),
        view(replace(node("n2"), storage="shared")),
    ],
    ids=["cordoned", "draining", "down", "silent", "excluded", "shared"],
)
def test_it_moves_away_from_a_node_that_does_not_do_any_more(unfit: NodeView) -> None:
    assert chosen(world(unfit, view("n3"), standbys=by_user([COPY]))) == "n3"
    assert chosen(world(unfit, view("n3"))) == "n3"


def test_where_nobody_else_can_have_it_an_old_copy_is_still_made_newer() -> None:
    assert chosen(world(view("n2", state=NodeState.CORDONED), standbys=by_user([COPY]))) == "n2"
    for silent in (view("n2", reachable=False), view("n2", state=NodeState.DOWN)):
        errand = plan_standby("alice", SPEC, world(silent, standbys=by_user([COPY])), Strategy.SPREAD, {})
        assert (errand.node, errand.source) == (None, "n1")
        assert "no other node" in errand.why


def test_another_zone_is_preferred() -> None:
    nodes = {"n1": zoned("n1", "a"), "n2": zoned("n2", "a"), "n3": zoned("n3", "b", usage=Usage(50, 50, 0, 20_000))}
    assert chosen(replace(world(), nodes=nodes)) == "n3"
    assert chosen(replace(world(), nodes={**nodes, "n3": zoned("n3", "a")})) in ("n2", "n3")
    assert chosen(replace(world(), nodes={"n1": nodes["n1"], "n2": nodes["n2"]})) == "n2", "better than none"


def test_the_users_of_a_node_are_spread() -> None:
    copies = [Standby("bob", "n2", "n1"), Standby("carl", "n2", "n1"), Standby("dora", "n3", "n1")]
    of = world(standbys=by_user(copies))
    assert chosen(of) == "n3"
    assert (
        chosen(replace(of, standbys=by_user([*copies, Standby("eve", "n3", "n1"), Standby("f", "n3", "n1")]))) == "n2"
    )
    other = world(
        view("n2", usage=Usage(1, 1, RESOURCES.memory_bytes, 1000)),
        view("n3"),
        standbys=by_user([Standby("x", "n3", "n2")]),
    )
    assert chosen(other) == "n3", "copies of users of other nodes don't count, load does"


def test_room_for_files_is_enough_if_there_is_no_room_to_run() -> None:
    small = view(node("n2", capacity=capacity(memory_bytes=1)))
    assert chosen(world(small, view("n3"))) == "n3"
    assert chosen(world(small)) == "n2"
    full = view("n2", usage=Usage(100, 0, 0, 0))
    assert chosen(world(full)) is None


def test_labels_of_the_class_hold_for_copies_too() -> None:
    assert chosen(world(view("n2"), view("n3", labels={"gpu": "yes"})), replace(SPEC, labels={"gpu": "yes"})) == "n3"
