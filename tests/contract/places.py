"""Where the store's contract tests keep their databases: the same cases on SQLite and on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from backends import PASSWORD, MariaDb

from wsctl.store import open_store
from wsctl.store.store import SqlStore


@dataclass
class Place:
    """Where a test's database is."""

    url: str
    base: Path
    password: str | None

    def open(self, cluster: str = "studio", *, create: bool = True) -> SqlStore:
        return open_store(self.url, cluster=cluster, base=self.base, password=self.password, create=create)

    @property
    def now(self) -> str:
        """The database's time in SQL."""
        return "utc_now()" if self.url.startswith("sqlite") else "UTC_TIMESTAMP(6)"

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements behind the store's back."""
        from wsctl.store import _open
        from wsctl.store.url import parse_state_url

        database = _open(parse_state_url(self.url, self.base), self.password, None, writable=True)
        try:
            found: list[tuple[object, ...]] = []
            for statement in statements:
                if statement.startswith("SELECT"):
                    found = database.read(lambda s, sql=statement: s.query(sql))  # type: ignore[misc]
                else:
                    database.apply(statement)
            return found
        finally:
            database.close()


@pytest.fixture(params=["sqlite", "mariadb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place("sqlite:///wsctl.db", tmp_path, None)
        return
    server: MariaDb = request.getfixturevalue("mariadb")
    name = server.new_database()
    yield Place(server.url(name), tmp_path, PASSWORD)
    server.admin(f"DROP DATABASE IF EXISTS {name}")
