"""Deciding where a standby copy of a user's files is kept, whose is due, and which are kept no longer.

Responsible for: who wants one, the choice of its node, and the order of copying. Not responsible for: copying
(`wsctl.standby`), nor for what a copy is good for (`failover`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from wsctl.failsteps import DropStandby
from wsctl.feasibility import request_for
from wsctl.model import ClusterView, NodeState, NodeView, Placement, PlacementState, Resources, WorkspaceSpec
from wsctl.model import Strategy as StrategyName
from wsctl.scheduler import Candidate, rank, tie_break
from wsctl.standbys import Standby

ZONE = "zone"
"""The label by which nodes say what they would fail together with."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A copy to be made of the user's files: from their node to `node`. None: no node can have it, `why` not."""

    user: str
    source: str
    node: str | None
    why: str = ""


def wants(placement: Placement | None, spec: WorkspaceSpec, view: ClusterView) -> bool:
    """Whether the user has files that a copy is kept of: on shared storage every node has them already."""
    if placement is None or spec.standby == 0 or placement.state is PlacementState.RESERVED:
        return False
    node = view.nodes.get(placement.node)
    return node is not None and node.node.storage != "shared"


def is_exact(copy: Standby, placement: Placement) -> bool:
    """Whether the copy has everything that the user has, however old it is: they were stopped before it was begun, and
    nobody has acted on them since."""
    return (
        placement.state is PlacementState.STOPPED
        and copy.as_of is not None
        and (copy.source, copy.generation) == (placement.node, placement.generation)
        and (placement.updated_at is None or copy.as_of >= placement.updated_at)
    )


def is_due(placement: Placement, copies: Iterable[Standby], now: datetime, every_s: float) -> bool:
    """Whether the newest copy of the user is `every_s` seconds old, or there is none. One that `is_exact` will do."""
    times = [copy for copy in copies if copy.as_of is not None and copy.node != placement.node]
    newest = max(times, key=lambda copy: copy.as_of or now, default=None)
    if newest is None or newest.as_of is None:
        return True
    return not is_exact(newest, placement) and (now - newest.as_of).total_seconds() >= every_s


def neighbours_of(view: ClusterView) -> Counter[tuple[str, str]]:
    """How many copies each node has of the users of each other: by (its name, the other's)."""
    return Counter((copy.node, copy.source) for copies in view.standbys.values() for copy in copies)


def plan_standby(
    user: str,
    spec: WorkspaceSpec,
    view: ClusterView,
    strategy: StrategyName,
    neighbours: Mapping[tuple[str, str], int],
) -> Errand:
    """Where the copy of a user who `wants` one is made: where it is, if that still does; else on the node that is in
    another zone, has room for them, and has the fewest copies of their `neighbours` (as by `neighbours_of`); among
    equals the best by score."""
    placement, theirs = view.placements[user], view.standbys.get(user, ())
    source = view.nodes[placement.node]
    suits = {name: node for name, node in view.nodes.items() if name != placement.node and _suits(node)}
    copies = sorted(
        (copy for copy in theirs if copy.node in suits),
        key=lambda copy: (copy.as_of.timestamp() if copy.as_of is not None else 0.0, copy.node),
        reverse=True,
    )
    if copies:
        return Errand(user, placement.node, copies[0].node)
    candidates = _ranked(user, spec, view, strategy, set(suits))
    if candidates:
        best = min(candidates, key=lambda one: _order(one, source, view, user, neighbours))
        return Errand(user, placement.node, best.node)
    stays = [copy.node for copy in theirs if copy.node != placement.node and _answers(copy.node, view)]
    if stays:
        # Nobody new may come there, but an old copy is of less use than a new one.
        return Errand(user, placement.node, stays[0])
    return Errand(user, placement.node, None, "no other node can have a copy: see `wsctl node ls`")


def surplus(user: str, spec: WorkspaceSpec, view: ClusterView) -> tuple[DropStandby, ...]:
    """Copies that are of no use any more: of who has no placement, beside the user's own files, or not asked for."""
    placement = view.placements.get(user)
    steps = []
    for copy in view.standbys.get(user, ()):
        if not _answers(copy.node, view):
            continue
        if placement is None:
            steps.append(DropStandby(user, copy.node, f"{user} has no placement"))
        elif copy.node == placement.node:
            steps.append(DropStandby(user, copy.node, f"{user} lives there"))
        elif spec.standby == 0:
            steps.append(DropStandby(user, copy.node, "not asked for any more"))
    return tuple(steps)


def dropped_with(user: str, view: ClusterView) -> tuple[DropStandby, ...]:
    """The user's copies, as far as their nodes answer, to be deleted with the placement."""
    copies = view.standbys.get(user, ())
    return tuple(DropStandby(user, copy.node, "") for copy in copies if _answers(copy.node, view))


def _suits(node: NodeView) -> bool:
    ready = node.mark.state is NodeState.READY and node.reachable is not False and node.excluded is None
    return ready and node.node.storage != "shared"


def _answers(name: str, view: ClusterView) -> bool:
    node = view.nodes.get(name)
    return node is not None and node.reachable is not False and node.mark.state is not NodeState.DOWN


def _ranked(
    user: str, spec: WorkspaceSpec, view: ClusterView, strategy: StrategyName, suits: set[str]
) -> list[Candidate]:
    """The nodes that could have the user: with room for them to run now, else with room for their files."""
    for takes in (None, Resources(0, 0, 0)):
        ranked = rank(request_for(user, spec, takes), view, strategy)
        found = [one for one in ranked if one.feasible and one.node in suits]
        if found:
            return found
    return []


def _order(
    one: Candidate, source: NodeView, view: ClusterView, user: str, neighbours: Mapping[tuple[str, str], int]
) -> tuple[bool, int, float, int]:
    zone, other = source.node.labels.get(ZONE), view.nodes[one.node].node.labels.get(ZONE)
    together = zone is not None and other == zone
    # The users of a node that dies should not all come to the same one.
    of_here = neighbours.get((one.node, source.node.name), 0)
    return together, of_here, -(one.score or 0.0), -tie_break(user, one.node)
