"""Stopping the idle: gathers the evidence, asks the planner, and stops through the one pipeline.

Responsible for reading activity and network counters (once for everybody, and again for each user under their lease
right before the stop), and for recording what was seen. Not responsible for the verdict (`planner.idle`) nor for the
stop itself (`workflow`). When in doubt, it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wsctl import observe
from wsctl.errors import LeaseHeld, NodeError
from wsctl.model import ClusterView, NetworkSample, PlacementState, WorkspaceSpec
from wsctl.plan import Work
from wsctl.planner import Decision, IdleEvidence, IdleVerdict, Verdict, judge_idle, plan_stop
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

COUNTERS_PARALLEL = 16
"""Counter requests at once over all nodes; each takes a few ms of the engine's time."""


@dataclass(frozen=True, slots=True)
class ReapOptions:
    """`idle_s` overrides every class's idle_after (seconds); `users` limits the run; `limit` bounds how many are
    stopped; `dry_run` changes nothing, not even the recorded counters.
    """

    idle_s: float | None = None
    users: Sequence[str] | None = None
    dry_run: bool = False
    limit: int | None = None


class Reaper:
    """One run of the reaper."""

    def __init__(self, world: World, options: ReapOptions) -> None:
        self._world = world
        self._options = options
        self._workflow = Workflow(world)
        self._before: Mapping[str, NetworkSample] = {}

    def run(self, report: Callable[[Outcome], None] = lambda outcome: None) -> list[IdleVerdict]:
        """Judge everybody, stop the idle (unless it is a dry run), and say what became of each, sorted by user."""
        view = self._look()
        verdicts = self._judge_all(view)
        idle = [item.user for item in verdicts if item.verdict is Verdict.WOULD_STOP]
        if self._options.limit is not None:
            idle = idle[: self._options.limit]
        if self._options.dry_run or not idle:
            return verdicts
        operation = Operation("reap-idle", tuple(idle), self._decide_again, asks=True)
        outcomes = {o.target: o for o in self._workflow.run(operation, Options(report=report))}
        return [_with_outcome(item, outcomes.get(item.user)) for item in verdicts]

    def _look(self) -> ClusterView:
        """The whole cluster, with an answer (or its absence) from every node that runs somebody."""
        view = observe.snapshot(self._world.cluster, self._world.nodes, self._world.store)
        needed = {view.placements[user].node for user in self._users(view)}
        self._workflow.knowledge.ask(view, needed)
        return self._workflow.knowledge.applied_to(view)

    def _users(self, view: ClusterView) -> list[str]:
        wanted = view.placements if self._options.users is None else self._options.users
        return sorted(
            user
            for user in wanted
            if user in view.placements and view.placements[user].state is not PlacementState.STOPPED
        )

    def _judge_all(self, view: ClusterView) -> list[IdleVerdict]:
        users = self._users(view)
        store, now = self._world.store, self._world.clock.now()
        activity, self._before = store.activity(users), store.samples()
        counters = self._counters(view, users)
        verdicts = [
            judge_idle(
                user,
                view,
                IdleEvidence(activity.get(user), self._before.get(user), counters.get(user)),
                self._limit(user, view),
                now,
            )
            for user in users
        ]
        if not self._options.dry_run:
            store.save_samples(list(counters.values()))
            seen = [item.user for item in verdicts if item.traffic_at is not None]
            if seen:
                store.touch(seen, now, "network")
        return verdicts

    def _counters(self, view: ClusterView, users: Sequence[str]) -> dict[str, NetworkSample]:
        """A fresh network sample of each user whose container runs on a node that answers."""
        wanted = {
            user: (view.placements[user].node, container.id)
            for user in users
            if (node := view.nodes.get(view.placements[user].node)) is not None
            and (container := node.container_of(user)) is not None
            and container.is_running
        }

        def read(user: str) -> NetworkSample | None:
            node, container_id = wanted[user]
            sent = self._world.engines(node).tx_bytes(container_id)
            return None if sent is None else NetworkSample(user, container_id, sent, self._world.clock.now())

        results = fan_out(wanted, read, parallel=COUNTERS_PARALLEL)
        for result in results.values():
            # A node that stops answering now makes its users unknown, which keeps them; anything else is a bug.
            if isinstance(result, Exception) and not isinstance(result, NodeError):
                raise result
        return {user: sample for user, sample in results.items() if isinstance(sample, NetworkSample)}

    def _decide_again(self, user: str, view: ClusterView) -> Decision:
        """Under the user's lease: everything is read anew, for they may have come back since the first look."""
        placement = view.placements.get(user)
        if placement is None:
            return Decision(user, Work(user, "unchanged"))
        store = self._world.store
        evidence = IdleEvidence(
            store.activity([user]).get(user), self._before.get(user), self._counters(view, [user]).get(user)
        )
        verdict = judge_idle(user, view, evidence, self._limit(user, view), self._world.clock.now())
        if verdict.verdict is not Verdict.WOULD_STOP:
            return Decision(user, Work(user, verdict.reason))
        return plan_stop(user, view, cause=verdict.reason)

    def _limit(self, user: str, view: ClusterView) -> float | None:
        spec: WorkspaceSpec | None = self._world.classes.get(view.placements[user].workspace_class)
        if spec is None or spec.idle_after_s is None:
            return None
        return spec.idle_after_s if self._options.idle_s is None else self._options.idle_s


def _with_outcome(item: IdleVerdict, outcome: Outcome | None) -> IdleVerdict:
    if outcome is None:
        return item
    if isinstance(outcome.error, LeaseHeld):
        return replace(item, verdict=Verdict.KEPT, reason=f"somebody is acting on it: {outcome.error.message}")
    if outcome.error is not None:
        return replace(item, verdict=Verdict.FAILED, reason=outcome.error.message)
    if outcome.action == "stopped":
        return replace(item, verdict=Verdict.STOPPED)
    return replace(item, verdict=Verdict.KEPT, reason=f"looked again: {outcome.action}")
