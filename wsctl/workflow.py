"""The one pipeline of every change: look → decide → show → confirm → lease → decide again → act → report.

Responsible for the order of these, for bounded retries when the world moved or a node refused, and for keeping one bad
user or node from stopping the rest. Not responsible for any decision (`planner`), any effect (`executor`) or any
presentation: it returns one `Outcome` per target and calls back with the plan when a human is to be asked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from wsctl import observe
from wsctl.audit import Auditor
from wsctl.errors import (
    EngineError,
    LeaseHeld,
    NameTaken,
    NotReady,
    PlanChanged,
    PortTaken,
    Refused,
    StaleGeneration,
    WsctlError,
)
from wsctl.executor import Executor, Ran, Starting, at_once
from wsctl.failsteps import TakeOver
from wsctl.failwork import Restoring, no_backups, no_standbys
from wsctl.foresight import as_planned, has_taken, is_anothers, nodes_of, plan_of, reserve_step, same_plan
from wsctl.knowledge import Knowledge, is_unasked
from wsctl.model import ClusterView, Node, Placement, PlacementState, WorkspaceSpec
from wsctl.movework import Told, no_files
from wsctl.outcomes import Outcome as Outcome  # noqa: PLC0414 - callers take it from here
from wsctl.plan import BeginMove, Plan, Reserve, StartContainer
from wsctl.planner.decision import Decision
from wsctl.planner.life import plan_undo
from wsctl.ports import ActivityLog, Clock, Commands, EngineFactory, Leases, NodeFiles, StandbyFiles, Store
from wsctl.recording import RowActivity
from wsctl.records import Actor
from wsctl.refusals import report_refusal
from wsctl.reports import suspicion
from wsctl.scheduler import next_port, with_placement
from wsctl.transport.fanout import run as fan_out

RETRIES = 16
"""How often one target is decided anew after a taken port or a refusing node, beyond one try per node."""

RACES = 200
"""How often after a lost race: whoever lost one knows that somebody else got on, so it isn't a reason to give up."""

NO_DEADLINE_S = 86_400.0
"""Acting on a target isn't cut off from outside: every call in it has its own timeout."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything the pipeline acts on and through. `parallel` bounds the targets acted on at once. `routed` is called
    as soon as a user who was moved works again: puts the route map live, if that is wanted, and never raises.
    `activity` is where it is recorded who was active (None: in the store); `commands` runs commands on a node (None:
    nothing may)."""

    cluster: str
    nodes: Mapping[str, Node]
    classes: Mapping[str, WorkspaceSpec]
    store: Store
    leases: Leases
    engines: EngineFactory
    clock: Clock
    actor: Actor
    starting: Starting = at_once
    files: Callable[[], NodeFiles] = no_files
    standbys: Callable[[], StandbyFiles] = no_standbys
    restoring: Restoring = no_backups
    told: Told = lambda user, number, size, share: None
    warm: Callable[[Iterable[str]], None] = lambda names: None
    routed: Callable[[], None] = lambda: None
    parallel: int = 8
    lease_wait_s: float = 10.0
    set_aside_s: float = 60.0
    activity: ActivityLog | None = None
    commands: Callable[[str], Commands] | None = None

    @property
    def activity_log(self) -> ActivityLog:
        """Where it is recorded who was active."""
        return self.activity or RowActivity(lambda: self.store)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked for. `decide` is pure apart from `reap-idle`'s, which reads activity again.

    `spec` gives the spec of a user by what is known of them. `places`: users without a placement may get one, so nodes
    must be asked before one is chosen. `asks`: nodes are asked at all (marks of nodes need none). `everyone`: ask all
    nodes in full, for the explanation. `asks_too` are asked in full even if they are marked down. `undo` decides what
    takes back a work that failed on its way. `last_look` is the executor's.
    """

    verb: str
    targets: tuple[str, ...]
    decide: Callable[[str, ClusterView], Decision]
    spec: Callable[[str, ClusterView], WorkspaceSpec | None] = lambda target, view: None
    places: bool = False
    asks: bool = True
    everyone: bool = False
    asks_too: tuple[str, ...] = ()
    lease: str = "user"
    undo: Callable[[str, ClusterView], Decision] | None = None
    last_look: Callable[[str], None] = lambda user: None


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it. `confirm` is called with the plan before anything is done (None: nobody is asked) and raises
    to refuse; `report` is called with each outcome as it comes, from any thread; `request_id` is recorded with what is
    done.
    """

    dry_run: bool = False
    confirm: Callable[[Plan], None] | None = None
    report: Callable[[Outcome], None] = lambda outcome: None
    request_id: str | None = None


