"""Evening out the load of nodes by as few moves as it takes, and never more than asked for.

Responsible for: which users move, and where to. Not responsible for: what is even and the lower bound (`balance`), the
steps of a move (`migrate`), nor for doing anything. Pure and deterministic: the same view gives the same plan in every
process.

No prefix of a plan leaves the spread larger than it was, so it may be cut off anywhere. Finding the fewest moves is
hard in general. Two ways are tried: for each of a few windows, the move that helps most, until all loads are in it; and
if that took more moves than the lower bound, all plans with fewer, as long as there aren't too many. So the plan of a
small cluster is the shortest there is, and how far from it that of a large one may be, the lower bound tells.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

from wsctl.model import ClusterView, WorkspaceSpec
from wsctl.planner.balance import EPS, By, Kind, Scene, loads_of, scene

TRIED = 16
"""Of the nodes with the least load, so many are looked at as targets of each move."""

SEARCHED = 10_000
"""So many arrangements are looked at before the search for a shorter plan ends."""


@dataclass(frozen=True, slots=True)
class Shift:
    """One planned move."""

    user: str
    source: str
    target: str
    is_idle: bool = False

    def line(self) -> str:
        """The move as text."""
        return f"~ move     {self.user} from {self.source} to {self.target}" + ("   (idle)" if self.is_idle else "")


@dataclass(frozen=True, slots=True)
class Balance:
    """The plan: moves in order, each node's load before and after, and the least number of moves that reach the target
    spread by whatever plan (None: none does)."""

    target: float
    moves: tuple[Shift, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    lower_bound: int | None

    @property
    def spread_before(self) -> float:
        """The difference between the highest and the lowest load, as it is."""
        return spread(self.before)

    @property
    def spread_after(self) -> float:
        """The same, when all moves are made."""
        return spread(self.after)

    @property
    def is_reached(self) -> bool:
        """Whether the plan leads to the target."""
        return self.spread_after <= self.target + EPS


def spread(loads: Mapping[str, float]) -> float:
    """The difference between the highest and the lowest."""
    return max(loads.values()) - min(loads.values()) if loads else 0.0


def is_even(view: ClusterView, target: float, by: By) -> bool:
    """Whether the spread is within `target` as it is, so that there is nothing to do."""
    return spread(loads_of(view, by)) <= target + EPS


def plan_rebalance(
    view: ClusterView,
    spec_of: Callable[[str, ClusterView], WorkspaceSpec],
    *,
    target: float,
    most: int | None = None,
    by: By = By.LOAD,
    idle: Collection[str] = (),
    leave: Collection[str] = (),
) -> Balance:
    """Bring the spread down to `target` (0 to 1), by at most `most` moves; as far as it goes if that can't be reached.

    Among moves that help as much, `idle` users are taken first; those in `leave` stay where they are.
    """
    of = scene(view, spec_of, by, idle=idle, leave=leave)
    before = dict(of.loads)
    if spread(before) <= target + EPS:
        return Balance(target, (), before, before, 0)
    bound = of.lower_bound(target)
    found = min((_toward(of, low, target) for low in of.windows(target)), key=lambda one: _rank(one, target))
    if bound is not None:
        everybody = sum(len(kind.users) for kind in of.kinds)
        longest = len(found.path) - 1 if found.spread <= target + EPS else everybody
        found = _shorter(of, target, bound, longest) or found
    best = _cut(of, found.path, most)
    return Balance(target, tuple(map(_named(of), best.path)), before, dict(best.loads), bound)


Step = tuple[int, str]
"""Which kind of user moves (its place in the scene), and where to."""


@dataclass
class _State:
    """The scene after some moves. `room` and `ports` are what is left for those who come: what others leave behind
    doesn't count, as moves overlap."""

    of: Scene
    used: dict[str, list[int]]
    room: dict[str, list[int]]
    ports: dict[str, int]
    left: list[int]
    loads: dict[str, float]
    path: list[Step] = field(default_factory=list)

    @classmethod
    def first(cls, of: Scene) -> _State:
        """Before any move."""
        return cls(
            of,
            {name: list(node.used) for name, node in of.nodes.items()},
            {name: list(node.room) for name, node in of.nodes.items()},
            {name: node.ports for name, node in of.nodes.items()},
            [len(kind.users) for kind in of.kinds],
            dict(of.loads),
        )

    def copy(self) -> _State:
        """The same, to go on from in another way."""
        used = {name: list(values) for name, values in self.used.items()}
        room = {name: list(values) for name, values in self.room.items()}
        return _State(self.of, used, room, dict(self.ports), list(self.left), dict(self.loads), list(self.path))

    @property
    def spread(self) -> float:
        return spread(self.loads)

    def kind(self, step: Step) -> Kind:
        return self.of.kinds[step[0]]

    def fits(self, step: Step) -> bool:
        """Whether there is somebody of the kind left, and room for them."""
        kind, name = self.kind(step), step[1]
        enough = all(need <= free for need, free in zip(kind.takes, self.room[name], strict=True))
        return self.left[step[0]] > 0 and enough and self.ports[name] > 0

    def ahead(self, step: Step) -> tuple[float, float]:
        """The loads of source and target after the move."""
        kind, name = self.kind(step), step[1]
        source = [have - gone for have, gone in zip(self.used[kind.source], kind.gives, strict=True)]
        there = [have + come for have, come in zip(self.used[name], kind.takes, strict=True)]
        return self.of.load(kind.source, source), self.of.load(name, there)

    def narrows(self, step: Step) -> bool:
        """Whether both loads end up between what they were, so that the spread can't grow."""
        high, low = self.loads[self.kind(step).source], self.loads[step[1]]
        source, there = self.ahead(step)
        return source >= low - EPS and there <= high + EPS and low < high - EPS

    def make(self, step: Step) -> None:
        """Make the move."""
        kind, name = self.kind(step), step[1]
        source, there = self.ahead(step)
        self.loads[kind.source], self.loads[name] = source, there
        for part in range(len(kind.takes)):
            self.used[kind.source][part] -= kind.gives[part]
            self.used[name][part] += kind.takes[part]
            self.room[name][part] -= kind.takes[part]
        self.ports[name] -= 1
        self.left[step[0]] -= 1
        self.path.append(step)


