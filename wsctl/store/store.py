"""The store: everything about one cluster in one database.

Responsible for: being the one object that implements `ports.Store`. Not responsible for: its parts, which are
`placements`, `moves`, `grouped`, `standbys`, `signals`, `reports`, `audit`, `requests`, `portable`, nor for
opening a database (`wsctl.store.open_store`).
"""

from __future__ import annotations

from datetime import datetime

from wsctl.store.audit import AuditRows
from wsctl.store.database import Database
from wsctl.store.grouped import GroupedRows
from wsctl.store.portable import PortableRows
from wsctl.store.reports import ReportRows
from wsctl.store.requests import RequestRows
from wsctl.store.signals import SignalRows
from wsctl.store.standbys import StandbyRows


class SqlStore(GroupedRows, StandbyRows, SignalRows, ReportRows, AuditRows, RequestRows, PortableRows):
    """`ports.Store` on SQLite or MySQL."""

    def __init__(self, database: Database, cluster: str, version: int) -> None:
        super().__init__(database, cluster)
        self._version = version

    @property
    def database(self) -> Database:
        """For `wsctl.store.lease_rows` and `slot_rows`, and for tests."""
        return self._database

    @property
    def cluster(self) -> str:
        """The cluster whose rows this is."""
        return self._cluster

    def database_time(self) -> datetime:
        found = self._database.read(lambda session: session.query(f"SELECT {self._dialect.now}"))
        return self._dialect.decode_time(found[0][0])

    def schema_version(self) -> int:
        return self._version

    def close(self) -> None:
        self._database.close()
