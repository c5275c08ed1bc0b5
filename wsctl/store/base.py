"""What the parts of the store have in common: a database, a cluster, and trying again.

Responsible for: the transaction that is repeated when another writer was faster, with audit rows as its last
statements. Not responsible for: what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from wsctl.errors import BackendError
from wsctl.store.audit_append import AuditAppender
from wsctl.store.database import Database, Raced, Session
from wsctl.store.seen import SeenWriter

T = TypeVar("T")

ATTEMPTS = 20


class ClusterRows:
    """The rows of one cluster in a database."""

    def __init__(self, database: Database, cluster: str) -> None:
        self._database = database
        self._dialect = database.dialect
        self._cluster = cluster
        self._log = AuditAppender(database.dialect, cluster)
        self._sights = SeenWriter(database.dialect, cluster)

    def _write(self, work: Callable[[Session], T]) -> T:
        """`work` in a transaction, again when it raced with another writer. Raises BackendError if it always does."""
        for _ in range(ATTEMPTS):
            try:
                return self._database.write(work)
            except Raced:
                continue
        raise always_raced()


def always_raced() -> BackendError:
    """What is raised when trying again is of no use any more."""
    return BackendError(
        "the state database changed under each of many attempts; nothing was changed", hint="run the command again"
    )
