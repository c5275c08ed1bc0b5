"""A crowd: very many running placements in a database, and an inventory of nodes that goes with them.

Responsible for: writing the rows of placements, their activity and counters without a node being asked. Not responsible
for: any measurement (`touch`, `reap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.builders import RESOURCES
from wsctl.store.store import SqlStore

_ROWS = 50
FIRST_PORT = 20000


def settle_crowd(store: SqlStore, homes: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> None:
    """Rows of running placements: `homes` are the users of each node. Written behind the store's back, because making
    each of them properly takes longer than anything that is measured here."""
    columns = (
        "cluster, user, node, address, host_port, state, generation, container_generation, memory_bytes, cpus_milli, "
        "pids, workspace_class, created_at, updated_at"
    )
    dialect = store.database.dialect
    mark = f"(?, ?, ?, ?, ?, 'running', 1, 1, ?, ?, ?, 'default', {dialect.now}, {dialect.now})"
    takes = (RESOURCES.memory_bytes, RESOURCES.cpus_milli, RESOURCES.pids)
    rows = [
        (store.cluster, user, node, addresses[node], FIRST_PORT + number, *takes)
        for node, users in homes.items()
        for number, user in enumerate(users)
    ]

    def work(session: Any) -> None:
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            sql = f"INSERT INTO placements ({columns}) VALUES {', '.join([mark] * len(some))}"
            session.execute(sql, [value for row in some for value in row])

    store.database.write(work)


def age(store: SqlStore, to: datetime) -> None:
    """Let everything that is recorded of activity and samples be as old as `to`."""
    when = store.database.dialect.encode_time(to)
    store.database.apply("UPDATE activity SET last_active_at = ? WHERE cluster = ?", (when, store.cluster))
    store.database.apply("UPDATE samples SET observed_at = ? WHERE cluster = ?", (when, store.cluster))
