"""Marks of nodes, activity of users, samples of counters: the half of the store that is last-writer-wins.

Responsible for: reading and replacing those rows. Not responsible for: what they mean to a decision (`planner`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from wsctl.model import Activity, NetworkSample, NodeMark, NodeState
from wsctl.records import AuditEntry
from wsctl.store import rows
from wsctl.store.base import ClusterRows
from wsctl.store.database import Session, clean, marks, utc

T = TypeVar("T")

_CHUNK = 150  # rows a statement: below the 999 parameters that old SQLite allows


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


class SignalRows(ClusterRows):
    """The part of `ports.Store` about marks, activity and samples; see there for what each method promises."""

    def marks(self) -> Mapping[str, NodeMark]:
        sql = "SELECT node, state, reason, changed_at, changed_by FROM node_marks WHERE cluster = ?"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return {row[0]: rows.node_mark(row, self._dialect.decode_time) for row in found}

    def set_mark(self, node: str, state: NodeState, reason: str, by: str, *, audit: Sequence[AuditEntry] = ()) -> None:
        columns = ["state", "reason", "changed_by"]
        sql = self._dialect.upsert("node_marks", ["cluster", "node"], columns, stamp="changed_at")
        params = (self._cluster, node, state.value, clean(reason, 2000), clean(by, 200))
        if not audit:
            self._database.apply(sql, params)
            return

        def work(session: Session) -> None:
            session.execute(sql, params)
            self._log.append(session, audit)

        self._write(work)

    def touch(self, users: Collection[str], at: datetime, source: str) -> None:
        when, why = self._dialect.encode_time(utc(at)), clean(source, 200)
        self._upsert(
            "activity",
            ["last_active_at", "source"],
            [(user, when, why) for user in set(users)],
            newest="last_active_at",
        )

    def activity(self, users: Collection[str] | None = None) -> Mapping[str, Activity]:
        sql = "SELECT user, last_active_at, source FROM activity WHERE cluster = ?"
        found: list[Any] = []
        if users is None:
            found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        else:
            for chunk in _chunks(sorted(set(users))):
                some, params = f"{sql} AND user IN ({marks(len(chunk))})", (self._cluster, *chunk)
                found += self._database.read(lambda s, some=some, params=params: s.query(some, params))  # type: ignore[misc]
        when = self._dialect.decode_time
        return {user: Activity(user, when(at), source) for user, at, source in found}

    def samples(self) -> Mapping[str, NetworkSample]:
        sql = "SELECT user, container_id, tx_bytes, observed_at FROM samples WHERE cluster = ?"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        when = self._dialect.decode_time
        return {user: NetworkSample(user, container, int(sent), when(at)) for user, container, sent, at in found}

    def save_samples(self, samples: Sequence[NetworkSample]) -> None:
        encode = self._dialect.encode_time
        last = {sample.user: sample for sample in samples}
        values = [(s.user, clean(s.container_id, 200), s.tx_bytes, encode(utc(s.observed_at))) for s in last.values()]
        self._upsert("samples", ["container_id", "tx_bytes", "observed_at"], values)

    def _upsert(
        self, table: str, columns: list[str], values: list[tuple[object, ...]] | list[Any], newest: str | None = None
    ) -> None:
        # Sorted, so that two of these at once lock their rows in the same order.
        values = sorted(values, key=lambda row: str(row[0]))
        if not values:
            return

        def work(session: Any) -> None:
            for chunk in _chunks(values):
                sql = self._dialect.upsert(table, ["cluster", "user"], columns, rows=len(chunk), newest=newest)
                session.execute(sql, [value for row in chunk for value in (self._cluster, *row)])

        self._database.write(work)
