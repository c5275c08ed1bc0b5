"""Placements and what they take from their nodes: the half of the store that must never be wrong.

Responsible for: reserve, claim, settle, release, and the counters they keep, each in one transaction. Not responsible
for: connections and retries (`sqlite`, `mysql`), nor for deciding anything.

How it stays right:

- A placement changes only by an UPDATE that names the generation *and* the state it was read with. Zero rows means
  that somebody was faster: if the generation moved the caller hears of it, if only the state did it is tried again.
- Capacity is taken by a conditional UPDATE of the node's row *before* the placement is inserted: the row's lock puts
  all writers of a node in one queue, so they can't deadlock and can't count the same room twice.
- Uniqueness is the schema's. There is no upsert here: on MySQL it would rewrite the row of whoever has the port.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from wsctl.errors import BackendError
from wsctl.model import Capacity, Placement, PlacementState, Resources, Usage
from wsctl.ports import Conflict, Reservation
from wsctl.store import rows
from wsctl.store.database import Database, Duplicate, Session

T = TypeVar("T")

_ATTEMPTS = 20


class _Lost(Exception):
    """Undo the transaction and answer with this."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.value)
        self.conflict = conflict


class _Raced(Exception):
    """Undo the transaction and look again: the state changed, the generation didn't."""


class _NoNodeRow(Exception):
    """Undo the transaction and make the node's row first. In a transaction of its own, because two that find it
    missing would otherwise deadlock on it."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node


@dataclass(frozen=True, slots=True)
class _Shift:
    """What a write changes in its node's row. `port` is remembered as the newest, `placed` marks the newest node."""

    workspaces: int = 0
    active: int = 0
    memory_bytes: int = 0
    cpus_milli: int = 0
    routes: int = 0
    port: int | None = None
    placed: bool = False

    def __bool__(self) -> bool:
        return self != _Shift()


@dataclass(frozen=True, slots=True)
class _Change:
    """A placement as it was read, and what it is to become."""

    old: Placement
    state: PlacementState
    generation: int
    container_generation: int
    port: int
    resources: Resources

    def shift(self) -> _Shift:
        """What that changes in the node's row."""
        old = self.old
        was_active, was_memory, was_cpus = _taken(old.resources, int(old.state.holds_resources))
        is_active, is_memory, is_cpus = _taken(self.resources, int(self.state.holds_resources))
        active, memory, cpus = is_active - was_active, is_memory - was_memory, is_cpus - was_cpus
        was, will, moved = old.state.is_routed, self.state.is_routed, self.port != old.host_port
        routes = was != will or (was and moved)
        return _Shift(0, active, memory, cpus, routes=int(routes), port=self.port if moved else None)


def _taken(resources: Resources, sign: int) -> tuple[int, int, int]:
    """(active, memory, cpus) that a placement takes (+1), gives back (-1), or doesn't hold (0)."""
    return sign, sign * resources.memory_bytes, sign * resources.cpus_milli


# Never below zero: a count that is wrong already (somebody edited rows by hand) mustn't make a release impossible.
_COUNTERS = ("workspaces", "active", "memory_bytes", "cpus_milli")
_SET_COUNTERS = ", ".join(f"{name} = CASE WHEN {name} + ? < 0 THEN 0 ELSE {name} + ? END" for name in _COUNTERS)


def _room(shift: _Shift, capacity: Capacity | None) -> tuple[str, list[int]]:
    """The condition under which what `shift` takes more of fits into `capacity`, and its parameters."""
    if capacity is None:
        return "", []
    asked = (
        ("workspaces", shift.workspaces, capacity.workspaces),
        ("memory_bytes", shift.memory_bytes, capacity.memory_bytes),
        ("cpus_milli", shift.cpus_milli, capacity.cpus_milli),
    )
    taking = [(name, more, limit) for name, more, limit in asked if more > 0]
    where = "".join(f" AND {name} + ? <= ?" for name, _, _ in taking)
    return where, [value for _, more, limit in taking for value in (more, limit)]


