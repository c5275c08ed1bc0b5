"""Moving many users, a few at a time: each by a move of their own, so that it can be stopped between any two.

Responsible for: how many move at once, beginning no move after a deadline, after Ctrl-C or once it makes no sense any
more, and for trying another target when one fails. Not responsible for: who is to move and where to (`planner.drain`,
`planner.rebalance`), nor for the steps of a move (`planner.migrate`).

Each user is looked at, leased and decided about when their turn comes: an hour later nothing of what was seen at the
beginning needs to be true any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from wsctl.errors import BackendError, FilesError, NodeError, NodeUnreachable, Unschedulable
from wsctl.model import ClusterView, Strategy, WorkspaceSpec
from wsctl.moving import CopyState
from wsctl.plan import BeginMove, Work
from wsctl.planner.decision import Decision
from wsctl.planner.migrate import How, plan_migrate, plan_unmove
from wsctl.planner.relocation import Within
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import NO_DEADLINE_S, Operation, Options, Outcome, Workflow, World

TRIES = 3
"""How many targets are tried for one user. What fails on three of them has its cause elsewhere."""

KEPT = "kept"
"""The action of a work that does nothing, because its user isn't to be moved now."""


class Fate(StrEnum):
    """What became of one who was to move."""

    MOVED = "moved"
    GONE = "gone"
    """Left by other means before their turn came: moved, or removed."""
    KEPT = "kept"
    """Isn't to be moved now, as the last look says."""
    LATE = "late"
    """Their turn didn't come in time."""
    NO_ROOM = "no-room"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Errand:
    """One who is to leave `source`, by the plan for `target` (None: it is finished, or the scheduler chooses)."""

    user: str
    source: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of an errand; `reason` says why, unless it was done. `outcome` is that of its last try."""

    errand: Errand
    fate: Fate
    reason: str | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How moves are gone about. No move begins after `deadline`. `gate` is asked under the user's lease, right before
    the move, and says why it isn't to be made (None: it is). `insist`: to the planned target or not at all."""

    verb: str
    spec_of: Callable[[str, ClusterView], WorkspaceSpec]
    strategy: Strategy
    how: How = How()  # noqa: RUF009 - a frozen value
    within: Within = Within()  # noqa: RUF009 - a frozen value
    deadline: datetime | None = None
    gate: Callable[[str, ClusterView], str | None] = lambda user, view: None
    insist: bool = False
    request_id: str | None = None


