"""What is reported against nodes for a short while, as rows.

Responsible for: writing, counting, reading and dropping those rows. Not responsible for: what they mean
(`wsctl.reports`). All times are the database's.
"""

from __future__ import annotations

from datetime import timedelta

from wsctl.reports import NodeReport
from wsctl.store.base import ClusterRows
from wsctl.store.database import Duplicate, Raced, Session, clean, key, micros

_COLUMNS = "node, kind, count, reason, reported_at, expires_at, seen_at"


class ReportRows(ClusterRows):
    """The part of `ports.Store` about reports; see there for what each method promises."""

    def node_reports(self) -> list[NodeReport]:
        sql = f"SELECT {_COLUMNS} FROM node_reports WHERE cluster = ? AND expires_at > {self._dialect.now}"
        found = self._database.read(lambda session: session.query(f"{sql} ORDER BY node, kind", (self._cluster,)))
        when = self._dialect.decode_time
        return [
            NodeReport(
                str(node), str(kind), int(count), str(reason), when(reported), when(expires),
                None if seen is None else when(seen),
            )
            for node, kind, count, reason, reported, expires, seen in found
        ]  # fmt: skip

    def report_node(self, node: str, kind: str, reason: str, keep_s: float, seen_s: float | None = None) -> None:
        node, kind, reason = key(node, 200), key(kind, 255), clean(reason, 2000)
        dialect, which = self._dialect, (self._cluster, node, kind)
        where = "WHERE cluster = ? AND node = ? AND kind = ?"

        def work(session: Session) -> None:
            select = f"SELECT count, expires_at > {dialect.now} FROM node_reports {where}{dialect.locked}"
            found = session.query(select, which)
            seen = None
            if seen_s is not None:
                (now,) = session.query(f"SELECT {dialect.now}")[0]
                seen = dialect.encode_time(dialect.decode_time(now) - timedelta(seconds=seen_s))
            if not found:
                columns = "cluster, node, kind, count, reason, seen_at, reported_at, expires_at"
                values = f"(?, ?, ?, 1, ?, ?, {dialect.now}, {dialect.later})"
                try:
                    session.execute(
                        f"INSERT INTO node_reports ({columns}) VALUES {values}", (*which, reason, seen, micros(keep_s))
                    )
                except Duplicate:
                    raise Raced from None
                return
            is_live = bool(found[0][1])
            count = int(found[0][0]) + 1 if is_live else 1
            since = "" if is_live else f", reported_at = {dialect.now}"
            sets = f"count = ?, reason = ?, seen_at = ?, expires_at = {dialect.later}{since}"
            session.execute(f"UPDATE node_reports SET {sets} {where}", (count, reason, seen, micros(keep_s), *which))

        self._write(work)

    def drop_reports(self, node: str, kind: str | None = None) -> bool:
        sql, params = "DELETE FROM node_reports WHERE cluster = ? AND node = ?", [self._cluster, key(node, 200)]
        if kind is not None:
            sql, params = f"{sql} AND kind = ?", [*params, key(kind, 255)]
        return self._database.apply(sql, params) > 0
