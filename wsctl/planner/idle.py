"""Who is idle, and why: the decision of the reaper, explained for every user.

Responsible for weighing the signals of one workspace into a verdict, with the time at which it would be stopped. When
in doubt, the user is active: missing, stale or contradictory data keeps the workspace running. Not responsible for
gathering signals, giving notice or stopping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from wsctl.model import Activity, ClusterView, PlacementState
from wsctl.signals import NetworkSample, Note
from wsctl.text import human_duration

NOISE_BYTES = 256
"""Sent bytes between two looks that count as traffic, unless a class says otherwise. An idle container answers its
bridge's ARP probes with 42 bytes each, a handful after the last connection; the smallest HTTP exchange sends over 300
(measured on the lab)."""

FIRST_SEEN = "seen"
"""The source that is recorded for who runs without any recorded activity: they are counted from there."""


class Verdict(StrEnum):
    """What becomes of a workspace in a run of the reaper."""

    STOPPED = "stopped"
    WOULD_STOP = "would-stop"
    KEPT = "kept"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class IdleLimits:
    """The rules for one user, in seconds (None: no such rule). `idle_s`: stopped after so long without activity;
    `max_age_s`: stopped so long after the start, whatever happens; `busy_cpus`: cores that count as work; `busy_bytes`:
    sent bytes that count as traffic; `notice_s`: told so long before. `connections`: whether open ones count."""

    idle_s: float | None
    max_age_s: float | None = None
    busy_cpus: float | None = None
    notice_s: float | None = None
    busy_bytes: int | None = NOISE_BYTES
    connections: bool = True


@dataclass(frozen=True, slots=True)
class IdleEvidence:
    """What is known about one workspace: the newest recorded activity, the last sample and the present one, open exec
    sessions, until when an operator wants it kept, since when activity is recorded at all, which notice was given, and
    why the recorded activity can't be relied on. `connections` are those open to its port (None: can't be seen, `blind`
    says why), `unseen` is why they must be seen first, `unasked` why its container wasn't asked in this run."""

    activity: Activity | None
    before: NetworkSample | None = None
    now: NetworkSample | None = None
    execs: int = 0
    keep_until: datetime | None = None
    since: datetime | None = None
    notice: Note | None = None
    stale: str | None = None
    connections: int | None = None
    blind: str | None = None
    unseen: str | None = None
    unasked: str | None = None


@dataclass(frozen=True, slots=True)
class IdleVerdict:
    """The verdict with its reason, and every signal with its source and age in seconds.

    `seen` is the source of activity that was found now and should be recorded. `stops_at`: when the workspace would be
    stopped if nothing happened any more (None: not, or unknown). `notice` is set when the user is to be told now; it
    names the idle period, of which each is told once. `is_for_age`: it is stopped whatever happens.
    """

    user: str
    node: str
    verdict: Verdict
    reason: str
    last_active_at: datetime | None = None
    signals: tuple[Mapping[str, object], ...] = ()
    seen: str | None = None
    stops_at: datetime | None = None
    notice: str | None = None
    is_for_age: bool = False


def needs_look(activity: Activity | None, limits: IdleLimits, now: datetime) -> bool:
    """Whether the container has to be asked: not while half of the limit hasn't passed since the last activity.

    From then on it is: so there are two looks before a stop, and activity between them is noticed.
    """
    if activity is None or limits.idle_s is None:
        return limits.idle_s is not None
    return (now - activity.last_active_at).total_seconds() >= limits.idle_s / 2


def judge_idle(user: str, view: ClusterView, evidence: IdleEvidence, limits: IdleLimits, now: datetime) -> IdleVerdict:
    """Whether a running workspace would be stopped now: `would-stop`, `kept`, or `unknown` (which keeps it too)."""
    placement = view.placements[user]
    last = evidence.activity.last_active_at if evidence.activity is not None else None
    base = IdleVerdict(user, placement.node, Verdict.KEPT, "", last, _signals(evidence, now))
    doubt = _why_not_judged(user, view)
    if doubt is not None:
        return replace(base, verdict=doubt[0], reason=doubt[1])
    started = placement.updated_at if placement.state is PlacementState.RUNNING else None
    ends = None
    if started is not None and limits.max_age_s is not None:
        ends = started + timedelta(seconds=limits.max_age_s)
        if now >= ends:
            reason = f"running for {_ago(now - started)}, max_age {human_duration(limits.max_age_s)}"
            found = replace(base, verdict=Verdict.WOULD_STOP, reason=reason, stops_at=now, is_for_age=True)
            return _with_notice(found, f"age {ends.isoformat()}", evidence, limits, now)
    found = _judge_activity(base, view, evidence, limits, now)
    if ends is not None and (found.stops_at is None or found.stops_at > ends):
        return _with_notice(replace(found, stops_at=ends), f"age {ends.isoformat()}", evidence, limits, now)
    period = f"idle {last.isoformat()}" if last is not None else ""
    return found if found.seen is not None or not period else _with_notice(found, period, evidence, limits, now)


