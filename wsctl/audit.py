"""What an operation leaves in the audit table: who, what, the plan, before and after, the outcome.

Responsible for: the entries of one work on one target, and placements as JSON-able values and back. Not responsible
for: when the entries of a workflow are written (`executor`: with the first effect, and with the last), nor for storing
them (`store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from wsctl.errors import BackendError, WsctlError
from wsctl.model import Placement, PlacementState, Resources
from wsctl.plan import Work
from wsctl.records import Actor, AuditEntry, AuditKind


def _new_id() -> str:
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class Auditor:
    """Who acts with which verb, and under which request id. `new_id` names operations."""

    verb: str
    actor: Actor
    request_id: str | None = None
    new_id: Callable[[], str] = _new_id

    def trail(self, work: Work, before: Placement | None) -> Trail:
        """The entries of one work, which was decided on the placement `before`."""
        return Trail(self, work, before, self.new_id())


@dataclass(slots=True)
class Ending:
    """What will be recorded of the end of something: the placement that it led to, and words about it."""

    after: Placement | None
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trail:
    """The audit entries of one work: its intent, and how it ended."""

    auditor: Auditor
    work: Work
    before: Placement | None
    operation: str

    def intent(self) -> AuditEntry:
        """What is about to be done."""
        return self._entry(AuditKind.INTENT, plan="\n".join(step.line() for step in self.work.steps))

    def done(self, after: Placement | None) -> AuditEntry:
        """It was done, and led to the placement `after`."""
        return self._entry(AuditKind.DONE, after=placement_values(after))

    def failed(self, error: WsctlError, after: Placement | None) -> AuditEntry:
        """It ended with an error; `after` is the placement as far as it is known."""
        return self._entry(AuditKind.FAILED, after=placement_values(after), detail=f"{error.code}: {error.message}")

    @contextmanager
    def recorded(
        self, append: Callable[[Sequence[AuditEntry]], None], *, plan: str = "", after: Placement | None = None
    ) -> Iterator[Ending]:
        """The intent before the block, how it ended after it; the block may add to that.

        Raises what `append` raises: who can't write the intent doesn't get into the block. A failure of the block comes
        through even if it can't be recorded any more; the intent without an outcome tells of it then.
        """
        ending = Ending(after)
        append([replace(self.intent(), plan=plan)])
        try:
            yield ending
        except WsctlError as error:
            with suppress(BackendError):
                append([self.failed(error, ending.after)])
            raise
        append([replace(self.done(ending.after), detail="; ".join(ending.words))])

    def _entry(
        self, kind: AuditKind, *, plan: str = "", after: Mapping[str, object] | None = None, detail: str = ""
    ) -> AuditEntry:
        return AuditEntry(
            kind=kind,
            verb=self.auditor.verb,
            target=self.work.target,
            actor=self.auditor.actor,
            operation=self.operation,
            action=self.work.action,
            plan=plan,
            before=placement_values(self.before) if kind is AuditKind.INTENT else None,
            after=after,
            detail=detail,
            request_id=self.auditor.request_id,
        )


@contextmanager
def recorded_together(
    works: Sequence[tuple[Trail, str]], append: Callable[[Sequence[AuditEntry]], None]
) -> Iterator[None]:
    """As `Trail.recorded`, for several works that are done as one, each with its plan: two writes in all."""
    append([replace(trail.intent(), plan=plan) for trail, plan in works])
    try:
        yield
    except WsctlError as error:
        with suppress(BackendError):
            append([trail.failed(error, None) for trail, _ in works])
        raise
    append([trail.done(None) for trail, _ in works])


def placement_values(placement: Placement | None) -> dict[str, object] | None:
    """A placement as values that JSON has."""
    if placement is None:
        return None
    return {
        "user": placement.user,
        "node": placement.node,
        "address": placement.address,
        "host_port": placement.host_port,
        "state": placement.state.value,
        "generation": placement.generation,
        "container_generation": placement.container_generation,
        "memory_bytes": placement.resources.memory_bytes,
        "cpus_milli": placement.resources.cpus_milli,
        "pids": placement.resources.pids,
        "class": placement.workspace_class,
        "created_at": _text(placement.created_at),
        "updated_at": _text(placement.updated_at),
    }


def placement_of(values: Mapping[str, Any] | None) -> Placement | None:
    """The placement that `placement_values` made values of. Raises KeyError or ValueError for anything else."""
    if values is None:
        return None
    return Placement(
        user=values["user"],
        node=values["node"],
        address=values["address"],
        host_port=int(values["host_port"]),
        state=PlacementState(values["state"]),
        generation=int(values["generation"]),
        container_generation=int(values["container_generation"]),
        resources=Resources(int(values["memory_bytes"]), int(values["cpus_milli"]), int(values["pids"])),
        workspace_class=values["class"],
        created_at=_time(values["created_at"]),
        updated_at=_time(values["updated_at"]),
    )


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
