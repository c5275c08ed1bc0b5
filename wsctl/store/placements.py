"""Placements and what they take from their nodes: the half of the store that must never be wrong.

Responsible for: reserve, claim, settle, release, and the counters they keep, each in one transaction. Not responsible
for: changing the counters (`usage`), where files stay (`homes`), connections and retries (`sqlite`, `mysql`), nor for
deciding anything.

How it stays right:

- A placement changes only by an UPDATE that names the generation *and* the state it was read with. Zero rows
  means that somebody was faster: if the generation moved the caller hears of it, if only the state did it is tried
  again. No generation of a user is ever used twice, not even after `release` (see the table `retired`).
- Capacity is taken by a conditional UPDATE of the node's row *before* the placement is inserted: the row's lock puts
  all writers of a node in one queue, so they can't deadlock and can't count the same room twice.
- Uniqueness is the schema's. There is no upsert here: on MySQL it would rewrite the row of whoever has the port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from wsctl.errors import BackendError
from wsctl.model import Capacity, DamagedPlacement, NodeState, Placement, PlacementState, Resources
from wsctl.moving import Home
from wsctl.ports import Conflict, Reservation
from wsctl.records import AuditEntry
from wsctl.signals import Start
from wsctl.spots import Spot
from wsctl.store import rows
from wsctl.store.base import ATTEMPTS, always_raced
from wsctl.store.counters import COUNTERS, Change, Shift, settled, taken
from wsctl.store.database import Duplicate, Raced, Row, Session
from wsctl.store.homes import HomeRows
from wsctl.store.usage import NoNodeRow, UsageRows

T = TypeVar("T")


class Lost(Exception):
    """Undo the transaction and answer with this."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.value)
        self.conflict = conflict


_NEXT = "(SELECT COALESCE(MAX(r.generation), 0) + 1 FROM retired r WHERE r.cluster = ? AND r.user = ?)"
"""The first generation of a user's next placement."""


