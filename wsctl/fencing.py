"""Letting a node that failed back in: what is stale there is put aside first.

Responsible for the order: look at it, put aside containers and files that aren't the truth any more, look again, and
only then take the mark `down` away; never in the middle of a failover. What `node uncordon`, `reconcile` and the watch
loop share. Not responsible for: what is stale (`planner.fence`), nor for giving a node up (`failover`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wsctl import observe
from wsctl.errors import BackendError, NodeUnreachable, PartialFailure, Refused, WsctlError
from wsctl.leased import FAILOVER_LEASE
from wsctl.model import ClusterView, NodeState
from wsctl.planner.decision import Decision
from wsctl.planner.fence import plan_fence, users_to_fence
from wsctl.planner.life import plan_back
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

Marking = Callable[[str, ClusterView], Decision]
"""Decides about the mark of a node."""


@dataclass(frozen=True, slots=True)
class Readmission:
    """What is asked for: that `node` gets the mark that `mark` decides on in place of `down`."""

    node: str
    mark: Marking = plan_back
    verb: str = "node uncordon"
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Readmitted:
    """What was done for each user, and about the mark."""

    users: list[Outcome]
    mark: Outcome


def mark_all(
    world: World,
    nodes: Sequence[str],
    asked: Readmission,
    *,
    dry_run: bool = False,
    report: Callable[[str, Outcome], None] = lambda node, done: None,
) -> list[Outcome]:
    """Change the marks of nodes, and let those that are marked down back in with it; one outcome for each, failures
    included. `asked` has all but the node; `report` is called with what was put aside. A rehearsal changes nothing, and
    has outcomes for what would be put aside as well. Raises what concerns all: the state or coordination backend.
    """
    marks, found = world.store.marks(), dict[str, list[Outcome]]()
    down = [name for name in nodes if name in marks and marks[name].state is NodeState.DOWN]
    for name in down:
        try:
            found[name] = _let_in(world, replace(asked, node=name), report, dry_run=dry_run)
        except BackendError:
            raise
        except WsctlError as error:
            found[name] = [Outcome(name, "failed", error=error)]
    others = tuple(name for name in nodes if name not in down)
    operation = _mark(replace(asked, mark=_unless_down(asked.mark)), others)
    options = Options(dry_run=dry_run, request_id=asked.request_id)
    for marked in Workflow(world).run(operation, options) if others else ():
        found[marked.target] = [marked]
    return [outcome for name in nodes for outcome in found[name]]


def _let_in(
    world: World, asked: Readmission, report: Callable[[str, Outcome], None], *, dry_run: bool
) -> list[Outcome]:
    if dry_run:
        return _would_readmit(world, asked)
    done = readmit(world, asked)
    for outcome in done.users:
        report(asked.node, outcome)
    return [done.mark]


def _unless_down(mark: Marking) -> Marking:
    """The same for nodes that needn't be fenced: of one that is given up meanwhile, the mark stays."""

    def decide(node: str, view: ClusterView) -> Decision:
        if view.nodes[node].mark.state is NodeState.DOWN:
            return Decision(
                node, error=Refused(f"{node} was marked down a moment ago; it stays so", hint=f"wsctl node show {node}")
            )
        return mark(node, view)

    return decide


def readmit(world: World, asked: Readmission) -> Readmitted:
    """Put aside what is stale on the node, and change its mark.

    Raises `NodeUnreachable` if it doesn't answer, `LeaseHeld` while it is being given up, `PartialFailure` if something
    stale couldn't be put aside: then the mark stays. Safe to repeat.
    """
    options = Options(request_id=asked.request_id)
    names = [f"{FAILOVER_LEASE}{asked.node}"]
    # Between its mark and its first take-over a failover has nothing to show but this lease.
    with world.leases.acquire(names, command=asked.verb, wait_s=world.lease_wait_s):
        users = _fence(world, asked, options)
        (marked,) = Workflow(world).run(_mark(asked, (asked.node,)), options)
    if marked.error is not None:
        raise marked.error
    return Readmitted(users, marked)


def _would_readmit(world: World, asked: Readmission) -> list[Outcome]:
    rehearsal, users = Options(dry_run=True), users_to_fence(asked.node, _look(world, asked.node))
    fenced = Workflow(world).run(_fencing(asked, users), rehearsal) if users else []
    return fenced + Workflow(world).run(_mark(asked, (asked.node,)), rehearsal)


def _mark(asked: Readmission, nodes: tuple[str, ...]) -> Operation:
    return Operation(asked.verb, nodes, asked.mark, asks=False, lease="node")


def _fencing(asked: Readmission, users: tuple[str, ...]) -> Operation:
    node = asked.node
    return Operation(asked.verb, users, lambda user, view: plan_fence(user, node, view), asks=False, asks_too=(node,))


def _fence(world: World, asked: Readmission, options: Options) -> list[Outcome]:
    node = asked.node
    users = users_to_fence(node, _look(world, node))
    outcomes = Workflow(world).run(_fencing(asked, users), options) if users else []
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
