"""Doing: one step, one effect.

Responsible for walking the steps of one target in order, threading the generation from the claim to every later write,
and stopping at the first failure. Not responsible for any decision: no step is skipped, added or retried here.

Every effect is preceded by a check that the lease still stands; every write is a compare-and-swap on the generation;
and right before a container or its files are touched the generation is read once more, for a holder that slept
through its lease must not stop, replace or purge what somebody else has started since.

And every work is in the audit table before its first effect: the intent goes into the transaction of the first write
(or into one of its own, if an engine is touched first), the outcome into that of the last. Who can't write them
doesn't act.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from wsctl.audit import Auditor, Trail
from wsctl.desired import desired
from wsctl.errors import BackendError, NodeError, NotReady, PlanChanged, Unschedulable, WsctlError
from wsctl.failsteps import TakeOver
from wsctl.failwork import FailWork, Restoring, no_backups, no_standbys
from wsctl.model import (
    Node,
    Placement,
    PlacementState,
    WorkspaceSpec,
    container_name,
    quarantine_name,
)
from wsctl.movework import Hands, Measured, MoveWork, Told, no_files
from wsctl.moving import Home, Move
from wsctl.plan import (
    AwaitReady,
    BeginMove,
    Claim,
    CreateContainer,
    MarkNode,
    PullImage,
    PurgeData,
    QuarantineContainer,
    Release,
    RemoveContainer,
    Reserve,
    Settle,
    StartContainer,
    Step,
    StopContainer,
    SwapPlacement,
    UnpauseContainer,
    Work,
)
from wsctl.ports import Clock, Conflict, EngineFactory, NodeFiles, Reservation, StandbyFiles, Store
from wsctl.records import AuditEntry
from wsctl.signals import NetworkSample, Start
from wsctl.stepkinds import CONFLICTS, FAILING, FENCED, FILES, WRITES, changed, stale

Starting = Callable[[str, str, Callable[[], None]], AbstractContextManager[None]]
"""Waits for a free place among the containers that may be starting on a node at once: node, token of the operation,
and what to call meanwhile, which raises when there is no point in waiting any more."""


def at_once(node: str, token: str, check: Callable[[], None]) -> AbstractContextManager[None]:
    """No limit: every container may start at once."""
    return contextlib.nullcontext()


@dataclass(slots=True)
class Executor:
    """Carries out works. `auditor` says who acts; `check` raises when the lease was lost; `starting` is entered before
    a container is made or started, and left when it answers; `routed` called when one who was moved works again;
    `last_look` with the user right before their container is stopped, when everybody can read that it will be: it
    raises to leave it running. `facts` is what was `measured`, by target.
    """

    cluster: str
    nodes: Mapping[str, Node]
    store: Store
    engines: EngineFactory
    clock: Clock
    auditor: Auditor
    check: Callable[[], None] = lambda: None
    starting: Starting = at_once
    files: Callable[[], NodeFiles] = no_files
    standbys: Callable[[], StandbyFiles] = no_standbys
    restoring: Restoring = no_backups
    told: Told = lambda user, number, size, share: None
    routed: Callable[[], None] = lambda: None
    last_look: Callable[[str], None] = lambda user: None
    facts: dict[str, Mapping[str, object]] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)

    def run(self, work: Work, spec: WorkspaceSpec | None, placement: Placement | None) -> Placement | None:
        """`attempt`, for those who can't go on after a failure: the placement; raises what the failing step raised."""
        ran = self.attempt(work, spec, placement)
        if ran.error is not None:
            raise ran.error
        return ran.placement

    def attempt(self, work: Work, spec: WorkspaceSpec | None, placement: Placement | None) -> Ran:
        """Do the steps of one target up to the first that fails; `placement` is the one the work was decided on.

        What was done before a failure stays done, and planning again from what is observed yields the rest.
        """
        hands = Hands(self.nodes, self.store, self.clock, self.files, self.told)
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as slot:
            moving = MoveWork(hands, stack, self.check, self.measured.setdefault(work.target, Measured()))
            failing = FailWork(self.nodes, self.store, self.files, self.standbys, self.restoring)
            run = _Run(self, spec, placement, self.auditor.trail(work, placement), moving, failing, slot)
            try:
                for step in work.steps:
                    run.queue_for_start(step)
                    self.check()
                    run.do(step, is_last=step is work.steps[-1])
            except WsctlError as error:
                run.record_failure(error)
                return Ran(run.placement, error)
            finally:
                self.facts[work.target] = {**moving.measured.facts(), **failing.facts}
        return Ran(run.placement)


@dataclass(frozen=True, slots=True)
class Ran:
    """Where a work ended: the placement as this run left it (None: there is none), and what stopped it, if something
    did."""

    placement: Placement | None
    error: WsctlError | None = None


