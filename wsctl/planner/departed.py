"""What dead callers leave besides placements: leases that nobody will give back, requests without an end.

Responsible for: telling them from those somebody still works with. Not responsible for: finding out who is dead, nor
for taking anything away (`wsctl.departed`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from wsctl.model import LeaseInfo
from wsctl.planner.difference import Difference, Kind
from wsctl.records import AuditEntry, AuditKind, AuditRow, RequestRecord
from wsctl.text import human_duration

USER_LEASE, REQUEST_LEASE = "user:", "request:"
OLD_S = 86_400.0
"""Nothing that wsctl does takes a day: who holds a lease that long, and still renews it, hangs."""


def left_lease(lease: LeaseInfo, *, is_gone: bool) -> Difference | None:
    """What is wrong with a lease that is held; None if nothing is. `is_gone`: its holder was a process of this machine
    that is no more. Safe to take away, for a lease protects nothing that a generation doesn't protect too."""
    user = lease.name.removeprefix(USER_LEASE) if lease.name.startswith(USER_LEASE) else None
    held = f"the lease {lease.name} of {lease.holder} ({lease.command})"
    if lease.endless:
        return Difference(Kind.LEFT_LEASE, user, None, f"{held} never runs out: wsctl made none such", "broken")
    if is_gone:
        return Difference(Kind.LEFT_LEASE, user, None, f"{held} is held by a process that is no more", "broken")
    # Until it runs out rather than until now: renewed all the time, it is the same, and by the same clock.
    held_s = (lease.expires_at - lease.acquired_at).total_seconds()
    if held_s < OLD_S:
        return None
    fix = f"wsctl lease break {lease.name}   # if that command hangs"
    return Difference(Kind.LEFT_LEASE, user, None, f"{held} is held for {human_duration(held_s)}", fix, safe=False)


def open_intents(rows: Sequence[AuditRow]) -> list[AuditEntry]:
    """The intents among the audit rows that have no end: what their caller died over."""
    ended = {row.entry.operation for row in rows if row.entry.kind is not AuditKind.INTENT}
    return [e for e in (row.entry for row in rows) if e.kind is AuditKind.INTENT and e.operation not in ended]


def left_requests(
    unanswered: Mapping[str, tuple[RequestRecord, Sequence[AuditRow]]], leased: Collection[str]
) -> dict[str, Difference]:
    """The requests that were cut off, by id: begun, not ended, and nobody holds their lease.

    One that failed was ended, and one that never began anything left nothing: either may be asked for again any time.
    """
    found = {}
    for request_id, (record, rows) in sorted(unanswered.items()):
        begun = sorted({entry.target for entry in open_intents(rows)})
        if not begun or f"{REQUEST_LEASE}{request_id}" in leased:
            continue
        detail = (
            f"the request {request_id} ({record.verb}, by {record.who}, {record.began_at:%Y-%m-%d %H:%M:%S} UTC) "
            f"was cut off at {', '.join(begun)}"
        )
        user = begun[0] if len(begun) == 1 else None
        found[request_id] = Difference(
            Kind.LEFT_REQUEST, user, None, detail, "its end is recorded; the same request finishes what is left"
        )
    return found
