"""What is reported against nodes, on SQLite and on MariaDB: counted, running out, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from places import Place

from wsctl.reports import IMAGE, REFUSAL, SUSPECT, set_aside, suspicion
from wsctl.store.store import SqlStore


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    opened.close()


def found(store: SqlStore) -> list[tuple[str, str, int, str]]:
    return [(one.node, one.kind, one.count, one.reason) for one in store.node_reports()]


def expire(place: Place) -> None:
    """Let the time of all be over."""
    place.sql(f"UPDATE node_reports SET expires_at = {place.now}")


def test_said_again_counts_and_keeps_since_when(store: SqlStore) -> None:
    store.report_node("n1", REFUSAL, "no space", 60.0)
    (first,) = store.node_reports()
    store.report_node("n1", REFUSAL, "no space left", 90.0)
    (again,) = store.node_reports()
    assert found(store) == [("n1", REFUSAL, 2, "no space left")]
    assert again.reported_at == first.reported_at
    assert 25 < (again.expires_at - first.expires_at).total_seconds() < 35
    assert (first.seen_at, 59 < (first.expires_at - first.reported_at).total_seconds() < 61) == (None, True)


def test_what_ran_out_is_absent_and_counts_from_one(store: SqlStore, place: Place) -> None:
    for _ in range(3):
        store.report_node("n1", REFUSAL, "no space", 60.0)
    before = store.node_reports()[0].reported_at
    expire(place)
    assert found(store) == []
    store.report_node("n1", REFUSAL, "no space", 60.0)
    assert found(store) == [("n1", REFUSAL, 1, "no space")]
    assert store.node_reports()[0].reported_at > before


def test_when_it_was_seen(store: SqlStore) -> None:
    store.report_node("n1", SUSPECT, "gone", 60.0, 12.5)
    (one,) = store.node_reports()
    assert one.seen_at is not None
    assert abs((one.reported_at - one.seen_at).total_seconds() - 12.5) < 0.5
    store.report_node("n1", SUSPECT, "gone", 60.0)
    assert store.node_reports()[0].seen_at is None


def test_taking_back(store: SqlStore) -> None:
    for kind in (SUSPECT, REFUSAL, f"{IMAGE}a:1"):
        store.report_node("n1", kind, "x", 60.0)
    store.report_node("n2", SUSPECT, "x", 60.0)
    assert store.drop_reports("n1", SUSPECT)
    assert not store.drop_reports("n1", SUSPECT)
    assert [kind for _, kind, _, _ in found(store)] == [f"{IMAGE}a:1", REFUSAL, SUSPECT]
    assert store.drop_reports("n1")
    assert found(store) == [("n2", SUSPECT, 1, "x")]


def test_clusters_keep_to_themselves(store: SqlStore, place: Place) -> None:
    store.report_node("n1", SUSPECT, "x", 60.0)
    other = place.open("other")
    try:
        assert other.node_reports() == []
        assert not other.drop_reports("n1")
    finally:
        other.close()
    assert len(found(store)) == 1


def test_odd_text_is_no_obstacle(store: SqlStore) -> None:
    odd = "n\udcff\0' ? %s" * 40
    store.report_node(odd, odd, odd * 20, 60.0)
    store.report_node(odd, odd, odd * 20, 60.0)
    assert [one.count for one in store.node_reports()] == [2]
    assert store.drop_reports(odd, odd)


def test_many_at_once_are_all_counted(store: SqlStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.report_node("n1", REFUSAL, "x", 60.0), range(24)))
    assert [one.count for one in store.node_reports()] == [24]


def test_which_of_them_keep_a_node_from_whom(store: SqlStore) -> None:
    store.report_node("n1", f"{IMAGE}a:1", "can't pull a:1", 60.0)
    assert set_aside(store.node_reports(), "a:1") is not None
    assert set_aside(store.node_reports(), "b:1") is None
    assert set_aside(store.node_reports()) is not None
    store.drop_reports("n1")
    for times in range(1, 4):
        store.report_node("n1", REFUSAL, "x", 60.0)
        assert (set_aside(store.node_reports(), "b:1") is not None) == (times >= 3)
    assert suspicion(store.node_reports()) is None
