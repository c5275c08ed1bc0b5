"""The moves of `ports.Store` on SQLite and on MariaDB: what begins, what is swapped, what ends, and what is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from places import Place
from test_store_contract import ROOM, SMALL, S, counted, placed, want

from wsctl.model import Usage
from wsctl.moving import CopyState, KeptCopy, Move
from wsctl.ports import Conflict
from wsctl.store.store import SqlStore

ONE = Usage(1, 1, 1 << 30, 500)


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    counted(opened)
    opened.close()


def move(user: str = "alice", target: str = "n2", port: int = 20007, *, active: bool = True) -> Move:
    return Move(user, "n1", target, "10.0.0.12", port, SMALL.memory_bytes, SMALL.cpus_milli, SMALL.pids, active)


def running(store: SqlStore, user: str = "alice", port: int = 20000) -> None:
    placed(store.reserve(want(user, port=port)))
    assert store.settle(user, 1, S.RUNNING)


def begun(store: SqlStore) -> None:
    running(store)
    placed(store.begin_move(move(), 1, S.MIGRATING, ROOM, was=S.RUNNING))


def test_a_move_takes_its_room_at_the_beginning(store: SqlStore) -> None:
    begun(store)
    now = placed(store.placement("alice"))
    assert (now.node, now.host_port, now.state, now.generation, now.container_generation) == (
        "n1", 20000, S.MIGRATING, 2, 1,
    )  # fmt: skip
    assert store.moves() == {"alice": move()}
    assert store.usage() == {"n1": ONE, "n2": ONE}
    assert store.kept_copies() == [
        KeptCopy("alice", "n2", 1, CopyState.INCOMING), KeptCopy("alice", "n1", 2, CopyState.SENDING),
    ]  # fmt: skip
    assert store.last_ports()["n2"] == 20007


def test_a_move_tells_why_not(store: SqlStore) -> None:
    running(store)
    placed(store.reserve(want("bob", node="n2", port=20007)))
    assert store.begin_move(move(), 1, S.MIGRATING, ROOM, was=S.RUNNING) is Conflict.PORT_TAKEN
    full = replace(ROOM, workspaces=1)
    assert store.begin_move(move(port=20008), 1, S.MIGRATING, full, was=S.RUNNING) is Conflict.NODE_FULL
    assert store.begin_move(move(port=20008), 2, S.MIGRATING, ROOM, was=S.RUNNING) is Conflict.STALE
    assert store.begin_move(move(port=20008), 1, S.MIGRATING, ROOM, was=S.FAILED) is Conflict.STALE
    assert store.begin_move(move("carl"), 1, S.MIGRATING, ROOM, was=S.RUNNING) is Conflict.STALE
    assert store.moves() == {}
    assert placed(store.placement("alice")).generation == 1


def test_the_port_of_a_move_is_taken(store: SqlStore) -> None:
    begun(store)
    assert store.reserve(want("bob", node="n2", port=20007)) is Conflict.PORT_TAKEN
    placed(store.reserve(want("bob", node="n2", port=20008)))
    assert store.claim("bob", 1, S.STARTING, port=20007) is Conflict.PORT_TAKEN
    running(store, "carl", 20001)
    assert store.begin_move(move("carl"), 1, S.MIGRATING, ROOM, was=S.RUNNING) is Conflict.PORT_TAKEN


def test_the_swap_is_one_change(store: SqlStore) -> None:
    begun(store)
    routes = store.route_generation()
    now = placed(store.swap("alice", 2, S.STARTING, leaves_files=True))
    assert (now.node, now.address, now.host_port) == ("n2", "10.0.0.12", 20007)
    assert (now.state, now.generation, now.container_generation) == (S.STARTING, 3, 3)
    assert store.placement("alice") == now
    assert store.moves() == {}
    assert store.usage() == {"n1": Usage(), "n2": ONE}
    assert store.kept_copies() == [KeptCopy("alice", "n1", 1, CopyState.LEAVING)]
    assert store.route_generation() > routes
    assert store.swap("alice", 3, S.STARTING, leaves_files=True) is Conflict.STALE
    placed(store.reserve(want("bob", port=20000)))


def test_a_late_swap_changes_nothing(store: SqlStore) -> None:
    begun(store)
    placed(store.claim("alice", 2, S.STARTING))
    assert store.swap("alice", 2, S.STARTING, leaves_files=True) is Conflict.STALE
    assert store.swap("alice", 3, S.STARTING, leaves_files=True) is Conflict.STALE
    assert placed(store.placement("alice")).node == "n1"


@pytest.mark.parametrize("other", ["claim", "release", "begin"])
def test_any_other_operation_ends_a_move(store: SqlStore, other: str) -> None:
    begun(store)
    if other == "claim":
        placed(store.claim("alice", 2, S.STARTING))
    elif other == "release":
        assert store.release("alice", 2, keep_home=True)
    else:
        placed(store.begin_move(move(target="n3"), 2, S.MIGRATING, ROOM, was=S.MIGRATING))
    assert store.usage()["n2"] == Usage()
    assert [one.target for one in store.moves().values()] == (["n3"] if other == "begin" else [])
    assert KeptCopy("alice", "n2", 1, CopyState.INCOMING) in store.kept_copies()
    placed(store.reserve(want("bob", node="n2", port=20007)))


def test_a_failed_claim_leaves_the_move(store: SqlStore) -> None:
    begun(store)
    assert store.claim("alice", 1, S.STARTING) is Conflict.STALE
    placed(store.reserve(want("bob", port=20001)))
    assert store.claim("alice", 2, S.STARTING, port=20001) is Conflict.PORT_TAKEN
    assert store.moves() == {"alice": move()}


def test_a_stopped_user_takes_only_a_place(store: SqlStore) -> None:
    running(store)
    assert store.settle("alice", 1, S.STOPPED)
    tight = replace(ROOM, memory_bytes=0, cpus_milli=0)
    placed(store.begin_move(move(active=False), 1, S.STOPPED, tight, was=S.STOPPED))
    assert store.usage() == {"n1": Usage(1, 0, 0, 0), "n2": Usage(1, 0, 0, 0)}
    placed(store.swap("alice", 2, S.STOPPED, leaves_files=False))
    assert store.usage() == {"n1": Usage(), "n2": Usage(1, 0, 0, 0)}
    assert store.kept_copies() == []


def test_recount_counts_moves(store: SqlStore, place: Place) -> None:
    begun(store)
    right = store.usage()
    assert not store.recount("n2")
    place.sql("UPDATE node_usage SET workspaces = 7, active = 7 WHERE node = 'n2'")
    assert store.recount("n2")
    assert store.usage() == right


def test_copies_expire_by_the_databases_clock(store: SqlStore) -> None:
    begun(store)
    placed(store.swap("alice", 2, S.STARTING, leaves_files=True))
    (left,) = store.kept_copies()
    store.keep_copy(left, 3600)
    assert store.kept_copies() == [replace(left, state=CopyState.KEPT)]
    store.keep_copy(left, 0)
    time.sleep(0.01)
    assert store.kept_copies() == [replace(left, state=CopyState.KEPT, expired=True)]
    store.forget_copy(left)
    store.forget_copy(left)
    assert store.kept_copies() == []
