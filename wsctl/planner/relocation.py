"""What moving many users is made of: where to they may go, what the others leave for the next one, a line each.

Responsible for: the limits that an operator sets, and for the view as it will be after a move that was decided. Not
responsible for: the steps of a move (`migrate`), nor for whom to move (`drain`, `rebalance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wsctl.feasibility import Request, request_for
from wsctl.model import ClusterView, NodeView, Placement, PlacementState, Resources, WorkspaceSpec
from wsctl.moving import Move
from wsctl.plan import BeginMove
from wsctl.planner.decision import Decision
from wsctl.scheduler import with_placement


@dataclass(frozen=True, slots=True)
class Within:
    """Where to users may go: one of `nodes` (empty: any), and only nodes with all of `labels`."""

    nodes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def limit(self, view: ClusterView, also: Mapping[str, str] | None = None) -> ClusterView:
        """The view in which every other node is out of the question, and those in `also`, for the reason there."""
        nodes = {}
        for name, node in view.nodes.items():
            why = node.excluded or (also or {}).get(name) or self._against(node)
            nodes[name] = node if why == node.excluded else replace(node, excluded=why)
        return replace(view, nodes=nodes)

    def _against(self, node: NodeView) -> str | None:
        if self.nodes and node.node.name not in self.nodes:
            return "not among the nodes asked for"
        wrong = [f"{key}={value}" for key, value in sorted(self.labels.items()) if node.node.labels.get(key) != value]
        return f"without {', '.join(wrong)}" if wrong else None


def request_of(placement: Placement, spec: WorkspaceSpec) -> Request:
    """What a placed user needs of another node. One who is stopped takes a place and a port there, nothing more."""
    takes = Resources(0, 0, 0) if placement.state is PlacementState.STOPPED else None
    return request_for(placement.user, spec, takes)


def begins(decision: Decision) -> BeginMove | None:
    """The step that begins the move, if the decision has one: it knows source and target."""
    steps = decision.work.steps if decision.work is not None else ()
    return next((step for step in steps if isinstance(step, BeginMove)), None)


def without_move(node: NodeView, move: Move) -> NodeView:
    """The target as it will be once the user's earlier move has ended, which happens as the new one begins."""
    active, used = int(move.active), node.usage
    usage = replace(
        used,
        workspaces=used.workspaces - 1,
        active=used.active - active,
        memory_bytes=used.memory_bytes - active * move.memory_bytes,
        cpus_milli=used.cpus_milli - active * move.cpus_milli,
    )
    return replace(node, usage=usage)


def with_move(view: ClusterView, decision: Decision) -> ClusterView:
    """The view once the move has begun: what it takes on its target. The source's room counts as taken to the end."""
    step = begins(decision)
    if step is None:
        return view
    earlier = view.moves.get(step.user)
    if earlier is not None and earlier.target in view.nodes:
        nodes = {**view.nodes, earlier.target: without_move(view.nodes[earlier.target], earlier)}
        moves = {user: move for user, move in view.moves.items() if user != step.user}
        view = replace(view, nodes=nodes, moves=moves)
    return with_placement(view, step.user, step.node, step.port, step.resources, active=step.is_active)


def lines(decisions: Sequence[Decision]) -> tuple[str, ...]:
    """The moves as text, one a line, the same for the same moves in every process."""
    found = []
    for decision in decisions:
        step = begins(decision)
        if step is not None:
            found.append(f"~ move     {step.user} from {step.source} to {step.node}")
        elif decision.work is not None and decision.work.steps:
            found.append(f"~ finish   the move of {decision.target}")
        elif decision.error is not None:
            found.append(f"! stays    {decision.target}: {decision.error.message}")
    return tuple(found)
