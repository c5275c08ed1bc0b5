"""What is done on a node that failed and is back: plans as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import IMAGE, RESOURCES, cluster, container, placement, view
from wsctl.errors import Refused
from wsctl.model import ClusterView, Container, DamagedPlacement, NodeState, WorkspaceSpec
from wsctl.planner.decision import Decision
from wsctl.planner.drift import differences
from wsctl.planner.fence import plan_fence, users_to_fence
from wsctl.planner.life import plan_remove
from wsctl.planner.reconcile import Rules, plan_repair
from wsctl.standbys import LeftFiles, LeftState, Standby, by_user

SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, standby=1)
OLD = container(id="deadbeefcafe")
LEFT = LeftFiles("alice", "n1", 1, 1_767_268_800)
NOW = placement(node="n2", generation=2, container_generation=2)


def world(*containers: Container, left: tuple[LeftFiles, ...] = (LEFT,), **changes: object) -> ClusterView:
    """alice went on on n2; n1 is back, with these containers."""
    made = cluster(
        view("n1", state=NodeState.DOWN, containers=containers),
        view("n2", containers=[container(generation=2, host_port=20000)]),
        placements=[NOW],
    )
    return replace(made, left=left, **changes)  # type: ignore[arg-type]


def lines(decision: Decision) -> list[str]:
    assert decision.work is not None, decision.error
    return [step.line() for step in decision.work.steps]


def fence(of: ClusterView, user: str = "alice") -> Decision:
    return plan_fence(user, "n1", of)


ASIDE = "- keep     ws-u-alice on n1, stopped, as ws-q-alice-deadbeef   (from before its node failed)"
FILES = "~ aside    files of alice on n1, from before it failed   (they went on elsewhere)"


def test_container_and_files_are_put_aside() -> None:
    assert users_to_fence("n1", world(OLD)) == ("alice",)
    assert lines(fence(world(OLD))) == [ASIDE, FILES]
    assert lines(fence(world())) == [FILES]
    assert users_to_fence("n1", world(OLD, left=())) == ("alice",)
    assert lines(fence(world(OLD, left=()))) == [ASIDE]
    assert users_to_fence("n1", world(left=())) == ()


def test_what_is_dealt_with_is_left_alone() -> None:
    aside = container(id="deadbeefcafe", name="ws-q-alice-deadbeef", state="exited")
    done = world(aside, left=(replace(LEFT, state=LeftState.CONFLICT),))
    assert users_to_fence("n1", done) == ()
    assert lines(fence(done)) == []


def test_whoever_lives_there_is_not_fenced() -> None:
    at_home = world(OLD, left=(), placements={"alice": placement()})
    assert users_to_fence("n1", at_home) == ()
    stale = world(container(id="deadbeefcafe", generation=4), left=(), placements={"alice": placement(generation=5)})
    assert users_to_fence("n1", stale) == ("alice",)
    again = world(OLD, placements={"alice": placement()})
    assert lines(fence(again)) == ["~ fenced   alice on n1: nothing of theirs is left there   (they live there again)"]
    gone = world(OLD, placements={})
    assert lines(fence(gone)) == [ASIDE, FILES]


def test_shared_files_are_left_where_they_are() -> None:
    assert lines(fence(world(OLD, left=(replace(LEFT, state=LeftState.NOTHING),)))) == [
        ASIDE,
        "~ fenced   alice on n1: nothing of theirs is left there   (its files are on shared storage)",
    ]


@pytest.mark.parametrize(
    "one",
    [container(cluster=None), container(cluster="other"), container("bob", id="b")],
    ids=["nobody's", "other", "bob"],
)
def test_only_ours(one: Container) -> None:
    damaged = world(one, left=(), damaged={"bob": DamagedPlacement("bob", "port 0")})
    assert users_to_fence("n1", damaged) == ()


def test_a_container_that_is_newer_than_what_is_recorded_is_not_touched() -> None:
    error = fence(world(container(generation=9))).error
    assert isinstance(error, Refused)
    assert "was the state database restored" in (error.hint or "")


def test_a_silent_node_is_left_alone() -> None:
    silent = world()
    silent = replace(silent, nodes={**silent.nodes, "n1": view("n1", state=NodeState.DOWN, reachable=False)})
    assert lines(fence(silent)) == []
    unknown = world(left=(replace(LEFT, node="n9"),))
    assert lines(plan_fence("alice", "n9", unknown)) == []


# ---- reconcile


def repair(of: ClusterView) -> list[str]:
    return lines(plan_repair("alice", SPEC, of, Rules()))


def test_reconcile_does_the_same() -> None:
    assert repair(world(OLD)) == [ASIDE.replace("from before its node failed", "wrong-node"), FILES]
    expired = world(left=(replace(LEFT, state=LeftState.KEPT, expired=True),))
    assert repair(expired) == [
        "- drop     the files of alice on n1 from before it failed, for good   (its time is over)"
    ]
    assert repair(world(left=(replace(LEFT, state=LeftState.KEPT),))) == []


def test_a_conflict_is_told_and_nothing_is_done() -> None:
    conflict = replace(LEFT, state=LeftState.CONFLICT, newer_files=3, newer_bytes=2048)
    of = world(left=(conflict,))
    assert repair(of) == []
    (told,) = [d for d in differences(of, lambda user, view: SPEC, Rules()) if d.user == "alice"]
    assert (told.kind, told.node, told.safe) == ("conflict", "n1", False)
    assert told.detail == (
        "n1 failed, and has 3 files (2.0 KiB) of alice that are newer than the copy they went on with; all are kept"
    )
    assert told.fix == (
        "look at /srv/workspaces/.wsctl-kept/alice-failed-1 on n1, and copy what is missed; "
        "then wsctl standby settle alice"
    )
    (empty,) = [
        d
        for d in differences(world(left=(replace(conflict, seen_at=0, node="n9"),)), lambda user, view: SPEC, Rules())
        if d.user == "alice"
    ]
    assert "who went on without them" in empty.detail
    assert "host_root/.wsctl-kept" in empty.fix


def test_a_node_that_is_back_is_told() -> None:
    told = [(d.kind.value, d.node, d.safe) for d in differences(world(left=()), lambda user, view: SPEC, Rules())]
    assert ("returned", "n1", True) in told


def test_copies_go_with_the_placement() -> None:
    copies = (Standby("alice", "n1", "n2"), Standby("alice", "n9", "n2"), Standby("bob", "n1", "n2"))
    of = world(left=(), standbys=by_user(copies))
    assert lines(plan_remove("alice", SPEC, of))[-1] == "- release  alice from n2   (files stay)"
    assert not any("standby" in line for line in lines(plan_remove("alice", SPEC, of))), "n1 is down: later"
    up = replace(of, nodes={**of.nodes, "n1": view("n1")})
    assert "- drop     the standby copy of alice on n1" in lines(plan_remove("alice", SPEC, up, purge=True))
    homeless = replace(up, placements={}, homes={"alice": "n2"})
    assert lines(plan_remove("alice", SPEC, homeless, purge=True))[0] == "- drop     the standby copy of alice on n1"


def test_copies_of_no_use_are_dropped() -> None:
    copies = (Standby("alice", "n2", "n1"), Standby("bob", "n2", "n1"), Standby("alice", "n9", "n1"))
    of = world(left=(), standbys=by_user(copies))
    assert repair(of) == ["- drop     the standby copy of alice on n2   (alice lives there)"]
    assert lines(plan_repair("bob", SPEC, of, Rules())) == [
        "- drop     the standby copy of bob on n2   (bob has no placement)"
    ]
    elsewhere = replace(of, standbys=by_user([Standby("alice", "n1", "n2")]), nodes={**of.nodes, "n1": view("n1")})
    assert repair(elsewhere) == []
    (dropped,) = lines(plan_repair("alice", replace(SPEC, standby=0), elsewhere, Rules()))
    assert dropped == "- drop     the standby copy of alice on n1   (not asked for any more)"
