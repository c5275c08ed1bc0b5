"""Emptying a node: looks whether there is room, marks it, has everybody moved, and looks whether it is empty.

Responsible for the order of these, for users who come meanwhile, and for what is left in the end. Not responsible for:
who goes where (`planner.drain`), moving (`mover`), who is idle (`idleness`), nor for asking anybody.

Nothing is remembered between runs: who isn't gone is still there, and the same command goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from wsctl import observe
from wsctl.errors import LeaseHeld, NodeUnreachable, PlanChanged, Refused, Unschedulable
from wsctl.idleness import Idleness
from wsctl.knowledge import answered
from wsctl.model import ClusterView, Container, NodeState
from wsctl.mover import Errand, Fate, Moved, Mover, Rules
from wsctl.moving import CopyState, KeptCopy
from wsctl.planner.decision import Decision
from wsctl.planner.drain import (
    leftovers,
    may_drain,
    no_room,
    plan_drain,
    who_arrives,
    who_leaves,
    without_room,
)
from wsctl.planner.life import plan_mark
from wsctl.planner.relocation import begins
from wsctl.planner.relocation import lines as relocation_lines
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

VERB = "node drain"
ROUNDS = 3
"""How often those are tried again who came meanwhile, or on whom somebody else was acting."""

Silence = NodeUnreachable | Refused
"""Why a node can't be asked: it doesn't answer, or is marked down, which `watch` may do at any time."""


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """`rules` say how each is moved; `deadline_s` seconds from the beginning no further move begins. With `partial`
    those who have room elsewhere are moved although others haven't. `idleness`: only the idle are moved."""

    node: str
    rules: Rules
    deadline_s: float | None = None
    idleness: Idleness | None = None
    partial: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one look found: a decision about each who would be moved, and why the busy ones would not be."""

    view: ClusterView
    decisions: tuple[Decision, ...]
    busy: Mapping[str, str]

    @property
    def lines(self) -> tuple[str, ...]:
        """The plan as text."""
        return relocation_lines(self.decisions)


@dataclass(frozen=True, slots=True)
class Drained:
    """What a run led to. `arriving` are being moved to the node by others, `leftovers` run there and belong nowhere,
    `kept` are copies of those who left, `homes` users without a placement whose files are there. `silent`: the node
    didn't answer in the end, or was marked down and not asked, so what runs on it isn't known."""

    moved: tuple[Moved, ...]
    arriving: tuple[str, ...] = ()
    leftovers: tuple[Container, ...] = ()
    kept: tuple[KeptCopy, ...] = ()
    homes: tuple[str, ...] = ()
    silent: Silence | None = None


@dataclass
class Drainer:
    """One run on one node. `report` and `stopping` are the mover's; `beginning` is told how many are going to be moved
    before the first one is."""

    world: World
    options: DrainOptions
    report: Callable[[Moved], None] = lambda moved: None
    stopping: Callable[[Sequence[str]], None] = lambda users: None
    beginning: Callable[[int], None] = lambda count: None
    _moved: dict[str, Moved] = field(default_factory=dict)
    _busy: dict[str, str] = field(default_factory=dict)

    def look(self) -> Prospect:
        """Ask all nodes, and decide. Raises `NodeUnreachable` if the node itself doesn't answer, `Refused` if it is
        marked down."""
        options = self.options
        view = self._view(None)
        here = [user for user, placement in view.placements.items() if placement.node == options.node]
        busy = options.idleness.busy(view, here) if options.idleness is not None else {}
        rules = options.rules
        decisions = plan_drain(
            options.node, view, rules.spec_of, rules.strategy, rules.within, rules.how, leave=set(busy)
        )
        return Prospect(view, decisions, busy)

    def run(self, shown: Prospect | None = None) -> Drained:
        """Empty the node, as far as that can be done; `shown` is what was confirmed.

        Raises `LeaseHeld` while somebody else empties it, `PlanChanged` if not what was shown would be done,
        `Unschedulable` if somebody has no room elsewhere: then nothing was done.
        """
        world, options = self.world, self.options
        with world.leases.acquire([f"drain:{options.node}"], command=VERB, wait_s=world.lease_wait_s):
            prospect = self.look()
            if shown is not None and prospect.lines != shown.lines:
                raise PlanChanged(
                    f"who would be moved off {options.node}, or where to, changed since it was shown; nothing was done",
                    hint="run the command again",
                    details={"plan": list(prospect.lines)},
                )
            if without_room(prospect.decisions) and not options.partial:
                raise no_room(options.node, prospect.decisions)
            self._mark(prospect.view)
            silent = self._rounds(prospect)
            return self._end(silent)

    # ---- how

    def _view(self, names: Sequence[str] | None) -> ClusterView:
        """The state, with the answers of these nodes (None: of all) in it. Raises what `look` does."""
        world = self.world
        view = observe.snapshot(world.cluster, world.nodes, world.store)
        refusal = may_drain(self.options.node, view)
        if refusal is not None:
            raise refusal
        images = {spec.image for spec in world.classes.values()}
        view = answered(view, view.nodes if names is None else names, world.engines, images, world.warm)
        node = view.nodes[self.options.node]
        if node.reachable is False:
            raise NodeUnreachable(
                self.options.node,
                f"{node.error or 'does not answer'}; nobody can be moved off it now",
                hint=f"wsctl node check {self.options.node}",
            )
        return view

    def _mark(self, view: ClusterView) -> None:
        reason = self.options.reason or view.nodes[self.options.node].mark.reason
        operation = Operation(
            VERB,
            (self.options.node,),
            lambda node, view: plan_mark(node, NodeState.DRAINING, reason, view),
            asks=False,
            lease="node",
        )
        request_id = self.options.rules.request_id
        (outcome,) = Workflow(self.world).run(operation, Options(request_id=request_id))
        if outcome.error is not None:
            raise outcome.error

    def _rounds(self, prospect: Prospect) -> Silence | None:
        """Move everybody, then those who came meanwhile or couldn't be had; why the node can't be asked any more."""
        deadline_s = self.options.deadline_s
        deadline = None if deadline_s is None else self.world.clock.now() + timedelta(seconds=deadline_s)
        rules = replace(self.options.rules, deadline=deadline, gate=self._gate)
        for left in reversed(range(ROUNDS)):
            errands = self._errands(prospect)
            if errands:
                self.beginning(len(errands))
                self._take(Mover(self.world, rules, self.report, self.stopping).run(errands))
            if not errands or not left:
                return None
            try:
                prospect = self.look()
            except (NodeUnreachable, Refused) as error:
                return error
        return None

    def _errands(self, prospect: Prospect) -> list[Errand]:
        """Those whose turn it is; about the others it is noted why not."""
        node, found = self.options.node, []
        for user, why in prospect.busy.items():
            if user not in self._moved:
                self._busy[user] = why
                self._take([Moved(Errand(user, node), Fate.KEPT, why)])
        for decision in prospect.decisions:
            if not self._is_open(decision.target):
                continue
            step = begins(decision)
            errand = Errand(decision.target, node, step.node if step is not None else None)
            if decision.error is None:
                found.append(errand)
                continue
            fate = Fate.NO_ROOM if without_room([decision]) else Fate.FAILED
            outcome = Outcome(decision.target, "failed", error=decision.error, explain=decision.explain)
            self._take([Moved(errand, fate, decision.error.message, outcome)])
        return found

    def _is_open(self, user: str) -> bool:
        """Whether to try the user (again): what was in the way may be over by now. A node that didn't answer may do so
        again, which is also why there is room for those who had none."""
        known = self._moved.get(user)
        error = known.outcome.error if known is not None and known.outcome is not None else None
        return known is None or isinstance(error, (LeaseHeld, NodeUnreachable, Unschedulable))

    def _take(self, moved: Sequence[Moved]) -> None:
        self._moved.update((one.errand.user, one) for one in moved)

    def _gate(self, user: str, view: ClusterView) -> str | None:
        options = self.options
        if view.nodes[options.node].mark.state is not NodeState.DRAINING:
            return f"{options.node} isn't draining any more"
        placement = view.placements.get(user)
        if options.idleness is None or placement is None or placement.node != options.node:
            return None
        why = options.idleness.busy(view, [user]).get(user)
        if why is not None:
            self._busy[user] = why
        return why

    def is_busy(self, user: str) -> bool:
        """Whether the user was left where they are because they work."""
        return user in self._busy

    def _end(self, silent: Silence | None) -> Drained:
        """Look once more: done is what is seen to be done."""
        node, store = self.options.node, self.world.store
        if silent is None:
            try:
                view = self._view([node])
            except (NodeUnreachable, Refused) as error:
                silent = error
        if silent is not None:
            view = observe.snapshot(self.world.cluster, self.world.nodes, store)
        here = who_leaves(node, view)
        for user in here:
            known = self._moved.get(user)
            if known is None or known.fate in (Fate.MOVED, Fate.GONE):
                self._take([Moved(Errand(user, node), Fate.LATE, "came while the others were being moved")])
        self._take(
            [
                Moved(known.errand, Fate.GONE)
                for user, known in self._moved.items()
                if user not in here and known.fate is not Fate.MOVED and not _has_failed(known)
            ]
        )
        return Drained(
            tuple(self._moved[user] for user in sorted(self._moved)),
            who_arrives(node, view),
            leftovers(node, view) if silent is None else (),
            tuple(
                copy for copy in view.kept if copy.node == node and copy.state in (CopyState.LEAVING, CopyState.KEPT)
            ),
            tuple(sorted(user for user, home in view.homes.items() if home == node)),
            silent,
        )


def _has_failed(moved: Moved) -> bool:
    """Whether the move itself went wrong: that is to be told, wherever the user is by now. That somebody else was at
    it, or that it never began, is over once the user is gone."""
    error = moved.outcome.error if moved.outcome is not None else None
    return moved.fate is Fate.FAILED and error is not None and not isinstance(error, LeaseHeld)
