"""Request ids on SQLite and on MariaDB: known once, answered once, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from places import Place

from wsctl.errors import BackendError
from wsctl.records import Actor, AuditEntry, AuditKind, RequestRecord
from wsctl.store.store import SqlStore

DAY = 86400.0


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    opened.close()


def begin(store: SqlStore, request_id: str = "r1", digest: str = "d1", keep_s: float = DAY) -> RequestRecord:
    return store.begin_request(request_id, "place", digest, "anna@host:1", keep_s)


def ids(place: Place) -> list[object]:
    return [row[0] for row in place.sql("SELECT request_id FROM requests ORDER BY request_id")]


def age(store: SqlStore, place: Place, seconds: float, where: str = "1 = 1") -> None:
    """Let what is recorded be older."""
    dialect = store.database.dialect
    ((now,),) = place.sql(f"SELECT {place.now}")
    then = dialect.encode_time(dialect.decode_time(now) - timedelta(seconds=seconds))
    place.sql(f"UPDATE requests SET began_at = '{then}' WHERE {where}")


def test_the_first_is_new_and_the_second_is_told(store: SqlStore, place: Place) -> None:
    first = begin(store)
    assert (first.request_id, first.verb, first.digest, first.who) == ("r1", "place", "d1", "anna@host:1")
    assert (first.answer, first.is_new) == (None, True)
    ((now,),) = place.sql(f"SELECT {place.now}")
    passed = store.database.dialect.decode_time(now) - first.began_at
    assert timedelta(0) <= passed < timedelta(seconds=30)
    again = store.begin_request("r1", "rm", "d2", "ben@other:2", DAY)
    assert again == RequestRecord("r1", "place", "d1", "anna@host:1", first.began_at, None, False)
    assert begin(store, "r2").is_new


def test_the_first_answer_stays(store: SqlStore) -> None:
    begin(store)
    store.finish_request("r1", '{"a": "\u00fc"}')
    store.finish_request("r1", '{"b": 2}')
    store.finish_request("unknown", "{}")
    again = begin(store)
    assert (again.answer, again.is_new) == ('{"a": "\u00fc"}', False)


def test_an_answer_may_be_long(store: SqlStore) -> None:
    begin(store)
    answer = "[" + "1, " * 300_000 + "1]"
    store.finish_request("r1", answer)
    assert begin(store).answer == answer


def test_clusters_dont_share_ids(store: SqlStore, place: Place) -> None:
    begin(store)
    other = place.open("other")
    try:
        assert begin(other).is_new
        other.finish_request("r1", "{}")
        assert begin(store).answer is None
    finally:
        other.close()


def test_ids_are_exact(store: SqlStore) -> None:
    for request_id in ("a", "A", "\u00e4", "x" * 200):
        assert begin(store, request_id).is_new, request_id
    assert not begin(store, "a ").is_new, "the end of an id has no spaces, in any database"
    with pytest.raises(ValueError, match="201 characters"):
        begin(store, "x" * 201)


def test_odd_text_is_no_obstacle(store: SqlStore) -> None:
    odd = "a\udcff\0' ? %s"
    assert store.begin_request(odd, odd, odd, odd * 100, DAY).is_new
    store.finish_request(odd, odd)
    again = begin(store, odd)
    assert (again.request_id, again.answer, again.is_new) == (odd, "a??' ? %s", False)


def test_an_id_that_is_too_old_is_new_again(store: SqlStore, place: Place) -> None:
    begin(store)
    store.finish_request("r1", "{}")
    age(store, place, DAY - 60)
    assert not begin(store).is_new
    age(store, place, DAY + 60)
    again = begin(store, digest="d2")
    assert (again.is_new, again.answer, again.digest) == (True, None, "d2")
    assert not begin(store).is_new


def test_old_ones_are_forgotten_a_hundred_at_a_time(store: SqlStore, place: Place) -> None:
    for number in range(130):
        begin(store, f"old{number:03d}")
    age(store, place, DAY + 60)
    age(store, place, DAY + 120, "request_id < 'old050'")
    begin(store, "young")
    assert ids(place) == [f"old{number:03d}" for number in range(100, 130)] + ["young"]
    # One that this call's hundred wasn't enough for is forgotten when it is asked for.
    age(store, place, DAY + 60)
    for number in range(150):
        copy = f"cluster, 'older{number:03d}', verb, digest, who, began_at FROM requests WHERE request_id = 'old100'"
        place.sql(f"INSERT INTO requests (cluster, request_id, verb, digest, who, began_at) SELECT {copy}")
    age(store, place, DAY + 600, "request_id LIKE 'older%'")
    assert begin(store, "young").is_new
    assert len(ids(place)) == 30 + 150 - 100 + 1
    begin(store, "young")
    assert ids(place) == ["young"]


def test_of_many_at_once_one_is_new(store: SqlStore, place: Place) -> None:
    stores = [place.open() for _ in range(3)]
    try:
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda number: begin(stores[number % 3], f"r{number % 5}"), range(60)))
    finally:
        for one in stores:
            one.close()
    assert sorted(record.request_id for record in found if record.is_new) == ["r0", "r1", "r2", "r3", "r4"]
    assert len({(record.request_id, record.began_at) for record in found}) == 5


def test_many_that_forget_the_same_old_ones(store: SqlStore, place: Place) -> None:
    for number in range(60):
        begin(store, f"old{number:03d}")
    age(store, place, DAY + 60)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: begin(store, f"old{number % 10:03d}"), range(40)))
    assert sum(record.is_new for record in found) == 10
    assert len(ids(place)) == 10


def test_what_only_reads_records_nothing(place: Place) -> None:
    reader = place.open(create=False)
    try:
        with pytest.raises(BackendError):
            begin(reader)
    finally:
        reader.close()


def entry(request_id: str, kind: AuditKind = AuditKind.INTENT, operation: str = "o1") -> AuditEntry:
    who = Actor("anna", None, None, "host:1")
    return AuditEntry(kind, "place", "alice", who, f"{request_id}-{operation}", "created", request_id=request_id)


def test_those_without_an_answer_are_listed_oldest_first(store: SqlStore, place: Place) -> None:
    for name in ("r1", "r2", "r3"):
        begin(store, name)
        store.append_audit([entry(name)])
    age(store, place, 60, "request_id = 'r3'")
    store.finish_request("r1", "[]")
    found = store.unanswered_requests()
    assert [(record.request_id, record.verb, record.who) for record in found] == [
        ("r3", "place", "anna@host:1"),
        ("r2", "place", "anna@host:1"),
    ]
    assert [record.request_id for record in store.unanswered_requests("r2")] == ["r2"]
    assert store.unanswered_requests("r1") == []


def test_those_that_failed_do_not_hide_one_that_was_cut_off(store: SqlStore) -> None:
    for number in range(101):
        begin(store, f"failed{number}")
        if number % 10:
            store.append_audit([entry(f"failed{number}"), entry(f"failed{number}", AuditKind.FAILED)])
    begin(store, "later")
    # Its first operation ended, its second didn't.
    store.append_audit([entry("later"), entry("later", AuditKind.DONE), entry("later", operation="o2")])
    assert [record.request_id for record in store.unanswered_requests()] == ["later"]
