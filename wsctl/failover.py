"""Failing over: a node is marked down, and its users go on elsewhere.

Responsible for the order: the mark first, so that nobody is placed or started there any more, then all users through
the one pipeline, under their leases. What `wsctl node fail` and the watch loop share. Not responsible for: whether the
node is dead (they know), where a user goes on (`planner.failover`), nor for what is done when the node returns
(`reconciler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsctl import observe
from wsctl.errors import NodeError
from wsctl.leased import FAILOVER_LEASE
from wsctl.model import ClusterView, NodeState, Strategy, WorkspaceSpec, spec_of
from wsctl.planner.failover import plan_failover, stranger, users_of
from wsctl.planner.life import plan_mark
from wsctl.ports import EngineFactory
from wsctl.standbys import FailoverRules
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

VERB = "node fail"

ANSWER_S = 4.0
"""A node that is asked whether it lives answers in this time: users wait for the verdict."""


@dataclass(frozen=True, slots=True)
class Failover:
    """What is asked for: that `node` is given up, because of `reason` (recorded with the mark). `users` limits whom it
    concerns (None: everybody there). `alive`: the node answers, and is given up all the same; its containers are
    stopped first. `report` is called with each outcome as it comes, from any thread."""

    node: str
    rules: FailoverRules
    strategy: Strategy
    reason: str = ""
    users: Sequence[str] | None = None
    alive: bool = False
    request_id: str | None = None
    verb: str = VERB
    report: Callable[[Outcome], None] = lambda outcome: None


def answers(engines: EngineFactory, node: str) -> bool:
    """Whether the node's engine answers now, within a few seconds."""
    (found,) = fan_out([node], lambda name: engines(name).facts(), deadline_s=ANSWER_S).values()
    if isinstance(found, Exception) and not isinstance(found, NodeError):
        raise found
    return not isinstance(found, Exception)


def would_fail_over(world: World, asked: Failover) -> list[Outcome]:
    """What `fail_over` would do, mark included; changes nothing. Raises `NotFound` as it does."""
    _refuse_strangers(world, asked)
    marked = Workflow(world).run(_mark(asked), Options(dry_run=True))
    return marked + _workflow(world, asked).run(_operation(world, asked), Options(dry_run=True))


def fail_over(world: World, asked: Failover) -> list[Outcome]:
    """Mark the node down and let its users go on elsewhere; one outcome for each of them, failures included.

    An outcome with `NoCopy` is a user who stays down. Safe to repeat, and to be killed at any moment: the same again,
    or `reconcile`, finishes. Raises what concerns all: that the mark can't be written, the state database; `LeaseHeld`
    while somebody else gives the node up, or lets it back in; `NotFound`, before anything is changed, for one of
    `users` who doesn't live there.
    """
    names = [f"{FAILOVER_LEASE}{asked.node}"]
    with world.leases.acquire(names, command=asked.verb, wait_s=world.lease_wait_s):
        _refuse_strangers(world, asked)
        (marked,) = Workflow(world).run(_mark(asked), Options(request_id=asked.request_id))
        if marked.error is not None:
            raise marked.error
        options = Options(report=asked.report, request_id=asked.request_id)
        return _workflow(world, asked).run(_operation(world, asked), options)


def _refuse_strangers(world: World, asked: Failover) -> None:
    if asked.users is None:
        return
    error = stranger(asked.node, asked.users, observe.snapshot(world.cluster, world.nodes, world.store))
    if error is not None:
        raise error


def _mark(asked: Failover) -> Operation:
    return Operation(
        asked.verb,
        (asked.node,),
        lambda node, view: plan_mark(node, NodeState.DOWN, asked.reason, view),
        asks=False,
        lease="node",
    )


def _workflow(world: World, asked: Failover) -> Workflow:
    """One that takes the node for marked down, and asks it only if it answers."""
    workflow = Workflow(world, taken_as_down=(asked.node,))
    if asked.alive:
        workflow.knowledge.ask_again(asked.node)
    return workflow


def _operation(world: World, asked: Failover) -> Operation:
    view = observe.snapshot(world.cluster, world.nodes, world.store)
    users = users_of(asked.node, view)
    if asked.users is not None:
        users = tuple(user for user in users if user in asked.users)

    def spec(user: str, seen: ClusterView) -> WorkspaceSpec:
        return spec_of(world.classes, seen.placements.get(user))

    return Operation(
        asked.verb,
        users,
        lambda user, seen: plan_failover(user, spec(user, seen), seen, asked.node, asked.strategy, asked.rules),
        spec,
        places=True,
        everyone=True,
    )
