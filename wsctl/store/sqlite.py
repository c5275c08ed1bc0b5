"""SQLite as the state database: one file, one connection, full durability.

Responsible for: opening, pragmas, transactions, and saying in wsctl's words what SQLite complains about. Not
responsible for: which statements are run. Safe between threads by a lock, between processes by SQLite's own locks;
not made for network file systems.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from wsctl.errors import BackendError, SchemaError
from wsctl.store.database import Database, Dialect, Duplicate, Row, Session

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
_UNIQUE = "UNIQUE constraint failed: "


def encode_time(moment: datetime) -> str:
    """Fixed width, so that text order is time order."""
    return moment.isoformat(sep=" ", timespec="microseconds")


DIALECT = Dialect(
    name="sqlite",
    now="utc_now()",
    later="utc_later(?)",
    locked="",
    macros={
        "name": "TEXT",
        "text": "TEXT",
        "longtext": "TEXT",
        "time": "TEXT",
        "int": "INTEGER",
        "bigint": "INTEGER",
        "options": "WITHOUT ROWID",
    },
    encode_time=encode_time,
    decode_time=datetime.fromisoformat,
    tables="SELECT name FROM sqlite_master WHERE type = 'table'",
    upserts_by_conflict=True,
    ddl_commits=False,
)


class _Session:
    """Statements on a connection whose lock the caller holds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[object] = ()) -> int:
        try:
            return self._connection.execute(sql, params).rowcount
        except sqlite3.IntegrityError as error:
            if str(error).startswith(_UNIQUE):
                raise Duplicate(str(error).removeprefix(_UNIQUE)) from error
            raise

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()


class SqliteDatabase:
    """A `Database` in a file (or, `path` None, in memory). See `open_sqlite`."""

    dialect = DIALECT

    def __init__(
        self, connection: sqlite3.Connection, path: Path | None, now: Callable[[], datetime], *, writable: bool
    ) -> None:
        self.path = path
        self._now = now
        self._writable = writable
        self._connection = connection
        self._session = _Session(connection)
        self._lock = threading.RLock()

    def read(self, work: Callable[[Session], T]) -> T:
        with self._lock:
            try:
                return work(self._session)
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def write(self, work: Callable[[Session], T]) -> T:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                result = work(self._session)
            except BaseException as error:
                self._undo()
                if isinstance(error, sqlite3.Error):
                    raise self._explain(error) from error
                raise
            self._commit()
            return result

    def apply(self, sql: str, params: Sequence[object] = ()) -> int:
        return self.read(lambda session: session.execute(sql, params))

    def snapshot(self, work: Callable[[Session], T]) -> T:
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                return work(self._session)
            except sqlite3.Error as error:
                raise self._explain(error) from error
            finally:
                self._undo()

    def schema_lock(self, work: Callable[[Session], T]) -> T:
        return self.write(work)

    def refuse_writes(self) -> None:
        """From now on every write fails: what reads or rehearses must leave no trace."""
        self._connection.execute("PRAGMA query_only = ON")
        self._writable = False

    def sibling(self) -> Database:
        if self.path is None:
            return self
        return open_sqlite(self.path, now=self._now, writable=self._writable, durable=False)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            problem = self._explain(error)
            if _code(error) == sqlite3.SQLITE_IOERR:
                problem = BackendError(f"{problem.message}; outcome unknown", hint=problem.hint)
            raise problem from error
        except BaseException:
            self._undo()
            raise

    def _explain(self, error: sqlite3.Error) -> BackendError:
        if _code(error) == sqlite3.SQLITE_READONLY and not self._writable:
            name = self.path or "the in-memory database"
            return BackendError(
                f"state database {name}: it was opened for reading only",
                hint="that is a bug of wsctl: please report it",
            )
        return explain(error, self.path)

    def _undo(self) -> None:
        if self._connection.in_transaction:
            # With a failed disk even this fails; closing undoes it too, and the first error is the one to tell.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def open_sqlite(
    path: Path | None, *, now: Callable[[], datetime] | None = None, writable: bool = True, durable: bool = True
) -> SqliteDatabase:
    """Open the file at `path`, making it if it is absent and `writable`; if not, any write fails.

    `durable` False lets the last commits be lost (never torn) in a power cut: right for leases only. `now` is the
    clock. Raises BackendError with what is in the way.
    """
    now = now or _system_now
    try:
        connection = _connect(path, writable)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    try:
        _prepare(connection, now, writable=writable, durable=durable)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise explain(error, path) from error
        raise
    return SqliteDatabase(connection, path, now, writable=writable)


