"""Judging whether nodes are well, sick or dead, from what was seen and by whom.

Responsible for: what each observation adds to what is known of a node, and the verdicts: when a node is suspect, when
it is down, and when it is rather us. Not responsible for: observing (`transport.probes`), for when (`watcher`), nor for
what is done about a node that is down. Pure: seconds on any clock that only goes forward come in, verdicts go out.

The rules, in the order of their weight:

- a machine that answered anybody within `down_after_s` isn't down: not to us, to another node, to another watcher;
- an engine that hangs on a machine that answers makes it suspect, never down: what runs there goes on running;
- down needs several looks in a row without an answer, and a second opinion: a node that is well and can't reach it;
- when a third of the nodes vanish at once, it is us: nobody is suspect and nobody is down;
- who can't compare notes with the others (`able`) decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

PATIENCE = 3
"""After so many times `suspect_after_s` a node is suspect even if no look has ended."""


NEWS = 3.5
"""How many intervals old it may be when we hear that another watcher sees a node well: it looks once an interval, notes
it once an interval, and we ask once an interval."""


class Sign(StrEnum):
    """What one look at a node showed: its engine answers; only its machine does; nothing does."""

    WELL = "well"
    ALIVE = "alive"
    SILENT = "silent"


class Health(StrEnum):
    """What a node is taken for. `unsure`: it would be suspect, but so would too many others, or we know too little."""

    OK = "ok"
    UNSURE = "unsure"
    SUSPECT = "suspect"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a verdict falls. Looks are `interval_s` apart; `misses` in a row at least for down, whatever the time;
    `alarm_percent` of the nodes, but at least `alarm_least`, that vanish within `window_s` mean that it is us."""

    interval_s: float = 2.0
    suspect_after_s: float = 4.0
    down_after_s: float = 10.0
    misses: int = 3
    alarm_percent: int = 33
    alarm_least: int = 2
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one watcher knows of a node. Times are its own clock's; without any sign they are when it began to look.

    `misses` and `silences` count looks in a row without an answer of the engine, and of the machine; `denied` are
    nodes that tried and couldn't reach it since its last sign of life. `reason` is what the last miss looked like.
    """

    well_at: float
    alive_at: float
    misses: int = 0
    silences: int = 0
    denied: frozenset[str] = frozenset()
    reason: str = ""


def nothing_known(now: float) -> Evidence:
    """The beginning, also after a pause in which nobody looked: counting starts now."""
    return Evidence(now, now)


def looked(known: Evidence, sign: Sign, now: float, reason: str = "") -> Evidence:
    """After asking the engine."""
    if sign is Sign.WELL:
        return Evidence(now, now)
    after = replace(known, misses=known.misses + 1, reason=reason or known.reason)
    return _alive(after, now) if sign is Sign.ALIVE else after


def knocked(known: Evidence, answered: bool, now: float, reason: str = "") -> Evidence:
    """After knocking at the machine's door. Whether it is opened or not, a machine that answers is alive."""
    if answered:
        return _alive(known, now)
    return replace(known, silences=known.silences + 1, reason=reason or known.reason)


def witnessed(known: Evidence, witness: str, reaches: bool | None, now: float) -> Evidence:
    """After asking another node whether it reaches this one; None: the witness couldn't say."""
    if reaches is None:
        return known
    return _alive(known, now) if reaches else replace(known, denied=known.denied | {witness})


def _alive(known: Evidence, now: float) -> Evidence:
    return replace(known, alive_at=max(now, known.alive_at), silences=0, denied=frozenset())


@dataclass(frozen=True, slots=True)
class Others:
    """How many seconds ago other watchers saw the node well, and alive; None: none of them has."""

    well_s: float | None = None
    alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the node is taken for, why, and for how long there has been no sign of life (`silent_s`)."""

    health: Health
    reason: str = ""
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on every node, and why nothing is done now, if so."""

    verdicts: Mapping[str, Verdict]
    alarm: str | None = None


def judge(
    fleet: Mapping[str, Evidence],
    others: Mapping[str, Others],
    now: float,
    rules: Rules,
    *,
    fallen: Collection[str] = (),
    unable: str | None = None,
) -> Judgement:
    """Judge all nodes at once. `fleet` has those that aren't marked down; `fallen` are those that were marked down
    within the window; `unable` says why nothing may be decided (the state database or Redis doesn't answer)."""
    alone = {name: _alone(known, others.get(name, Others()), now, rules) for name, known in fleet.items()}
    vanished = sorted(name for name, verdict in alone.items() if _has_vanished(verdict, rules))
    together = _too_many(alone, vanished, len(fallen), rules)
    unsure = {
        name: replace(verdict, health=Health.UNSURE)
        if verdict.health is not Health.OK and (unable or name in together)
        else verdict
        for name, verdict in alone.items()
    }
    return Judgement(unsure, unable or _alarm(together, len(fallen), len(fleet)))


def threshold(nodes: int, rules: Rules) -> int:
    """How many nodes that vanish at once are too many to believe it."""
    return max(rules.alarm_least, -(-nodes * rules.alarm_percent // 100))


def _alone(known: Evidence, others: Others, now: float, rules: Rules) -> Verdict:
    """The verdict on one node, as if there were no others."""
    unwell_s = now - known.well_at
    if others.well_s is not None and others.well_s < max(rules.suspect_after_s, NEWS * rules.interval_s):
        unwell_s = 0.0
    silent_s = _youngest(now - known.alive_at, others.alive_s)
    # Two misses at least; but when no look comes to an end any more, there is nothing to count.
    patient = known.misses < min(2, rules.misses) and unwell_s < PATIENCE * rules.suspect_after_s
    if unwell_s < rules.suspect_after_s or patient:
        return Verdict(Health.OK, silent_s=silent_s)
    said = f": {known.reason}" if known.reason else ""
    if silent_s < rules.suspect_after_s:
        return Verdict(Health.SUSPECT, "its machine answers, its engine doesn't" + said, silent_s)
    why = "no sign of life" + said
    if silent_s < rules.down_after_s or known.silences < rules.misses:
        return Verdict(Health.SUSPECT, why, silent_s)
    if not known.denied:
        return Verdict(Health.SUSPECT, f"{why}; no other node could be asked whether it reaches it", silent_s)
    return Verdict(Health.DOWN, f"{why}; {', '.join(sorted(known.denied))} can't reach it either", silent_s)


def _has_vanished(verdict: Verdict, rules: Rules) -> bool:
    return verdict.health is not Health.OK and verdict.silent_s >= rules.suspect_after_s


def _too_many(alone: Mapping[str, Verdict], vanished: Sequence[str], fallen: int, rules: Rules) -> list[str]:
    """Those of the vanished that went silent about the same time as too many others. Who is gone since yesterday
    doesn't make it two today; but those who went together stay together, however long that is."""
    limit = threshold(len(alone) + fallen, rules)
    silent = {name: alone[name].silent_s for name in vanished}
    return [
        name
        for name, since in silent.items()
        if fallen + sum(abs(since - other) <= rules.window_s for other in silent.values()) >= limit
    ]


def _alarm(together: Sequence[str], fallen: int, nodes: int) -> str | None:
    if not together:
        return None
    names = ", ".join(together[:5]) + (" …" if len(together) > 5 else "")
    lately = f", {fallen} more went down lately" if fallen else ""
    return f"{len(together)} of {nodes} nodes vanished at once ({names}){lately}: it may be this side; nothing is done"


def _youngest(own_s: float, others_s: float | None) -> float:
    return own_s if others_s is None else min(own_s, others_s)
