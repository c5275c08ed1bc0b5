"""What the nodes have given away: the counters of `node_usage`.

Responsible for: reading them, and changing those of one node or of several, within their capacity. Not responsible for:
the transaction (a write of `placements` or `moves`), nor for the SQL of a sum (`counters`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from wsctl.model import Capacity, Usage
from wsctl.store.base import ClusterRows
from wsctl.store.counters import TOGETHER, Shift, adding, room
from wsctl.store.database import Duplicate, Session, marks


class NoNodeRow(Exception):
    """Undo the transaction and make the node's row first. In a transaction of its own, because two that find it
    missing would otherwise deadlock on it."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node


class UsageRows(ClusterRows):
    """The part of `ports.Store` about what nodes have given away; see there for what each method promises."""

    def usage(self) -> Mapping[str, Usage]:
        sql = "SELECT node, workspaces, active, memory_bytes, cpus_milli FROM node_usage WHERE cluster = ?"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return {node: Usage(*counts) for node, *counts in found}

    def last_ports(self) -> Mapping[str, int]:
        sql = "SELECT node, last_port FROM node_usage WHERE cluster = ? AND last_port IS NOT NULL"
        return dict(self._database.read(lambda session: session.query(sql, (self._cluster,))))

    def last_node(self) -> str | None:
        sql = (
            "SELECT node FROM node_usage WHERE cluster = ? AND placed_at IS NOT NULL "
            "ORDER BY placed_at DESC, node LIMIT 1"
        )
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return str(found[0][0]) if found else None

    def route_generation(self) -> int:
        sql = "SELECT COALESCE(SUM(route_changes), 0) FROM node_usage WHERE cluster = ?"
        return int(self._database.read(lambda session: session.query(sql, (self._cluster,)))[0][0])

    def _shift(self, session: Session, node: str, shift: Shift, capacity: Capacity | None = None) -> bool:
        """Change the node's counters; False if `capacity` has no room. Locks the node's row until the end."""
        if not shift:
            return True
        limits = {} if capacity is None else {node: capacity}
        return self._shift_some(session, {node: shift}, {node: shift}, limits)

    def _shift_each(
        self, session: Session, shifts: Mapping[str, Shift], asks: Mapping[str, Shift], limits: Mapping[str, Capacity]
    ) -> bool:
        """Change the counters of several nodes; False if the limit of one has no room for what is asked for there: then
        the transaction is to be undone. Locks the nodes' rows until the end, in their order."""
        nodes = sorted(node for node, shift in shifts.items() if shift or asks.get(node))
        parts = [nodes[start : start + TOGETHER] for start in range(0, len(nodes), TOGETHER)]
        return all(self._shift_some(session, {node: shifts[node] for node in part}, asks, limits) for part in parts)

    def _shift_some(
        self, session: Session, shifts: Mapping[str, Shift], asks: Mapping[str, Shift], limits: Mapping[str, Capacity]
    ) -> bool:
        sets, values = adding(shifts, self._dialect.now)
        where, wanted = room(asks, limits, shifts)
        sql, params = f"UPDATE node_usage SET {sets} WHERE cluster = ? AND {where}", (*values, self._cluster, *wanted)
        if session.execute(sql, params) == len(shifts):
            return True
        names = f"SELECT node FROM node_usage WHERE cluster = ? AND node IN ({marks(len(shifts))})"
        there = {row[0] for row in session.query(names, (self._cluster, *shifts))}
        for node in shifts:
            if node not in there:
                raise NoNodeRow(node)
        # Either there is no room, or the row was made between the two statements: the same again tells which.
        return len(shifts) == 1 and session.execute(sql, params) == 1

    def _make_node_row(self, node: str) -> None:
        sql = (
            "INSERT INTO node_usage (cluster, node, workspaces, active, memory_bytes, cpus_milli, route_changes) "
            "VALUES (?, ?, 0, 0, 0, 0, 0)"
        )
        with contextlib.suppress(Duplicate):
            self._database.apply(sql, (self._cluster, node))
