"""The state database: placements, marks, activity, audit, on SQLite or MySQL. Not responsible for any decision.

Responsible for: opening the store that a state URL names, and for what `wsctl db` asks about its schema. A driver is
imported only when its kind of database is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsctl.store import url as urls

if TYPE_CHECKING:
    from wsctl.ports import Clock
    from wsctl.store.database import Database
    from wsctl.store.leases import LeaseRows
    from wsctl.store.presence import PresenceRows
    from wsctl.store.slots import SlotRows
    from wsctl.store.store import SqlStore

__all__ = ["lease_rows", "open_store", "presence_rows", "schema_status", "slot_rows", "upgrade"]


def open_store(
    url: str,
    *,
    cluster: str,
    base: Path,
    password: str | None = None,
    tls: str | None = None,
    clock: Clock | None = None,
    create: bool = True,
) -> SqlStore:
    """The store of `cluster` in the database that `url` names; an empty database gets its tables.

    `base` is the folder that relative paths start from, `tls` replaces the URL's own, `clock` is the time of SQLite.
    With `create` False (read verbs, rehearsals) nothing is ever written: a database that is absent or empty reads as
    empty, and a write raises. Raises InventoryError for a bad URL, SchemaError, BackendError.
    """
    from wsctl.store import migrations
    from wsctl.store.store import SqlStore

    target = urls.parse_state_url(url, base, tls)
    if isinstance(target, urls.SqliteTarget) and not create and not (target.path and target.path.exists()):
        return _stand_in(cluster)
    database = _open(target, password, clock, writable=create)
    try:
        version = migrations.ensure(database, target.label, create=create)
    except BaseException:
        database.close()
        raise
    if version == 0:
        database.close()
        return _stand_in(cluster)
    return SqlStore(database, cluster, version)


def lease_rows(store: SqlStore) -> LeaseRows:
    """Leases as rows of the store's database. Close it before the store."""
    from wsctl.store.leases import LeaseRows

    # Of its own where that matters: leases needn't wait for the disk, nor a renewal for the store's threads.
    database = store.database.sibling()
    return LeaseRows(database, store.cluster, owned=database is not store.database)


def slot_rows(store: SqlStore) -> SlotRows:
    """Slots as rows of the store's database. Close it before the store."""
    from wsctl.store.slots import SlotRows

    database = store.database.sibling()  # as for leases, and for the same reasons
    return SlotRows(database, store.cluster, owned=database is not store.database)


def presence_rows(store: SqlStore, keep_s: float) -> PresenceRows:
    """What watchers saw, as rows of the store's database. Close it before the store."""
    from wsctl.store.presence import PresenceRows

    database = store.database.sibling()  # as for leases: a beat needn't wait for the disk
    return PresenceRows(database, store.cluster, owned=database is not store.database, keep_s=keep_s)


def schema_status(
    url: str, *, base: Path, password: str | None = None, tls: str | None = None
) -> tuple[int, int, list[str]]:
    """(the database's version, the newest this program knows, the titles of the steps between them).

    Raises InventoryError, BackendError; SchemaError for a database that is newer or isn't wsctl's.
    """
    from wsctl.store import migrations

    target = urls.parse_state_url(url, base, tls)
    if isinstance(target, urls.SqliteTarget) and not (target.path and target.path.exists()):
        return 0, migrations.KNOWN, [step.title for step in migrations.STEPS]
    database = _open(target, password, None, writable=False)
    try:
        applied = migrations.read_applied(database, target.label)
        titles = [step.title for step in migrations.pending(applied, target.label)]
        return migrations.version_of(applied), migrations.KNOWN, titles
    finally:
        database.close()


def upgrade(
    url: str, *, base: Path, password: str | None = None, tls: str | None = None, dry_run: bool = False
) -> list[str]:
    """Run the missing steps; their titles. `dry_run` only names them. Raises what `schema_status` raises."""
    if dry_run:
        return schema_status(url, base=base, password=password, tls=tls)[2]
    from wsctl.store import migrations

    target = urls.parse_state_url(url, base, tls)
    database = _open(target, password, None, writable=True)
    try:
        return migrations.upgrade(database, target.label)
    finally:
        database.close()


def _open(
    target: urls.SqliteTarget | urls.MysqlTarget, password: str | None, clock: Clock | None, *, writable: bool
) -> Database:
    if isinstance(target, urls.SqliteTarget):
        from wsctl.store.sqlite import open_sqlite

        return open_sqlite(target.path, now=clock.now if clock else None, writable=writable)
    from wsctl.store.mysql import open_mysql

    return open_mysql(target, password, writable=writable)


def _stand_in(cluster: str) -> SqlStore:
    """An empty store for a database that isn't there (yet). Writing to it fails: nobody would ever read it."""
    from wsctl.store import migrations
    from wsctl.store.sqlite import open_sqlite
    from wsctl.store.store import SqlStore

    database = open_sqlite(None)
    migrations.ensure(database, "the in-memory database", create=True)
    database.refuse_writes()
    return SqlStore(database, cluster, 0)