def _judge_activity(
    base: IdleVerdict, view: ClusterView, evidence: IdleEvidence, limits: IdleLimits, now: datetime
) -> IdleVerdict:
    """The verdict by what the user does, without maximum age and notice."""
    if limits.idle_s is None:
        return replace(base, reason="its class is never stopped (idle_after: null)")
    limit = timedelta(seconds=limits.idle_s)
    last = base.last_active_at
    stops_at = max(now, last + limit) if last is not None else None
    kept = replace(base, stops_at=stops_at)
    if evidence.keep_until is not None and evidence.keep_until > now:
        until = evidence.keep_until.strftime("%Y-%m-%d %H:%M UTC")
        return replace(
            kept, reason=f"kept until {until} by an operator", stops_at=max(stops_at or now, evidence.keep_until)
        )
    container_id = _container_id(base.user, view)
    active = _present_activity(evidence, container_id, limits)
    if active is not None:
        source, reason = active
        return replace(base, reason=reason, seen=source, last_active_at=now, stops_at=now + limit)
    if last is not None and evidence.activity is not None and now - last < limit:
        return replace(kept, reason=f"active {_ago(now - last)} ago ({evidence.activity.source}), limit {_ago(limit)}")
    unknown = _unknown(evidence, container_id, limits, now)
    if unknown is not None:
        first = FIRST_SEEN if evidence.activity is None and evidence.now is not None else None
        return replace(base, verdict=Verdict.UNKNOWN, reason=unknown, seen=first)
    if last is None or evidence.activity is None:
        raise AssertionError("unknown activity passed for known")
    reason = f"idle for {_ago(now - last)} (last: {evidence.activity.source}), limit {_ago(limit)}"
    return replace(base, verdict=Verdict.WOULD_STOP, reason=reason, stops_at=now)


def _why_not_judged(user: str, view: ClusterView) -> tuple[Verdict, str] | None:
    placement = view.placements[user]
    node = view.nodes.get(placement.node)
    cut_short = placement.state is PlacementState.STOPPING
    if placement.state is not PlacementState.RUNNING and not cut_short:
        return Verdict.KEPT, f"{placement.state}: an operation is under way or was cut short"
    if node is None or not node.reachable:
        return Verdict.UNKNOWN, f"{placement.node} {'does not answer' if node else 'is not in the inventory'}"
    container = node.container_of(user)
    if container is None or container.generation != placement.container_generation:
        return Verdict.UNKNOWN, "its container is missing"
    if not container.is_running and cut_short:
        return Verdict.WOULD_STOP, "its stop was cut short"
    if not container.is_running:
        return Verdict.UNKNOWN, "its container does not run"
    return None


def _present_activity(evidence: IdleEvidence, container_id: str | None, limits: IdleLimits) -> tuple[str, str] | None:
    """What is going on now, as (source, reason)."""
    if evidence.execs:
        return "exec", f"exec: {evidence.execs} open {'session' if evidence.execs == 1 else 'sessions'}"
    if evidence.connections and limits.connections:
        return "connections", f"connections: {evidence.connections} open to its port"
    grown = _traffic(evidence, container_id)
    if isinstance(grown, int) and limits.busy_bytes is not None and grown >= limits.busy_bytes:
        return "network", f"network: sent {grown} bytes since the last look"
    cores = None if isinstance(grown, str) else _cores(evidence)
    if cores is not None and limits.busy_cpus is not None and cores >= limits.busy_cpus:
        return "cpu", f"cpu: {cores:.2f} cores since the last look, limit {limits.busy_cpus:g}"
    return None


def _unknown(evidence: IdleEvidence, container_id: str | None, limits: IdleLimits, now: datetime) -> str | None:
    """Why somebody who doesn't look active isn't known to be idle."""
    return (
        evidence.unasked
        or _counters_unknown(evidence, container_id, limits)
        or (evidence.unseen if limits.connections else None)
        or _records_unknown(evidence, limits, now)
    )


def _counters_unknown(evidence: IdleEvidence, container_id: str | None, limits: IdleLimits) -> str | None:
    grown = _traffic(evidence, container_id)
    if isinstance(grown, str):
        # Without its counters there are no open sessions either.
        matters = evidence.now is None or limits.busy_bytes is not None or limits.busy_cpus is not None
        return grown if matters else None
    before = evidence.before.cpu_ns if evidence.before is not None else None
    present = evidence.now.cpu_ns if evidence.now is not None else None
    if limits.busy_cpus is None or present is None:
        return None
    if before is None:
        return "first look at its CPU time"
    return "its CPU counter started anew" if present < before else None


