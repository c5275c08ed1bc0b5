"""Writing when users were seen, inside of somebody else's transaction.

Responsible for: the rows of `activity` and `samples`, and the one that says since when there are any. Not responsible
for: the transaction, nor for reading (`signals`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from wsctl.signals import NetworkSample, Start
from wsctl.store.database import Dialect, Duplicate, Session, clean, utc

T = TypeVar("T")

CHUNK = 150  # rows a statement: below the 999 parameters that old SQLite allows

SENTINEL = ""
"""The user, who can't exist, in whose row of `activity` stands since when there are data."""

SINCE = "SELECT last_active_at FROM activity WHERE cluster = ? AND user = ?"


class SeenWriter:
    """Writes what was seen of the users of one cluster. Rows are sorted, so that two of these at once lock theirs in
    the same order."""

    def __init__(self, dialect: Dialect, cluster: str) -> None:
        self._dialect = dialect
        self._cluster = cluster

    def touch(self, session: Session, times: Mapping[str, datetime], source: str) -> None:
        """Record activity; an older time never replaces a newer one."""
        why, encode = clean(source, 200), self._dialect.encode_time
        values = sorted((user, encode(utc(at)), why) for user, at in times.items())
        self._upsert(session, "activity", ["last_active_at", "source"], values, newest="last_active_at")
        if not session.query(SINCE, (self._cluster, SENTINEL)):
            # It goes with the table's rows when somebody empties it: then it isn't known who was active.
            with contextlib.suppress(Duplicate):
                sql = "INSERT INTO activity (cluster, user, last_active_at, source)"
                session.execute(f"{sql} VALUES (?, ?, {self._dialect.now}, 'since')", (self._cluster, SENTINEL))

    def sample(self, session: Session, samples: Iterable[NetworkSample]) -> None:
        """Replace the users' samples."""
        encode = self._dialect.encode_time
        last = {sample.user: sample for sample in samples}
        values = [
            (user, clean(s.container_id, 200), s.tx_bytes, encode(utc(s.observed_at)), s.cpu_ns)
            for user, s in sorted(last.items())
        ]
        self._upsert(session, "samples", ["container_id", "tx_bytes", "observed_at", "cpu_ns"], values)

    def start(self, session: Session, starts: Mapping[str, Start]) -> None:
        """Record that these users' workspaces were started."""
        if starts:
            self.touch(session, {user: start.at for user, start in starts.items()}, "start")
            self.sample(session, (start.sample for start in starts.values() if start.sample is not None))

    def _upsert(
        self, session: Session, table: str, columns: list[str], values: Sequence[Any], newest: str | None = None
    ) -> None:
        for chunk in chunks(values):
            sql = self._dialect.upsert(table, ["cluster", "user"], columns, rows=len(chunk), newest=newest)
            session.execute(sql, [value for row in chunk for value in (self._cluster, *row)])


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values` in parts, each for one statement."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
