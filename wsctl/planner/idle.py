"""Who is idle, and why: the decision of the reaper, explained for every user.

Responsible for weighing the signals of one workspace into a verdict. When in doubt, the user is active: missing,
stale or contradictory data keeps the workspace running. Not responsible for gathering signals or for stopping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from wsctl.model import Activity, ClusterView, NetworkSample, PlacementState
from wsctl.text import human_duration

NOISE_BYTES = 256
"""Sent bytes between two looks that don't count as traffic. An idle container answers its bridge's ARP probes with 42
bytes each, a handful after the last connection; the smallest HTTP exchange sends over 300 (measured on the lab)."""


class Verdict(StrEnum):
    """What becomes of a workspace in a run of the reaper."""

    STOPPED = "stopped"
    WOULD_STOP = "would-stop"
    KEPT = "kept"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class IdleEvidence:
    """What is known about one workspace: the newest recorded activity, the last network sample and the present one."""

    activity: Activity | None
    before: NetworkSample | None
    now: NetworkSample | None


@dataclass(frozen=True, slots=True)
class IdleVerdict:
    """The verdict with its reason, and every signal with its source and age in seconds.

    `traffic_at` is set when the network counters show activity that should be recorded.
    """

    user: str
    node: str
    verdict: Verdict
    reason: str
    last_active_at: datetime | None = None
    signals: tuple[Mapping[str, object], ...] = ()
    traffic_at: datetime | None = None


def judge_idle(
    user: str, view: ClusterView, evidence: IdleEvidence, idle_after_s: float | None, now: datetime
) -> IdleVerdict:
    """Whether a running workspace would be stopped now: `would-stop`, `kept`, or `unknown` (which keeps it too)."""
    placement = view.placements[user]
    node = view.nodes.get(placement.node)
    doubt = _why_not_judged(user, view, idle_after_s)
    if doubt is not None:
        verdict, reason = doubt
        return IdleVerdict(user, placement.node, verdict, reason)
    container = node.container_of(user) if node is not None else None
    signals = _signals(evidence, now)
    grown = _traffic(evidence, container.id if container is not None else None)
    last = evidence.activity.last_active_at if evidence.activity is not None else None

    def verdict_of(verdict: Verdict, reason: str, *, traffic_at: datetime | None = None) -> IdleVerdict:
        return IdleVerdict(user, placement.node, verdict, reason, traffic_at or last, signals, traffic_at)

    if isinstance(grown, str):
        return verdict_of(Verdict.UNKNOWN, grown)
    if grown >= NOISE_BYTES:
        return verdict_of(Verdict.KEPT, f"network: sent {grown} bytes since the last look", traffic_at=now)
    if evidence.activity is None or last is None:
        return verdict_of(Verdict.UNKNOWN, "no activity was ever recorded")
    idle = now - last
    limit = timedelta(seconds=idle_after_s or 0.0)
    source = evidence.activity.source
    if idle < limit:
        return verdict_of(Verdict.KEPT, f"active {_ago(idle)} ago ({source}), limit {_ago(limit)}")
    return verdict_of(Verdict.WOULD_STOP, f"idle for {_ago(idle)} (last: {source}), limit {_ago(limit)}")


def _why_not_judged(user: str, view: ClusterView, idle_after_s: float | None) -> tuple[Verdict, str] | None:
    placement = view.placements[user]
    node = view.nodes.get(placement.node)
    if placement.state is not PlacementState.RUNNING:
        return Verdict.KEPT, f"{placement.state}: an operation is under way or was cut short"
    if idle_after_s is None:
        return Verdict.KEPT, "its class is never stopped (idle_after: null)"
    if node is None or not node.reachable:
        return Verdict.UNKNOWN, f"{placement.node} {'does not answer' if node else 'is not in the inventory'}"
    container = node.container_of(user)
    if container is None or container.generation != placement.container_generation:
        return Verdict.UNKNOWN, "its container is missing"
    if not container.is_running:
        return Verdict.UNKNOWN, "its container does not run"
    return None


def _traffic(evidence: IdleEvidence, container_id: str | None) -> int | str:
    """Bytes sent since the last look, or why that isn't known."""
    if evidence.now is None:
        return "its network counters can't be read"
    if evidence.before is None or evidence.before.container_id != container_id:
        return "first look at its network counters"
    grown = evidence.now.tx_bytes - evidence.before.tx_bytes
    return grown if grown >= 0 else "its network counters started anew"


def _signals(evidence: IdleEvidence, now: datetime) -> tuple[Mapping[str, object], ...]:
    signals: list[Mapping[str, object]] = []
    if evidence.activity is not None:
        age = (now - evidence.activity.last_active_at).total_seconds()
        signals.append(
            {"source": evidence.activity.source, "at": evidence.activity.last_active_at, "age_s": round(age, 3)}
        )
    if evidence.before is not None and evidence.now is not None:
        since = evidence.before.observed_at
        grown = evidence.now.tx_bytes - evidence.before.tx_bytes
        age = (now - since).total_seconds()
        signals.append({"source": "network", "at": since, "age_s": round(age, 3), "sent_bytes": grown})
    return tuple(signals)


def _ago(span: timedelta) -> str:
    return human_duration(max(0.0, span.total_seconds()))
