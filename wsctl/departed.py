"""Taking away what dead callers left: their leases, and requests that never ended.

Responsible for: looking for both, and for breaking the ones and ending the others, with audit rows. Not responsible
for: which of them are left behind (`planner.departed`), nor for users' workspaces (`reconciler`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from wsctl.audit import Auditor
from wsctl.model import LeaseInfo
from wsctl.plan import Work
from wsctl.planner.departed import left_lease, left_requests, open_intents
from wsctl.planner.difference import Difference
from wsctl.records import AuditEntry, AuditKind
from wsctl.workflow import World


class Departed:
    """One run. `is_gone` says of a lease's holder that it was a process of this machine and is no more."""

    def __init__(self, world: World, is_gone: Callable[[str], bool], request_id: str | None = None) -> None:
        self._world = world
        self._is_gone = is_gone
        self._auditor = Auditor("reconcile", world.actor, request_id)
        self._leases: dict[Difference, LeaseInfo] = {}
        self._requests: dict[Difference, str] = {}

    def look(self, held: Sequence[LeaseInfo], users: Collection[str] | None = None) -> list[Difference]:
        """Everything that is left; with `users`, the leases of these users only."""
        judged = {lease: left_lease(lease, is_gone=self._is_gone(lease.holder)) for lease in held}
        self._leases = {
            found: lease
            for lease, found in judged.items()
            if found is not None and (users is None or found.user in users)
        }
        found = list(self._leases)
        if users is None:
            living = {lease.name for lease in held} - {lease.name for d, lease in self._leases.items() if d.safe}
            self._requests = {d: name for name, d in self._cut_off(living).items()}
            found += self._requests
        return found

    def is_dead(self, lease: LeaseInfo) -> bool:
        """Whether `look` found that the lease may be taken away: then nobody acts under it."""
        return any(difference.safe and _same(other, lease) for difference, other in self._leases.items())

    def break_lease(self, difference: Difference) -> bool:
        """Take the lease away; False if it is gone, or somebody else's, by now."""
        was = self._leases[difference]
        if not any(_same(lease, was) for lease in self._world.leases.ls()):
            return False
        trail = self._auditor.trail(Work(was.name, "broken"), None)
        self._world.store.append_audit([trail.intent()])
        broken = self._world.leases.break_lease(was.name)
        self._world.store.append_audit([trail.done(None)])
        return broken

    def end_request(self, difference: Difference, unsettled: Collection[str]) -> bool:
        """Record that what the request began was cut off; False if somebody works on it again, or has ended it.

        Not before everybody whom it was about is settled: until then, it is a trace of what happened to them.
        """
        request_id = self._requests[difference]
        held = {lease.name for lease in self._world.leases.ls()}
        if request_id not in self._cut_off(held, request_id):
            return False
        begun = open_intents(self._world.store.audit(request_id=request_id))
        if any(entry.target in unsettled for entry in begun):
            return False
        self._world.store.append_audit([self._end(entry) for entry in begun])
        return True

    def _end(self, begun: AuditEntry) -> AuditEntry:
        return AuditEntry(
            kind=AuditKind.FAILED,
            verb=begun.verb,
            target=begun.target,
            actor=self._world.actor,
            operation=begun.operation,
            action=begun.action,
            detail="cut-off: its caller died; ended by reconcile",
            request_id=begun.request_id,
        )

    def _cut_off(self, leased: Collection[str], request_id: str | None = None) -> dict[str, Difference]:
        """Those that were cut off, or that one, if it was."""
        store = self._world.store
        found = store.unanswered_requests(request_id)
        return left_requests({r.request_id: (r, store.audit(request_id=r.request_id)) for r in found}, leased)


def _same(lease: LeaseInfo, was: LeaseInfo) -> bool:
    return (lease.name, lease.holder) == (was.name, was.holder)
