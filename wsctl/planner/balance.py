"""How evenly nodes are loaded, and how few moves could make it even enough.

Responsible for: what a node's load is, who may be moved at all, and the lower bound of moves. Not responsible for:
finding the moves (`rebalance`). Pure: values in, values out.

A load is a share of what a node offers, divided by its weight, so that a node of weight 2 carries twice the share of
one of weight 1. The spread is the difference between the highest and the lowest load. Only nodes that could take
somebody count: ready, answering, of positive weight.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from math import inf

from wsctl.feasibility import FILTERS, ReasonKind, Request
from wsctl.model import ClusterView, NodeState, NodeView, Placement, PlacementState, WorkspaceSpec, container_name
from wsctl.planner.relocation import request_of

EPS = 1e-9
"""Loads are quotients: what differs by less is equal."""

Amount = tuple[int, int, int, int]
"""Workspaces, workspaces that aren't stopped, bytes of memory, thousandths of a core."""

NUMBERS = (ReasonKind.WORKSPACES, ReasonKind.MEMORY, ReasonKind.CPU, ReasonKind.PORTS)
"""Reasons against a node that depend on how full it is; all others hold whatever is moved."""


class By(StrEnum):
    """What is to be even. `load` is what the scheduler looks at: the fullest of active workspaces, memory and CPU."""

    LOAD = "load"
    MEMORY = "memory"
    CPUS = "cpus"
    WORKSPACES = "workspaces"

    @property
    def parts(self) -> tuple[int, ...]:
        """Which of an `Amount` count."""
        return {By.LOAD: (1, 2, 3), By.MEMORY: (2,), By.CPUS: (3,), By.WORKSPACES: (0,)}[self]


@dataclass(frozen=True, slots=True)
class Scale:
    """One node: what it offers (times its weight), what is used, how many more of each it takes, free ports."""

    name: str
    offers: tuple[float, ...]
    used: Amount
    room: Amount
    ports: int


@dataclass(frozen=True, slots=True)
class Kind:
    """Users of one node who are the same to a plan: what leaves with one, what comes with one, and where they may go.
    `users` are in the order in which they would be moved."""

    source: str
    gives: Amount
    takes: Amount
    targets: frozenset[str]
    is_idle: bool
    users: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """All that a plan of moves is made from. `parts` of an `Amount` are what is to be even."""

    nodes: Mapping[str, Scale]
    kinds: tuple[Kind, ...]
    parts: tuple[int, ...]

    def load(self, name: str, used: Sequence[int]) -> float:
        """The load of a node on which that much is used."""
        offers = self.nodes[name].offers
        return max(used[part] / offers[part] for part in self.parts)

    @cached_property
    def loads(self) -> dict[str, float]:
        """The load of each node as it is."""
        return {name: self.load(name, node.used) for name, node in self.nodes.items()}

    # ---- the lower bound

    def lower_bound(self, target: float) -> int | None:
        """So many moves it takes at least until the spread is `target`; None if no number of moves can do it.

        Any such spread lies in some window of that height. Whatever is above the window must lose users, at best its
        largest; whatever is below must get some, at best the largest of all. Each move serves one of either. The bound
        is that of the best window; room, labels and ports aren't looked at, so it may be out of reach.
        """
        found = min((self.bound_in(low, target) for low in self.windows(target)), default=0.0)
        return None if found == inf else int(found)

    def windows(self, target: float) -> list[float]:
        """The lower ends of the windows among which the best is: where the moves that are needed from above and from
        below cross. The first window whose moves from below are no fewer, and its neighbours."""
        lows = self._lows(target)
        first, last = 0, len(lows)
        while first < last:
            middle = (first + last) // 2
            if self._from_above(lows[middle] + target) <= self._from_below(lows[middle]):
                last = middle
            else:
                first = middle + 1
        return lows[max(0, first - 2) : first + 2]

    def bound_in(self, low: float, target: float) -> float:
        """The moves that are needed for one window."""
        return max(self._from_above(low + target), self._from_below(low))

    def _lows(self, target: float) -> list[float]:
        """Lower ends at which the number of moves needed from above changes: between them nothing is won."""
        lows = {0.0}
        for name, node in self.nodes.items():
            for part in self.parts:
                have, offer = node.used[part], node.offers[part]
                lows.update((have - gone) / offer - target for gone in (0, *self._leaving(name, part)))
        return sorted(low for low in lows if low >= 0)

    def _from_above(self, high: float) -> float:
        return sum(max(self._must_leave(name, part, high) for part in self.parts) for name in self.nodes)

    def _must_leave(self, name: str, part: int, high: float) -> float:
        node = self.nodes[name]
        excess = node.used[part] - (high + EPS) * node.offers[part]
        return 0 if excess <= 0 else self._count(self._leaving(name, part), excess)

    def _from_below(self, low: float) -> float:
        return sum(
            0 if load >= low - EPS else min(self._must_come(name, part, low) for part in self.parts)
            for name, load in self.loads.items()
        )

    def _must_come(self, name: str, part: int, low: float) -> float:
        node = self.nodes[name]
        return self._count(self._coming[part], (low - EPS) * node.offers[part] - node.used[part])

    @staticmethod
    def _count(sums: Sequence[int], needed: float) -> float:
        """How many of the largest it takes; `sums` are those of the first, the first two, and so on."""
        found = bisect_left(sums, needed)
        return found + 1 if found < len(sums) else inf

    def _leaving(self, name: str, part: int) -> list[int]:
        return self._sums[name, part]

    @cached_property
    def _sums(self) -> dict[tuple[str, int], list[int]]:
        given: dict[tuple[str, int], list[int]] = {(name, part): [] for name in self.nodes for part in self.parts}
        for kind in self.kinds:
            for part in self.parts:
                given[kind.source, part] += [kind.gives[part]] * len(kind.users)
        return {key: list(accumulate(sorted(values, reverse=True))) for key, values in given.items()}

    @cached_property
    def _coming(self) -> dict[int, list[int]]:
        taken = {part: [k.takes[part] for k in self.kinds for _ in k.users] for part in self.parts}
        return {part: list(accumulate(sorted(values, reverse=True))) for part, values in taken.items()}


