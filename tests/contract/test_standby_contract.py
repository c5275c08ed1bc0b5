"""Standby copies and failovers of `ports.Store` on SQLite and on MariaDB: one transaction, nothing counted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from places import Place
from test_store_contract import ROOM, SMALL, S, counted, placed, want

from wsctl.failsteps import TakeOver
from wsctl.model import Placement, Usage
from wsctl.moving import Move
from wsctl.ports import Conflict
from wsctl.standbys import LeftFiles, LeftState, Standby
from wsctl.store.store import SqlStore

ONE = Usage(1, 1, 1 << 30, 500)
AS_OF = datetime(2026, 1, 1, 11, 59, 58, 123456, tzinfo=UTC)


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    counted(opened)
    opened.close()


def running(store: SqlStore, user: str = "alice", port: int = 20000) -> None:
    placed(store.reserve(want(user, port=port)))
    assert store.settle(user, 1, S.RUNNING)


def step(user: str = "alice", port: int = 20007, **changes: object) -> TakeOver:
    made = TakeOver(user, "n2", "", "n1", "10.0.0.12", port, SMALL, ROOM, 1, S.STARTING, True, 77)
    return replace(made, **changes)  # type: ignore[arg-type]


def copied(store: SqlStore, user: str = "alice", node: str = "n2") -> Standby:
    assert store.begin_standby(user, node, "n1") is not None
    copy = Standby(user, node, "n1", 1, 77, AS_OF, None, 1234)
    assert store.finish_standby(copy)
    return copy


# ---- copies


def test_a_copy_is_recorded_when_begun_and_when_complete(store: SqlStore) -> None:
    running(store)
    assert placed(store.begin_standby("alice", "n2", "n1") or Conflict.STALE).generation == 1
    assert store.standbys() == [Standby("alice", "n2", "n1")]
    copy = copied(store)
    (known,) = store.standbys()
    assert known.finished_at is not None
    assert replace(known, finished_at=None) == copy
    assert store.begin_standby("alice", "n2", "n1") is not None
    assert store.standbys() == [known], "beginning again takes nothing away"
    store.forget_standby("alice", "n2")
    assert store.standbys() == []
    assert not store.finish_standby(copy), "not recorded any more"


def test_no_copy_of_who_is_not_there(store: SqlStore) -> None:
    assert store.begin_standby("alice", "n2", "n1") is None
    running(store)
    assert store.begin_standby("alice", "n2", "n3") is None
    assert store.begin_standby("alice", "n1", "n1") is None
    copy = copied(store)
    assert not store.finish_standby(replace(copy, source="n3"))
    with pytest.raises(ValueError, match="as of a moment"):
        store.finish_standby(replace(copy, as_of=None))
    assert store.release("alice", 1, keep_home=True)
    assert not store.finish_standby(copy)


# ---- take over


def test_a_take_over_is_one_change(store: SqlStore) -> None:
    running(store)
    copied(store)
    copied(store, node="n3")
    routes = store.route_generation()
    now = placed(store.take_over(step(), was=S.RUNNING))
    assert (now.node, now.address, now.host_port) == ("n2", "10.0.0.12", 20007)
    assert (now.state, now.generation, now.container_generation) == (S.STARTING, 2, 2)
    assert store.placement("alice") == now
    assert store.usage() == {"n1": Usage(), "n2": ONE}
    assert store.last_ports()["n2"] == 20007
    assert [copy.node for copy in store.standbys()] == ["n3"]
    assert store.left_files() == [LeftFiles("alice", "n1", 1, 77)]
    assert store.route_generation() > routes
    placed(store.reserve(want("bob", port=20000)))


def test_a_take_over_tells_why_not_and_changes_nothing(store: SqlStore) -> None:
    running(store)
    copied(store)
    placed(store.reserve(want("bob", node="n2", port=20007)))
    before = (store.placement("alice"), store.usage(), store.standbys())
    assert store.take_over(step(), was=S.RUNNING) is Conflict.PORT_TAKEN
    assert store.take_over(step(port=20008, capacity=replace(ROOM, workspaces=1)), was=S.RUNNING) is Conflict.NODE_FULL
    for late in (step(port=20008, generation=2), step(port=20008, source="n3"), step("carl", 20008)):
        assert store.take_over(late, was=S.RUNNING) is Conflict.STALE
    assert store.take_over(step(port=20008), was=S.STOPPED) is Conflict.STALE
    assert (store.placement("alice"), store.usage(), store.standbys()) == before
    assert store.left_files() == []


def test_a_take_over_ends_a_move(store: SqlStore) -> None:
    running(store)
    move = Move("alice", "n1", "n3", "10.0.0.13", 20005, SMALL.memory_bytes, SMALL.cpus_milli, SMALL.pids, True)
    placed(store.begin_move(move, 1, S.MIGRATING, ROOM, was=S.RUNNING))
    placed(store.take_over(step(generation=2), was=S.MIGRATING))
    assert store.moves() == {}
    assert store.usage() == {"n1": Usage(), "n2": ONE, "n3": Usage()}
    running(store, "bob", 20001)
    placed(store.begin_move(replace(move, user="bob", target="n2"), 1, S.MIGRATING, ROOM, was=S.RUNNING))
    running(store, "carl", 20002)
    assert store.take_over(step("carl", 20005), was=S.RUNNING) is Conflict.PORT_TAKEN


def test_who_was_stopped_takes_no_memory(store: SqlStore) -> None:
    running(store)
    assert store.settle("alice", 1, S.STOPPED)
    placed(store.take_over(step(state=S.STOPPED), was=S.STOPPED))
    assert store.usage()["n2"] == Usage(1, 0, 0, 0)


def test_only_one_of_two_takes_over(place: Place) -> None:
    first = place.open()
    running(first)
    stores, results = [first, place.open()], list[Placement | Conflict]()
    barrier = threading.Barrier(2)

    def take(store: SqlStore, port: int) -> None:
        barrier.wait()
        results.append(store.take_over(step(port=port), was=S.RUNNING))

    threads = [threading.Thread(target=take, args=(one, 20010 + n)) for n, one in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(result, Placement) for result in results) == [False, True]
    assert Conflict.STALE in results
    counted(first)
    assert len(first.left_files()) == 1
    for one in stores:
        one.close()


# ---- what is left


def test_what_became_of_files_is_recorded(store: SqlStore) -> None:
    running(store)
    placed(store.take_over(step(leaves_files=False, seen_at=0), was=S.RUNNING))
    (left,) = store.left_files()
    assert (left.state, left.seen_at, left.expired) == (LeftState.NOTHING, 0, False)
    conflict = replace(left, state=LeftState.CONFLICT, newer_files=3, newer_bytes=4 << 40)
    store.keep_left(conflict)
    assert store.left_files() == [conflict]
    store.keep_left(replace(conflict, state=LeftState.KEPT))
    assert [one.expired for one in store.left_files()] == [False]
    store.forget_left(conflict)
    assert store.left_files() == []
