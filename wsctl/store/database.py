"""What the SQL of this package asks of a database, whichever it is.

Responsible for: the seam between the statements (`placements`, `audit`, `leases`, `migrations`, …) and the drivers
(`sqlite`, `mysql`): sessions, transactions, and the few places where the two kinds of SQL differ. Not responsible for:
any statement about a noun of wsctl. Standard library only; no driver is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Duplicate(Exception):
    """A unique key said no. `key` ends with the last column of the key that did; nothing was changed."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Raced(Exception):
    """Undo the transaction and look again: what it was going by has changed."""


class AlreadyThere(Exception):
    """A DDL statement found its work done. Means success only where the step is known to have been begun before."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database spells what isn't common SQL. Statements are written with `?`; drivers translate.

    `now` is the current time of the database (SQLite: of the injected clock), `later` the time that many microseconds
    (one `?`, which may be negative) from now. `locked` ends a SELECT whose rows stay as they are until the transaction
    ends (SQLite: whoever writes is alone anyway). `macros` are the types of the schema files; they are frozen like the
    files themselves: a new meaning gets a new name. `ddl_commits` says that a CREATE TABLE can't be undone by a
    rollback.
    """

    name: str
    now: str
    later: str
    locked: str
    macros: dict[str, str]
    encode_time: Callable[[datetime], object]
    decode_time: Callable[[Any], datetime]
    tables: str
    upserts_by_conflict: bool
    ddl_commits: bool

    def upsert(
        self,
        table: str,
        keys: Sequence[str],
        columns: Sequence[str],
        *,
        rows: int = 1,
        newest: str | None = None,
        stamp: str | None = None,
    ) -> str:
        """An INSERT of `rows` rows that replaces rows of the same primary key.

        `stamp` names a further column that gets the database's time. `newest` names a column: the stored row stays
        unless the new one is greater there. Only for tables whose sole unique key is the primary key: otherwise MySQL
        would rewrite somebody else's row.
        """
        names = [*keys, *columns]
        row = marks(len(names))
        if stamp:
            names, columns, row = [*names, stamp], [*columns, stamp], f"{row}, {self.now}"
        values = ", ".join([f"({row})"] * rows)
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES {values} "
        if self.upserts_by_conflict:
            sets = ", ".join(f"{c} = excluded.{c}" for c in columns)
            only = f" WHERE excluded.{newest} > {table}.{newest}" if newest else ""
            return f"{insert}ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}{only}"
        # MySQL assigns from left to right: the compared column has to change last.
        ordered = [c for c in columns if c != newest] + ([newest] if newest else [])
        if newest:
            sets = ", ".join(f"{c} = IF(VALUES({newest}) > {newest}, VALUES({c}), {c})" for c in ordered)
        else:
            sets = ", ".join(f"{c} = VALUES({c})" for c in ordered)
        return f"{insert}ON DUPLICATE KEY UPDATE {sets}"


class Session(Protocol):
    """One transaction's view of the database."""

    def execute(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run a statement; the number of rows it matched. Raises `Duplicate`."""

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """The rows of a SELECT."""


class Database(Protocol):
    """A database that wsctl keeps its state in. Safe to use from several threads.

    All methods raise `BackendError`: with "outcome unknown" in its message if the connection was lost at COMMIT, and
    otherwise with the certainty that nothing was changed.
    """

    dialect: Dialect

    def read(self, work: Callable[[Session], T]) -> T:
        """Call `work` to read. No transaction: each statement sees what was committed when it began."""

    def write(self, work: Callable[[Session], T]) -> T:
        """Call `work` in one transaction and commit it durably; any exception of `work` undoes it and is raised.

        `work` may be called again after a deadlock, so it must have no effect but through its session.
        """

    def apply(self, sql: str, params: Sequence[object] = ()) -> int:
        """One statement as a transaction of its own, in one round trip; the number of rows it matched.

        Only for statements that may run twice without harm: a lost connection makes it run again. Raises `Duplicate`.
        """

    def snapshot(self, work: Callable[[Session], T]) -> T:
        """Call `work` to read everything as it is at one moment, however long it takes; nothing can be written."""

    def schema_lock(self, work: Callable[[Session], T]) -> T:
        """Call `work` while no other process changes the schema. Not a transaction on MySQL, whose DDL commits."""

    def sibling(self) -> Database:
        """The same data for leases: independent of this one's waits, and commits may be lost in a power cut. May be
        this very object where that makes no difference; otherwise the caller closes it."""

    def close(self) -> None:
        """Give up the connections."""


def utc(moment: datetime) -> datetime:
    """`moment` in UTC. Raises ValueError for one without a time zone, which would be a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"a time without a time zone: {moment}")
    return moment.astimezone(UTC)


def marks(count: int) -> str:
    """`count` placeholders for an IN list."""
    return ", ".join("?" * count)


def micros(seconds: float) -> int:
    """`seconds` as the whole microseconds that `Dialect.later` takes."""
    return int(seconds * 1_000_000)


def key(text: str, limit: int | None = None) -> str:
    """`text` as part of a key: clean, and without spaces at its end, which MySQL compares as if they weren't there."""
    return clean(text, limit).rstrip(" ")


def clean(text: str, limit: int | None = None) -> str:
    """`text` as any database can store it: no lone surrogates (from odd file names and arguments), no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")[:limit]