class PlacementRows(UsageRows, HomeRows):
    """The part of `ports.Store` about placements; see there for what each method promises."""

    # reading

    def states(self, other_than: PlacementState | None = None) -> Mapping[str, str]:
        sql, params = "SELECT user, state FROM placements WHERE cluster = ?", [self._cluster]
        if other_than is not None:
            sql, params = f"{sql} AND state <> ?", [*params, other_than.value]
        return dict(self._database.read(lambda session: session.query(sql, params)))

    def placements(self) -> list[Placement]:
        return [rows.placement(row, self._dialect.decode_time) for row in self._placement_rows()]

    def placements_and_damage(self) -> tuple[list[Placement], list[DamagedPlacement]]:
        read = [rows.placement_or_damage(row, self._dialect.decode_time) for row in self._placement_rows()]
        good = [row for row in read if isinstance(row, Placement)]
        return good, [row for row in read if isinstance(row, DamagedPlacement)]

    def spots(self) -> tuple[list[Spot], list[DamagedPlacement]]:
        sql = "SELECT user, node, address, host_port, state FROM placements WHERE cluster = ? ORDER BY user"
        return rows.spots(self._database.read(lambda session: session.query(sql, (self._cluster,))))

    def placement(self, user: str) -> Placement | None:
        return self._database.read(lambda session: self._find(session, user))

    # writing

    def reserve(self, wanted: Reservation, *, audit: Sequence[AuditEntry] = ()) -> Placement | Conflict:
        active, memory, cpus = taken(wanted.resources, +1)
        shift = Shift(1, active, memory, cpus, port=wanted.port, placed=True)

        def work(session: Session) -> Placement:
            if not self._shift(session, wanted.node, shift, wanted.capacity):
                raise Lost(Conflict.NODE_FULL)
            self._refuse_moving_port(session, wanted.node, wanted.port)
            self._insert(session, wanted)
            made = self._found(session, wanted.user)
            home, mark = self._home_and_mark(session, wanted.user, wanted.node)
            if home != wanted.home:
                raise Lost(Conflict.STALE)
            if wanted.only_ready and mark not in (None, NodeState.READY):
                raise Lost(Conflict.NODE_MARKED)
            self._log.append(session, audit)
            return made

        try:
            return self._write(work)
        except Lost as lost:
            conflict = lost.conflict
        except Duplicate as duplicate:
            if not duplicate.key.endswith("host_port"):
                return Conflict.USER_EXISTS
            conflict = Conflict.PORT_TAKEN
        # Whoever lost the last place or the port to their own twin should hear that they are placed.
        return Conflict.USER_EXISTS if self.placement(wanted.user) else conflict

    def claim(
        self,
        user: str,
        generation: int,
        state: PlacementState,
        capacity: Capacity | None = None,
        *,
        new_container: bool = False,
        port: int | None = None,
        resources: Resources | None = None,
        was: PlacementState | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> Placement | Conflict:
        def change(old: Placement) -> Change:
            if was not in (None, old.state):
                raise Lost(Conflict.STALE)
            return Change(
                old,
                state,
                generation=old.generation + 1,
                container_generation=old.generation + 1 if new_container else old.container_generation,
                port=old.host_port if port is None else port,
                resources=old.resources if resources is None else resources,
            )

        try:
            done = self._change(user, generation, change, capacity, audit, begins=True)
        except Lost as lost:
            return lost.conflict
        except Duplicate:
            return Conflict.PORT_TAKEN
        return done or Conflict.STALE

    def settle(
        self,
        user: str,
        generation: int,
        state: PlacementState,
        *,
        start: Start | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> bool:
        starts = {user: start} if start is not None else {}
        return self._change(user, generation, lambda old: settled(old, state), None, audit, starts=starts) is not None

    def release(
        self,
        user: str,
        generation: int,
        *,
        keep_home: bool | None,
        home: Home | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> bool:
        sql = "DELETE FROM placements WHERE cluster = ? AND user = ? AND node = ? AND generation = ? AND state = ?"

        def work(session: Session) -> bool:
            old = self._find(session, user)
            if old is None:
                # Whoever released it has said where the files are, or that there are none, and may not be the last.
                if keep_home is False and generation == 0 and home is not None:
                    return self._forget_this_home(session, user, home, audit)
                return True
            if old.generation != generation:
                return False
            self._drop_move(session, user)
            active, memory, cpus = taken(old.resources, -1) if old.state.holds_resources else (0, 0, 0)
            self._shift(session, old.node, Shift(-1, active, memory, cpus, routes=int(old.state.is_routed)))
            if not session.execute(sql, (self._cluster, user, old.node, generation, old.state.value)):
                raise Raced
            self._retire(session, user, generation)
            if keep_home is not None:
                self._forget_home(session, user)
            if keep_home:
                self._remember_home(session, user, old.node)
            self._log.append(session, audit)
            return True

        return self._write(work)

    def remember_home(self, user: str, node: str) -> bool:
        def work(session: Session) -> bool:
            if self._find(session, user) is not None:
                return False
            # The home's row first: it is the lock that keeps two of these apart.
            self._forget_home(session, user)
            self._remember_home(session, user, node)
            ((following,),) = session.query(f"SELECT {_NEXT}", (self._cluster, user))
            self._retire(session, user, int(following))
            return True

        return self._write(work)

    def recount(self, node: str, *, audit: Sequence[AuditEntry] = ()) -> bool:
        held = "CASE WHEN state <> ? THEN {} ELSE 0 END"  # by all but the stopped: see `PlacementState`
        sums = ", ".join(f"COALESCE(SUM({held.format(what)}), 0)" for what in ("1", "memory_bytes", "cpus_milli"))
        count = f"SELECT COUNT(*), {sums} FROM placements WHERE cluster = ? AND node = ?"
        moved = ", ".join(f"COALESCE(SUM(active * {what}), 0)" for what in ("1", "memory_bytes", "cpus_milli"))
        moving = f"SELECT COUNT(*), {moved} FROM moves WHERE cluster = ? AND target = ?"
        counters = ", ".join(COUNTERS)
        said = f"SELECT {counters} FROM node_usage WHERE cluster = ? AND node = ?{self._dialect.locked}"
        correct = f"UPDATE node_usage SET {' = ?, '.join(COUNTERS)} = ? WHERE cluster = ? AND node = ?"
        stopped, key = PlacementState.STOPPED.value, (self._cluster, node)

        def work(session: Session) -> bool:
            # The row's lock first: whoever changes what is counted here takes it before.
            row = session.query(said, key)
            placed = session.query(count, (stopped, stopped, stopped, *key))[0]
            right = [int(a) + int(b) for a, b in zip(placed, session.query(moving, key)[0], strict=True)]
            if not row and any(right):
                raise NoNodeRow(node)
            if not row or [int(value) for value in row[0]] == right:
                return False
            session.execute(correct, (*right, *key))
            self._log.append(session, audit)
            return True

        return self._write(work)

    # how

    def _placement_rows(self) -> list[Row]:
        sql = f"SELECT {rows.PLACEMENT_COLUMNS} FROM placements WHERE cluster = ? ORDER BY user"
        return self._database.read(lambda session: session.query(sql, (self._cluster,)))

    def _change(
        self,
        user: str,
        generation: int,
        change: Callable[[Placement], Change],
        capacity: Capacity | None,
        audit: Sequence[AuditEntry],
        *,
        begins: bool = False,
        starts: Mapping[str, Start] = MappingProxyType({}),
    ) -> Placement | None:
        """Apply `change` to the placement if it has `generation`; the placement afterwards, None if it moved. With
        `begins` a move of the user ends."""

        def work(session: Session) -> Placement | None:
            old = self._find(session, user)
            if old is None or old.generation != generation:
                return None
            new = change(old)
            if begins:
                self._drop_move(session, user)
            shift = new.shift()
            if shift and not self._shift(session, old.node, shift, capacity):
                raise Lost(Conflict.NODE_FULL)
            if new.port != old.host_port:
                self._refuse_moving_port(session, old.node, new.port)
            if not session.execute(*self._update(new)):
                raise Raced
            changed = self._found(session, user)
            self._sights.start(session, starts)
            self._log.append(session, audit)
            return changed

        return self._write(work)

    def _write(self, work: Callable[[Session], T]) -> T:
        """The same, and again when it needs a row for its node."""
        for _ in range(ATTEMPTS):
            try:
                return super()._write(work)
            except NoNodeRow as missing:
                self._make_node_row(missing.node)
        raise always_raced()

    def _retire(self, session: Session, user: str, generation: int) -> None:
        """The user's next placement begins behind this generation."""
        retire = self._dialect.upsert("retired", ["cluster", "user"], ["generation"])
        session.execute(retire, (self._cluster, user, generation))

    def _find(self, session: Session, user: str) -> Placement | None:
        sql = f"SELECT {rows.PLACEMENT_COLUMNS} FROM placements WHERE cluster = ? AND user = ?"
        found = session.query(sql, (self._cluster, user))
        return rows.placement(found[0], self._dialect.decode_time) if found else None

    def _found(self, session: Session, user: str) -> Placement:
        """The row that this transaction has just written, with the database's times."""
        found = self._find(session, user)
        if found is None:
            raise BackendError(f"the state database lost the row of {user!r} while writing it")
        return found

    def _insert(self, session: Session, *all_wanted: Reservation) -> None:
        now = self._dialect.now
        row = f"(?, ?, ?, ?, ?, ?, {_NEXT}, {_NEXT}, ?, ?, ?, ?, {now}, {now})"
        params: list[object] = []
        for wanted in all_wanted:
            params += (
                self._cluster, wanted.user, wanted.node, wanted.address, wanted.port, PlacementState.RESERVED.value,
                *[self._cluster, wanted.user] * 2,
                wanted.resources.memory_bytes, wanted.resources.cpus_milli, wanted.resources.pids,
                wanted.workspace_class,
            )  # fmt: skip
        into = f"INSERT INTO placements (cluster, {rows.PLACEMENT_COLUMNS})"
        session.execute(f"{into} VALUES {', '.join([row] * len(all_wanted))}", params)

    def _update(self, new: Change) -> tuple[str, tuple[object, ...]]:
        old = new.old
        return (
            f"UPDATE placements SET state = ?, generation = ?, container_generation = ?, host_port = ?, "
            f"memory_bytes = ?, cpus_milli = ?, pids = ?, updated_at = {self._dialect.now} "
            "WHERE cluster = ? AND user = ? AND node = ? AND generation = ? AND state = ?",
            (
                new.state.value, new.generation, new.container_generation, new.port,
                new.resources.memory_bytes, new.resources.cpus_milli, new.resources.pids,
                self._cluster, old.user, old.node, old.generation, old.state.value,
            ),
        )  # fmt: skip

    def _drop_move(self, session: Session, user: str) -> None:
        """Give back what a move of the user has taken on its target, if one was begun."""
        key = (self._cluster, user)
        where = "FROM moves WHERE cluster = ? AND user = ?"
        what = "SELECT target, memory_bytes, cpus_milli, active"
        found = session.query(f"{what} {where}{self._dialect.locked}", key)
        for target, memory, cpus, active in found:
            session.execute(f"DELETE {where}", key)
            self._shift(session, target, Shift(-1, -active, -active * memory, -active * cpus))

    def _refuse_moving_port(self, session: Session, node: str, port: int) -> None:
        """Raise if a move has the port. The node's row is locked by now, so nobody takes it meanwhile."""
        sql = "SELECT 1 FROM moves WHERE cluster = ? AND target = ? AND host_port = ?" + self._dialect.locked
        if session.query(sql, (self._cluster, node, port)):
            raise Lost(Conflict.PORT_TAKEN)
