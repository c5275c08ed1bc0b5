"""MySQL or MariaDB as the state database: transactions that are tried again, on a small pool of connections.

Responsible for: `Database` on PyMySQL: transactions, what is repeated and what isn't, and never answering "done" or
"not done" when it isn't known. Not responsible for: connecting (`mysql_connect`), wording (`mysql_errors`), or which
statements are run.

What is repeated: a transaction that the server undid (deadlock, lock wait, Galera's refusal at COMMIT), and one whose
connection was lost before COMMIT was sent, if it was a kept one or there is another member to go to. A connection lost
*at* COMMIT is an unknown outcome.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from wsctl.errors import BackendError
from wsctl.store import mysql_errors as errors
from wsctl.store.database import AlreadyThere, Database, Dialect, Duplicate, Row, Session, utc
from wsctl.store.mysql_connect import Connector
from wsctl.store.url import MysqlTarget

T = TypeVar("T")

POOL_SIZE = 8
RETRY_FOR_S = 20.0
SCHEMA_LOCK_WAIT_S = 10


def _encode_time(moment: datetime) -> datetime:
    return utc(moment).replace(tzinfo=None)


def _decode_time(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC)


DIALECT = Dialect(
    name="mysql",
    now="UTC_TIMESTAMP(6)",
    later="UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND",
    locked=" FOR UPDATE",
    macros={
        "name": "VARCHAR(255)",
        "text": "TEXT",
        "longtext": "LONGTEXT",
        "time": "DATETIME(6)",
        "int": "INT",
        "bigint": "BIGINT",
        # Binary comparison: a user's name is these letters, not what a collation takes for the same.
        "options": "ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    },
    encode_time=_encode_time,
    decode_time=_decode_time,
    tables="SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    upserts_by_conflict=False,
    ddl_commits=True,
)


@lru_cache(maxsize=256)
def _spelled(sql: str) -> str:
    return sql.replace("?", "%s")


class _OutcomeUnknown(Exception):
    """The connection was lost while COMMIT was on its way."""


class _Session:
    """Statements on a connection that the caller has for itself."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()

    def execute(self, sql: str, params: Sequence[object] = ()) -> int:
        try:
            return int(self._cursor.execute(_spelled(sql), tuple(params) or None))
        except errors.CAUGHT as error:
            code = errors.code_of(error)
            if code == errors.DUPLICATE:
                raise Duplicate(errors.duplicate_key(error)) from error
            if code in errors.ALREADY_THERE:
                raise AlreadyThere(str(error)) from error
            raise

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        self._cursor.execute(_spelled(sql), tuple(params) or None)
        return list(self._cursor.fetchall())