def _system_now() -> datetime:
    return datetime.now(UTC)


def _connect(path: Path | None, create: bool) -> sqlite3.Connection:
    target = ":memory:" if path is None else f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}"
    return sqlite3.connect(
        target, uri=path is not None, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )


def _prepare(connection: sqlite3.Connection, now: Callable[[], datetime], *, writable: bool, durable: bool) -> None:
    connection.create_function("utc_now", 0, lambda: encode_time(now()))
    connection.create_function("utc_later", 1, lambda us: encode_time(now() + timedelta(microseconds=us)))
    if not writable:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA schema_version")  # touches the file, so that a wrong one is noticed here
        return
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # Changing the mode doesn't wait for others by itself: two first uses of one file meet here.
            if _code(error) == sqlite3.SQLITE_READONLY:
                return
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for errors that Python raised by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def explain(error: sqlite3.Error, path: Path | None) -> BackendError:
    """The error an operator can act upon."""
    name = str(path) if path else "the in-memory database"
    code = _code(error)
    if code == sqlite3.SQLITE_ERROR and str(error).startswith(("no such table", "no such column")):
        return SchemaError(f"state database {name}: {error}", hint="check it: wsctl db version")
    if code == sqlite3.SQLITE_CANTOPEN and path is not None:
        return _cannot_open(path)
    known = {
        sqlite3.SQLITE_BUSY: ("another process holds it for more than 10 s", "see who has it open: fuser -v {}"),
        sqlite3.SQLITE_LOCKED: ("another process holds it for more than 10 s", "see who has it open: fuser -v {}"),
        sqlite3.SQLITE_READONLY: ("it can't be written to", "check its owner and mode, and its folder's: ls -la {}"),
        sqlite3.SQLITE_PERM: ("access denied", "check its owner and mode: ls -la {}"),
        sqlite3.SQLITE_AUTH: ("access denied", "check its owner and mode: ls -la {}"),
        sqlite3.SQLITE_FULL: ("the disk is full; nothing was changed", "make room, then run the command again"),
        sqlite3.SQLITE_NOTADB: ("it isn't an SQLite database", "check the path in `state:` of the inventory"),
        sqlite3.SQLITE_CORRUPT: ("it is damaged", "restore it from a backup, or try: sqlite3 {} .recover"),
        sqlite3.SQLITE_IOERR: ("the disk reports an error", "look into the kernel's log: dmesg"),
    }
    if code in known:
        why, hint = known[code]
        return BackendError(f"state database {name}: {why}", hint=hint.format(name))
    return BackendError(f"state database {name}: {error}")


def _cannot_open(path: Path) -> BackendError:
    folder = path.parent
    if not folder.is_dir():
        why, hint = f"the folder {folder} doesn't exist", f"mkdir -p {folder}"
    elif path.is_dir():
        why, hint = "it is a folder", "name a file in `state:` of the inventory"
    elif path.exists() and not os.access(path, os.R_OK):
        why, hint = "it can't be read", f"check its owner and mode: ls -la {path}"
    elif not os.access(folder, os.W_OK):
        why, hint = f"the folder {folder} can't be written to", f"check its owner and mode: ls -ld {folder}"
    else:
        why, hint = "it can't be opened", f"check its owner and mode, and its folder's: ls -la {path}"
    return BackendError(f"state database {path}: {why}", hint=hint)
