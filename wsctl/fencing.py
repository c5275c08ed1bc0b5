"""Letting a node that failed back in: what is stale there is put aside first.

Responsible for the order: look at it, put aside containers and files that aren't the truth any more, look again, and
only then take the mark `down` away. What `node uncordon`, `reconcile` and the watch loop share. Not responsible for:
what is stale (`planner.fence`), nor for giving a node up (`failover`).
"""

from __future__ import annotations

from dataclasses import dataclass

from wsctl import observe
from wsctl.errors import NodeUnreachable, PartialFailure, WsctlError
from wsctl.model import ClusterView, NodeState
from wsctl.planner.fence import plan_fence, users_to_fence
from wsctl.planner.life import plan_mark
from wsctl.workflow import Operation, Options, Outcome, Workflow, World


@dataclass(frozen=True, slots=True)
class Readmission:
    """What is asked for: that `node` gets the mark `state` in place of `down`, with `reason`."""

    node: str
    state: NodeState = NodeState.CORDONED
    reason: str = "came back after it had failed"
    verb: str = "node uncordon"
    request_id: str | None = None


def readmit(world: World, asked: Readmission) -> list[Outcome]:
    """Put aside what is stale on the node, and change its mark; what was done for each user.

    Raises `NodeUnreachable` if it doesn't answer, `PartialFailure` if something stale couldn't be put aside: then the
    mark stays. Safe to repeat.
    """
    outcomes = fence(world, asked)
    mark = Operation(
        asked.verb,
        (asked.node,),
        lambda node, view: plan_mark(node, asked.state, asked.reason, view),
        asks=False,
        lease="node",
    )
    (marked,) = Workflow(world).run(mark, Options(request_id=asked.request_id))
    if marked.error is not None:
        raise marked.error
    return outcomes


def fence(world: World, asked: Readmission) -> list[Outcome]:
    """The same without the mark."""
    node = asked.node
    users = users_to_fence(node, _look(world, node))
    operation = Operation(
        asked.verb, users, lambda user, view: plan_fence(user, node, view), asks=False, asks_too=(node,)
    )
    outcomes = Workflow(world).run(operation, Options(request_id=asked.request_id)) if users else []
    errors = {outcome.target: outcome.error for outcome in outcomes if outcome.error is not None}
    # Who came to be stale meanwhile counts as well: nothing is routed there before nothing is.
    left = users_to_fence(node, _look(world, node))
    if left:
        raise _unfenced(node, left, errors)
    return outcomes


def _look(world: World, node: str) -> ClusterView:
    """The state database, and the node as a whole. Raises `NodeUnreachable` if it doesn't answer."""
    workflow = Workflow(world)
    view = observe.snapshot(world.cluster, world.nodes, world.store)
    workflow.knowledge.ask(view, (node,), down_too=True)
    view = workflow.knowledge.applied_to(view)
    if not view.nodes[node].reachable:
        raise NodeUnreachable(
            node,
            f"{view.nodes[node].error or 'no answer'}; it stays marked down, because what runs there is unknown",
            hint=f"wsctl node check {node}",
        )
    return view


def _unfenced(node: str, users: tuple[str, ...], errors: dict[str, WsctlError]) -> PartialFailure:
    first = next((f": {error.message}" for error in errors.values()), "")
    shown = ", ".join(users[:5]) + ("…" if len(users) > 5 else "")
    return PartialFailure(
        f"{node} stays marked down: what it has of {shown} is stale and could not be put aside{first}",
        hint="run the same command again",
        details={"node": node, "users": list(users)},
    )
