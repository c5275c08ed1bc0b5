"""The state of one cluster as records, out of a database and into another.

Responsible for: reading everything as of one moment, and writing everything in one transaction, into a cluster that has
nothing, or in the place of exactly what was seen before. Not responsible for: the file (`wsctl.statefile`), nor for
what the columns may hold (`columns`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from wsctl.errors import BackupDamaged, PlanChanged, Refused
from wsctl.model import PlacementState
from wsctl.records import AuditEntry
from wsctl.store.base import ClusterRows
from wsctl.store.columns import TABLES, Record, Table, to_record, to_values
from wsctl.store.database import Duplicate, Row, Session, marks

T = TypeVar("T")

_PAGE = 2000
_CHUNK = 40  # rows a statement: below the 999 parameters that old SQLite allows

_IDENTITY = {
    "placements": "user, node, host_port, state, generation",
    "homes": "user, node",
    "node_marks": "node, state",
    "audit_heads": "target, sequence, digest",
}
"""What tells one state from another. Who is active changes all the time, and isn't worth a refusal."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one moment: how many rows each table has, a word for all of it (`identity`), and the records, which
    can be walked through once."""

    counts: Mapping[str, int]
    identity: str
    records: Iterator[tuple[str, Record]]


@dataclass(slots=True)
class _Loading:
    """What is gathered while records are written: rows not yet sent, and what the placements take on each node."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    taken: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))
    waiting: list[list[object]] = field(default_factory=list)
    table: str = ""