def scene(
    view: ClusterView,
    spec_of: Callable[[str, ClusterView], WorkspaceSpec],
    by: By,
    *,
    idle: Collection[str] = (),
    leave: Collection[str] = (),
) -> Scene:
    """The cluster as a plan of moves needs it. `idle` users are moved rather than others, those in `leave` not at all.

    Room that a move gives back isn't counted for others: moves overlap.
    """
    nodes = {name: _scale(node) for name, node in sorted(view.nodes.items()) if counts(node)}
    foreign = {one.name for node in view.nodes.values() for one in node.containers if one.cluster != view.cluster}
    kept = {copy.user for copy in view.kept if copy.state != "kept"}
    alike: dict[tuple[str, Amount, Amount, frozenset[str], bool], list[str]] = {}
    targets: dict[tuple[object, ...], frozenset[str]] = {}
    for user, placement in sorted(view.placements.items()):
        off = placement.node not in nodes or user in leave or user in view.moves or user in kept
        if off or container_name(user) in foreign or not _may_move(placement, view):
            continue
        request = request_of(placement, spec_of(user, view))
        gives, takes = _gives(placement), _takes(request, placement)
        if not any(gives[part] for part in by.parts):
            continue
        key = request.image, request.pull, tuple(sorted(request.labels.items()))
        if key not in targets:
            targets[key] = frozenset(name for name in nodes if _suits(request, view.nodes[name]))
        kind = (placement.node, gives, takes, targets[key] - {placement.node}, user in idle)
        alike.setdefault(kind, []).append(user)
    kinds = tuple(Kind(*kind, users=tuple(users)) for kind, users in alike.items())
    return Scene(nodes, kinds, by.parts)


def loads_of(view: ClusterView, by: By) -> dict[str, float]:
    """The load of each node that takes part."""
    nodes = {name: _scale(node) for name, node in sorted(view.nodes.items()) if counts(node)}
    return dict(Scene(nodes, (), by.parts).loads)


def counts(node: NodeView) -> bool:
    """Whether the node takes part: it could take somebody, and its load is a number."""
    offer = node.node.capacity
    positive = min(offer.workspaces, offer.memory_bytes, offer.cpus_milli, node.node.weight) > 0
    return node.mark.state is NodeState.READY and node.reachable is not False and node.excluded is None and positive


def _may_move(placement: Placement, view: ClusterView) -> bool:
    """A user on whom nothing else is going on: running, with the container that is theirs, or stopped."""
    if placement.state is PlacementState.STOPPED:
        return True
    container = view.nodes[placement.node].container_of(placement.user)
    current = container is not None and container.generation == placement.container_generation
    return placement.state is PlacementState.RUNNING and current


def _suits(request: Request, node: NodeView) -> bool:
    reasons = [reason for check in FILTERS if (reason := check(request, node)) is not None]
    return all(reason.kind in NUMBERS for reason in reasons)


def _scale(node: NodeView) -> Scale:
    offer, used, weight = node.node.capacity, node.usage, node.node.weight
    have = (used.workspaces, used.active, used.memory_bytes, used.cpus_milli)
    most = (offer.workspaces, offer.workspaces, offer.memory_bytes, offer.cpus_milli)
    return Scale(
        node.node.name,
        tuple(one * weight for one in most),
        have,
        (most[0] - have[0], most[1], most[2] - have[2], most[3] - have[3]),
        node.ports_free,
    )


def _gives(placement: Placement) -> Amount:
    active = int(placement.state.holds_resources)
    takes = placement.resources
    return 1, active, active * takes.memory_bytes, active * takes.cpus_milli


def _takes(request: Request, placement: Placement) -> Amount:
    active = int(placement.state.holds_resources)
    return 1, active, request.resources.memory_bytes, request.resources.cpus_milli