def _rank(state: _State, target: float) -> tuple[float, int, int]:
    """Reaching the target counts first, then few moves, then few of people who work."""
    working = sum(not state.kind(step).is_idle for step in state.path)
    return max(0.0, state.spread - target - EPS), len(state.path), working


def _toward(of: Scene, low: float, target: float) -> _State:
    """Bring all loads into the window from `low` to `low + target`, by the move that helps most each time."""
    state, high = _State.first(of), low + target
    while True:
        above = sorted((n for n, load in state.loads.items() if load > high + EPS), key=lambda n: (-state.loads[n], n))
        below = sorted((n for n, load in state.loads.items() if load < low - EPS), key=lambda n: (state.loads[n], n))
        step = _most_helpful(state, low, high, above, below)
        if step is None:
            return state
        state.make(step)


def _most_helpful(state: _State, low: float, high: float, above: Sequence[str], below: Sequence[str]) -> Step | None:
    """The best move away from the first node above the window that has one, else to the first node below it."""
    lowest = sorted(state.loads, key=lambda name: (state.loads[name], name))[:TRIED]
    for source in above:
        best = _best(state, low, high, (step for step in _steps(state, lowest) if state.kind(step).source == source))
        if best is not None:
            return best
    for name in below:
        best = _best(state, low, high, _steps(state, [name]))
        if best is not None:
            return best
    return None


def _steps(state: _State, targets: Sequence[str]) -> Iterator[Step]:
    for number, kind in enumerate(state.of.kinds):
        for name in targets:
            if name in kind.targets and state.fits((number, name)):
                yield number, name


def _best(state: _State, low: float, high: float, steps: Iterator[Step]) -> Step | None:
    """The move after which least is outside of the window; of equals that of an idle user, to the emptiest node."""

    def outside(load: float) -> float:
        return max(0.0, load - high) + max(0.0, low - load)

    found: tuple[tuple[float, bool, float, str, int], Step] | None = None
    for step in steps:
        if not state.narrows(step):
            continue
        kind, name = state.kind(step), step[1]
        source, there = state.ahead(step)
        gain = outside(state.loads[kind.source]) + outside(state.loads[name]) - outside(source) - outside(there)
        if gain <= EPS:
            continue
        key = (-round(gain, 9), not kind.is_idle, state.loads[name], name, step[0])
        if found is None or key < found[0]:
            found = key, step
    return found[1] if found is not None else None


def _shorter(of: Scene, target: float, at_least: int, at_most: int) -> _State | None:
    """The shortest plan with at most `at_most` moves that reaches the target, if the search gets that far."""
    first = _State.first(of)
    ways = sum(first.narrows(step) for step in _steps(first, list(of.nodes)))
    if at_most < at_least or comb(ways + at_least - 1, at_least) > SEARCHED:
        return None
    seen, layer = set[tuple[object, ...]](), [first]
    for _ in range(at_most):
        reached: list[_State] = []
        following: list[_State] = []
        for state in layer:
            for step in _steps(state, list(of.nodes)):
                if not state.narrows(step):
                    continue
                key = tuple(sorted([*state.path, step]))
                if key in seen:
                    continue
                if len(seen) >= SEARCHED:
                    return min(reached, key=lambda one: _rank(one, target)) if reached else None
                seen.add(key)
                after = state.copy()
                after.make(step)
                (reached if after.spread <= target + EPS else following).append(after)
        if reached:
            return min(reached, key=lambda one: _rank(one, target))
        layer = following
    return None


def _cut(of: Scene, path: Sequence[Step], most: int | None) -> _State:
    """The first moves, as many as may be and as help; idle users first, unless that makes it worse on the way."""
    best = state = _State.first(of)
    allowed = len(path) if most is None else most
    for step in path[:allowed]:
        state = state.copy()
        state.make(step)
        if state.spread < best.spread - EPS:
            best = state
    again = _State.first(of)
    for step in sorted(best.path, key=lambda one: not of.kinds[one[0]].is_idle):
        again.make(step)
        if again.spread > spread(of.loads) + EPS:
            return best
    return again


def _named(of: Scene) -> Callable[[Step], Shift]:
    """Gives each step the next user of its kind."""
    users = [iter(kind.users) for kind in of.kinds]

    def name(step: Step) -> Shift:
        kind = of.kinds[step[0]]
        return Shift(next(users[step[0]]), kind.source, step[1], kind.is_idle)

    return name