class PortableRows(ClusterRows):
    """Copying a cluster's state; see `wsctl.statefile` for what is made of it."""

    def copy_state(self, consume: Callable[[Snapshot], T]) -> T:
        """What `consume` makes of the whole state as of one moment. `consume` may be called again after the connection
        was lost. Raises `BackendError`, naming the first row that is damaged."""

        def work(session: Session) -> T:
            counts, identity = self._seen(session, "")
            return consume(Snapshot(counts, identity, self._records(session)))

        return self._database.snapshot(work)

    def load_state(
        self,
        records: Callable[[], Iterator[tuple[str, Record]]],
        *,
        replaces: str | None,
        audit: Sequence[AuditEntry],
        keep_request: str | None = None,
    ) -> dict[str, int]:
        """Write the records and then the audit entries in one transaction; how many of each table.

        The cluster must be empty, or be what the identity `replaces` stands for: that is deleted. `records` is called
        once for each attempt. Generations and the route generation never fall. Raises `Refused` if the cluster isn't
        empty, `PlanChanged` if it isn't what is to be replaced, `BackupDamaged` if the records can't be together;
        nothing is changed then.
        """

        def work(session: Session) -> dict[str, int]:
            counts, identity = self._seen(session, self._dialect.locked)
            held = {**counts, "activity": counts["activity"] - self._since_when(session)}
            if replaces is None and any(held.values()):
                raise Refused(f"the cluster {self._cluster} isn't empty: {_listed(held)}")
            if replaces is not None and identity != replaces:
                raise PlanChanged("the state changed while its copy was made; nothing was changed")
            old = self._old_generations(session)
            routes = self._route_changes(session)
            self._delete(session, counts, keep_request)
            loading = self._insert_all(session, records(), old)
            self._count_routes(session, loading, routes)
            if self._count(session) != loading.counts:
                raise PlanChanged("somebody else writes into this cluster; nothing was changed")
            self._keep_retired(session, old)
            self._log.append(session, audit)
            return dict(loading.counts)

        try:
            return self._write(work)
        except Duplicate as duplicate:
            raise BackupDamaged(f"two of its rows can't be together: both have the same {duplicate.key}") from duplicate

    # reading

    def _records(self, session: Session) -> Iterator[tuple[str, Record]]:
        for table in TABLES.values():
            for row in self._pages(session, table):
                yield table.name, to_record(table, row, self._dialect)

    def _pages(self, session: Session, table: Table) -> Iterator[Row]:
        """The rows of a table in the order of its key, some at a time."""
        select = f"SELECT {table.names} FROM {table.name} WHERE cluster = ?"
        order = f" ORDER BY {', '.join(table.key)} LIMIT {_PAGE}"
        # Behind the last row: the first columns of the key equal, the next one greater.
        ways = [
            " AND ".join([*(f"{same} = ?" for same in table.key[:n]), f"{more} > ?"])
            for n, more in enumerate(table.key)
        ]
        behind = f" AND (({') OR ('.join(ways)}))"
        page = session.query(select + order, (self._cluster,))
        while page:
            yield from page
            last = page[-1][: len(table.key)]
            params = [value for n in range(len(last)) for value in last[: n + 1]]
            page = session.query(select + behind + order, (self._cluster, *params)) if len(page) == _PAGE else []

    def _count(self, session: Session) -> dict[str, int]:
        return {
            name: int(session.query(f"SELECT COUNT(*) FROM {name} WHERE cluster = ?", (self._cluster,))[0][0])
            for name in TABLES
        }

    def _seen(self, session: Session, locked: str) -> tuple[dict[str, int], str]:
        """How much there is, and the identity of it."""
        whole = hashlib.sha256()
        for name, columns in _IDENTITY.items():
            sql = f"SELECT {columns} FROM {name} WHERE cluster = ? ORDER BY 1{locked}"
            for row in session.query(sql, (self._cluster,)):
                whole.update(json.dumps([name, *row], default=repr).encode())
        return self._count(session), whole.hexdigest()

    # writing

    def _old_generations(self, session: Session) -> dict[str, int]:
        found: dict[str, int] = {}
        for table in ("placements", "retired"):
            for user, generation in session.query(
                f"SELECT user, generation FROM {table} WHERE cluster = ?", (self._cluster,)
            ):
                found[str(user)] = max(found.get(str(user), 0), int(generation))
        return found

    def _keep_retired(self, session: Session, old: Mapping[str, int]) -> None:
        """See to it that users who aren't placed any more don't get a generation again that they have had."""
        known: dict[str, int] = dict(
            session.query("SELECT user, generation FROM retired WHERE cluster = ?", (self._cluster,))
        )
        retire = self._dialect.upsert("retired", ["cluster", "user"], ["generation"])
        for user, generation in old.items():
            if int(known.get(user, 0)) < generation:
                session.execute(retire, (self._cluster, user, generation))

    def _since_when(self, session: Session) -> int:
        """1 if there is the row that says since when there is activity at all: nobody's, so not something to lose."""
        sql = "SELECT COUNT(*) FROM activity WHERE cluster = ? AND user = ''"
        return int(session.query(sql, (self._cluster,))[0][0])

    def _route_changes(self, session: Session) -> int:
        sql = "SELECT COALESCE(SUM(route_changes), 0) FROM node_usage WHERE cluster = ?"
        return int(session.query(sql, (self._cluster,))[0][0])

    def _delete(self, session: Session, counts: Mapping[str, int], keep_request: str | None) -> None:
        for name, count in counts.items():
            gone = session.execute(f"DELETE FROM {name} WHERE cluster = ?", (self._cluster,)) if count else 0
            if gone != count and name in _IDENTITY:
                raise PlanChanged("somebody else writes into this cluster; nothing was changed")
        # What moves take on their targets isn't taken any more: what is counted on a node is its placements alone.
        session.execute("DELETE FROM moves WHERE cluster = ?", (self._cluster,))
        # Their answers speak of a state that isn't any more.
        sql = "DELETE FROM requests WHERE cluster = ? AND request_id <> ?"
        session.execute(sql, (self._cluster, keep_request or ""))

    def _insert_all(self, session: Session, records: Iterator[tuple[str, Record]], old: Mapping[str, int]) -> _Loading:
        loading = _Loading()
        for name, record in records:
            if loading.table != name or len(loading.waiting) == _CHUNK:
                self._send(session, loading)
                loading.table = name
            if name == "placements":
                _take(loading, record)
                if record["user"] in old:
                    # A late writer that still holds an old generation must not meet it again.
                    record["generation"] = max(record["generation"], old[record["user"]] + 1)
            values = to_values(TABLES[name], record, self._dialect)
            if name == "node_usage":
                values += loading.taken.pop(record["node"], [0, 0, 0, 0])
            loading.waiting.append(values)
            loading.counts[name] += 1
        self._send(session, loading)
        if loading.taken:
            raise BackupDamaged(f"it has placements on {min(loading.taken)} and no record of that node")
        return loading

    def _send(self, session: Session, loading: _Loading) -> None:
        if not loading.waiting:
            return
        columns = TABLES[loading.table].names
        if loading.table == "node_usage":
            columns += ", workspaces, active, memory_bytes, cpus_milli"
        row = f"({marks(1 + len(loading.waiting[0]))})"
        sql = f"INSERT INTO {loading.table} (cluster, {columns}) VALUES {', '.join([row] * len(loading.waiting))}"
        session.execute(sql, [value for row in loading.waiting for value in (self._cluster, *row)])
        loading.waiting.clear()

    def _count_routes(self, session: Session, loading: _Loading, before: int) -> None:
        """See to it that the next map is newer than any made of what is replaced."""
        now = self._route_changes(session)
        if not before or now > before:
            return
        if not loading.counts["node_usage"]:
            raise BackupDamaged("it has no record of any node, and what it would replace has")
        sql = (
            "UPDATE node_usage SET route_changes = route_changes + ? WHERE cluster = ? AND node = "
            "(SELECT node FROM (SELECT MIN(node) AS node FROM node_usage WHERE cluster = ?) first_node)"
        )
        session.execute(sql, (before - now + 1, self._cluster, self._cluster))


def _take(loading: _Loading, record: Record) -> None:
    sums = loading.taken[record["node"]]
    sums[0] += 1
    if PlacementState(record["state"]).holds_resources:
        sums[1] += 1
        sums[2] += record["memory_bytes"]
        sums[3] += record["cpus_milli"]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in counts.items() if count)