@dataclass(slots=True)
class _Run:
    """The effects of one work, and the placement as it is after each. `container_id` of a container made here,
    `sent_bytes` what one started here has sent since; `slot` is held while one is starting.
    """

    executor: Executor
    spec: WorkspaceSpec | None
    placement: Placement | None
    trail: Trail
    moving: MoveWork
    failing: FailWork
    slot: contextlib.ExitStack
    container_id: str | None = None
    sent_bytes: int | None = None
    is_recorded: bool = False
    is_queued: bool = False
    entries: tuple[AuditEntry, ...] = ()
    doing: dict[type[Step], Callable[..., None]] = field(init=False)

    def __post_init__(self) -> None:
        self.doing = {
            Reserve: self._reserve,
            Claim: self._claim,
            PullImage: self._pull,
            CreateContainer: self._create,
            StartContainer: self._start,
            AwaitReady: self._await_ready,
            StopContainer: self._stop,
            UnpauseContainer: self._unpause,
            RemoveContainer: self._remove,
            QuarantineContainer: self._quarantine,
            PurgeData: self._purge,
            Settle: self._settle,
            Release: self._release,
            MarkNode: self._mark,
            BeginMove: self._begin_move,
            SwapPlacement: self._swap,
            TakeOver: self._take_over,
            **dict.fromkeys(FILES, self.moving.do),
            **dict.fromkeys(FAILING, self.failing.do),
        }

    def queue_for_start(self, step: Step) -> None:
        """Before the first step that puts an engine to work for a start, wait until the node has a place for it."""
        if self.is_queued or not isinstance(step, (CreateContainer, StartContainer)):
            return
        self.is_queued = True
        executor = self.executor
        self.slot.enter_context(executor.starting(step.node, self.trail.operation, executor.check))

    def do(self, step: Step, *, is_last: bool) -> None:
        """The effect of one step, with its place in the audit table."""
        entries = [] if self.is_recorded else [self.trail.intent()]
        with_end = is_last and isinstance(step, WRITES) and not isinstance(step, SwapPlacement)
        if with_end:
            entries.append(self.trail.done(self._after(step)))
        self.entries = tuple(entries)
        if entries and not isinstance(step, WRITES):
            self.executor.store.append_audit(entries)
            self.is_recorded = True
        if isinstance(step, StopContainer):
            self.executor.last_look(step.user)  # before the fence, behind which nothing may take time
        if isinstance(step, FENCED):
            self._fence(step.user, step.home if isinstance(step, PurgeData) else None)
        self.doing[type(step)](step)
        self.is_recorded = True
        if is_last and not with_end:
            self.executor.store.append_audit([self.trail.done(self.placement)])

    def record_failure(self, error: WsctlError) -> None:
        """Say in the audit table how it ended; when even that fails, the intent without an outcome tells of it. What
        lost its race with the first write has no intent there: nothing was done."""
        if not self.is_recorded:
            return
        with contextlib.suppress(BackendError):
            self.executor.store.append_audit([self.trail.failed(error, self.placement)])

    def _after(self, step: Step) -> Placement | None:
        """The placement that the last step of the work leads to."""
        return replace(self._placed(), state=step.state) if isinstance(step, Settle) else None

    def _fence(self, user: str, home: Home | None = None) -> None:
        """Raise `StaleGeneration` unless the placement, or without one the user's `home`, is as this run knows it."""
        store, known = self.executor.store, self.placement or home
        ours = known.generation if known else 0
        now = store.home(user) if home else None
        if now != home or (now.generation if now else store.generation(user)) != ours:
            raise stale(user, ours)

    def _reserve(self, step: Reserve) -> None:
        wanted = Reservation(
            step.user, step.node, step.address, step.port, step.resources, step.capacity, step.workspace_class,
            step.home, step.only_ready,
        )  # fmt: skip
        result = self.executor.store.reserve(wanted, audit=self.entries)
        if isinstance(result, Conflict):
            raise PlanChanged(f"{step.user} could not be reserved on {step.node}: {CONFLICTS[result]}")
        self.placement = result

    def _claim(self, step: Claim) -> None:
        result = self.executor.store.claim(
            step.user,
            step.generation,
            step.state,
            step.capacity,
            new_container=step.new_container,
            port=step.port,
            resources=step.resources,
            audit=self.entries,
            was=self.placement.state if self.placement is not None else None,
        )
        if result is Conflict.NODE_FULL:
            raise Unschedulable(f"{step.node} has no room to start {step.user} any more", hint="wsctl node ls")
        if result is Conflict.PORT_TAKEN:
            raise PlanChanged(f"port {step.port} of {step.node} was given to somebody else")
        if isinstance(result, Conflict):
            raise changed(step.user, step.generation)
        self.placement = result

    def _begin_move(self, step: BeginMove) -> None:
        takes = step.resources
        move = Move(
            step.user, step.source, step.node, step.address, step.port, takes.memory_bytes, takes.cpus_milli,
            takes.pids, step.is_active,
        )  # fmt: skip
        result = self.executor.store.begin_move(
            move, step.generation, step.state, step.capacity, was=self._placed().state, audit=self.entries
        )
        if result in (Conflict.NODE_FULL, Conflict.PORT_TAKEN):
            raise PlanChanged(f"{step.user} can't move to {step.node}: {CONFLICTS[result]}")
        if isinstance(result, Conflict):
            raise changed(step.user, step.generation)
        self.placement = result

    def _swap(self, step: SwapPlacement) -> None:
        ours = self._placed().generation
        result = self.executor.store.swap(
            step.user, ours, step.state, leaves_files=step.leaves_files, audit=self.entries
        )
        if isinstance(result, Conflict):
            raise stale(step.user, ours)
        self.placement, self.moving.measured.source = result, step.source

    def _take_over(self, step: TakeOver) -> None:
        result = self.executor.store.take_over(step, was=self._placed().state, audit=self.entries)
        if result in (Conflict.NODE_FULL, Conflict.PORT_TAKEN):
            raise PlanChanged(f"{step.user} can't go on on {step.node}: {CONFLICTS[result]}")
        if isinstance(result, Conflict):
            raise changed(step.user, step.generation)
        self.placement, self.moving.measured.source = result, step.source

    def _pull(self, step: PullImage) -> None:
        self.executor.engines(step.node).pull(step.image)

    def _create(self, step: CreateContainer) -> None:
        placement, spec = self._placed(), self._spec()
        wanted = desired(self.executor.cluster, self.executor.nodes[step.node], placement, spec)
        self.container_id = self.executor.engines(step.node).create(wanted)

    def _start(self, step: StartContainer) -> None:
        self.executor.engines(step.node).start(container_name(step.user))
        self.sent_bytes = 0

    def _await_ready(self, step: AwaitReady) -> None:
        placement = self._placed()
        try:
            answered = self.executor.engines(step.node).await_ready(
                placement.container, placement.address, placement.host_port, step.probe
            )
            if self.sent_bytes is not None:
                self.sent_bytes += answered
        except NotReady:
            self.entries = ()
            self._record(PlacementState.FAILED)
            raise

    def _stop(self, step: StopContainer) -> None:
        measured = self.moving.measured
        measured.stopped_at = measured.stopped_at or self.executor.clock.now()
        self.executor.engines(step.node).stop(container_name(step.user), step.grace_s)

    def _unpause(self, step: UnpauseContainer) -> None:
        self.executor.engines(step.node).unpause(container_name(step.user))

    def _remove(self, step: RemoveContainer) -> None:
        self.executor.engines(step.node).remove(step.container_id or container_name(step.user))

    def _quarantine(self, step: QuarantineContainer) -> None:
        engine = self.executor.engines(step.node)
        engine.stop(step.container_id, step.grace_s)
        engine.rename(step.container_id, quarantine_name(step.user, step.container_id))

    def _purge(self, step: PurgeData) -> None:
        self.executor.engines(step.node).purge_data(step.host_root, step.user, step.image)

    def _settle(self, step: Settle) -> None:
        self.slot.close()  # it has answered; what is left to do for its user doesn't hold up the next one
        self.is_queued = False
        is_start = step.state is PlacementState.RUNNING
        self._record(step.state, self._start_of(step) if is_start else None)
        if not is_start:
            return
        if self.moving.measured.source is not None:
            # Somebody who was moved waits for the gateway to know; the rest of the work is about what is left.
            self.executor.routed()
        self.moving.measured.back_at = self.executor.clock.now()

    def _start_of(self, step: Settle) -> Start:
        """A start counts as activity, and the reaper needs the counters as they were before the user came.

        Those begin at 0 with the container's network, and since then it has answered our probe: no need to ask an
        engine, of which Docker's before 23 takes up to a second for each answer.
        """
        now = self.executor.clock.now()
        if self.sent_bytes is None:
            return Start(now)  # it ran before we came: what it has sent since the last look may be a user's
        started = self.container_id or self._id_of_the_started(step)
        return Start(now, NetworkSample(step.user, started, self.sent_bytes, now, 0) if started else None)

    def _id_of_the_started(self, step: Settle) -> str | None:
        # Without it the reaper will only know less, and keep the workspace: no reason to call this a failure.
        with contextlib.suppress(NodeError):
            found = self.executor.engines(step.node).container(container_name(step.user))
            return found.id if found is not None else None
        return None

    def _release(self, step: Release) -> None:
        generation = self.placement.generation if self.placement is not None else 0
        released = self.executor.store.release(
            step.user, generation, keep_home=step.keep_home, home=step.home, audit=self.entries
        )
        if not released:
            raise stale(step.user, step.home.generation if step.home is not None else generation)
        self.placement = None

    def _mark(self, step: MarkNode) -> None:
        who = str(self.executor.auditor.actor)
        self.executor.store.set_mark(step.node, step.state, step.reason, who, audit=self.entries)

    def _record(self, state: PlacementState, start: Start | None = None) -> None:
        placement, store = self._placed(), self.executor.store
        if not store.settle(placement.user, placement.generation, state, start=start, audit=self.entries):
            raise stale(placement.user, placement.generation)
        self.placement = replace(placement, state=state)

    def _placed(self) -> Placement:
        if self.placement is None:
            raise AssertionError("a step that needs a placement came before the one that makes it")
        return self.placement

    def _spec(self) -> WorkspaceSpec:
        if self.spec is None:
            raise AssertionError("a step that needs a workspace spec came without one")
        return self.spec
