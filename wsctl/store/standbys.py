"""Standby copies, failovers and what they leave, as rows.

Responsible for: taking a user over from a dead node in one transaction, and the two tables about copies. Not
responsible for: files, nor for deciding anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from wsctl.failsteps import TakeOver
from wsctl.model import Placement, PlacementState
from wsctl.ports import Conflict
from wsctl.records import AuditEntry
from wsctl.standbys import KEEP_LEFT_S, LeftFiles, LeftState, Standby
from wsctl.store.counters import Shift, taken
from wsctl.store.database import Duplicate, Raced, Row, Session, micros
from wsctl.store.moves import MoveRows
from wsctl.store.placements import Lost

_STANDBY = "user, node, source, generation, seen_at, as_of, finished_at, bytes"
_LEFT = "user, node, generation, seen_at, state, newer_files, newer_bytes"


class StandbyRows(MoveRows):
    """The part of `ports.Store` about standby copies; see `standbyports.StandbyStore` for what each method promises."""

    def standbys(self, user: str | None = None) -> list[Standby]:
        whose, params = ("", (self._cluster,)) if user is None else (" AND user = ?", (self._cluster, user))
        sql = f"SELECT {_STANDBY} FROM standbys WHERE cluster = ?{whose} ORDER BY user, node"
        found = self._database.read(lambda session: session.query(sql, params))
        return [self._standby(row) for row in found]

    def begin_standby(self, user: str, node: str, source: str) -> Placement | None:
        known = "SELECT 1 FROM standbys WHERE cluster = ? AND user = ? AND node = ?"
        insert = "INSERT INTO standbys (cluster, user, node, source, generation, seen_at) VALUES (?, ?, ?, ?, 0, 0)"

        def work(session: Session) -> Placement | None:
            placed = self._find(session, user)
            if placed is None or placed.node != source or node == source:
                return None
            if not session.query(known, (self._cluster, user, node)):
                try:
                    session.execute(insert, (self._cluster, user, node, source))
                except Duplicate:  # another control host began the same a moment ago
                    raise Raced from None
            return placed

        return self._write(work)

    def finish_standby(self, copy: Standby) -> bool:
        if copy.as_of is None:
            raise ValueError("a copy that is complete is so as of a moment")
        as_of = self._dialect.encode_time(copy.as_of)
        sql = (
            f"UPDATE standbys SET source = ?, generation = ?, seen_at = ?, as_of = ?, bytes = ?, "
            f"finished_at = {self._dialect.now} WHERE cluster = ? AND user = ? AND node = ?"
        )
        params = (copy.source, copy.generation, copy.seen_at, as_of, copy.bytes, self._cluster, copy.user, copy.node)

        def work(session: Session) -> bool:
            placed = self._find(session, copy.user)
            return placed is not None and placed.node == copy.source and session.execute(sql, params) > 0

        return self._write(work)

    def forget_standby(self, user: str, node: str) -> None:
        self._database.apply(
            "DELETE FROM standbys WHERE cluster = ? AND user = ? AND node = ?", (self._cluster, user, node)
        )

    def left_files(self) -> list[LeftFiles]:
        over = f"CASE WHEN state = ? AND left_at <= {self._dialect.later} THEN 1 ELSE 0 END"
        sql = f"SELECT {_LEFT}, {over} FROM left_files WHERE cluster = ? ORDER BY user, node, generation"
        params = (LeftState.KEPT.value, micros(-KEEP_LEFT_S), self._cluster)
        found = self._database.read(lambda session: session.query(sql, params))
        return [
            LeftFiles(user, node, generation, seen_at, LeftState(state), files, size, bool(over))
            for user, node, generation, seen_at, state, files, size, over in found
        ]

    def take_over(
        self, step: TakeOver, *, was: PlacementState, audit: Sequence[AuditEntry] = ()
    ) -> Placement | Conflict:
        def work(session: Session) -> Placement:
            old = self._find(session, step.user)
            if old is None or (old.node, old.generation, old.state) != (step.source, step.generation, was):
                raise Lost(Conflict.STALE)
            self._drop_move(session, step.user)
            takes = taken(step.resources, +1) if step.state.holds_resources else (0, 0, 0)
            shift = Shift(1, *takes, routes=int(step.state.is_routed), port=step.port)
            if not self._shift(session, step.node, shift, step.capacity):
                raise Lost(Conflict.NODE_FULL)
            self._refuse_moving_port(session, step.node, step.port)
            gives = taken(old.resources, -1) if old.state.holds_resources else (0, 0, 0)
            self._shift(session, old.node, Shift(-1, *gives, routes=int(old.state.is_routed)))
            self._relocate(session, old, step.node, step.address, step.port, step.state, step.resources)
            session.execute(
                "DELETE FROM standbys WHERE cluster = ? AND user = ? AND node = ?",
                (self._cluster, step.user, step.node),
            )
            self._leave(session, step, old)
            taken_over = self._found(session, step.user)
            self._log.append(session, audit)
            return taken_over

        try:
            return self._write(work)
        except Lost as lost:
            return lost.conflict
        except Duplicate:
            return Conflict.PORT_TAKEN

    def keep_left(self, left: LeftFiles) -> None:
        sql = (
            f"UPDATE left_files SET state = ?, newer_files = ?, newer_bytes = ?, left_at = {self._dialect.now} "
            f"WHERE {_THE_LEFT}"
        )
        self._database.apply(sql, (left.state.value, left.newer_files, left.newer_bytes, *self._left_key(left)))

    def forget_left(self, left: LeftFiles) -> None:
        self._database.apply(f"DELETE FROM left_files WHERE {_THE_LEFT}", self._left_key(left))

    # how

    def _leave(self, session: Session, step: TakeOver, old: Placement) -> None:
        state = LeftState.BEHIND if step.leaves_files else LeftState.NOTHING
        left = LeftFiles(step.user, step.source, old.container_generation, step.seen_at, state)
        session.execute(f"DELETE FROM left_files WHERE {_THE_LEFT}", self._left_key(left))
        session.execute(
            "INSERT INTO left_files (cluster, user, node, generation, seen_at, state, left_at) "
            f"VALUES (?, ?, ?, ?, ?, ?, {self._dialect.now})",
            (*self._left_key(left), left.seen_at, state.value),
        )

    def _left_key(self, left: LeftFiles) -> tuple[object, ...]:
        return (self._cluster, left.user, left.node, left.generation)

    def _standby(self, row: Row) -> Standby:
        user, node, source, generation, seen_at, as_of, finished_at, size = row
        return Standby(user, node, source, generation, seen_at, self._moment(as_of), self._moment(finished_at), size)

    def _moment(self, value: object) -> datetime | None:
        return None if value is None else self._dialect.decode_time(value)


_THE_LEFT = "cluster = ? AND user = ? AND node = ? AND generation = ?"