@dataclass
class Mover:
    """One run. `report` is called in the thread of each move when it has ended, `stopping` once when Ctrl-C has said
    that no further move is to begin, with the users whose moves still go on."""

    world: World
    rules: Rules
    report: Callable[[Moved], None] = lambda moved: None
    stopping: Callable[[Sequence[str]], None] = lambda users: None
    _halted: str | None = None
    _dead: dict[str, str] = field(default_factory=dict)
    _under_way: set[str] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, errands: Sequence[Errand]) -> list[Moved]:
        """Move them, `world.parallel` at a time; what became of each, in their order.

        The first Ctrl-C lets the moves go on that have begun, and is raised when they have ended; the second is raised
        at once. Raises `BackendError` too only when they have ended.
        """
        by_user = {errand.user: errand for errand in errands}
        try:
            results = fan_out(
                by_user,
                lambda user: self._one(by_user[user]),
                parallel=self.world.parallel,
                deadline_s=NO_DEADLINE_S,
            )
        except KeyboardInterrupt:
            self._wait_for_the_rest()
            raise
        for result in results.values():
            if isinstance(result, Exception):
                raise result
        return [result for result in results.values() if isinstance(result, Moved)]

    def _wait_for_the_rest(self) -> None:
        with self._changed:
            self._halted = self._halted or "the command was stopped"
            left = sorted(self._under_way)
        if left:
            self.stopping(left)
        with self._changed:
            while self._under_way:
                # Looking up now and then lets the second Ctrl-C through.
                self._changed.wait(0.5)

    def _one(self, errand: Errand) -> Moved:
        with self._changed:
            why = self._why_not_begin(errand)
            if why is None:
                self._under_way.add(errand.user)
        try:
            moved = self._move(errand) if why is None else why
            self.report(moved)
            return moved
        except BackendError as error:
            # The others would only wait for the same timeout, one after the other.
            self._halted = self._halted or error.message
            raise
        finally:
            with self._changed:
                self._under_way.discard(errand.user)
                self._changed.notify_all()

    def _why_not_begin(self, errand: Errand) -> Moved | None:
        deadline = self.rules.deadline
        if self._halted is not None:
            return Moved(errand, Fate.LATE, self._halted)
        if deadline is not None and self.world.clock.now() >= deadline:
            return Moved(errand, Fate.LATE, "the deadline has passed")
        if errand.source in self._dead:
            return Moved(errand, Fate.FAILED, f"{errand.source}: {self._dead[errand.source]}")
        return None

    def _move(self, errand: Errand) -> Moved:
        """Move one user; when a target turns out not to be one, to another."""
        avoid: dict[str, str] = {}
        first: Outcome | None = None
        for _ in range(min(TRIES, len(self.world.nodes))):
            outcome = self._try(errand, avoid)
            error = outcome.error
            if isinstance(error, Unschedulable) and first is not None:
                break  # what is left to say is why there was nothing left to choose from
            first = first or outcome
            if not isinstance(error, NodeError) or not self._learn(errand, error, outcome.work, avoid):
                return _moved(errand, outcome)
        return _moved(errand, first) if first is not None else Moved(errand, Fate.FAILED, "there are no nodes")

    def _learn(self, errand: Errand, error: NodeError, work: Work | None, avoid: dict[str, str]) -> bool:
        """Remember a node that failed. Whether to try another one: not once the swap is done."""
        if isinstance(error, NodeUnreachable):
            self._dead[error.node] = error.reason
        failed = error.node
        if isinstance(error, FilesError) and work is not None:
            # A copy that breaks off is told by the source, also when it was the target that broke.
            failed = next((step.node for step in work.steps if isinstance(step, BeginMove)), failed)
        if failed == errand.source or self.rules.insist or self._halted is not None:
            return False
        avoid[failed] = error.reason
        placement = self.world.store.placement(errand.user)
        return placement is not None and placement.node == errand.source

    def _try(self, errand: Errand, avoid: dict[str, str]) -> Outcome:
        rules, asked = self.rules, dict[str, str | None]()

        def decide(user: str, view: ClusterView) -> Decision:
            if not _is_to_leave(errand, view):
                return Decision(user, Work(user, "unchanged"))
            if user not in asked:
                asked[user] = rules.gate(user, view)
            if (why := asked[user]) is not None:
                return Decision(user, Work(user, KEPT, warnings=(why,)))
            return self._decide(errand, view, avoid)

        operation = Operation(
            rules.verb,
            (errand.user,),
            decide,
            rules.spec_of,
            places=True,
            undo=lambda user, view: plan_unmove(user, rules.spec_of(user, view), view),
        )
        return Workflow(self.world).run(operation, Options(request_id=rules.request_id))[0]

    def _decide(self, errand: Errand, view: ClusterView, avoid: dict[str, str]) -> Decision:
        rules, user = self.rules, errand.user
        limited = rules.within.limit(view, {**self._dead, **avoid, errand.source: "is to be left"})
        spec, placement = rules.spec_of(user, view), view.placements.get(user)
        is_here = placement is not None and placement.node == errand.source
        # Who has left already isn't sent anywhere else: without a target, that move is finished.
        if errand.target is not None and is_here:
            planned = plan_migrate(user, spec, limited, errand.target, rules.strategy, rules.how)
            if rules.insist or not isinstance(planned.error, Unschedulable):
                return planned
        return plan_migrate(user, spec, limited, None, rules.strategy, rules.how)


def _is_to_leave(errand: Errand, view: ClusterView) -> bool:
    """Whether the user still is on the source, or left it by a move that isn't finished."""
    placement = view.placements.get(errand.user)
    if errand.user in view.damaged or (placement is not None and placement.node == errand.source):
        return True
    return placement is not None and any(
        copy.user == errand.user and copy.node == errand.source and copy.state is CopyState.LEAVING
        for copy in view.kept
    )


def _moved(errand: Errand, outcome: Outcome) -> Moved:
    error, work = outcome.error, outcome.work
    if isinstance(error, Unschedulable):
        return Moved(errand, Fate.NO_ROOM, error.message, outcome)
    if error is not None:
        return Moved(errand, Fate.FAILED, error.message, outcome)
    if outcome.action == KEPT:
        return Moved(errand, Fate.KEPT, work.warnings[0] if work is not None else None, outcome)
    return Moved(errand, Fate.MOVED if outcome.action == "migrated" else Fate.GONE, None, outcome)