def _records_unknown(evidence: IdleEvidence, limits: IdleLimits, now: datetime) -> str | None:
    limit = timedelta(seconds=limits.idle_s or 0.0)
    if evidence.stale is not None:
        return evidence.stale
    if evidence.activity is None:
        return "no activity was ever recorded; it counts from now"
    if evidence.since is None:
        return "it isn't known since when activity is recorded"
    if now - evidence.since < limit:
        return f"activity is recorded for {_ago(now - evidence.since)} only, limit {_ago(limit)}"
    return None


def _traffic(evidence: IdleEvidence, container_id: str | None) -> int | str:
    """Bytes sent since the last look, or why that isn't known."""
    if evidence.now is None:
        return "its network counters can't be read"
    if evidence.before is None or evidence.before.container_id != container_id:
        return "first look at its network counters"
    grown = evidence.now.tx_bytes - evidence.before.tx_bytes
    return grown if grown >= 0 else "its network counters started anew"


def _cores(evidence: IdleEvidence) -> float | None:
    """Cores used on average between the two samples, which are of the same container."""
    before, now = evidence.before, evidence.now
    if before is None or now is None or before.cpu_ns is None or now.cpu_ns is None:
        return None
    span = (now.observed_at - before.observed_at).total_seconds()
    return (now.cpu_ns - before.cpu_ns) / 1e9 / span if span > 0 else None


def _with_notice(
    found: IdleVerdict, period: str, evidence: IdleEvidence, limits: IdleLimits, now: datetime
) -> IdleVerdict:
    """The verdict with the notice that precedes a stop: due, given a moment ago, or given long enough ago."""
    if limits.notice_s is None or found.stops_at is None or found.verdict is Verdict.UNKNOWN:
        return found
    ahead = timedelta(seconds=limits.notice_s)
    given = evidence.notice.noted_at if evidence.notice is not None and evidence.notice.value == period else None
    if given is not None:
        stops_at = max(found.stops_at, given + ahead)
        if found.verdict is not Verdict.WOULD_STOP or now >= stops_at:
            return replace(found, stops_at=stops_at)
        reason = f"{found.reason}; notice given {_ago(now - given)} ago, stops in {_ago(stops_at - now)}"
        return replace(found, verdict=Verdict.KEPT, reason=reason, stops_at=stops_at)
    if now < found.stops_at - ahead:
        return found
    stops_at = max(found.stops_at, now + ahead)
    if found.verdict is Verdict.WOULD_STOP:
        reason = f"{found.reason}; stops {_ago(ahead)} after the notice"
        return replace(found, verdict=Verdict.KEPT, reason=reason, stops_at=stops_at, notice=period)
    return replace(found, stops_at=stops_at, notice=period)


def _container_id(user: str, view: ClusterView) -> str | None:
    node = view.nodes.get(view.placements[user].node)
    container = node.container_of(user) if node is not None else None
    return container.id if container is not None else None


def _signals(evidence: IdleEvidence, now: datetime) -> tuple[Mapping[str, object], ...]:
    """Every signal there is, with its source, its time and its age."""

    def signal(source: str, at: datetime, **more: object) -> Mapping[str, object]:
        return {"source": source, "at": at, "age_s": round((now - at).total_seconds(), 3), **more}

    signals: list[Mapping[str, object]] = []
    if evidence.activity is not None:
        signals.append(signal(evidence.activity.source, evidence.activity.last_active_at))
    before, present = evidence.before, evidence.now
    if before is not None and present is not None:
        signals.append(signal("network", before.observed_at, sent_bytes=present.tx_bytes - before.tx_bytes))
        cores = _cores(evidence) if before.container_id == present.container_id else None
        if cores is not None:
            signals.append(signal("cpu", before.observed_at, cores=round(cores, 3)))
    if evidence.execs:
        signals.append(signal("exec", now, sessions=evidence.execs))
    if evidence.connections:
        signals.append(signal("connections", now, open=evidence.connections))
    elif evidence.blind is not None:
        signals.append({"source": "connections", "at": None, "age_s": None, "unknown": evidence.blind})
    if evidence.keep_until is not None and evidence.keep_until > now:
        signals.append({"source": "keep-alive", "at": None, "age_s": None, "until": evidence.keep_until})
    return tuple(signals)


def _ago(span: timedelta) -> str:
    return human_duration(max(0.0, span.total_seconds()))
