"""What is known about who is idle: gathered for the reaper, and for `show`.

Responsible for: reading recorded activity, limits and notes, having containers looked at (only of those that could be
idle), and for writing down what was seen. Not responsible for: looking (`looking`), nor for the verdict
(`planner.idle`).

The order matters, as two reapers may run at once. Who looks reads the samples before the activity, who records writes
the activity before the samples: a fresh sample, which no longer shows the traffic before it, is never seen without the
activity that it told of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wsctl.looking import Look, Looker
from wsctl.model import ClusterView, WorkspaceSpec
from wsctl.planner.idle import IdleEvidence, IdleLimits, IdleVerdict, needs_look
from wsctl.ports import ActivityLog, Clock, Recorded, Store
from wsctl.signals import NetworkSample, Note
from wsctl.text import human_duration

KEEP_ALIVE = "keep-alive"
"""The topic of notes: user → until when they are kept (ISO 8601)."""

NOTICES = "notice"
"""The topic of notes: user → the idle period that they were told about."""

INGESTED = "ingest"
"""The topic of notes: access log → how far it was read."""

UNREADABLE = "activity in Redis can't be read"
"""How the reason of everybody begins who may have been active, but for that."""

FEW = 100
"""Up to so many users are asked for by name; of more, everything is read."""


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
        counts = spec.busy_connections is not False
        return IdleLimits(limit, spec.max_age_s, spec.busy_cpus, self.notice_s, spec.busy_bytes, counts)

    def class_of(self, user: str, view: ClusterView) -> WorkspaceSpec | None:
        """The class of a placed user, if the inventory has it."""
        return self.classes.get(view.placements[user].workspace_class)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: the evidence and the limits of each user, at `at`; `samples` are new."""

    at: datetime
    evidence: Mapping[str, IdleEvidence]
    limits: Mapping[str, IdleLimits]
    samples: Sequence[NetworkSample]


class Gatherer:
    """Gathers evidence in one cluster. Samples are read once: what was sent since then always shows."""

    def __init__(self, store: Store, activity: ActivityLog, looker: Looker, clock: Clock, rules: Rules) -> None:
        self._store = store
        self._activity = activity
        self._looker = looker
        self._clock = clock
        self._rules = rules
        self._before: Mapping[str, NetworkSample] | None = None

    def gather(self, view: ClusterView, users: Collection[str], *, thorough: bool = False, exact: bool = False) -> Seen:
        """The evidence about placed users. `thorough` looks at their containers even when they can't be idle yet,
        `exact` asks the engine about each of them.

        A node that doesn't answer makes its users unknown. Raises `BackendError`.
        """
        store, now = self._store, self._clock.now()
        if self._before is None:
            self._before = store.samples()
        # Of a few, only theirs; of many, all at once is one query.
        recorded = self._activity.recorded(users if len(users) <= FEW else None)
        subjects = users if len(users) <= FEW else None
        keep, notices = store.notes(KEEP_ALIVE, subjects), store.notes(NOTICES, subjects)
        logs = {name: note.noted_at for name, note in store.notes(INGESTED).items()}
        limits = {user: self._rules.of(user, view) for user in users}
        activity = recorded.activity
        asked = [user for user in users if thorough or needs_look(activity.get(user), limits[user], now)]
        last_seen = {user: sample.observed_at for user, sample in self._before.items()}
        looks = self._looker.look(view, asked, last_seen, exact=exact)
        samples = self._samples(looks)
        evidence = {
            user: IdleEvidence(
                activity=activity.get(user),
                before=self._before.get(user),
                now=samples.get(user),
                keep_until=_until(keep.get(user)),
                since=recorded.since,
                notice=notices.get(user),
                stale=_unreliable(recorded, logs, limits[user], now),
                **(self._looked(user, view, looks[user]) if user in looks else {}),
            )
            for user in users
        }
        return Seen(now, evidence, limits, list(samples.values()))

    def last_active_at(self, user: str) -> tuple[datetime | None, str | None]:
        """When the user was active by the records as they are now, and why that isn't known if it isn't."""
        recorded = self._activity.recorded([user])
        found = recorded.activity.get(user)
        return (found.last_active_at if found is not None else None), recorded.doubt

    def _samples(self, looks: Mapping[str, Look]) -> dict[str, NetworkSample]:
        now = self._clock.now()
        return {
            user: NetworkSample(user, look.container_id, look.signs.tx_bytes, now, look.signs.cpu_ns)
            for user, look in looks.items()
            if look.signs is not None and look.signs.tx_bytes is not None
        }

    def _looked(self, user: str, view: ClusterView, look: Look) -> dict[str, Any]:
        """What a look alone tells: fields of the evidence."""
        spec = self._rules.class_of(user, view)
        unseen = None
        if spec is not None and look.visits is None and (look.failed or spec.busy_connections):
            unseen = f"connections to its port can't be seen: {look.blind}"
        return {
            "execs": look.signs.execs if look.signs is not None else 0,
            "connections": None if look.visits is None or spec is None else look.visits.get(spec.container_port, 0),
            "blind": look.blind,
            "unseen": unseen,
            "unasked": look.unasked,
        }

    def record(self, seen: Seen, verdicts: Sequence[IdleVerdict]) -> None:
        """Write down the activity that was found, and then the samples it was found by."""
        active: dict[str, list[str]] = defaultdict(list)
        for item in verdicts:
            if item.seen is not None:
                active[item.seen].append(item.user)
        for source, users in sorted(active.items()):
            self._activity.touch(dict.fromkeys(users, seen.at), source)
        if any(one.since is None for one in seen.evidence.values()):
            self._activity.begin(seen.at)  # from now on it is known since when there are data
        if seen.samples:
            self._store.save_samples(seen.samples)


def _until(note: Note | None) -> datetime | None:
    """Until when somebody is kept; None for a time that can't be read, which somebody else wrote."""
    try:
        found = datetime.fromisoformat(note.value) if note is not None else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _unreliable(recorded: Recorded, logs: Mapping[str, datetime], limits: IdleLimits, now: datetime) -> str | None:
    """Why the records can't be relied on, if they can't."""
    if recorded.doubt is not None:
        return f"{UNREADABLE}: {recorded.doubt}"
    return _stale(logs, limits, now)


def _stale(logs: Mapping[str, datetime], limits: IdleLimits, now: datetime) -> str | None:
    """Why records can't be relied on: an access log that is ingested, but wasn't for longer than the limit."""
    for name, at in sorted(logs.items()):
        age_s = (now - at).total_seconds()
        if limits.idle_s is not None and age_s >= limits.idle_s:
            last = human_duration(age_s)
            return f"the access log {name} was last read {last} ago (wsctl activity ingest, or activity forget)"
    return None
