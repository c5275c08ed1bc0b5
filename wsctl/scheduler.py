"""Choosing a node for a user: filter, score, break ties, and say why for every node.

Responsible for: which of the feasible nodes is best under a strategy, how every node was judged, and decisions one
after another. Not responsible for: what makes a node feasible (`feasibility`), users who are placed already (`planner`
keeps them where they are), nor writing anything down (`store`). Pure: values in, values out.

A score is in [0, 1], higher is better, and depends on nothing but the request and the view: neither on the order of the
nodes nor on the process. The whole policy is two tables: `feasibility.FILTERS` and `SCORERS`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from wsctl.feasibility import FILTERS, Reason, ReasonKind, Request, fits, name_taken, next_port
from wsctl.model import ClusterView, NodeView, Resources, Strategy, container_name
from wsctl.text import human_bytes, human_cpus

__all__ = [
    "Batch",
    "Candidate",
    "Placed",
    "Reason",
    "ReasonKind",
    "Request",
    "Unschedulable",
    "choose",
    "dominant_share",
    "explain",
    "fits",
    "next_port",
    "rank",
    "tie_break",
    "with_placement",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node as it was judged. Feasible means no reasons; only then there is a score, in [0, 1]."""

    node: str
    feasible: bool
    reasons: tuple[Reason, ...]
    score: float | None


@dataclass(frozen=True, slots=True)
class Placed:
    """The choice: a node, the port there, its score, and how every node was judged, in name order."""

    node: str
    port: int
    score: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node may take it; every candidate has at least one reason."""

    candidates: tuple[Candidate, ...]

    def summary(self) -> str:
        """One line for people; each node counts once, by its first reason, so that the counts add up."""
        if not self.candidates:
            return "0 of 0 nodes fit: there are no nodes"
        groups: dict[ReasonKind, list[Reason]] = {}
        for candidate in self.candidates:
            groups.setdefault(candidate.reasons[0].kind, []).append(candidate.reasons[0])
        order = list(ReasonKind)
        ranked = sorted(groups.items(), key=lambda group: (-len(group[1]), order.index(group[0])))
        parts = [f"{len(reasons)} {kind}{_shortage(reasons)}" for kind, reasons in ranked]
        return f"0 of {len(self.candidates)} nodes fit: {', '.join(parts)}"


def _shortage(reasons: Sequence[Reason]) -> str:
    """What was needed and the most that any of the nodes had, for the reasons that have such numbers; what nodes that
    are out of the question are so for."""
    first = reasons[0]
    if first.kind is ReasonKind.EXCLUDED:
        said = list(dict.fromkeys(reason.detail for reason in reasons))
        return f" ({'; '.join(said[:3])}{'; …' if len(said) > 3 else ''})"
    if first.need is None:
        return ""
    show = human_bytes if first.kind is ReasonKind.MEMORY else human_cpus
    return f" (need {show(first.need)}, most free {show(max(reason.free or 0 for reason in reasons))})"


def explain(candidates: Iterable[Candidate]) -> dict[str, dict[str, object]]:
    """The candidates as the JSON contract has them: `{node: {feasible, reasons, score}}`."""
    return {
        c.node: {
            "feasible": c.feasible,
            "reasons": [str(reason) for reason in c.reasons],
            "score": None if c.score is None else round(c.score, 6),
        }
        for c in candidates
    }


def tie_break(user: str, node: str) -> int:
    """A number that looks random but is the same everywhere: the first 64 bits of sha256("user/node").

    Among equals the node with the greatest number wins. That is rendezvous hashing (Thaler and Ravishankar, 1998):
    users spread evenly over equals, and a new node among them takes over its share and moves nobody between others.
    """
    return int.from_bytes(hashlib.sha256(f"{user}/{node}".encode()).digest()[:8], "big")


def dominant_share(request: Request, view: NodeView) -> float:
    """The fullest of the node's resources once the workspace is on it, as a share of its capacity.

    The largest of active/workspaces, memory/memory and cpus/cpus (dominant resource, Ghodsi et al., NSDI 2011).
    Stopped workspaces aren't load: they keep their count against the limit (a filter), not against the score.
    """
    used, cap, asked = view.usage, view.node.capacity, request.resources
    return max(
        _share(used.active + 1, cap.workspaces),
        _share(used.memory_bytes + asked.memory_bytes, cap.memory_bytes),
        _share(used.cpus_milli + asked.cpus_milli, cap.cpus_milli),
    )


def _share(used: int, capacity: int) -> float:
    return used / capacity if capacity > 0 else 0.0


def _spread(request: Request, view: NodeView) -> float:
    return max(0.0, 1 - dominant_share(request, view))


def _binpack(request: Request, view: NodeView) -> float:
    return min(1.0, dominant_share(request, view))


def _least_loaded(_: Request, view: NodeView) -> float:
    if view.facts is None:
        return 0.0
    return 1 / (1 + view.facts.containers_running / max(1, view.facts.ncpu))


def _weighted(request: Request, view: NodeView) -> float:
    weight = view.node.weight
    return weight / (weight + dominant_share(request, view)) if weight > 0 else 0.0


def _hash(request: Request, view: NodeView) -> float:
    weight = view.node.weight
    uniform = (tie_break(request.user, view.node.name) + 1) / 2**64
    return uniform ** (1 / weight) if weight > 0 else 0.0


Scorer = Callable[[Request, NodeView], float]

SCORERS: Mapping[Strategy, Scorer] = {
    Strategy.SPREAD: _spread,
    Strategy.BINPACK: _binpack,
    Strategy.LEAST_LOADED: _least_loaded,
    Strategy.WEIGHTED: _weighted,
    Strategy.HASH: _hash,
}
"""Each strategy's score of one feasible node, with s = `dominant_share` and w = the node's weight:

