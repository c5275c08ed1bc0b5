"""What is known about who is idle: gathered for the reaper, and for `show`.

Responsible for: reading recorded activity, limits and notes, asking containers for signs of life (many at once, and
only those that could be idle), and for writing down what was seen. Not responsible for: the verdict (`planner.idle`).

The order matters, as two reapers may run at once. Who looks reads the samples before the activity, who records writes
the activity before the samples: a fresh sample, which no longer shows the traffic before it, is never seen without the
activity that it told of.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from wsctl.errors import NodeError
from wsctl.model import ClusterView, WorkspaceSpec
from wsctl.planner import IdleEvidence, IdleLimits, IdleVerdict, needs_look
from wsctl.ports import Clock, EngineFactory, Store
from wsctl.signals import ContainerSigns, NetworkSample
from wsctl.text import human_duration
from wsctl.transport.fanout import run as fan_out

KEEP_ALIVE = "keep-alive"
"""The topic of notes: user → until when they are kept (ISO 8601)."""

NOTICES = "notice"
"""The topic of notes: user → the idle period that they were told about."""

INGESTED = "ingest"
"""The topic of notes: access log → how far it was read."""

LOOKS_PER_NODE = 16
"""Containers of one node asked at once. Docker before 23 answers only at its collector's next tick, up to a second
later, but then all of them together."""

LOOKS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of everybody. `users` have limits of their own (seconds; None: never), `idle_s` overrides all limits
    that aren't never, `notice_s` is how long before a stop they are told (None: not at all)."""

    classes: Mapping[str, WorkspaceSpec]
    users: Mapping[str, float | None] = field(default_factory=dict)
    idle_s: float | None = None
    notice_s: float | None = None

    def of(self, user: str, view: ClusterView) -> IdleLimits:
        """The limits of one placed user. A class that the inventory doesn't have any more stops nobody."""
        spec = self.classes.get(view.placements[user].workspace_class)
        if spec is None:
            return IdleLimits(None)
        limit = self.users.get(user, spec.idle_after_s)
        if limit is not None and self.idle_s is not None:
            limit = self.idle_s
        return IdleLimits(limit, spec.max_age_s, spec.busy_cpus, self.notice_s)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: the evidence and the limits of each user, at `at`; `samples` are new."""

    at: datetime
    evidence: Mapping[str, IdleEvidence]
    limits: Mapping[str, IdleLimits]
    samples: Sequence[NetworkSample]


class Gatherer:
    """Gathers evidence in one cluster. Samples are read once: what was sent since then always shows."""

    def __init__(self, store: Store, engines: EngineFactory, clock: Clock, rules: Rules) -> None:
        self._store = store
        self._engines = engines
        self._clock = clock
        self._rules = rules
        self._before: Mapping[str, NetworkSample] | None = None

    def gather(self, view: ClusterView, users: Collection[str], *, thorough: bool = False) -> Seen:
        """The evidence about placed users. `thorough` asks their containers even when they can't be idle yet.

        A node that doesn't answer makes its users unknown. Raises `BackendError`.
        """
        store, now = self._store, self._clock.now()
        if self._before is None:
            self._before = store.samples()
        since, activity = store.activity_since(), store.activity(users)
        keep, notices = store.notes(KEEP_ALIVE, users), store.notes(NOTICES, users)
        logs = store.notes(INGESTED)
        limits = {user: self._rules.of(user, view) for user in users}
        asked = [user for user in users if thorough or needs_look(activity.get(user), limits[user], now)]
        signs = self._signs(view, asked)
        samples: dict[str, NetworkSample] = {}
        for user, (container_id, sign) in signs.items():
            if sign.tx_bytes is not None:
                samples[user] = NetworkSample(user, container_id, sign.tx_bytes, self._clock.now(), sign.cpu_ns)
        evidence = {
            user: IdleEvidence(
                activity.get(user),
                self._before.get(user),
                samples.get(user),
                execs=signs[user][1].execs if user in signs else 0,
                keep_until=_time(keep[user].value) if user in keep else None,
                since=since,
                notice=notices.get(user),
                stale=_stale({name: note.noted_at for name, note in logs.items()}, limits[user], now),
            )
            for user in users
        }
        return Seen(now, evidence, limits, list(samples.values()))

    def record(self, seen: Seen, verdicts: Sequence[IdleVerdict]) -> None:
        """Write down the activity that was found, and then the samples it was found by."""
        active: dict[str, list[str]] = defaultdict(list)
        for item in verdicts:
            if item.seen is not None:
                active[item.seen].append(item.user)
        for source, users in sorted(active.items()):
            self._store.touch(users, seen.at, source)
        if not active and any(one.since is None for one in seen.evidence.values()):
            self._store.touch((), seen.at, "")  # from now on it is known since when there are data
        if seen.samples:
            self._store.save_samples(seen.samples)

    def _signs(self, view: ClusterView, users: Collection[str]) -> dict[str, tuple[str, ContainerSigns]]:
        """Container id and signs of life of each user whose container runs on a node that answers."""
        wanted = {
            user: (view.placements[user].node, container.id)
            for user in users
            if (node := view.nodes.get(view.placements[user].node)) is not None
            and (container := node.container_of(user)) is not None
            and container.is_running
        }
        order, nodes = _in_turn({user: node for user, (node, _) in wanted.items()})

        def read(user: str) -> ContainerSigns | None:
            node, container_id = wanted[user]
            return self._engines(node).signs(container_id)

        found = fan_out(order, read, parallel=min(LOOKS_AT_ONCE, LOOKS_PER_NODE * nodes))
        for result in found.values():
            # A node that stops answering now makes its users unknown, which keeps them; anything else is a bug.
            if isinstance(result, Exception) and not isinstance(result, NodeError):
                raise result
        return {user: (wanted[user][1], one) for user, one in found.items() if isinstance(one, ContainerSigns)}


def _in_turn(homes: Mapping[str, str]) -> tuple[list[str], int]:
    """The users so that nodes take turns, and how many nodes there are."""
    by_node: dict[str, list[str]] = defaultdict(list)
    for user, node in homes.items():
        by_node[node].append(user)
    rounds = itertools.zip_longest(*by_node.values())
    return [user for users in rounds for user in users if user is not None], len(by_node)


def _time(text: str) -> datetime | None:
    """A time as a note has it; None for one that can't be read, which somebody else wrote."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _stale(logs: Mapping[str, datetime], limits: IdleLimits, now: datetime) -> str | None:
    """Why records can't be relied on: an access log that is ingested, but wasn't for longer than the limit."""
    for name, at in sorted(logs.items()):
        age_s = (now - at).total_seconds()
        if limits.idle_s is not None and age_s >= limits.idle_s:
            last = human_duration(age_s)
            return f"the access log {name} was last read {last} ago (wsctl activity ingest, or activity forget)"
    return None