class PlacementRows:
    """The part of `ports.Store` about placements; see there for what each method promises."""

    def __init__(self, database: Database, cluster: str) -> None:
        self._database = database
        self._dialect = database.dialect
        self._cluster = cluster

    # reading

    def placements(self) -> list[Placement]:
        sql = f"SELECT {rows.PLACEMENT_COLUMNS} FROM placements WHERE cluster = ? ORDER BY user"
        found = self._database.read(lambda session: session.query(sql, (self._cluster,)))
        return [rows.placement(row, self._dialect.decode_time) for row in found]

    def placement(self, user: str) -> Placement | None:
        return self._database.read(lambda session: self._find(session, user))

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

    def homes(self) -> Mapping[str, str]:
        found = self._database.read(
            lambda session: session.query("SELECT user, node FROM homes WHERE cluster = ?", (self._cluster,))
        )
        return {user: node for user, node in found}

    # writing

    def reserve(self, wanted: Reservation) -> Placement | Conflict:
        active, memory, cpus = _taken(wanted.resources, +1)
        shift = _Shift(1, active, memory, cpus, port=wanted.port, placed=True)

        def work(session: Session) -> Placement:
            if not self._shift(session, wanted.node, shift, wanted.capacity):
                raise _Lost(Conflict.NODE_FULL)
            self._insert(session, wanted)
            return self._found(session, wanted.user)

        try:
            return self._write(work)
        except _Lost as lost:
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
    ) -> Placement | Conflict:
        def change(old: Placement) -> _Change:
            if was not in (None, old.state):
                raise _Lost(Conflict.STALE)
            return _Change(
                old,
                state,
                generation=old.generation + 1,
                container_generation=old.generation + 1 if new_container else old.container_generation,
                port=old.host_port if port is None else port,
                resources=old.resources if resources is None else resources,
            )

        try:
            done = self._change(user, generation, change, capacity)
        except _Lost as lost:
            return lost.conflict
        except Duplicate:
            return Conflict.PORT_TAKEN
        return done or Conflict.STALE

    def settle(self, user: str, generation: int, state: PlacementState) -> bool:
        def change(old: Placement) -> _Change:
            return _Change(old, state, old.generation, old.container_generation, old.host_port, old.resources)

        return self._change(user, generation, change, None) is not None

    def release(self, user: str, generation: int, *, keep_home: bool | None) -> bool:
        sql = "DELETE FROM placements WHERE cluster = ? AND user = ? AND generation = ? AND state = ?"

        def work(session: Session) -> bool:
            old = self._find(session, user)
            if old is None:
                # Whoever released it has said where the files are, or that there are none, and may not be the last.
                if keep_home is False and generation == 0:
                    self._forget_home(session, user)
                return True
            if old.generation != generation:
                return False
            active, memory, cpus = _taken(old.resources, -1) if old.state.holds_resources else (0, 0, 0)
            self._shift(session, old.node, _Shift(-1, active, memory, cpus, routes=int(old.state.is_routed)))
            if not session.execute(sql, (self._cluster, user, generation, old.state.value)):
                raise _Raced
            if keep_home is not None:
                self._forget_home(session, user)
            if keep_home:
                self._remember_home(session, user, old.node)
            return True

        return self._write(work)

    # how

    def _change(
        self, user: str, generation: int, change: Callable[[Placement], _Change], capacity: Capacity | None
    ) -> Placement | None:
        """Apply `change` to the placement if it has `generation`; the placement afterwards, None if it moved."""

        def work(session: Session) -> Placement | None:
            old = self._find(session, user)
            if old is None or old.generation != generation:
                return None
            new = change(old)
            shift = new.shift()
            if shift and not self._shift(session, old.node, shift, capacity):
                raise _Lost(Conflict.NODE_FULL)
            if not session.execute(*self._update(new)):
                raise _Raced
            return self._found(session, user)

        return self._write(work)

    def _write(self, work: Callable[[Session], T]) -> T:
        """`work` in a transaction, again when it raced with another writer or needs a row for its node."""
        for _ in range(_ATTEMPTS):
            try:
                return self._database.write(work)
            except _Raced:
                continue
            except _NoNodeRow as missing:
                self._make_node_row(missing.node)
        raise BackendError(
            "the state database changed under each of many attempts; nothing was changed", hint="run the command again"
        )

    def _forget_home(self, session: Session, user: str) -> None:
        session.execute("DELETE FROM homes WHERE cluster = ? AND user = ?", (self._cluster, user))

    def _remember_home(self, session: Session, user: str, node: str) -> None:
        sql = f"INSERT INTO homes (cluster, user, node, since) VALUES (?, ?, ?, {self._dialect.now})"
        session.execute(sql, (self._cluster, user, node))

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

    def _insert(self, session: Session, wanted: Reservation) -> None:
        now = self._dialect.now
        session.execute(
            f"INSERT INTO placements (cluster, {rows.PLACEMENT_COLUMNS}) "
            f"VALUES (?, ?, ?, ?, ?, ?, 1, 1, ?, ?, ?, ?, {now}, {now})",
            (
                self._cluster, wanted.user, wanted.node, wanted.address, wanted.port, PlacementState.RESERVED.value,
                wanted.resources.memory_bytes, wanted.resources.cpus_milli, wanted.resources.pids,
                wanted.workspace_class,
            ),
        )  # fmt: skip

    def _update(self, new: _Change) -> tuple[str, tuple[object, ...]]:
        old = new.old
        return (
            f"UPDATE placements SET state = ?, generation = ?, container_generation = ?, host_port = ?, "
            f"memory_bytes = ?, cpus_milli = ?, pids = ?, updated_at = {self._dialect.now} "
            "WHERE cluster = ? AND user = ? AND generation = ? AND state = ?",
            (
                new.state.value, new.generation, new.container_generation, new.port,
                new.resources.memory_bytes, new.resources.cpus_milli, new.resources.pids,
                self._cluster, old.user, old.generation, old.state.value,
            ),
        )  # fmt: skip

    def _shift(self, session: Session, node: str, shift: _Shift, capacity: Capacity | None = None) -> bool:
        """Change the node's counters; False if `capacity` has no room. Locks the node's row until the end."""
        if not shift:
            return True
        where, limits = _room(shift, capacity)
        sql = (
            f"UPDATE node_usage SET {_SET_COUNTERS}, route_changes = route_changes + ?, "
            f"last_port = COALESCE(?, last_port), "
            f"placed_at = CASE WHEN ? = 1 THEN {self._dialect.now} ELSE placed_at END "
            f"WHERE cluster = ? AND node = ?{where}"
        )
        counters = (shift.workspaces, shift.active, shift.memory_bytes, shift.cpus_milli)
        twice = [value for value in counters for _ in range(2)]
        params = (*twice, shift.routes, shift.port, int(shift.placed), self._cluster, node, *limits)
        if session.execute(sql, params):
            return True
        if session.query("SELECT 1 FROM node_usage WHERE cluster = ? AND node = ?", (self._cluster, node)):
            return False
        raise _NoNodeRow(node)

    def _make_node_row(self, node: str) -> None:
        sql = (
            "INSERT INTO node_usage (cluster, node, workspaces, active, memory_bytes, cpus_milli, route_changes) "
            "VALUES (?, ?, 0, 0, 0, 0, 0)"
        )
        with contextlib.suppress(Duplicate):
            self._database.apply(sql, (self._cluster, node))
