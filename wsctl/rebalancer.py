"""Evening out the load: looks, has the moves planned, has them made, and says what came of it.

Responsible for the order of these. Not responsible for: which moves (`planner.rebalance`), making them (`mover`), who
is idle (`idleness`), nor for asking anybody. Nothing here runs by itself: healthy workspaces are moved when an operator
says so, and never because a number changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wsctl import observe
from wsctl.errors import PlanChanged
from wsctl.idleness import Idleness
from wsctl.knowledge import answered
from wsctl.model import ClusterView
from wsctl.mover import Errand, Moved, Mover, Rules
from wsctl.planner.balance import By, loads_of
from wsctl.planner.rebalance import Balance, is_even, plan_rebalance
from wsctl.workflow import World

VERB = "rebalance"


@dataclass(frozen=True, slots=True)
class RebalanceOptions:
    """`target` is the spread to reach (0 to 1), by at most `most` moves (None: any number); `only_idle`: nobody else is
    moved. `rules` say how each is moved."""

    rules: Rules
    target: float
    idleness: Idleness
    most: int | None = None
    by: By = By.LOAD
    only_idle: bool = False


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """What a run led to: the plan, what became of each move, and the loads of the same nodes afterwards."""

    plan: Balance
    moved: tuple[Moved, ...]
    after: Mapping[str, float]


@dataclass
class Rebalancer:
    """One run. `report` and `stopping` are the mover's; `beginning` is told how many are going to be moved. `midway`
    are users whom the last look found in the middle of a move: they aren't in its plan."""

    world: World
    options: RebalanceOptions
    report: Callable[[Moved], None] = lambda moved: None
    stopping: Callable[[Sequence[str]], None] = lambda users: None
    beginning: Callable[[int], None] = lambda count: None
    midway: tuple[str, ...] = ()

    def look(self) -> Balance:
        """Ask all nodes, and plan."""
        world, options = self.world, self.options
        view = observe.snapshot(world.cluster, world.nodes, world.store)
        images = {spec.image for spec in world.classes.values()}
        view = answered(view, view.nodes, world.engines, images, world.warm)
        self.midway = tuple(sorted(view.moves))
        # Most runs have nothing to do, and then it is of no use to look at everybody.
        is_done = is_even(view, options.target, options.by)
        busy = {} if is_done else options.idleness.busy(view, view.placements, thorough=False)
        return plan_rebalance(
            view,
            options.rules.spec_of,
            target=options.target,
            most=options.most,
            by=options.by,
            idle=set(view.placements) - set(busy),
            leave=set(busy) if options.only_idle else (),
        )

    def run(self, shown: Balance | None = None) -> Rebalanced:
        """Make the moves; `shown` is the plan that was confirmed.

        Raises `LeaseHeld` while somebody else does the same, `PlanChanged` if not what was shown would be done.
        """
        world = self.world
        with world.leases.acquire([VERB], command=VERB, wait_s=world.lease_wait_s):
            plan = self.look()
            if shown is not None and plan.moves != shown.moves:
                raise PlanChanged(
                    "the moves changed since they were shown; nothing was done",
                    hint="run the command again",
                    details={"plan": [move.line() for move in plan.moves]},
                )
            self.beginning(len(plan.moves))
            errands = [Errand(move.user, move.source, move.target) for move in plan.moves]
            rules = replace(self.options.rules, insist=True, gate=self._gate)
            moved = Mover(world, rules, self.report, self.stopping).run(errands)
            return Rebalanced(plan, tuple(moved), self._loads(plan))

    def _gate(self, user: str, view: ClusterView) -> str | None:
        return self.options.idleness.busy(view, [user]).get(user) if self.options.only_idle else None

    def _loads(self, plan: Balance) -> dict[str, float]:
        """The loads of the plan's nodes as they are now, by the state."""
        world = self.world
        view = observe.snapshot(world.cluster, world.nodes, world.store)
        now = loads_of(view, self.options.by)
        return {name: now[name] for name in plan.before if name in now}
