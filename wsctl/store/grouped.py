"""What the threads of a batch write at the same time, in one transaction with statements for many users.

Responsible for: reservations, claims and settlements that come together, as one transaction in which all of them
succeed, and for reading generations together. Not responsible for: what each of them is alone (`placements`), nor for
forming the groups (`together`).

All or nothing: as soon as anything isn't plain (somebody was faster, no room, a port is taken, a move has to be ended,
a row is damaged) the transaction is undone and every caller does theirs alone, as if there had been no group, and gets
their own answer. So for each user there is what there was: placement, port, room and audit rows together, or none of
them. What happened at COMMIT concerns all: if the outcome is unknown, everybody hears that it is.

A group is the same as its members one after the other, those that ask for room first: what they ask for must fit
without what others give back. Rows are locked in the order of nodes, then of users, in every group of every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from wsctl.errors import BackendError
from wsctl.model import Capacity, NodeState, Placement, PlacementState, Resources
from wsctl.ports import Conflict, Reservation
from wsctl.records import AuditEntry
from wsctl.signals import Start
from wsctl.store import rows
from wsctl.store.base import ATTEMPTS
from wsctl.store.counters import Change, Shift, settled, taken
from wsctl.store.database import Database, Duplicate, Raced, Row, Session, marks
from wsctl.store.moves import MoveRows
from wsctl.store.placements import Lost
from wsctl.store.together import Together
from wsctl.store.usage import NoNodeRow

LIMIT = 40
"""Users a group: a row of placements has 16 parameters, and old SQLite allows 999 a statement."""


@dataclass(frozen=True, slots=True)
class Reserving:
    """A reservation that waits for its group. `alone` does it by itself."""

    wanted: Reservation
    audit: tuple[AuditEntry, ...]
    alone: Callable[[], Placement | Conflict]

    @property
    def user(self) -> str:
        return self.wanted.user


@dataclass(frozen=True, slots=True)
class Changing:
    """A claim or a settlement that waits for its group. `alone` does it by itself. `new_container`,
    `capacity` and `was` are a claim's, as in `Store.claim`."""

    user: str
    generation: int
    state: PlacementState
    audit: tuple[AuditEntry, ...]
    alone: Callable[[], Placement | Conflict | bool]
    start: Start | None = None
    is_claim: bool = False
    new_container: bool = False
    capacity: Capacity | None = None
    was: PlacementState | None = None

    def applied_to(self, old: Placement) -> Change:
        """What it makes of the placement."""
        if not self.is_claim:
            return settled(old, self.state)
        generation = old.generation + 1
        container = generation if self.new_container else old.container_generation
        return Change(old, self.state, generation, container, old.host_port, old.resources)


Call = Reserving | Changing


class _Apart(Exception):
    """Undo the transaction: these don't go together."""