class Workflow:
    """Runs operations on a world. One instance per command: it remembers what the nodes answered. `taken_as_down` are
    nodes that count as marked down although they may not be yet."""

    def __init__(self, world: World, *, taken_as_down: Sequence[str] = ()) -> None:
        self.world = world
        self._taken_as_down = taken_as_down
        images = {spec.image for spec in world.classes.values()}
        self.knowledge = Knowledge(world.engines, images, world.warm)
        self._planned: dict[str, Reserve | BeginMove | TakeOver] = {}

    # ---- the pipeline

    def run(self, operation: Operation, options: Options = Options()) -> list[Outcome]:
        """Carry out the operation on all its targets; outcomes in the order of the targets.

        Raises only what concerns the whole command: the state or coordination backend, a refused confirmation, a plan
        that changed after it was confirmed. What concerns one target is in its outcome.
        """
        if options.dry_run:
            return [self._would(decision) for decision in self._decide_all(operation)[0]]
        shown: Plan | None = None
        if options.confirm is not None:
            shown = plan_of(self._decide_all(operation)[0])
            if not shown.is_empty:
                options.confirm(shown)
            self.knowledge.forget()
        with ExitStack() as stack:
            check, busy = self._take_leases(operation, stack)
            free = tuple(target for target in operation.targets if target not in busy)
            decisions, view = self._decide_all(operation, free)
            if shown is not None:
                same_plan(shown, plan_of(decisions), busy)
            outcomes = {target: Outcome(target, "failed", error=error) for target, error in busy.items()}
            for outcome in outcomes.values():
                options.report(outcome)
            stopped = threading.Event()
            executor = self._executor(Auditor(operation.verb, self.world.actor, options.request_id), check, stopped)
            executor.last_look = operation.last_look

            def act(decision: Decision) -> Outcome:
                outcome = self._carry_out(operation, decision, view, executor)
                self._planned.pop(decision.target, None)
                options.report(outcome)
                return outcome

            try:
                outcomes.update(self._act_on_all(decisions, act))
            except BaseException:
                # Ctrl-C, or a bug: no thread begins another effect; each stops at its next check.
                stopped.set()
                raise
        return [outcomes[target] for target in operation.targets]

    def _act_on_all(self, decisions: Sequence[Decision], act: Callable[[Decision], Outcome]) -> dict[str, Outcome]:
        if len(decisions) == 1:
            return {decisions[0].target: act(decisions[0])}
        by_target = {decision.target: decision for decision in decisions}
        results = fan_out(
            by_target, lambda target: act(by_target[target]), parallel=self.world.parallel, deadline_s=NO_DEADLINE_S
        )
        for result in results.values():
            if isinstance(result, Exception):
                raise result
        return {target: result for target, result in results.items() if isinstance(result, Outcome)}

    def _executor(self, auditor: Auditor, check_leases: Callable[[], None], stopped: threading.Event) -> Executor:
        world = self.world

        def check() -> None:
            if stopped.is_set():
                raise Refused("the command was stopped")
            check_leases()

        return Executor(
            world.cluster, world.nodes, world.store, world.engines, world.clock, auditor, check, world.starting,
            world.files, world.standbys, world.restoring, world.told, world.routed,
        )  # fmt: skip

    def _take_leases(self, operation: Operation, stack: ExitStack) -> tuple[Callable[[], None], dict[str, WsctlError]]:
        """Leases on all targets; those held by somebody else come back with the error, and don't stop the others."""
        names = {target: f"{operation.lease}:{target}" for target in operation.targets}
        leases, busy = self.world.leases, dict[str, WsctlError]()
        wait_s = self.world.lease_wait_s
        try:
            held = stack.enter_context(leases.acquire(names.values(), command=operation.verb, wait_s=wait_s))
        except LeaseHeld as error:
            if len(names) == 1:
                return (lambda: None), {target: error for target in names}
        else:
            return held.check, busy
        checks: list[Callable[[], None]] = []
        for target, name in names.items():
            try:
                held = stack.enter_context(leases.acquire([name], command=operation.verb))
            except LeaseHeld as error:
                busy[target] = error
            else:
                checks.append(held.check)

        def check_all() -> None:
            for check in checks:
                check()

        return check_all, busy

    # ---- looking

    def look(self, operation: Operation, targets: Sequence[str]) -> ClusterView:
        """The state database, and the nodes that the targets need as a whole; a single target is asked about later."""
        view = self._snapshot()
        if operation.everyone or (operation.asks and len(targets) > 1):
            self.knowledge.ask(view, self._nodes_needed(operation, targets, view))
        if operation.asks_too:
            self.knowledge.ask(view, operation.asks_too, down_too=True)
        return self.knowledge.applied_to(view)

    def _snapshot(self) -> ClusterView:
        view = observe.snapshot(self.world.cluster, self.world.nodes, self.world.store)
        return observe.taken_as_down(view, self._taken_as_down)

    def _nodes_needed(self, operation: Operation, targets: Sequence[str], view: ClusterView) -> set[str]:
        placed = {view.placements[target].node for target in targets if target in view.placements}
        anywhere = operation.everyone or (operation.places and any(t not in view.placements for t in targets))
        if not anywhere:
            return placed
        # A suspect node gets nobody new, so its timeout would only be waited for.
        return placed | {name for name, node in view.nodes.items() if suspicion(node.reports) is None}

    # ---- deciding

    def _decide_all(
        self, operation: Operation, targets: Sequence[str] | None = None
    ) -> tuple[list[Decision], ClusterView]:
        """Decide about all targets in order, each one seeing what was decided for those before."""
        chosen = operation.targets if targets is None else targets
        view = self.look(operation, chosen)
        decisions = []
        for target in chosen:
            decision, view = self._decide(operation, target, view)
            decisions.append(decision)
            self._note_plan(decision)
            view = as_planned(view, decision)
        return decisions, view

    def _note_plan(self, decision: Decision) -> None:
        step = reserve_step(decision)
        if step is not None:
            self._planned[decision.target] = step

    def _as_the_others_plan(self, target: str, view: ClusterView) -> ClusterView:
        """The view with the ports and the room that the others of this batch are about to take: who has to choose anew
        would otherwise choose one of theirs, and set off a chain of lost races."""
        for other, step in list(self._planned.items()):
            if other != target and not has_taken(step, view.placements.get(other)) and step.node in view.nodes:
                view = with_placement(view, other, step.node, step.port, step.resources)
        return view

    def _decide(self, operation: Operation, target: str, view: ClusterView) -> tuple[Decision, ClusterView]:
        """Decide about one target, asking the nodes that the decision turns out to depend on, the best one first."""
        placement = view.placements.get(target)
        node = placement.node if placement is not None and operation.asks else None
        while True:
            if node is not None and is_unasked(view, node):
                spec = operation.spec(target, view)
                view = self.knowledge.ask_about(target, node, spec.image if spec is not None else "", view)
            decision = operation.decide(target, view)
            node = next((name for name in nodes_of(decision) if is_unasked(view, name)), None)
            if node is None:
                return decision, view

    @staticmethod
    def _would(decision: Decision) -> Outcome:
        action = decision.work.action if decision.work is not None else "failed"
        return Outcome(decision.target, action, error=decision.error, work=decision.work, explain=decision.explain)

    # ---- acting

    def _carry_out(self, operation: Operation, decision: Decision, view: ClusterView, executor: Executor) -> Outcome:
        """Do what was decided; after a setback that leaves the way open, look and decide again."""
        target, action, began = decision.target, "", self.world.clock.now()
        setbacks, races = len(self.world.nodes) + RETRIES, RACES
        while setbacks and races:
            work = decision.work
            if work is None:
                return Outcome(target, "failed", error=decision.error, explain=decision.explain)
            action = action or work.action
            before = view.placements.get(target)
            if not work.steps:
                return Outcome(target, action, before, work=work, explain=decision.explain)
            ran = executor.attempt(work, operation.spec(target, view), before)
            if ran.error is None:
                started = any(isinstance(step, StartContainer) for step in work.steps)
                ready_ms = (self.world.clock.now() - began).total_seconds() * 1000 if started else None
                return Outcome(
                    target, action, ran.placement, work=work, ready_ms=ready_ms, explain=decision.explain,
                    facts=executor.facts.get(target, {}),
                )  # fmt: skip
            try:
                again = self._after(operation, target, ran, executor)
            except WsctlError as worse:
                return Outcome(target, "failed", error=worse, work=work, explain=decision.explain)
            if isinstance(ran.error, EngineError):
                setbacks -= 1
            else:
                # Somebody else was faster: what they left to do says what we will have done.
                action = ""
                races -= 1
            if again is None:
                self._undo(operation, target, executor)
                return Outcome(target, "failed", error=ran.error, work=work, explain=decision.explain)
            decision, view = self._decide(operation, target, self._as_the_others_plan(target, again))
            self._note_plan(decision)
        return Outcome(target, "failed", error=decision.error or PlanChanged(f"{target}: the cluster keeps changing"))

    def _undo(self, operation: Operation, target: str, executor: Executor) -> None:
        """Take back what a failed work has begun. What can't be now, `reconcile` does later."""
        if operation.undo is None:
            return
        with contextlib.suppress(WsctlError):
            view = self._snapshot()
            before = view.placements.get(target)
            if before is None or not self.knowledge.ask_again(before.node):
                return
            view = self.knowledge.applied_to(view)
            work = operation.undo(target, view).work
            if work is not None and work.steps:
                undoing = replace(executor, auditor=replace(executor.auditor, request_id=None), facts={}, measured={})
                undoing.run(work, operation.spec(target, view), before)

    def _after(self, operation: Operation, target: str, ran: Ran, executor: Executor) -> ClusterView | None:
        """What a setback teaches: the view to decide on anew, or None when there is no other way."""
        if isinstance(ran.error, (PlanChanged, StaleGeneration)):
            return self.knowledge.applied_to(self._snapshot())
        if not isinstance(ran.error, EngineError) or isinstance(ran.error, NotReady):
            return None
        return self._after_refusal(operation, target, ran.error, ran.placement, executor)

    def _after_refusal(
        self, operation: Operation, target: str, error: EngineError, ours: Placement | None, executor: Executor
    ) -> ClusterView | None:
        """The same, when an engine said no; `ours` is the placement as we left it."""
        fresh = self._snapshot()
        placement = fresh.placements.get(target)
        asked = isinstance(error, NameTaken) and self.knowledge.ask_again(error.node)
        if asked and self.knowledge.applied_to(fresh).nodes[error.node].container_of(target) is not None:
            # Not the node's refusal: somebody who acts on this user too was faster.
            return self.knowledge.applied_to(self._snapshot())
        self._learn(error, placement, fresh)
        if not asked and not self.knowledge.ask_again(error.node):
            return None
        view = self.knowledge.applied_to(fresh)
        another_port = isinstance(error, PortTaken) and next_port(view.nodes[error.node]) is not None
        if another_port or is_anothers(placement, ours):
            return view
        if not operation.places or placement is None or placement.state is not PlacementState.RESERVED:
            return view if isinstance(error, PortTaken) else None
        # Nothing of the user exists yet and the engine said a clear no: give the place back, try another.
        # Its outcome isn't that of the request: the request goes on.
        undoing = replace(executor, auditor=replace(executor.auditor, request_id=None))
        undoing.run(plan_undo(target, view, f"{error.node} refused"), None, placement)
        self.knowledge.exclude(error.node, f"refused: {error.reason}")
        return self.knowledge.applied_to(self._snapshot())

    def _learn(self, error: EngineError, placement: Placement | None, view: ClusterView) -> None:
        if not isinstance(error, PortTaken):
            self.knowledge.exclude(error.node, f"refused: {error.reason}")
            name = placement.workspace_class if placement is not None else "default"
            report_refusal(self.world.store, error, self.world.classes.get(name), view, self.world.set_aside_s)
        elif placement is not None:
            self.knowledge.block_port(error.node, placement.host_port)
