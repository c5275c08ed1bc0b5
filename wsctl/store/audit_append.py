"""Appending to the audit table inside of somebody else's transaction.

Responsible for: giving new rows their numbers, times and digests, whoever else appends at the same moment. Not
responsible for: the transaction (a write of the store, whose last statements these are), nor for reading (`audit`).

Costs three statements for up to 40 rows, of one target or of many: read and lock the heads, insert, write the heads.
Nothing is locked but the heads of the targets, in their order, and always last; so writers of different targets never
wait for each other here, and those of one target queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from wsctl.records import AuditEntry
from wsctl.store import chain
from wsctl.store.database import Dialect, Duplicate, Raced, Session, key, marks

_CHUNK = 40  # rows a statement: below the 999 parameters that old SQLite allows


@dataclass(frozen=True, slots=True)
class _Head:
    """Where a chain ends, and what time the next row gets: the database's, but never before the last row's."""

    sequence: int
    digest: str
    at: datetime


class AuditAppender:
    """Appends rows to the chains of one cluster."""

    def __init__(self, dialect: Dialect, cluster: str) -> None:
        self._dialect = dialect
        self._cluster = cluster

    def append(self, session: Session, entries: Sequence[AuditEntry]) -> None:
        """Append the entries, those of a target in the given order. Raises `Raced` if somebody was faster."""
        targets: dict[str, list[AuditEntry]] = {}
        for entry in entries:
            targets.setdefault(key(entry.target, chain.NAME_LIMIT), []).append(entry)
        if len(targets) > 1:
            self._extend_each(session, targets)
            return
        for target, some in targets.items():
            self._extend_all(session, target, some)

    def _extend_each(self, session: Session, targets: dict[str, list[AuditEntry]]) -> None:
        """Several chains with three statements, as far as they are short: what a batch adds to each of its users'."""
        names = sorted(targets)
        while names:
            some: list[str] = []
            number = 0
            while names and (not some or number + len(targets[names[0]]) <= _CHUNK):
                number += len(targets[names[0]])
                some.append(names.pop(0))
            try:
                if number > _CHUNK:
                    self._extend_all(session, some[0], targets[some[0]])
                else:
                    self._extend_some(session, {name: targets[name] for name in some})
            except Duplicate:  # of nothing: the statement that says so has changed nothing
                for name in some:
                    self._extend_all(session, name, targets[name])

    def _extend_some(self, session: Session, targets: dict[str, list[AuditEntry]]) -> None:
        """As `_extend`, of several targets at once. Raises Duplicate, with nothing changed, if any of them is damaged
        or was extended by somebody else."""
        heads = self._heads(session, list(targets))
        params: list[object] = []
        after: list[object] = []
        for target, entries in targets.items():
            head = self._chain(target, entries, heads[target], params)
            after += [self._cluster, target, head.sequence, head.digest, self._dialect.encode_time(head.at)]
        self._insert_rows(session, params, sum(map(len, targets.values())))
        keys, columns = ["cluster", "target"], ["sequence", "digest", "at"]
        session.execute(self._dialect.upsert("audit_heads", keys, columns, rows=len(targets)), after)

    def _extend_all(self, session: Session, target: str, entries: Sequence[AuditEntry]) -> None:
        for chunk in _chunks(entries):
            self._extend(session, target, chunk)

    def _extend(self, session: Session, target: str, entries: Sequence[AuditEntry]) -> None:
        head = self._head(session, target)
        try:
            head = self._insert(session, target, entries, head)
        except Duplicate:
            now = self._head(session, target)
            if (now.sequence, now.digest) != (head.sequence, head.digest):
                raise Raced from None  # two began the chain at once, and the other one did
            head = self._insert_behind_damage(session, target, entries, now)
        sql = self._dialect.upsert("audit_heads", ["cluster", "target"], ["sequence", "digest", "at"])
        encode = self._dialect.encode_time
        session.execute(sql, (self._cluster, target, head.sequence, head.digest, encode(head.at)))

    def _head(self, session: Session, target: str) -> _Head:
        # The aggregates are for the time: they give a row where there is no head too. The lock makes a queue of those
        # who would race for the next number; that two never get the same one is the primary key of `audit`.
        sql = (
            f"SELECT MAX(sequence), MAX(digest), MAX(at), {self._dialect.now} FROM audit_heads "
            f"WHERE cluster = ? AND target = ?{self._dialect.locked}"
        )
        ((sequence, digest, last, now),) = session.query(sql, (self._cluster, target))
        decode = self._dialect.decode_time
        at = decode(now) if last is None else max(decode(last), decode(now))
        return _Head(sequence or 0, chain.GENESIS if digest is None else digest, at)

    def _heads(self, session: Session, targets: Sequence[str]) -> dict[str, _Head]:
        """The heads of several targets, locked in their order. Joined to the time, which thus comes in any case."""
        sql = (
            f"SELECT n.at, h.target, h.sequence, h.digest, h.at FROM (SELECT {self._dialect.now} AS at) n "
            f"LEFT JOIN audit_heads h ON h.cluster = ? AND h.target IN ({marks(len(targets))}){self._dialect.locked}"
        )
        found = session.query(sql, (self._cluster, *targets))
        decode = self._dialect.decode_time
        now = decode(found[0][0])
        known = {
            target: _Head(sequence, digest, max(decode(last), now))
            for _, target, sequence, digest, last in found
            if target is not None
        }
        return {target: known.get(target) or _Head(0, chain.GENESIS, now) for target in targets}

    def _insert(self, session: Session, target: str, entries: Sequence[AuditEntry], head: _Head) -> _Head:
        """Insert rows behind `head`; the head afterwards."""
        params: list[object] = []
        after = self._chain(target, entries, head, params)
        self._insert_rows(session, params, len(entries))
        return after

    def _chain(self, target: str, entries: Sequence[AuditEntry], head: _Head, params: list[object]) -> _Head:
        """Add the entries' rows behind `head` to `params`; the head afterwards."""
        sequence, digest = head.sequence, head.digest
        for entry in entries:
            sequence, fields = sequence + 1, chain.stored(entry)
            digest = chain.row_digest(self._cluster, target, sequence, head.at, fields, digest)
            params += [self._cluster, target, sequence, self._dialect.encode_time(head.at), *fields, digest]
        return _Head(sequence, digest, head.at)

    @staticmethod
    def _insert_rows(session: Session, params: Sequence[object], number: int) -> None:
        row = f"({marks(len(params) // number)})"
        session.execute(f"INSERT INTO audit (cluster, {chain.COLUMNS}) VALUES {', '.join([row] * number)}", params)

    def _insert_behind_damage(self, session: Session, target: str, entries: Sequence[AuditEntry], head: _Head) -> _Head:
        """Rows exist that the head doesn't know: somebody meddled with it. The work goes on, and the new row follows
        none, so that the meddling stays visible for good."""
        sql = "SELECT MAX(sequence) FROM audit WHERE cluster = ? AND target = ?"
        last = session.query(sql, (self._cluster, target))[0][0]
        try:
            return self._insert(session, target, entries, _Head(int(last or 0), chain.GENESIS, head.at))
        except Duplicate:
            raise Raced from None


def _chunks(entries: Sequence[AuditEntry]) -> Iterator[Sequence[AuditEntry]]:
    for start in range(0, len(entries), _CHUNK):
        yield entries[start : start + _CHUNK]
