"""Stopping the idle: has the evidence gathered, asks the planner, gives notice, stops through the one pipeline.

Responsible for the order of these: everybody is looked at once, and each user again under their lease right before the
stop; a notice is given once per idle period, whoever runs. Not responsible for the verdict (`planner.idle`), for
evidence (`evidence`), nor for the stop itself (`workflow`). When in doubt, it keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from wsctl import observe
from wsctl.errors import BackendError, CameBack, LeaseHeld, WsctlError
from wsctl.evidence import NOTICES, Gatherer, Rules, Seen
from wsctl.looking import Looker
from wsctl.model import ClusterView, PlacementState
from wsctl.plan import Work
from wsctl.planner.decision import Decision
from wsctl.planner.idle import IdleVerdict, Verdict, judge_idle
from wsctl.planner.life import plan_keep, plan_stop
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import NO_DEADLINE_S, Operation, Options, Outcome, Workflow, World

log = logging.getLogger(__name__)

NOTICES_AT_ONCE = 8

Notify = Callable[[Mapping[str, object]], None]
"""Tells about one user who will be stopped, within a time limit of its own. Raises `WsctlError` when it failed: then it
counts as not given."""


@dataclass(frozen=True, slots=True)
class ReapOptions:
    """`idle_s` overrides every limit that isn't never (seconds), `user_limits` are users' own; `users` limits the run;
    `limit` bounds how many are stopped; `dry_run` changes nothing, not even the recorded counters; `thorough` also asks
    the containers of those who can't be idle yet. With `notify`, users are told `notice_s` seconds before a stop.
    `request_id` is recorded with what is done.
    """

    idle_s: float | None = None
    user_limits: Mapping[str, float | None] = field(default_factory=dict)
    users: Sequence[str] | None = None
    dry_run: bool = False
    thorough: bool = False
    limit: int | None = None
    notify: Notify | None = None
    notice_s: float = 600.0
    request_id: str | None = None


class Reaper:
    """One run of the reaper. `unheard` are users whose notice failed, with why."""

    def __init__(self, world: World, options: ReapOptions) -> None:
        self._world = world
        self._options = options
        self._workflow = Workflow(world)
        notice_s = options.notice_s if options.notify is not None else None
        rules = Rules(world.classes, options.user_limits, options.idle_s, notice_s)
        looker = Looker(world.engines, world.commands)
        self._gatherer = Gatherer(world.store, world.activity_log, looker, world.clock, rules)
        self._decided_on: dict[str, datetime] = {}
        self.unheard: dict[str, str] = {}

    def run(self, report: Callable[[Outcome], None] = lambda outcome: None) -> list[IdleVerdict]:
        """Judge everybody, stop the idle (unless it is a dry run), and say what became of each, sorted by user."""
        if not self._options.dry_run:
            self._flush()
        view = self._look()
        users = self._users(view)
        named = self._options.users is not None and len(users) == 1
        seen = self._gatherer.gather(
            view, users, thorough=self._options.thorough, exact=self._options.thorough and named
        )
        verdicts = [judge_idle(user, view, seen.evidence[user], seen.limits[user], seen.at) for user in users]
        if self._options.dry_run:
            return verdicts
        self._gatherer.record(seen, verdicts)
        self._give_notice(verdicts, seen)
        idle = [item.user for item in verdicts if item.verdict is Verdict.WOULD_STOP]
        if self._options.limit is not None:
            idle = idle[: self._options.limit]
        if not idle:
            return verdicts
        operation = Operation("reap-idle", tuple(idle), self._decide_again, asks=True, last_look=self._last_look)
        outcomes = {
            o.target: o
            for o in self._workflow.run(operation, Options(report=report, request_id=self._options.request_id))
        }
        return [_with_outcome(item, outcomes.get(item.user)) for item in verdicts]

    def _flush(self) -> None:
        """What is in Redis alone goes to the database. That it can't be read is said of every user who would be
        stopped; that it can't be written doesn't change who is idle."""
        try:
            self._world.activity_log.flush(self._world.clock.now())
        except BackendError as error:
            log.warning("activity wasn't flushed to the state database: %s", error.message)

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

    def _decide_again(self, user: str, view: ClusterView) -> Decision:
        """Under the user's lease: everything is read anew, for they may have come back since the first look."""
        if user not in view.placements:
            return Decision(user, Work(user, "unchanged"))
        seen = self._gatherer.gather(view, [user], thorough=True, exact=True)
        verdict = judge_idle(user, view, seen.evidence[user], seen.limits[user], seen.at)
        if verdict.verdict is not Verdict.WOULD_STOP:
            return plan_keep(user, view, verdict.reason)
        self._decided_on.pop(user, None)
        if verdict.last_active_at is not None and not verdict.is_for_age:
            self._decided_on[user] = verdict.last_active_at
        return plan_stop(user, view, cause=verdict.reason)

    def _last_look(self, user: str) -> None:
        """By now the placement says that it is being stopped. Who was active before that could be read is seen here;
        who is later can read it: `touch` says so. So nobody is stopped who was told that they run.
        """
        decided_on = self._decided_on.get(user)
        if decided_on is None:
            return
        last, doubt = self._gatherer.last_active_at(user)
        if doubt is not None or last is None or last > decided_on:
            raise CameBack(f"{user} was active a moment ago" if doubt is None else f"{user}: {doubt}")

    def _give_notice(self, verdicts: Sequence[IdleVerdict], seen: Seen) -> None:
        """Tell those who will be stopped soon, and remember whom; a notice that failed is tried again the next run."""
        notify, store = self._options.notify, self._world.store
        due = {item.user: item for item in verdicts if item.notice is not None}
        if notify is None or not due:
            return
        try:
            with self._world.leases.acquire(["reap:notice"], command="reap-idle"):
                given = store.notes(NOTICES, due)
                due = {
                    user: item for user, item in due.items() if user not in given or given[user].value != item.notice
                }
                results = fan_out(
                    due,
                    lambda user: notify(_message(due[user], seen.at)),
                    parallel=NOTICES_AT_ONCE,
                    deadline_s=NO_DEADLINE_S,
                )
                heard = {user: due[user].notice or "" for user, result in results.items() if result is None}
                store.set_notes(NOTICES, heard, self._world.clock.now())
        except LeaseHeld:
            return  # the other run tells them
        for user, result in results.items():
            if isinstance(result, WsctlError):
                self.unheard[user] = result.message
            elif isinstance(result, Exception):
                raise result


def _message(item: IdleVerdict, now: datetime) -> Mapping[str, object]:
    """What a hook is told."""
    return {
        "event": "idle-notice",
        "user": item.user,
        "node": item.node,
        "reason": item.reason,
        "last_active_at": item.last_active_at,
        "stops_at": item.stops_at,
        "now": now,
    }


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
