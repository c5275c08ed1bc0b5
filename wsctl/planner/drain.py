"""Emptying a node: who is to leave it, and where to each can go, before anybody has moved.

Responsible for: whom a node has to get rid of, the order in which they choose, and whether there is room for all of
them. Not responsible for: the steps of a move (`migrate`), who is idle (`idle`), nor for doing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from wsctl.errors import Refused, Unschedulable
from wsctl.model import ClusterView, Container, NodeState, Strategy, WorkspaceSpec
from wsctl.moving import CopyState
from wsctl.planner.decision import Decision
from wsctl.planner.migrate import How, plan_migrate
from wsctl.planner.relocation import Within, request_of, with_move
from wsctl.scheduler import Batch

SpecOf = Callable[[str, ClusterView], WorkspaceSpec]


def who_leaves(node: str, view: ClusterView) -> tuple[str, ...]:
    """Users whom the node has to get rid of, sorted: those placed there, and those who left it by a move that isn't
    finished."""
    placed = {user for user, placement in view.placements.items() if placement.node == node}
    leaving = {copy.user for copy in view.kept if copy.node == node and copy.state is CopyState.LEAVING}
    damaged = {row.user for row in view.damaged.values() if row.node == node}
    return tuple(sorted(placed | (leaving & set(view.placements)) | damaged))


def who_arrives(node: str, view: ClusterView) -> tuple[str, ...]:
    """Users whom a move, begun by somebody, is bringing to the node."""
    return tuple(sorted(user for user, move in view.moves.items() if move.target == node))


def leftovers(node: str, view: ClusterView) -> tuple[Container, ...]:
    """Containers of the cluster that run on the node and are in no placement there."""
    known = view.nodes[node]
    here = {user for user, placement in view.placements.items() if placement.node == node}
    return tuple(
        one for one in known.containers if one.cluster == view.cluster and one.is_running and one.user not in here
    )


def may_drain(node: str, view: ClusterView) -> Refused | None:
    """Why the node can't be drained at all; None if it can."""
    known = view.nodes[node]
    if known.mark.state is NodeState.DOWN:
        return Refused(
            f"{node} is marked down: nothing can be brought away from it",
            hint=f"wsctl node uncordon {node}   # once it is back, then drain it",
            details={"node": node},
        )
    return None


def plan_drain(
    node: str,
    view: ClusterView,
    spec_of: SpecOf,
    strategy: Strategy,
    within: Within,
    how: How,
    *,
    leave: Collection[str] = (),
) -> tuple[Decision, ...]:
    """A decision about each user who leaves the node but those in `leave`, each one seeing those before it.

    Who has the fewest nodes to choose from chooses first, then who takes most. If somebody then finds no room, all
    choose again, filling up the fullest nodes first; the arrangement with more users in it counts. That isn't proof
    that no other arrangement has room for all.
    """
    users = [user for user in who_leaves(node, view) if user not in leave]
    found: tuple[Decision, ...] | None = None
    for one in dict.fromkeys((strategy, Strategy.BINPACK)):
        tried = _choose_in_turn(node, users, view, spec_of, one, within, how)
        if found is None or len(without_room(tried)) < len(without_room(found)):
            found = tried
        if not without_room(found):
            break
    return found or ()


def without_room(decisions: Collection[Decision]) -> tuple[Decision, ...]:
    """Those for whom no node fits."""
    return tuple(decision for decision in decisions if isinstance(decision.error, Unschedulable))


def no_room(node: str, decisions: Collection[Decision]) -> Unschedulable:
    """The refusal to begin: who doesn't fit anywhere, and why not."""
    stay = without_room(decisions)
    said = "; ".join(decision.error.message for decision in stay[:3] if decision.error is not None)
    more = f"; and {len(stay) - 3} more" if len(stay) > 3 else ""
    fit = sum(decision.error is None for decision in decisions)
    return Unschedulable(
        f"no room was found elsewhere for {len(stay)} of {len(decisions)} users of {node}, so nobody was moved: "
        f"{said}{more}",
        hint=f"wsctl node drain {node} --partial   # moves the {fit} others" if fit else "wsctl node ls",
        details={
            "node": node,
            "users": {d.target: d.error.details.get("nodes", {}) for d in stay if d.error is not None},
        },
    )


def _choose_in_turn(
    node: str,
    users: Collection[str],
    view: ClusterView,
    spec_of: SpecOf,
    strategy: Strategy,
    within: Within,
    how: How,
) -> tuple[Decision, ...]:
    seen = within.limit(view, {node: "is to be emptied"})
    decisions = []
    for user in sorted(users, key=_order(node, users, seen, spec_of, strategy)):
        decision = plan_migrate(user, spec_of(user, seen), seen, None, strategy, how)
        decisions.append(decision)
        seen = with_move(seen, decision)
    return tuple(decisions)


def _order(
    node: str, users: Collection[str], view: ClusterView, spec_of: SpecOf, strategy: Strategy
) -> Callable[[str], tuple[int, int, int, str]]:
    """The key by which users choose. Who has moved already, or can't be looked at, takes nothing and comes first."""
    batch = Batch(view, strategy)
    keys = {}
    for user in users:
        placement = view.placements.get(user)
        if placement is None or placement.node != node:
            keys[user] = (0, 0, 0, user)
            continue
        request = request_of(placement, spec_of(user, view))
        choices = sum(candidate.feasible for candidate in batch.rank(request))
        keys[user] = (choices + 1, -request.resources.memory_bytes, -request.resources.cpus_milli, user)
    return keys.__getitem__
