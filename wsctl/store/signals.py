"""Marks of nodes, activity of users, samples of counters: the half of the store that is last-writer-wins.

Responsible for: reading and replacing those rows. Not responsible for: what they mean to a decision (`planner`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from wsctl.model import Activity, NodeMark, NodeState
from wsctl.records import AuditEntry
from wsctl.signals import NetworkSample, Note
from wsctl.store import rows
from wsctl.store.base import ClusterRows
from wsctl.store.columns import NAME_LIMIT
from wsctl.store.database import Session, clean, key, marks, utc
from wsctl.store.seen import SENTINEL, SINCE, chunks


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

        # Who reserves there holds the node's row: they are done before, or see the mark.
        turn = f"SELECT 1 FROM node_usage WHERE cluster = ? AND node = ?{self._dialect.locked}"

        def work(session: Session) -> None:
            session.query(turn, (self._cluster, node))
            session.execute(sql, params)
            if state is NodeState.READY:
                session.execute("DELETE FROM node_reports WHERE cluster = ? AND node = ?", (self._cluster, node))
            if audit:
                self._log.append(session, audit)

        self._write(work)

    def touch(self, users: Collection[str], at: datetime, source: str) -> None:
        self.touch_at(dict.fromkeys(users, at), source)

    def touch_at(self, times: Mapping[str, datetime], source: str) -> None:
        self._write(lambda session: self._sights.touch(session, times, source))

    def activity_since(self) -> datetime | None:
        found = self._database.read(lambda session: session.query(SINCE, (self._cluster, SENTINEL)))
        return self._dialect.decode_time(found[0][0]) if found else None

    def activity(self, users: Collection[str] | None = None) -> Mapping[str, Activity]:
        sql = f"SELECT user, last_active_at, source FROM activity WHERE cluster = ? AND user <> '{SENTINEL}'"
        found: list[Any] = []
        if users is None:
            found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        else:
            for chunk in chunks(sorted(set(users))):
                some, params = f"{sql} AND user IN ({marks(len(chunk))})", (self._cluster, *chunk)
                found += self._database.read(lambda s, some=some, params=params: s.query(some, params))  # type: ignore[misc]
        when = self._dialect.decode_time
        return {user: Activity(user, when(at), source) for user, at, source in found}

    def samples(self) -> Mapping[str, NetworkSample]:
        sql = "SELECT user, container_id, tx_bytes, observed_at, cpu_ns FROM samples WHERE cluster = ?"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        when = self._dialect.decode_time
        return {
            user: NetworkSample(user, container, int(sent), when(at), None if cpu is None else int(cpu))
            for user, container, sent, at, cpu in found
        }

    def save_samples(self, samples: Sequence[NetworkSample]) -> None:
        if samples:
            self._database.write(lambda session: self._sights.sample(session, samples))

    def notes(self, topic: str, subjects: Collection[str] | None = None) -> Mapping[str, Note]:
        sql = "SELECT subject, value, noted_at FROM notes WHERE cluster = ? AND topic = ?"
        found: list[Any] = []
        for chunk in [None] if subjects is None else chunks(_keys(subjects)):
            some = sql if chunk is None else f"{sql} AND subject IN ({marks(len(chunk))})"
            params = (self._cluster, topic, *(chunk or ()))
            found += self._database.read(lambda s, some=some, params=params: s.query(some, params))  # type: ignore[misc]
        return {subject: Note(str(value), self._dialect.decode_time(at)) for subject, value, at in found}

    def set_notes(self, topic: str, values: Mapping[str, str], at: datetime) -> None:
        when, keys = self._dialect.encode_time(utc(at)), ["cluster", "topic", "subject"]
        values = {note_subject(subject): value for subject, value in values.items()}
        rows = [(self._cluster, topic, subject, clean(values[subject], 2000), when) for subject in sorted(values)]

        def work(session: Session) -> None:
            for chunk in chunks(rows):
                sql = self._dialect.upsert("notes", keys, ["value", "noted_at"], rows=len(chunk))
                session.execute(sql, [value for row in chunk for value in row])

        if rows:
            self._database.write(work)

    def drop_notes(self, topic: str, subjects: Collection[str]) -> None:
        def work(session: Session) -> None:
            for chunk in chunks(_keys(subjects)):
                sql = f"DELETE FROM notes WHERE cluster = ? AND topic = ? AND subject IN ({marks(len(chunk))})"
                session.execute(sql, (self._cluster, topic, *chunk))

        if subjects:
            self._database.write(work)


def note_subject(text: str) -> str:
    """The subject of a note as it is kept, and given back: a file's name may have bytes and a length that no database
    takes."""
    return key(text, NAME_LIMIT)


def _keys(subjects: Collection[str]) -> list[str]:
    return sorted({note_subject(subject) for subject in subjects})