class GroupedRows(MoveRows):
    """`generation`, `reserve`, `claim` and `settle`, together with those of other threads."""

    def __init__(self, database: Database, cluster: str) -> None:
        super().__init__(database, cluster)
        self._reads: Together[str, int] = Together(self._generations, _told, LIMIT)
        self._writes: Together[Call, Any] = Together(self._write_all, _told, LIMIT)

    def generation(self, user: str) -> int:
        return self._reads.do(user)

    def reserve(self, wanted: Reservation, *, audit: Sequence[AuditEntry] = ()) -> Placement | Conflict:
        alone = partial(super().reserve, wanted, audit=audit)
        done: Placement | Conflict | None = self._writes.do(Reserving(wanted, tuple(audit), alone))
        return alone() if done is None else done

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
        how: dict[str, Any] = {"new_container": new_container, "port": port, "resources": resources, "was": was}
        alone = partial(super().claim, user, generation, state, capacity, audit=audit, **how)
        if port is not None or resources is not None:
            return alone()
        call = Changing(
            user, generation, state, tuple(audit), alone, None, True, new_container, capacity, was
        )  # fmt: skip
        done: Placement | Conflict | None = self._writes.do(call)
        return alone() if done is None else done

    def settle(
        self,
        user: str,
        generation: int,
        state: PlacementState,
        *,
        start: Start | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> bool:
        alone = partial(super().settle, user, generation, state, start=start, audit=audit)
        done: bool | None = self._writes.do(Changing(user, generation, state, tuple(audit), alone, start))
        return alone() if done is None else done

    # how

    def _generations(self, users: Sequence[str]) -> list[int | Exception]:
        names = sorted(set(users))
        sql = f"SELECT user, generation FROM placements WHERE cluster = ? AND user IN ({marks(len(names))})"
        found = self._database.read(lambda session: session.query(sql, (self._cluster, *names)))
        known = {row[0]: row for row in found}
        return [_generation_or_error(known.get(user)) for user in users]

    def _write_all(self, calls: Sequence[Call]) -> Sequence[Any]:
        """What each of the calls got; None for who has to do it alone."""
        if len(calls) == 1:
            return [calls[0].alone()]
        committing = False

        def work(session: Session) -> list[Placement | bool]:
            nonlocal committing
            committing = False
            done = self._as_one(session, calls)
            committing = True
            return done

        try:
            for _ in range(ATTEMPTS):
                try:
                    return self._database.write(work)
                except NoNodeRow as missing:
                    self._make_node_row(missing.node)
        except (_Apart, Lost, Duplicate, Raced):
            pass
        except BackendError:
            if committing:
                raise
            # Nothing was changed: each tries, and hears what is wrong.
        return [None] * len(calls)

    def _as_one(self, session: Session, calls: Sequence[Call]) -> list[Placement | bool]:
        """All of it in this transaction; raises if any of it can't be."""
        if len({call.user for call in calls}) < len(calls):
            raise _Apart
        ordered = sorted(calls, key=lambda call: call.user)
        wanted = [call.wanted for call in ordered if isinstance(call, Reserving)]
        changing = [call for call in ordered if isinstance(call, Changing)]
        self._refuse_movers(session, [call.user for call in changing if call.is_claim])
        changes = self._changes(session, changing)
        self._shift_all(session, wanted, changing, changes)
        if wanted:
            self._refuse_moving_ports(session, wanted)
            self._insert(session, *wanted)
        self._change_all(session, changes)
        made = self._made(session, wanted, [change for change in changes if change.generation > change.old.generation])
        self._sights.start(session, {call.user: call.start for call in changing if call.start is not None})
        self._log.append(session, [entry for call in calls for entry in call.audit])
        return [made.get(call.user, True) for call in calls]

    def _refuse_movers(self, session: Session, users: Sequence[str]) -> None:
        """A claim ends a move that was begun: that is done alone."""
        sql = f"SELECT 1 FROM moves WHERE cluster = ? AND user IN ({marks(len(users))}){self._dialect.locked}"
        if users and session.query(sql, (self._cluster, *users)):
            raise _Apart

    def _changes(self, session: Session, changing: Sequence[Changing]) -> list[Change]:
        """What the claims and settlements change, by what is there; read whole, so that damage is noticed."""
        if not changing:
            return []
        sql = f"SELECT {rows.PLACEMENT_COLUMNS} FROM placements WHERE cluster = ? AND user IN ({marks(len(changing))})"
        read = session.query(sql, (self._cluster, *(call.user for call in changing)))
        found = {row[0]: rows.placement(row, self._dialect.decode_time) for row in read}
        changes = []
        for call in changing:
            old = found.get(call.user)
            if old is None or old.generation != call.generation or call.was not in (None, old.state):
                raise _Apart
            changes.append(call.applied_to(old))
        return changes

    def _shift_all(
        self,
        session: Session,
        all_wanted: Sequence[Reservation],
        changing: Sequence[Changing],
        changes: Sequence[Change],
    ) -> None:
        """The counters of every node, within the capacity that all who ask for room there name."""
        asks: dict[str, Shift] = {}
        shifts: dict[str, Shift] = {}
        limits: dict[str, Capacity] = {}

        def add(node: str, shift: Shift, capacity: Capacity | None) -> None:
            shifts[node] = shifts.get(node, Shift()) + shift
            if capacity is not None:
                asks[node] = asks.get(node, Shift()) + shift
                if limits.setdefault(node, capacity) != capacity or min(shift.memory_bytes, shift.cpus_milli) < 0:
                    raise _Apart

        # In the order of the ports, as they were handed out: the last is the node's newest.
        for wanted in sorted(all_wanted, key=lambda wanted: wanted.port):
            active, memory, cpus = taken(wanted.resources, +1)
            add(wanted.node, Shift(1, active, memory, cpus, port=wanted.port, placed=True), wanted.capacity)
        for call, change in zip(changing, changes, strict=True):
            add(change.old.node, change.shift(), call.capacity)
        if not self._shift_each(session, shifts, asks, limits):
            raise Lost(Conflict.NODE_FULL)

    def _refuse_moving_ports(self, session: Session, all_wanted: Sequence[Reservation]) -> None:
        """As `_refuse_moving_port`, of several nodes whose rows are locked by now."""
        ports: dict[str, list[int]] = {}
        for wanted in all_wanted:
            ports.setdefault(wanted.node, []).append(wanted.port)
        of_node = " OR ".join(f"(target = ? AND host_port IN ({marks(len(some))}))" for some in ports.values())
        params = [value for node, some in ports.items() for value in (node, *some)]
        sql = f"SELECT 1 FROM moves WHERE cluster = ? AND ({of_node}){self._dialect.locked}"
        if session.query(sql, (self._cluster, *params)):
            raise Lost(Conflict.PORT_TAKEN)

    def _change_all(self, session: Session, changes: Sequence[Change]) -> None:
        """The new rows, one statement for each kind of change; every row must still be what was read."""
        for (state, sets), some in groupby(sorted(changes, key=_kind), key=_kind):
            olds = [change.old for change in some]
            row = " OR ".join(["(user = ? AND node = ? AND generation = ? AND state = ?)"] * len(olds))
            params = [value for o in olds for value in (o.user, o.node, o.generation, o.state.value)]
            what = f"UPDATE placements SET state = ?{sets}, updated_at = {self._dialect.now}"
            if session.execute(f"{what} WHERE cluster = ? AND ({row})", (state, self._cluster, *params)) != len(olds):
                raise Raced

    def _made(
        self, session: Session, all_wanted: Sequence[Reservation], claims: Sequence[Change]
    ) -> dict[str, Placement]:
        """The placements that this transaction has just reserved or claimed, with what the database made of them."""
        users = [*(wanted.user for wanted in all_wanted), *(change.old.user for change in claims)]
        if not users:
            return {}
        sql = (
            "SELECT p.user, p.generation, p.created_at, p.updated_at, h.node, m.state FROM placements p "
            "LEFT JOIN homes h ON h.cluster = p.cluster AND h.user = p.user "
            "LEFT JOIN node_marks m ON m.cluster = p.cluster AND m.node = p.node "
            f"WHERE p.cluster = ? AND p.user IN ({marks(len(users))})"
        )
        found = {row[0]: row[1:] for row in session.query(sql, (self._cluster, *users))}
        if len(found) != len(users):
            raise _Apart
        for wanted in all_wanted:
            *_, home, mark = found[wanted.user]
            if home != wanted.home or (wanted.only_ready and mark not in (None, NodeState.READY)):
                raise _Apart
        when = self._dialect.decode_time
        made = {}
        for wanted in all_wanted:
            generation, created, updated, *_ = found[wanted.user]
            made[wanted.user] = Placement(
                wanted.user, wanted.node, wanted.address, wanted.port, PlacementState.RESERVED, generation, generation,
                wanted.resources, wanted.workspace_class, when(created), when(updated),
            )  # fmt: skip
        for change in claims:
            generation, created, updated, *_ = found[change.old.user]
            made[change.old.user] = replace(
                change.old, state=change.state, generation=generation,
                container_generation=change.container_generation, created_at=when(created), updated_at=when(updated),
            )  # fmt: skip
        return made


def _kind(change: Change) -> tuple[str, str]:
    """The new state, and what else a change sets; MySQL assigns from left to right."""
    sets = ""
    if change.container_generation != change.old.container_generation:
        sets += ", container_generation = generation + 1"
    if change.generation != change.old.generation:
        sets += ", generation = generation + 1"
    return change.state.value, sets


def _generation_or_error(row: Row | None) -> int | Exception:
    """Of a damaged row only who asked for it hears."""
    try:
        return 0 if row is None else rows.generation(row)
    except BackendError as error:
        return error


def _told(error: BaseException) -> Exception:
    """What those hear who were in the group of somebody who got `error`."""
    if isinstance(error, BackendError):
        return BackendError(error.message, hint=error.hint, details=error.details)
    if isinstance(error, Exception):
        return error
    return BackendError(
        "the state database was written to by a thread that was interrupted; outcome unknown",
        hint="run the same command again: it looks at what there is and does what is left",
    )
