"""Rows of the state database as values of the model.

Responsible for: the columns of each table in one place, and for noticing a row that nothing in wsctl can have written.
Not responsible for: statements or transactions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from wsctl.errors import BackendError
from wsctl.model import DamagedPlacement, NodeMark, NodeState, Placement, PlacementState, Resources, is_user_id
from wsctl.records import Actor, AuditEntry, AuditKind, AuditRow
from wsctl.spots import Spot
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
    problem = _impossible(user, node, port, (generation, container_generation), (memory, cpus, pids))
    if problem is not None:
        raise _damaged("placements", user, problem)
    try:
        return Placement(
            user, node, address, port, known, generation, container_generation, Resources(memory, cpus, pids), kind,
            when(created), when(updated),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise _damaged("placements", user, str(error)) from error


def generation(row: Row) -> int:
    """A row (user, generation). Raises BackendError naming the user if that can't be one."""
    user, number = row
    if type(number) is not int or number < 1:
        raise _damaged("placements", user, "not a generation")
    return number


def _impossible(user: Any, node: Any, port: Any, generations: tuple[Any, ...], takes: tuple[Any, ...]) -> str | None:
    """What no placement can have, if there is something. Columns hold any type when a row was made by hand."""
    if type(user) is not str:
        return "not a name"
    if type(node) is not str or not node:
        return "no node"
    if not is_port(port):
        return f"not a port: {port!r}"
    if not all(type(one) is int and one >= 1 for one in generations):
        return "not a generation"
    if not all(type(one) is int and one >= 0 for one in takes):
        return "not an amount of memory, CPU or processes"
    return None


def is_port(value: object) -> bool:
    """Whether a column holds a port."""
    return type(value) is int and 0 < value < 65536


def placement_or_damage(row: Row, when: DecodeTime) -> Placement | DamagedPlacement:
    """A row of `PLACEMENT_COLUMNS`, or what is left of it. A user that can't be one is damage, too: their name would
    become a path."""
    user, node, _, port = row[:4]
    try:
        good = placement(row, when)
        if is_user_id(good.user):
            return good
        error = _damaged("placements", user, "not a user id")
    except BackendError as found:
        error = found
    return DamagedPlacement(
        str(user),
        error.message,
        node if isinstance(node, str) and node else None,
        port if is_port(port) else None,
    )


def spots(found: Iterable[Row]) -> tuple[list[Spot], list[DamagedPlacement]]:
    """Rows (user, node, address, port, state), and those of them that say no place."""
    good: list[Spot] = []
    damaged: list[DamagedPlacement] = []
    for user, node, address, port, state in found:
        known = _PLACEMENT_STATES.get(state)
        if known is not None and type(user) is str and type(node) is str and node and is_port(port):
            good.append(Spot(user, node, address, port, known))
            continue
        problem = _impossible(user, node, port, (), ()) or f"unknown state {state!r}"
        damaged.append(DamagedPlacement(str(user), _damaged("placements", user, problem).message))
    return good, damaged


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
