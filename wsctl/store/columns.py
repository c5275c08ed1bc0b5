"""The columns that a portable copy of a cluster's state has: their kinds, and what may stand in them.

Responsible for: which tables and columns are copied, and for refusing values that no table of wsctl can hold, in both
directions. Not responsible for: statements (`portable`), nor for the file they travel in (`wsctl.statefile`). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wsctl.errors import BackendError
from wsctl.model import DamagedPlacement, NodeState, is_user_id
from wsctl.store.database import Dialect, utc
from wsctl.store.rows import placement_or_damage

NAME_LIMIT = 255
BIGGEST = 2**63 - 1

Record = dict[str, Any]
"""A row as JSON has it: column to text, number or None; times are ISO 8601 in UTC."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `kind` is name (at most 255 characters), text, int or time."""

    name: str
    kind: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the columns of its primary key (after `cluster`), and all that are copied."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> str:
        """The columns as SQL lists them."""
        return ", ".join(column.name for column in self.columns)


def _table(name: str, key: str, columns: str) -> Table:
    found = []
    for word in columns.split():
        column, _, kind = word.partition(":")
        found.append(Column(column, kind.removesuffix("?") or "name", kind.endswith("?")))
    return Table(name, tuple(key.split()), tuple(found))


TABLES = {
    table.name: table
    for table in (
        _table(
            "placements",
            "user",
            "user node address host_port:int state generation:int container_generation:int memory_bytes:int "
            "cpus_milli:int pids:int workspace_class created_at:time updated_at:time",
        ),
        # What is taken on a node is counted anew: it follows from the placements.
        _table("node_usage", "node", "node last_port:int? placed_at:time? route_changes:int"),
        _table("node_marks", "node", "node state reason:text changed_at:time changed_by"),
        _table("homes", "user", "user node since:time"),
        _table("activity", "user", "user last_active_at:time source"),
        _table("samples", "user", "user container_id tx_bytes:int observed_at:time cpu_ns:int?"),
        _table("retired", "user", "user generation:int"),
        _table("notes", "topic subject", "topic subject value:text noted_at:time"),
        _table("kept_copies", "user node number", "user node number:int state since:time expires_at:time?"),
        _table(
            "standbys",
            "user node",
            "user node source generation:int seen_at:int as_of:time? finished_at:time? bytes:int?",
        ),
        _table(
            "left_files",
            "user node generation",
            "user node generation:int seen_at:int state left_at:time newer_files:int? newer_bytes:int?",
        ),
        _table(
            "audit",
            "target sequence",
            "target sequence:int at:time kind verb action os_user sudo_user:? ssh_origin:? process operation "
            "request_id:? plan:text before_state:text? after_state:text? detail:text digest",
        ),
        _table("audit_heads", "target", "target sequence:int digest at:time"),
    )
}
"""What is copied, in the order of the file. Leases, slots, request ids, moves, reports against
nodes and what watchers saw aren't: they are about the moment."""


def problem(table: Table, record: Mapping[str, Any]) -> str | None:
    """What no row of the table can have; None if the record can be one."""
    if set(record) != {column.name for column in table.columns}:
        return "its columns aren't those of the table"
    for column in table.columns:
        why = _wrong(column, record[column.name])
        if why is not None:
            return f"{column.name}: {why}"
    # The activity of nobody says since when there is activity at all.
    of_nobody = table.name == "activity" and record.get("user") == ""
    if "user" in record and not of_nobody and not is_user_id(record["user"]):
        return "user: not a user id"
    if table.name == "node_marks" and record["state"] not in {state.value for state in NodeState}:
        return "state: unknown"
    if table.name == "placements":
        row = tuple(record[column.name] for column in table.columns)
        found = placement_or_damage(row, datetime.fromisoformat)
        if isinstance(found, DamagedPlacement):
            return found.problem
    return None


def _wrong(column: Column, value: object) -> str | None:
    if value is None:
        return None if column.nullable else "empty"
    if column.kind == "int":
        biggest = 65535 if column.name.endswith("port") else BIGGEST
        return None if type(value) is int and 0 <= value <= biggest else "not such a number"
    if not isinstance(value, str):
        return "not a text"
    if column.kind == "time":
        return _wrong_time(value)
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        return "not a text that a database can store"
    return "too long" if column.kind == "name" and len(value) > NAME_LIMIT else None


def _wrong_time(text: str) -> str | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return "not a time"
    return None if moment.tzinfo is not None and moment.year >= 1970 else "not a time in UTC"


def to_record(table: Table, row: tuple[Any, ...], dialect: Dialect) -> Record:
    """A row of `table.names`. Raises `BackendError` naming a row that nothing in wsctl can have written."""
    record: Record = {}
    why: str | None = None
    for column, value in zip(table.columns, row, strict=True):
        record[column.name] = value
        if column.kind == "time" and value is not None:
            try:
                record[column.name] = utc(dialect.decode_time(value)).isoformat(timespec="microseconds")
            except (TypeError, ValueError, AttributeError):
                why = f"{column.name}: not a time"
    why = why or problem(table, record)
    if why is not None:
        key = " ".join(str(record[name]) for name in table.key)
        raise BackendError(
            f"the state database has a damaged row: {key!r} in table {table.name}: {why}",
            hint="correct that row by hand, then run the command again",
        )
    return record


def to_values(table: Table, record: Record, dialect: Dialect) -> list[object]:
    """A record that has no `problem`, as the parameters of a statement."""
    return [
        dialect.encode_time(utc(datetime.fromisoformat(record[column.name])))
        if column.kind == "time" and record[column.name] is not None
        else record[column.name]
        for column in table.columns
    ]