class MysqlDatabase:
    """A `Database` on a server. See `open_mysql`."""

    dialect = DIALECT

    def __init__(self, target: MysqlTarget, connector: Connector, *, writable: bool) -> None:
        self._target = target
        self._connector = connector
        self._writable = writable
        self._slots = threading.BoundedSemaphore(POOL_SIZE)
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._closed = False

    def read(self, work: Callable[[Session], T]) -> T:
        return self._run(lambda connection: work(_Session(connection)))

    def write(self, work: Callable[[Session], T]) -> T:
        def once(connection: Any) -> T:
            connection.begin()
            result = work(_Session(connection))
            try:
                connection.commit()
            except errors.CAUGHT as error:
                if errors.is_doubtful(error):
                    raise _OutcomeUnknown from error
                raise
            return result

        return self._run(once)

    def apply(self, sql: str, params: Sequence[object] = ()) -> int:
        return self._run(lambda connection: _Session(connection).execute(sql, params))

    def snapshot(self, work: Callable[[Session], T]) -> T:
        def once(connection: Any) -> T:
            session = _Session(connection)
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # of the next transaction only
            session.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            result = work(session)
            connection.rollback()
            return result

        return self._run(once)

    def schema_lock(self, work: Callable[[Session], T]) -> T:
        name = f"wsctl.migrate.{self._target.database}"[:64]

        def once(connection: Any) -> T:
            session = _Session(connection)
            if session.query("SELECT GET_LOCK(?, ?)", (name, SCHEMA_LOCK_WAIT_S))[0][0] != 1:
                raise BackendError(
                    f"{self._target.label}: another process has been changing the schema for {SCHEMA_LOCK_WAIT_S} s",
                    hint="wait until it is done, then run the command again",
                )
            try:
                return work(session)
            finally:
                session.query("SELECT RELEASE_LOCK(?)", (name,))

        return self._run(once)

    def sibling(self) -> Database:
        return self

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            _discard(connection)

    def _run(self, once: Callable[[Any], T]) -> T:
        """`once` on a connection, again while the server undoes it for reasons that pass."""
        give_up = time.monotonic() + RETRY_FOR_S
        attempt = lost = 0
        while True:
            attempt += 1
            with self._slots:
                connection, kept = self._take()
                try:
                    result = once(connection)
                except errors.CAUGHT as error:
                    if errors.is_lost(error):
                        self._lose(connection)
                        # Elsewhere however long this one was waited for, but to no member twice; unless they are just
                        # finding out who is left of them.
                        lost += not kept
                        changing = errors.code_of(error) == errors.NOT_READY and len(self._target.hosts) > 1
                        again = kept or lost < len(self._target.hosts) or (changing and time.monotonic() <= give_up)
                    else:
                        self._undo_and_keep(connection)
                        again = errors.code_of(error) in errors.TRY_AGAIN and time.monotonic() <= give_up
                    if not again:
                        raise self._explain(error) from error
                except _OutcomeUnknown as unknown:
                    self._lose(connection)
                    raise BackendError(
                        f"{self._target.label}: the connection was lost at COMMIT: outcome unknown",
                        hint="run the same command again: it looks at what there is and does what is left",
                    ) from unknown.__cause__
                except Exception:
                    self._undo_and_keep(connection)
                    raise
                except BaseException:
                    _discard(connection)  # interrupted in the middle of an answer: the connection is of no use
                    raise
                else:
                    self._keep(connection)
                    return result
            # Outside of the slot, so that those who can go on do.
            time.sleep(random.uniform(0, min(0.5, 0.005 * 2**attempt)))  # noqa: S311 - jitter, not a secret

    def _lose(self, connection: Any) -> None:
        """Give up a connection that died, and with it what else was kept as long; go to the next member, if any."""
        self._connector.leave(connection)
        _discard(connection)
        with self._lock:
            idle, self._idle = self._idle, []
        for other in idle:
            _discard(other)

    def _take(self) -> tuple[Any, bool]:
        """A connection, and whether it was kept from an earlier call."""
        with self._lock:
            if self._closed:
                raise BackendError(f"{self._target.label}: it is closed already")
            if self._idle:
                return self._idle.pop(), True
        try:
            return self._connector.open(), False
        except errors.CAUGHT as error:
            raise self._explain(error) from error

    def _undo_and_keep(self, connection: Any) -> None:
        try:
            connection.rollback()
        except errors.CAUGHT:
            _discard(connection)
        else:
            self._keep(connection)

    def _keep(self, connection: Any) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        _discard(connection)

    def _explain(self, error: Exception) -> BackendError:
        return errors.explain(error, self._target.label, self._target.database, writable=self._writable)


def open_mysql(target: MysqlTarget, password: str | None, *, writable: bool = True) -> MysqlDatabase:
    """The database at `target`; nothing is connected before the first statement. If not `writable`, writes fail.

    Raises BackendError if the CA file of the URL can't be used.
    """
    try:
        connector = Connector(target, password, writable=writable)
    except OSError as error:
        raise BackendError(
            f"{target.label}: can't use the CA certificate {target.ca}: {error}", hint="check ca= in `state:`"
        ) from error
    return MysqlDatabase(target, connector, writable=writable)


def _discard(connection: Any) -> None:
    """Close without ceremony: the server undoes what was open."""
    try:
        connection.close()
    except errors.CAUGHT:
        return