- spread: 1 - s, the emptiest first;
- binpack: s, the fullest first;
- least-loaded: 1 / (1 + containers running per CPU), whoever started them; 0 if the engine wasn't asked;
- weighted: w / (w + s), so that s / w becomes equal: a node of weight 2 carries twice the share of one of weight 1;
- hash: u ** (1 / w), u = `tie_break` scaled to (0, 1]: weighted rendezvous, a user's node depends on nothing else;
- round-robin isn't here, because it needs to see all feasible nodes: `_turns`.

A weight of 0 or less makes a node the last resort of weighted and hash.
"""


def _turns(names: Sequence[str], last: str | None) -> list[float]:
    """Round-robin: 1 for the first name behind `last` in sorted order (going round), then falling in equal steps."""
    count = len(names)
    first = bisect_right(names, last) if last is not None else 0
    return [1 - (place - first) % count / count for place in range(count)]


def rank(request: Request, view: ClusterView, strategy: Strategy) -> tuple[Candidate, ...]:
    """How every node is judged, in name order."""
    return Batch(view, strategy).rank(request)


def choose(request: Request, view: ClusterView, strategy: Strategy) -> Placed | Unschedulable:
    """The best feasible node and the port there, or why there is none."""
    return Batch(view, strategy).choose(request)


class Batch:
    """Decisions one after another, each seeing those before it; the same as `choose` and `with_placement` by turns.

    `view` is the cluster as decided so far. A node's judgement is kept until the node or the shape of the request (all
    of it but the user) changes, so that a decision costs one new judgement and not one per node.
    """

    def __init__(self, view: ClusterView, strategy: Strategy) -> None:
        self.view = view
        self._strategy = strategy
        self._names = sorted(view.nodes)
        self._shape: Request | None = None
        self._kept: dict[str, tuple[NodeView, Candidate]] = {}
        self._foreign = {
            name: {c.name: c for c in node.containers if c.cluster != view.cluster} for name, node in view.nodes.items()
        }

    def place(self, request: Request) -> Placed | Unschedulable:
        """Choose, and take the choice into account from now on."""
        decision = self.choose(request)
        if isinstance(decision, Placed):
            self.view = with_placement(self.view, request.user, decision.node, decision.port, request.resources)
        return decision

    def choose(self, request: Request) -> Placed | Unschedulable:
        """The best feasible node: highest score, then (for equal scores) fewest placements, then `tie_break`."""
        candidates = self.rank(request)
        top = max((c.score for c in candidates if c.score is not None), default=None)
        if top is None:
            return Unschedulable(candidates)
        nodes = self.view.nodes
        # To fill up the fullest is the point of binpack, also among equals.
        sign = 1 if self._strategy is Strategy.BINPACK else -1
        best = max(
            (c.node for c in candidates if c.score == top),
            key=lambda name: (sign * nodes[name].usage.workspaces, tie_break(request.user, name)),
        )
        return Placed(best, cast("int", next_port(nodes[best])), top, candidates)

    def rank(self, request: Request) -> tuple[Candidate, ...]:
        """How every node is judged, in name order."""
        shape = replace(request, user="")
        if shape != self._shape:
            self._shape, self._kept = shape, {}
        judged = [self._judge(request, self.view.nodes[name]) for name in self._names]
        if self._strategy is Strategy.ROUND_ROBIN:
            turns = _turns([c.node for c in judged if c.feasible], self.view.last_node)
            scores = iter(turns)
            judged = [replace(c, score=next(scores)) if c.feasible else c for c in judged]
        return tuple(judged)

    def _judge(self, request: Request, view: NodeView) -> Candidate:
        name = view.node.name
        kept = self._kept.get(name)
        if kept is not None and kept[0] is view:
            candidate = kept[1]
        else:
            reasons = tuple(reason for check in FILTERS if (reason := check(request, view)) is not None)
            scorer = SCORERS.get(self._strategy)
            score = None if reasons or scorer is None else scorer(request, view)
            candidate = Candidate(name, not reasons, reasons, score)
            self._kept[name] = (view, candidate)
        taken = self._foreign[name].get(container_name(request.user))
        if taken is not None:
            return Candidate(name, False, (*candidate.reasons, name_taken(taken)), None)
        if self._strategy is Strategy.HASH and candidate.feasible:
            return replace(candidate, score=_hash(request, view))
        return candidate


def with_placement(
    view: ClusterView, user: str, node: str, port: int, resources: Resources, *, active: bool = True
) -> ClusterView:
    """The view as it will be once `user` is placed on `node`: usage, port, turn, and one more container running. One
    who isn't `active` (stopped) takes a place and a port only.

    `placements` stays as it was read (copying it would make a batch quadratic); a batch names each user once.
    """
    before = view.nodes[node]
    used, one = before.usage, int(active)
    after = replace(
        before,
        usage=replace(
            used,
            workspaces=used.workspaces + 1,
            active=used.active + one,
            memory_bytes=used.memory_bytes + one * resources.memory_bytes,
            cpus_milli=used.cpus_milli + one * resources.cpus_milli,
        ),
        ports_used=before.ports_used | {port},
        last_port=port,
        facts=before.facts and replace(before.facts, containers_running=before.facts.containers_running + one),
    )
    return replace(view, nodes={**view.nodes, node: after}, last_node=node)
