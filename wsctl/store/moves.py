"""Moves and the copies they make and leave, as rows.

Responsible for: beginning a move with what it takes on its target, the swap, and the table of copies. Not responsible
for: ending a move by another operation (`placements`), nor for files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsctl.model import Capacity, Placement, PlacementState, Resources
from wsctl.moving import CopyState, KeptCopy, Move
from wsctl.ports import Conflict
from wsctl.records import AuditEntry
from wsctl.store.counters import Change, Shift, taken
from wsctl.store.database import Duplicate, Raced, Row, Session, micros
from wsctl.store.placements import Lost, PlacementRows

_MOVE = "user, source, target, address, host_port, memory_bytes, cpus_milli, pids, active"


class MoveRows(PlacementRows):
    """The part of `ports.Store` about moves; see `moveports.MoveStore` for what each method promises."""

    def moves(self) -> Mapping[str, Move]:
        sql = f"SELECT {_MOVE} FROM moves WHERE cluster = ? ORDER BY user"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return {row[0]: _move(row) for row in found}

    def begin_move(
        self,
        move: Move,
        generation: int,
        state: PlacementState,
        capacity: Capacity,
        *,
        was: PlacementState,
        audit: Sequence[AuditEntry] = (),
    ) -> Placement | Conflict:
        active = int(move.active)
        shift = Shift(1, active, active * move.memory_bytes, active * move.cpus_milli, port=move.host_port)

        def work(session: Session) -> Placement:
            old = self._find(session, move.user)
            if old is None or (old.generation, old.state) != (generation, was):
                raise Lost(Conflict.STALE)
            self._drop_move(session, move.user)
            if not self._shift(session, move.target, shift, capacity):
                raise Lost(Conflict.NODE_FULL)
            self._refuse_placed_port(session, move.target, move.host_port)
            self._insert_move(session, move)
            self._none_under_way(session, move)
            self._note(session, move.user, move.target, CopyState.INCOMING)
            self._note(session, move.user, move.source, CopyState.SENDING)
            new = Change(old, state, generation + 1, old.container_generation, old.host_port, old.resources)
            self._shift(session, old.node, new.shift())
            if not session.execute(*self._update(new)):
                raise Raced
            begun = self._found(session, move.user)
            self._log.append(session, audit)
            return begun

        try:
            return self._write(work)
        except Lost as lost:
            return lost.conflict
        except Duplicate:
            return Conflict.PORT_TAKEN

    def swap(
        self, user: str, generation: int, state: PlacementState, *, leaves_files: bool, audit: Sequence[AuditEntry] = ()
    ) -> Placement | Conflict:
        def work(session: Session) -> Placement:
            old, move = self._find(session, user), self._find_move(session, user)
            if old is None or move is None or old.generation != generation:
                raise Lost(Conflict.STALE)
            self._exchange(session, old, move, state)
            session.execute("DELETE FROM moves WHERE cluster = ? AND user = ?", (self._cluster, user))
            self._none_under_way(session, move)
            if leaves_files:
                self._note(session, user, old.node, CopyState.LEAVING)
            swapped = self._found(session, user)
            self._log.append(session, audit)
            return swapped

        try:
            return self._write(work)
        except Lost as lost:
            return lost.conflict

    def kept_copies(self) -> list[KeptCopy]:
        sql = (
            "SELECT user, node, number, state, "
            f"CASE WHEN expires_at IS NOT NULL AND expires_at <= {self._dialect.now} THEN 1 ELSE 0 END "
            "FROM kept_copies WHERE cluster = ? ORDER BY user, number"
        )
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return [KeptCopy(user, node, number, CopyState(state), bool(over)) for user, node, number, state, over in found]

    def keep_copy(self, copy: KeptCopy, keep_s: float) -> None:
        sql = f"UPDATE kept_copies SET state = ?, expires_at = {self._dialect.later} WHERE {_THE_COPY}"
        self._database.apply(sql, (CopyState.KEPT.value, micros(keep_s), *self._key(copy)))

    def forget_copy(self, copy: KeptCopy) -> None:
        self._database.apply(f"DELETE FROM kept_copies WHERE {_THE_COPY}", self._key(copy))

    # how

    def _exchange(self, session: Session, old: Placement, move: Move, state: PlacementState) -> None:
        """Change node, address and port of the placement, and the counters of both nodes."""
        resources = Resources(move.memory_bytes, move.cpus_milli, move.pids)
        was = taken(old.resources, -1) if old.state.holds_resources else (0, 0, 0)
        held = taken(resources, -1) if move.active else (0, 0, 0)
        holds = taken(resources, +1) if state.holds_resources else (0, 0, 0)
        more = tuple(now + before for now, before in zip(holds, held, strict=True))
        self._shift(session, old.node, Shift(-1, *was, routes=int(old.state.is_routed)))
        self._shift(session, move.target, Shift(0, more[0], more[1], more[2], routes=int(state.is_routed)))
        self._relocate(session, old, move.target, move.address, move.host_port, state, resources)

    def _relocate(
        self,
        session: Session,
        old: Placement,
        node: str,
        address: str,
        port: int,
        state: PlacementState,
        resources: Resources,
    ) -> None:
        """Give the placement another node, and the generation that goes with it; the counters are the caller's."""
        sql = (
            "UPDATE placements SET node = ?, address = ?, host_port = ?, state = ?, generation = ?, "
            f"container_generation = ?, memory_bytes = ?, cpus_milli = ?, pids = ?, updated_at = {self._dialect.now} "
            "WHERE cluster = ? AND user = ? AND node = ? AND generation = ? AND state = ?"
        )
        now = (
            node, address, port, state.value, old.generation + 1, old.generation + 1,
            resources.memory_bytes, resources.cpus_milli, resources.pids,
        )  # fmt: skip
        if not session.execute(sql, (*now, self._cluster, old.user, old.node, old.generation, old.state.value)):
            raise Raced

    def _find_move(self, session: Session, user: str) -> Move | None:
        sql = f"SELECT {_MOVE} FROM moves WHERE cluster = ? AND user = ?{self._dialect.locked}"
        found = session.query(sql, (self._cluster, user))
        return _move(found[0]) if found else None

    def _insert_move(self, session: Session, move: Move) -> None:
        session.execute(
            f"INSERT INTO moves (cluster, {_MOVE}, began_at) "
            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {self._dialect.now})",
            (
                self._cluster, move.user, move.source, move.target, move.address, move.host_port, move.memory_bytes,
                move.cpus_milli, move.pids, int(move.active),
            ),
        )  # fmt: skip

    def _refuse_placed_port(self, session: Session, node: str, port: int) -> None:
        """Raise if a placement has the port. The node's row is locked by now, so nobody takes it meanwhile."""
        sql = "SELECT 1 FROM placements WHERE cluster = ? AND node = ? AND host_port = ?" + self._dialect.locked
        if session.query(sql, (self._cluster, node, port)):
            raise Lost(Conflict.PORT_TAKEN)

    def _none_under_way(self, session: Session, move: Move) -> None:
        sql = "DELETE FROM kept_copies WHERE cluster = ? AND user = ? AND node = ? AND state = ?"
        session.execute(sql, (self._cluster, move.user, move.target, CopyState.INCOMING.value))
        session.execute(sql, (self._cluster, move.user, move.source, CopyState.SENDING.value))

    def _note(self, session: Session, user: str, node: str, state: CopyState) -> None:
        # Every caller changes the user's placement too: no two of them count at once.
        newest = f"SELECT MAX(number) FROM kept_copies WHERE cluster = ? AND user = ?{self._dialect.locked}"
        number = int(session.query(newest, (self._cluster, user))[0][0] or 0) + 1
        session.execute(
            "INSERT INTO kept_copies (cluster, user, node, number, state, since) "
            f"VALUES (?, ?, ?, ?, ?, {self._dialect.now})",
            (self._cluster, user, node, number, state.value),
        )

    def _key(self, copy: KeptCopy) -> tuple[object, ...]:
        return (self._cluster, copy.user, copy.node, copy.number)


_THE_COPY = "cluster = ? AND user = ? AND node = ? AND number = ?"


def _move(row: Row) -> Move:
    user, source, target, address, port, memory, cpus, pids, active = row
    return Move(user, source, target, address, port, memory, cpus, pids, bool(active))
