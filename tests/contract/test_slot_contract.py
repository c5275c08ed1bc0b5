"""`ports.Slots` on SQLite and on MariaDB: never more than the limit, and never stuck."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from places import Place

from wsctl.errors import BackendError
from wsctl.store import slot_rows
from wsctl.store.slots import SlotRows
from wsctl.store.store import SqlStore

TTL_S = 60.0


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    opened.close()


@pytest.fixture
def slots(store: SqlStore) -> Iterator[SlotRows]:
    opened = slot_rows(store)
    yield opened
    opened.close()


def expire(place: Place, where: str = "1 = 1") -> None:
    """Let the time of slots be over."""
    place.sql(f"UPDATE slots SET expires_at = {place.now} WHERE {where}")


def test_as_many_as_the_limit(slots: SlotRows) -> None:
    assert [slots.take("n1", 2, token, TTL_S) for token in "abc"] == [True, True, False]
    assert slots.taken("n1") == 2
    assert slots.take("n2", 2, "c", TTL_S)
    assert not slots.take("n3", 0, "c", TTL_S)
    assert (slots.taken("n2"), slots.taken("n3")) == (1, 0)


def test_taking_again_renews(slots: SlotRows, place: Place) -> None:
    for _ in range(3):
        assert slots.take("n1", 1, "a", TTL_S)
    assert slots.taken("n1") == 1
    assert slots.take("n1", 1, "a", 0.0)
    assert slots.taken("n1") == 0
    assert slots.take("n1", 1, "a", TTL_S), "its own, though the time was over"
    assert len(place.sql("SELECT slot FROM slots")) == 1
    assert not slots.take("n1", 1, "b", TTL_S)


def test_giving_back(slots: SlotRows) -> None:
    assert slots.take("n1", 1, "a", TTL_S)
    slots.give_back("n1", "stranger")
    slots.give_back("n2", "a")
    assert slots.taken("n1") == 1
    slots.give_back("n1", "a")
    slots.give_back("n1", "a")
    assert slots.taken("n1") == 0
    assert slots.take("n1", 1, "b", TTL_S)


def test_a_slot_whose_time_is_over_is_free(slots: SlotRows, place: Place) -> None:
    assert slots.take("n1", 1, "dead", TTL_S)
    expire(place)
    assert slots.taken("n1") == 0
    assert slots.take("n1", 1, "b", TTL_S)
    assert not slots.take("n1", 1, "dead", TTL_S)
    slots.give_back("n1", "dead")
    assert slots.taken("n1") == 1


class Slow(SlotRows):
    """Looks, and acts only after somebody else has."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def _rows(self, node: str) -> list[tuple[int, str, bool]]:
        seen = super()._rows(node)
        self.meanwhile()
        return seen


def test_who_renews_at_the_last_moment_keeps_it(store: SqlStore, slots: SlotRows, place: Place) -> None:
    assert slots.take("n1", 1, "a", TTL_S)
    expire(place)
    slow = Slow(store.database, store.cluster, owned=False)
    slow.meanwhile = lambda: slots.take("n1", 1, "a", TTL_S)
    assert not slow.take("n1", 1, "b", TTL_S)
    assert slots.taken("n1") == 1
    slots.give_back("n1", "b")
    assert slots.taken("n1") == 1


def test_a_short_time_passes_by_itself(slots: SlotRows) -> None:
    assert slots.take("n1", 1, "a", 0.3)
    assert not slots.take("n1", 1, "b", TTL_S)
    time.sleep(0.4)
    assert slots.take("n1", 1, "b", TTL_S)


def test_a_lower_limit_counts_at_once_and_takes_nothing_away(slots: SlotRows, place: Place) -> None:
    assert all(slots.take("n1", 4, token, TTL_S) for token in "abcd")
    assert not slots.take("n1", 2, "e", TTL_S)
    assert all(slots.take("n1", 2, token, TTL_S) for token in "abcd"), "who has one keeps it"
    expire(place)
    assert [slots.take("n1", 2, token, TTL_S) for token in "abcd"].count(True) == 2
    assert slots.taken("n1") == 2
    assert max(int(str(slot)) for (slot,) in place.sql(f"SELECT slot FROM slots WHERE expires_at > {place.now}")) < 2


def test_clusters_dont_share_slots(slots: SlotRows, place: Place) -> None:
    assert slots.take("n1", 1, "a", TTL_S)
    store = place.open("other")
    other = slot_rows(store)
    try:
        assert other.take("n1", 1, "a", TTL_S)
        other.give_back("n1", "a")
        assert slots.taken("n1") == 1
    finally:
        other.close()
        store.close()


def test_odd_text_is_no_obstacle(slots: SlotRows) -> None:
    odd = "n\udcff\0' ? %s" * 40
    assert slots.take(odd, 1, odd, TTL_S)
    assert slots.taken(odd) == 1
    slots.give_back(odd, odd)
    assert slots.taken(odd) == 0


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_racing_threads_keep_the_limit(slots: SlotRows, limit: int) -> None:
    lock, inside, most, got = threading.Lock(), 0, 0, 0

    def one(number: int) -> None:
        nonlocal inside, most, got
        for turn in range(6):
            if slots.take("n1", limit, f"t{number}.{turn}", TTL_S):
                with lock:
                    inside, got = inside + 1, got + 1
                    most = max(most, inside)
                time.sleep(0.002)
                with lock:
                    inside -= 1
                slots.give_back("n1", f"t{number}.{turn}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(16)))
    assert most <= limit
    assert got >= 1
    assert slots.taken("n1") == 0


def test_of_those_who_come_together_as_many_as_fit_get_one(slots: SlotRows, place: Place) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda number: slots.take("n1", 5, f"t{number}", TTL_S), range(16))) == 5
        expire(place)
        assert sum(pool.map(lambda number: slots.take("n1", 5, f"u{number}", TTL_S), range(16))) == 5
    assert slots.taken("n1") == 5


def test_one_token_from_many_threads_has_one_slot(slots: SlotRows) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: slots.take("n1", 4, "same", TTL_S), range(32)))
    assert slots.taken("n1") == 1


def _take(place: Place, number: int, together: Any, answers: Any) -> None:
    store = place.open()
    slots = slot_rows(store)
    try:
        together.wait(30)
        answers.put(sum(slots.take("n1", 5, f"{number}.{turn}", TTL_S) for turn in range(10)))
    except BaseException as error:
        answers.put(repr(error))
    finally:
        slots.close()
        store.close()


def test_racing_processes_keep_the_limit(place: Place) -> None:
    place.open().close()
    context = multiprocessing.get_context("spawn")
    answers, together = context.Queue(), context.Barrier(4)
    workers = [context.Process(target=_take, args=(place, number, together, answers)) for number in range(4)]
    for worker in workers:
        worker.start()
    assert sum(answers.get(timeout=60) for _ in workers) == 5
    for worker in workers:
        worker.join(30)


def test_a_database_that_cant_be_asked(store: SqlStore, slots: SlotRows, place: Place) -> None:
    assert slots.take("n1", 1, "a", TTL_S)
    place.sql("DROP TABLE slots")
    with pytest.raises(BackendError):
        slots.take("n1", 1, "b", TTL_S)
    slots.give_back("n1", "a")  # never raises
