"""Rows of the state database as values of the model.

Responsible for: the columns of each table in one place, and for noticing a row that nothing in wsctl can have written.
Not responsible for: statements or transactions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from wsctl.errors import BackendError
from wsctl.model import NodeMark, NodeState, Placement, PlacementState, Resources
from wsctl.records import Actor, AuditEntry, AuditKind, AuditRow
from wsctl.store.database import Row, utc

PLACEMENT_COLUMNS = (
    "user, node, address, host_port, state, generation, container_generation, memory_bytes, cpus_milli, pids, "
    "workspace_class, created_at, updated_at"
)
_PLACEMENT_STATES = {state.value: state for state in PlacementState}
_NODE_STATES = {state.value: state for state in NodeState}
DecodeTime = Callable[[Any], datetime]


def placement(row: Row, when: DecodeTime) -> Placement:
    """A row of `PLACEMENT_COLUMNS`. Raises BackendError naming the user if the row can't be right."""
    user, node, address, port, state, generation, container_generation, memory, cpus, pids, kind, created, updated = row
    known = _PLACEMENT_STATES.get(state)
    if known is None:
        raise _damaged("placements", user, f"unknown state {state!r}")
    try:
        return Placement(
            user, node, address, port, known, generation, container_generation, Resources(memory, cpus, pids), kind,
            when(created), when(updated),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _damaged("placements", user, str(error)) from error


def node_mark(row: Row, when: DecodeTime) -> NodeMark:
    """A row (node, state, reason, changed_at, changed_by). Raises BackendError if it can't be right."""
    node, state, reason, changed_at, changed_by = row
    known = _NODE_STATES.get(state)
    if known is None:
        raise _damaged("node_marks", node, f"unknown state {state!r}")
    return NodeMark(known, reason, when(changed_at), changed_by)


def audit_row(row: Row, when: DecodeTime) -> AuditRow:
    """A row of `chain.COLUMNS`. Raises BackendError if it can't be right."""
    target, sequence, at, kind, verb, action, os_user, sudo_user, ssh_origin, process, operation, request_id, *rest = (
        row
    )
    plan, before, after, detail, digest = rest
    try:
        actor = Actor(os_user, sudo_user, ssh_origin, process)
        entry = AuditEntry(
            AuditKind(kind), verb, target, actor, operation, action, plan, _state(before), _state(after), detail,
            request_id,
        )  # fmt: skip
        return AuditRow(entry, sequence, utc(when(at)), digest)
    except (TypeError, ValueError) as error:
        raise BackendError(
            f"the state database has a damaged row: {target!r} number {sequence} in table audit: {error}",
            hint="see what else was changed: wsctl audit --verify",
        ) from error


def _state(text: str | None) -> Mapping[str, object] | None:
    if text is None:
        return None
    state = json.loads(text)
    if not isinstance(state, dict):
        raise TypeError(f"a state that is {text[:100]!r}")
    return state


def _damaged(table: str, key: object, why: str) -> BackendError:
    return BackendError(
        f"the state database has a damaged row: {key!r} in table {table}: {why}",
        hint="correct that row by hand, or restore a backup",
    )
