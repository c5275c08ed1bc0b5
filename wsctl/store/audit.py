"""The audit table: what was done, by whom, and whether anybody has changed the record of it.

Responsible for: reading rows, finding damage, and appending rows that belong to no other write. Not responsible for:
what a digest covers (`chain`), nor for rows that belong to a write (`audit_append`, called by that write).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from wsctl.records import AuditEntry, AuditRow
from wsctl.store import chain, rows
from wsctl.store.base import ClusterRows
from wsctl.store.database import Row, clean, key, marks, utc

_CHUNK = 150
_PAGE = 2000  # rows that are looked at in one statement
_NEWEST_FIRST = "ORDER BY at DESC, target DESC, sequence DESC"
_ROW = ", ".join(f"a.{name}" for name in chain.COLUMNS.split(", "))


class AuditRows(ClusterRows):
    """The part of `ports.Store` about the audit table; see there for what each method promises."""

    def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        if entries:
            self._write(lambda session: self._log.append(session, entries))

    def audit(
        self,
        *,
        targets: Collection[str] | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[AuditRow]:
        where, params = "cluster = ?", list[object]([self._cluster])
        if request_id is not None:
            where, params = f"{where} AND request_id = ?", [*params, clean(request_id, chain.NAME_LIMIT)]
        if since is not None:
            where, params = f"{where} AND at >= ?", [*params, self._dialect.encode_time(utc(since))]
        if targets is None:
            found = self._audit_rows(where, params, limit)
        else:
            names, found = sorted({key(target, chain.NAME_LIMIT) for target in targets}), []
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                found += self._audit_rows(f"{where} AND target IN ({marks(len(chunk))})", [*params, *chunk], limit)
        whole = sorted(
            (rows.audit_row(row, self._dialect.decode_time) for row in found),
            key=lambda row: (row.at, row.entry.target, row.sequence),
        )
        return whole if limit is None else whole[max(0, len(whole) - limit) :]

    def audit_problems(self) -> list[tuple[str, int, str]]:
        check = chain.Check(self._cluster)
        for row, sequence, digest in self._rows_with_heads():
            check.feed(row, self._time_or_text(row[2]), (sequence, digest))
        check.finish()
        return sorted([*check.problems, *self._heads_without_rows(), *self._placements_without_rows()])

    def audit_figures(self) -> tuple[int, int, str]:
        """(how many rows there are, of how many targets, `chain.heads_digest`): the table in one line."""
        count = "SELECT COUNT(*) FROM audit WHERE cluster = ?"
        heads = "SELECT target, sequence, digest FROM audit_heads WHERE cluster = ?"
        found = self._database.read(lambda session: session.query(heads, (self._cluster,)))
        ((number,),) = self._database.read(lambda session: session.query(count, (self._cluster,)))
        return int(number), len(found), chain.heads_digest((row[0], row[1], row[2]) for row in found)

    # how

    def _audit_rows(self, where: str, params: Sequence[object], limit: int | None) -> list[Row]:
        sql = f"SELECT {chain.COLUMNS} FROM audit WHERE {where}"
        if limit is not None:
            sql, params = f"{sql} {_NEWEST_FIRST} LIMIT ?", [*params, max(0, limit)]
        return self._database.read(lambda session: session.query(sql, params))

    def _rows_with_heads(self) -> Iterator[tuple[Row, object, object]]:
        """All rows in the order of their chains, each with its head as it was at the same moment: rows are added while
        this goes on, and a target's last row and its head are always of one statement."""
        sql = (
            f"SELECT {_ROW}, h.sequence, h.digest FROM audit a "
            "LEFT JOIN audit_heads h ON h.cluster = a.cluster AND h.target = a.target WHERE a.cluster = ?"
        )
        order, behind = (
            " ORDER BY a.target, a.sequence LIMIT ?",
            " AND (a.target > ? OR (a.target = ? AND a.sequence > ?))",
        )
        page = self._audit_page(sql + order, (self._cluster, _PAGE))
        while page:
            for row in page:
                yield row[:-2], row[-2], row[-1]
            target, sequence = page[-1][0], page[-1][1]
            page = self._audit_page(sql + behind + order, (self._cluster, target, target, sequence, _PAGE))

    def _audit_page(self, sql: str, params: Sequence[object]) -> list[Row]:
        return self._database.read(lambda session: session.query(sql, params))

    def _time_or_text(self, value: object) -> object:
        try:
            return self._dialect.decode_time(value)
        except (TypeError, ValueError, AttributeError):
            return value

    def _heads_without_rows(self) -> list[chain.Problem]:
        sql = (
            "SELECT h.target, h.sequence FROM audit_heads h WHERE h.cluster = ? AND NOT EXISTS "
            "(SELECT 1 FROM audit a WHERE a.cluster = h.cluster AND a.target = h.target)"
        )
        found = self._audit_page(sql, (self._cluster,))
        return [(target, 1, f"all rows of its target up to {sequence} were removed") for target, sequence in found]

    def _placements_without_rows(self) -> list[chain.Problem]:
        """Rows and head of a target both removed: only that the user is placed gives it away. Placements that are older
        than the audit table say nothing."""
        sql = (
            "SELECT p.user FROM placements p WHERE p.cluster = ? "
            "AND p.created_at > (SELECT MIN(o.at) FROM audit o WHERE o.cluster = ?) AND NOT EXISTS "
            "(SELECT 1 FROM audit a WHERE a.cluster = p.cluster AND a.target = p.user)"
        )
        found = self._audit_page(sql, (self._cluster, self._cluster))
        return [(user, 1, "the user is placed, and no row says by whom: rows were removed") for (user,) in found]
