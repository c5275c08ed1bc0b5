"""SQLite's troubles, told in wsctl's words."""

import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wsctl.errors import BackendError, SchemaError
from wsctl.model import Capacity, Placement, Resources
from wsctl.ports import Reservation
from wsctl.store import lease_rows, open_store
from wsctl.store.sqlite import SqliteDatabase, explain, open_sqlite
from wsctl.store.store import SqlStore

ROOM = Capacity(100_000, 10**15, 10**9)


def opened(base: Path, url: str = "sqlite:///wsctl.db", **options: object) -> SqlStore:
    return open_store(url, cluster="c", base=base, **options)  # type: ignore[arg-type]


def fill(store: SqlStore, count: int) -> None:
    for index in range(count):
        wanted = Reservation(f"u{index}", "n1", "10.0.0.1", 20000 + index, Resources(1, 1, 1), ROOM)
        assert isinstance(store.reserve(wanted), Placement)


def raw(store: SqlStore) -> sqlite3.Connection:
    assert isinstance(store.database, SqliteDatabase)
    return store.database._connection


@pytest.mark.parametrize("create", [True, False])
def test_what_isnt_a_database(tmp_path: Path, create: bool) -> None:
    (tmp_path / "wsctl.db").write_bytes(b"version: 1\n" * 500)
    with pytest.raises(BackendError, match="isn't an SQLite database") as caught:
        opened(tmp_path, create=create)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///no/such/wsctl.db", r"the folder .*/no/such doesn't exist"),
        ("sqlite:////proc/wsctl.db", "it can't be opened|can't be written to"),
        ("sqlite:///folder", "it is a folder"),
    ],
)
def test_what_cant_be_opened(tmp_path: Path, url: str, expected: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BackendError, match=expected) as caught:
        opened(tmp_path, url)
    assert caught.value.hint


def test_a_full_disk(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 1)
    (pages,) = raw(store).execute("PRAGMA page_count").fetchone()
    raw(store).execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(BackendError, match="the disk is full; nothing was changed"):
        fill_from_one(store)
    raw(store).execute("PRAGMA max_page_count = 1000000")
    assert store.usage()["n1"].workspaces == len(store.placements())
    store.close()


def fill_from_one(store: SqlStore) -> None:
    for index in range(1, 5000):
        store.reserve(Reservation(f"u{index}", "n1", "10.0.0.1", 20000 + index, Resources(1, 1, 1), ROOM))


def test_a_lock_that_isnt_given_up(tmp_path: Path) -> None:
    store, other = opened(tmp_path), opened(tmp_path)
    raw(store).execute("PRAGMA busy_timeout = 50")
    raw(other).execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendError, match="another process holds it") as caught:
        fill(store, 1)
    assert "fuser" in str(caught.value.hint)
    assert store.placements() == []
    raw(other).execute("ROLLBACK")
    fill(store, 1)
    store.close()
    other.close()


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    store, other = opened(tmp_path), opened(tmp_path)
    raw(other).execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: raw(other).execute("COMMIT")).start()
    started = time.monotonic()
    fill(store, 1)
    assert time.monotonic() - started > 0.2
    store.close()
    other.close()


def test_a_damaged_file(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 200)
    store.close()
    path = tmp_path / "wsctl.db"
    data = bytearray(path.read_bytes())
    data[4096 * 2 :] = b"\xa5" * (len(data) - 4096 * 2)
    path.write_bytes(data)
    with pytest.raises(BackendError, match="damaged"):
        opened(tmp_path).placements()


def test_every_sqlite_error_is_a_backend_error() -> None:
    classes = [c for c in vars(sqlite3).values() if isinstance(c, type) and issubclass(c, sqlite3.Error)]
    assert len(classes) > 5
    for kind in classes:
        assert isinstance(explain(kind("boom"), None), BackendError)


def test_it_is_durable_and_concurrent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert raw(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert raw(store).execute("PRAGMA synchronous").fetchone() == (2,)
    assert raw(store).execute("PRAGMA busy_timeout").fetchone() == (10_000,)
    rows = lease_rows(store)
    assert rows._database is not store.database
    assert isinstance(rows._database, SqliteDatabase)
    assert rows._database._connection.execute("PRAGMA synchronous").fetchone() == (1,)
    rows.close()
    assert store.placements() == []
    store.close()


def test_reading_makes_no_file(tmp_path: Path) -> None:
    store = opened(tmp_path, create=False)
    assert (store.placements(), store.schema_version()) == ([], 0)
    with pytest.raises(BackendError, match="opened for reading only"):
        fill(store, 1)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "wsctl.db").touch()
    reader = opened(tmp_path, create=False)
    assert reader.schema_version() == 0
    reader.close()
    assert (tmp_path / "wsctl.db").stat().st_size == 0
    writer = opened(tmp_path)
    fill(writer, 1)
    writer.close()


def test_in_memory(tmp_path: Path) -> None:
    store = opened(tmp_path, "sqlite://:memory:")
    fill(store, 3)
    rows = lease_rows(store)
    assert rows.take(["a"], token="t", holder="h", command="c", ttl_s=5) == []
    rows.close()
    assert len(store.placements()) == 3
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_the_clock_is_injected(tmp_path: Path) -> None:
    class Clock:
        time = datetime(2031, 2, 3, 4, 5, 6, 7, tzinfo=UTC)

        def now(self) -> datetime:
            return self.time

        def sleep(self, seconds: float) -> None:
            raise AssertionError

    store = opened(tmp_path, clock=Clock())
    fill(store, 1)
    assert store.placements()[0].created_at == Clock.time
    rows = lease_rows(store)
    assert rows.take(["a"], token="t1", holder="h", command="c", ttl_s=5) == []
    assert rows.take(["a"], token="t2", holder="h", command="c", ttl_s=5) != []
    Clock.time += timedelta(seconds=5)
    assert rows.held(["a"], "t1") == set()
    assert rows.renew(["a"], "t1", 5) == set()
    assert rows.take(["a"], token="t2", holder="h", command="c", ttl_s=5) == []
    rows.close()
    store.close()


def test_an_exception_undoes_the_transaction(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "x.db")
    database.apply("CREATE TABLE t (x)")

    def work(session: object) -> None:
        session.execute("INSERT INTO t VALUES (1)")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(work)
    assert database.read(lambda s: s.query("SELECT * FROM t")) == []
    with pytest.raises(SchemaError, match="no such table"):
        database.read(lambda s: s.query("SELECT * FROM u"))
    database.close()


def test_opening_and_reading_a_thousand_is_fast(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, 1000)
    store.close()
    took = []
    for _ in range(9):
        started = time.process_time()  # others may be using the machine
        store = opened(tmp_path, create=False)
        assert len(store.placements()) == 1000
        took.append(time.process_time() - started)
        store.close()
    assert min(took) < 0.015
