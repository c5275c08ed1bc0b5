"""`ports.Store` on SQLite and on MariaDB: the same promises, the same tests."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from places import Place

from wsctl.errors import SchemaError, WsctlError
from wsctl.model import Capacity, NodeState, Placement, PlacementState, Resources, Usage
from wsctl.moving import Home, Move
from wsctl.ports import Conflict, Reservation
from wsctl.records import Actor, AuditEntry, AuditKind
from wsctl.signals import NetworkSample
from wsctl.store import migrations, schema_status, upgrade
from wsctl.store.audit_append import AuditAppender
from wsctl.store.signals import note_subject
from wsctl.store.store import SqlStore

S = PlacementState
ROOM = Capacity(workspaces=1000, memory_bytes=10**13, cpus_milli=10**7)
LAST = migrations.STEPS[-1]
SMALL = Resources(memory_bytes=1 << 30, cpus_milli=500, pids=100)


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    counted(opened)
    opened.close()


def want(user: str = "alice", node: str = "n1", port: int = 20000, **change: object) -> Reservation:
    return replace(Reservation(user, node, "10.0.0.11", port, SMALL, ROOM), **change)  # type: ignore[arg-type]


def placed(answer: Placement | Conflict | None) -> Placement:
    assert isinstance(answer, Placement), answer
    return answer


def counted(store: SqlStore) -> None:
    """used = counted, and no port twice: what must hold whatever happened."""
    expected: dict[str, Usage] = {}
    ports: set[tuple[str, int]] = set()
    for p in store.placements():
        assert (p.node, p.host_port) not in ports
        ports.add((p.node, p.host_port))
        u, on = expected.get(p.node, Usage()), p.state.holds_resources
        expected[p.node] = Usage(
            u.workspaces + 1, u.active + on, u.memory_bytes + on * p.resources.memory_bytes,
            u.cpus_milli + on * p.resources.cpus_milli,
        )  # fmt: skip
    for move in store.moves().values():
        assert (move.target, move.host_port) not in ports
        ports.add((move.target, move.host_port))
        u, on = expected.get(move.target, Usage()), move.active
        expected[move.target] = Usage(
            u.workspaces + 1,
            u.active + on,
            u.memory_bytes + on * move.memory_bytes,
            u.cpus_milli + on * move.cpus_milli,
        )
    assert {node: usage for node, usage in store.usage().items() if usage != Usage()} == expected


# reserve


def test_reserve_creates_the_placement(store: SqlStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    made = placed(store.reserve(want(workspace_class="gpu")))
    assert (made.user, made.node, made.address, made.host_port) == ("alice", "n1", "10.0.0.11", 20000)
    assert (made.state, made.generation, made.container_generation) == (S.RESERVED, 1, 1)
    assert (made.resources, made.workspace_class) == (SMALL, "gpu")
    assert made.created_at is not None
    assert before < made.created_at < before + timedelta(seconds=30)
    assert store.placements() == [made]
    assert store.placement("alice") == made
    assert store.placement("bob") is None
    assert store.usage() == {"n1": Usage(1, 1, 1 << 30, 500)}


def test_reserve_tells_why_not(store: SqlStore) -> None:
    placed(store.reserve(want()))
    assert store.reserve(want(port=20001)) is Conflict.USER_EXISTS
    assert store.reserve(want(node="n2")) is Conflict.USER_EXISTS
    assert store.reserve(want("bob")) is Conflict.PORT_TAKEN
    placed(store.reserve(want("bob", node="n2")))
    assert store.reserve(want("alice", node="n2", port=20000)) is Conflict.USER_EXISTS
    full = replace(ROOM, workspaces=1)
    assert store.reserve(want("carl", port=20002, capacity=full)) is Conflict.NODE_FULL
    assert store.reserve(want("alice", port=20002, capacity=full)) is Conflict.USER_EXISTS
    assert len(store.placements()) == 2


@pytest.mark.parametrize("state", [NodeState.CORDONED, NodeState.DRAINING, NodeState.DOWN])
def test_nobody_new_comes_onto_a_node_that_was_marked_since(store: SqlStore, state: NodeState) -> None:
    placed(store.reserve(want("old")))
    store.set_mark("n1", state, "", "ops")
    assert store.reserve(want(port=20001, only_ready=True)) is Conflict.NODE_MARKED
    assert (store.placement("alice"), store.audit()) == (None, [])
    placed(store.reserve(want(port=20001, node="n2", only_ready=True)))
    placed(store.reserve(want("adopted", port=20002)))
    placed(store.claim("old", 1, S.STARTING, ROOM))
    store.set_mark("n1", NodeState.READY, "", "ops")
    placed(store.reserve(want("new", port=20003, only_ready=True)))


@pytest.mark.parametrize("first", ["reserve", "mark"])
def test_a_mark_and_a_reservation_wait_for_each_other(
    store: SqlStore, place: Place, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Who has marked a node and looks sees everybody who comes: a reservation is done by then, or refused."""
    placed(store.reserve(want("old")))
    other, append = place.open(), AuditAppender.append
    audit = [AuditEntry(AuditKind.DONE, "node drain", "n1", Actor("tests"), "op")]
    answers: list[Placement | Conflict] = []
    threads = {
        "mark": threading.Thread(target=lambda: store.set_mark("n1", NodeState.DRAINING, "", "ops", audit=audit)),
        "reserve": threading.Thread(target=lambda: answers.append(other.reserve(want(port=20001, only_ready=True)))),
    }
    begun, go_on = threading.Event(), threading.Event()

    def slow(log: AuditAppender, session: Any, entries: Any) -> None:
        if threading.current_thread() is threads[first]:
            begun.set()
            assert go_on.wait(10)
        append(log, session, entries)

    monkeypatch.setattr(AuditAppender, "append", slow)
    second = next(thread for name, thread in threads.items() if name != first)
    threads[first].start()
    assert begun.wait(10)
    second.start()
    second.join(0.2)
    waited = second.is_alive()
    go_on.set()
    for thread in threads.values():
        thread.join(10)
        assert not thread.is_alive()
    other.close()
    assert waited
    assert answers == [store.placement("alice") if first == "reserve" else Conflict.NODE_MARKED]


@pytest.mark.parametrize("short", [{"workspaces": 2}, {"memory_bytes": 3 * (1 << 30) - 1}, {"cpus_milli": 1499}])
def test_each_dimension_of_capacity_counts(store: SqlStore, short: dict[str, int]) -> None:
    tight = replace(ROOM, **short)
    placed(store.reserve(want("u1", port=20001, capacity=tight)))
    placed(store.reserve(want("u2", port=20002, capacity=tight)))
    assert store.reserve(want("u3", port=20003, capacity=tight)) is Conflict.NODE_FULL
    assert store.release("u1", 1, keep_home=None)
    placed(store.reserve(want("u3", port=20003, capacity=tight)))


def test_last_port_and_node_are_remembered(store: SqlStore) -> None:
    assert store.last_node() is None
    placed(store.reserve(want("u1", port=20005)))
    placed(store.reserve(want("u2", node="n2", port=20001)))
    assert store.last_ports() == {"n1": 20005, "n2": 20001}
    assert store.last_node() == "n2"
    placed(store.reserve(want("u3", port=20003)))
    assert store.last_ports() == {"n1": 20003, "n2": 20001}
    assert store.last_node() == "n1"
    store.release("u3", 1, keep_home=None)
    assert store.last_ports() == {"n1": 20003, "n2": 20001}  # a freed port isn't handed out again at once


# claim, settle, release


def test_claim_raises_the_generation(store: SqlStore) -> None:
    placed(store.reserve(want()))
    claimed = placed(store.claim("alice", 1, S.STARTING))
    assert (claimed.generation, claimed.container_generation, claimed.state) == (2, 1, S.STARTING)
    assert store.claim("alice", 1, S.STOPPING) is Conflict.STALE
    assert store.claim("nobody", 1, S.STOPPING) is Conflict.STALE
    again = placed(store.claim("alice", 2, S.STARTING, new_container=True, port=20007))
    assert (again.generation, again.container_generation, again.host_port) == (3, 3, 20007)
    assert store.last_ports() == {"n1": 20007}
    assert store.placement("alice") == again


def test_a_late_release_does_not_forget_a_newer_home(store: SqlStore) -> None:
    """Found by the simulator: a purge that slept forgot where the files were that the user had made since."""
    placed(store.reserve(want()))
    placed(store.claim("alice", 1, S.STOPPING))
    assert store.release("alice", 2, keep_home=True)
    assert store.release("alice", 2, keep_home=False)
    assert store.release("alice", 0, keep_home=False)
    assert store.homes() == {"alice": "n1"}
    assert store.release("alice", 0, keep_home=False, home=Home("n1", 2))
    assert store.homes() == {}
    assert store.release("alice", 0, keep_home=False, home=Home("n1", 2)), "done already"


def test_only_the_home_that_was_meant_is_forgotten(store: SqlStore) -> None:
    """The same node, the same user, and other files: placed and removed again while somebody slept."""
    placed(store.reserve(want()))
    assert store.home("alice") is None
    assert store.release("alice", 1, keep_home=True)
    meant = store.home("alice")
    assert meant == Home("n1", 1)
    assert store.known_homes() == {"alice": meant}
    placed(store.reserve(want(home="n1")))
    assert store.home("alice") is None, "who is placed has none"
    assert not store.release("alice", 0, keep_home=False, home=meant), "who is placed keeps it"
    assert store.release("alice", 2, keep_home=True)
    assert not store.release("alice", 0, keep_home=False, home=meant)
    assert store.home("alice") == Home("n1", 2)
    assert store.remember_home("alice", "n1")
    assert store.home("alice") == Home("n1", 3), "other files, so another home"
    assert not store.release("alice", 0, keep_home=False, home=Home("n1", 2))
    assert not store.release("alice", 0, keep_home=False, home=Home("n2", 3))
    assert store.release("alice", 0, keep_home=False, home=Home("n1", 3))
    assert placed(store.reserve(want())).generation == 4


def test_claim_is_decided_on_a_state(store: SqlStore) -> None:
    """Settling leaves the generation: whoever decided on the state before it must look again."""
    placed(store.reserve(want()))
    assert store.settle("alice", 1, S.RUNNING)
    before = store.placements()
    assert store.claim("alice", 1, S.RESERVED, was=S.RESERVED) is Conflict.STALE
    assert store.placements() == before
    assert placed(store.claim("alice", 1, S.STOPPING, was=S.RUNNING)).generation == 2


def test_claim_finds_the_port_taken(store: SqlStore) -> None:
    placed(store.reserve(want()))
    placed(store.reserve(want("bob", port=20001)))
    before = store.placements()
    assert store.claim("alice", 1, S.STARTING, port=20001) is Conflict.PORT_TAKEN
    assert store.placements() == before
    placed(store.claim("alice", 1, S.STARTING, port=20000))


def test_stopping_gives_back_memory_and_starting_takes_it(store: SqlStore) -> None:
    placed(store.reserve(want()))
    assert store.settle("alice", 1, S.STOPPED)
    assert store.usage()["n1"] == Usage(1, 0, 0, 0)
    tight = replace(ROOM, memory_bytes=(1 << 30) - 1)
    assert store.claim("alice", 1, S.STARTING, tight) is Conflict.NODE_FULL
    assert placed(store.placement("alice")).state is S.STOPPED
    # A node whose count was lowered below what is on it still lets its own users back in.
    placed(store.claim("alice", 1, S.STARTING, replace(ROOM, workspaces=0)))
    assert store.usage()["n1"] == Usage(1, 1, 1 << 30, 500)
    assert store.settle("alice", 2, S.STOPPED)
    placed(store.claim("alice", 2, S.STARTING))
    assert store.usage()["n1"] == Usage(1, 1, 1 << 30, 500)


def test_settle_is_checked_against_the_generation(store: SqlStore) -> None:
    placed(store.reserve(want()))
    assert store.settle("alice", 1, S.RUNNING)
    assert store.settle("alice", 1, S.RUNNING)
    assert not store.settle("alice", 2, S.STOPPED)
    assert not store.settle("nobody", 1, S.STOPPED)
    now = placed(store.placement("alice"))
    assert (now.state, now.generation) == (S.RUNNING, 1)


def test_release_is_idempotent_and_checked(store: SqlStore) -> None:
    placed(store.reserve(want()))
    placed(store.claim("alice", 1, S.STOPPING))
    assert not store.release("alice", 1, keep_home=None)
    assert store.release("alice", 2, keep_home=None)
    assert store.release("alice", 2, keep_home=None)
    assert store.usage()["n1"] == Usage()
    placed(store.reserve(want()))


def test_claim_with_other_resources(store: SqlStore) -> None:
    placed(store.reserve(want()))
    big = Resources(3 << 30, 250, 7)
    assert store.claim("alice", 1, S.STARTING, replace(ROOM, memory_bytes=2 << 30), resources=big) is Conflict.NODE_FULL
    assert placed(store.claim("alice", 1, S.STARTING, ROOM, resources=big)).resources == big
    assert store.usage()["n1"] == Usage(1, 1, 3 << 30, 250)
    store.settle("alice", 2, S.STOPPED)
    placed(store.claim("alice", 2, S.STOPPED, replace(ROOM, memory_bytes=0), resources=SMALL))
    assert store.usage()["n1"] == Usage(1, 0, 0, 0)
    placed(store.claim("alice", 3, S.STARTING, replace(ROOM, memory_bytes=1 << 30)))
    assert store.usage()["n1"] == Usage(1, 1, 1 << 30, 500)


def test_homes_outlive_placements(store: SqlStore) -> None:
    placed(store.reserve(want()))
    assert not store.release("alice", 9, keep_home=True)
    assert store.homes() == {}
    assert store.release("alice", 1, keep_home=True)
    assert store.homes() == {"alice": "n1"}
    assert placed(store.reserve(want(node="n2", home="n1"))).generation == 2, "no generation is used twice"
    assert store.release("alice", 2, keep_home=None)
    assert store.homes() == {"alice": "n1"}
    placed(store.reserve(want(node="n2", home="n1")))
    assert store.release("alice", 3, keep_home=True)
    assert store.homes() == {"alice": "n2"}
    assert store.release("alice", 3, keep_home=True)  # gone already: nothing is known about where it was
    assert store.homes() == {"alice": "n2"}
    assert store.release("alice", 0, keep_home=False, home=Home("n2", 3))
    assert store.homes() == {}


def test_who_decided_on_another_home_is_refused(store: SqlStore) -> None:
    """The user was placed, worked, and was removed since: their files are somewhere now, or somewhere else."""
    placed(store.reserve(want()))
    assert store.release("alice", 1, keep_home=True)
    assert store.reserve(want(node="n2")) is Conflict.STALE
    assert store.reserve(want(node="n2", home="n3")) is Conflict.STALE
    assert store.reserve(want(home="n1", port=20005)) != Conflict.STALE
    assert store.release("alice", 2, keep_home=False)
    assert store.reserve(want(home="n1")) is Conflict.STALE
    placed(store.reserve(want(node="n2")))


def test_usage_never_falls_below_zero(store: SqlStore, place: Place) -> None:
    placed(store.reserve(want()))
    place.sql("UPDATE node_usage SET workspaces = 0, active = 0, memory_bytes = 5, cpus_milli = 0")
    assert store.release("alice", 1, keep_home=None)
    assert store.usage()["n1"] == Usage()


def test_a_missing_node_row_is_made_again(store: SqlStore, place: Place) -> None:
    placed(store.reserve(want()))
    place.sql("DELETE FROM node_usage")
    assert store.settle("alice", 1, S.RUNNING)
    assert store.route_generation() == 1
    assert store.release("alice", 1, keep_home=None)


# routes


def test_route_generation_counts_what_the_gateway_sees(store: SqlStore) -> None:
    assert store.route_generation() == 0
    placed(store.reserve(want()))
    placed(store.claim("alice", 1, S.STARTING))
    assert store.route_generation() == 0
    store.settle("alice", 2, S.RUNNING)
    assert store.route_generation() == 1
    store.settle("alice", 2, S.RUNNING)
    assert store.route_generation() == 1
    placed(store.claim("alice", 2, S.MIGRATING))  # still served by its source
    assert store.route_generation() == 1
    placed(store.claim("alice", 3, S.RUNNING, port=20009))
    assert store.route_generation() == 2
    placed(store.claim("alice", 4, S.STOPPING))
    assert store.route_generation() == 3
    store.settle("alice", 5, S.STOPPED)
    placed(store.claim("alice", 5, S.STARTING, port=20010))
    assert store.route_generation() == 3
    store.settle("alice", 6, S.RUNNING)
    assert store.route_generation() == 4
    assert not store.release("alice", 5, keep_home=None)
    assert store.route_generation() == 4
    store.release("alice", 6, keep_home=None)
    assert store.route_generation() == 5
    store.release("alice", 6, keep_home=None)
    assert store.route_generation() == 5


# signals


def test_activity_keeps_the_newest(store: SqlStore) -> None:
    noon = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
    store.touch(["a", "b"], noon, "touch")
    store.touch(["a"], noon - timedelta(microseconds=1), "network")
    store.touch(["b"], noon + timedelta(microseconds=1), "network")
    seen = store.activity()
    assert (seen["a"].last_active_at, seen["a"].source) == (noon, "touch")
    assert (seen["b"].last_active_at, seen["b"].source) == (noon + timedelta(microseconds=1), "network")
    assert set(store.activity(["b", "nobody"])) == {"b"}
    assert store.activity([]) == {}
    store.touch([], noon, "touch")
    elsewhere = datetime.fromisoformat("2026-06-01T02:00:00+02:00")
    store.touch(["c", "c"], elsewhere, "touch")
    assert store.activity(["c"])["c"].last_active_at == elsewhere
    with pytest.raises(ValueError, match="time zone"):
        store.touch(["a"], datetime(2026, 1, 1), "touch")


def test_many_users_at_once(store: SqlStore) -> None:
    users = [f"u{i}" for i in range(1001)]
    now = datetime.now(UTC)
    store.touch(users, now, "touch")
    store.touch(users, now, "again")
    assert set(store.activity(users)) == set(users)
    store.save_samples([NetworkSample(user, "c" * 64, 2**62, now) for user in users])
    assert len(store.samples()) == 1001


def test_samples_are_replaced(store: SqlStore) -> None:
    then = datetime(2026, 5, 1, tzinfo=UTC)
    store.save_samples([])
    store.save_samples([NetworkSample("a", "c1", 100, then), NetworkSample("b", "c2", 5, then)])
    store.save_samples([NetworkSample("a", "c3", 7, then - timedelta(days=1))])
    assert store.samples() == {
        "a": NetworkSample("a", "c3", 7, then - timedelta(days=1)),
        "b": NetworkSample("b", "c2", 5, then),
    }


def test_marks(store: SqlStore) -> None:
    assert store.marks() == {}
    store.set_mark("n1", NodeState.CORDONED, "new disk; ' \" % ? 💾", "ops@host")
    store.set_mark("n1", NodeState.DOWN, "dead \udcff\0", "ops")
    mark = store.marks()["n1"]
    assert (mark.state, mark.reason, mark.changed_by) == (NodeState.DOWN, "dead ??", "ops")
    assert mark.changed_at is not None
    assert abs(datetime.now(UTC) - mark.changed_at) < timedelta(seconds=30)


# clusters, text, threads, processes


def test_clusters_dont_see_each_other(store: SqlStore, place: Place) -> None:
    other = place.open("other")
    try:
        placed(store.reserve(want()))
        placed(other.reserve(want(address="10.0.0.12")))
        other.set_mark("n1", NodeState.DOWN, "", "x")
        other.touch(["alice"], datetime.now(UTC), "touch")
        other.settle("alice", 1, S.RUNNING)
        assert (store.marks(), store.activity(), store.route_generation()) == ({}, {}, 0)
        assert other.release("alice", 1, keep_home=None)
        assert len(store.placements()) == 1
        counted(other)
    finally:
        other.close()


@pytest.mark.parametrize("text", ["'; DROP TABLE placements; --", "%s ? %", 'a"b`c\\', "ALICE", "naïve 💾", "x" * 200])
def test_text_is_data(store: SqlStore, text: str) -> None:
    placed(store.reserve(want(text)))
    placed(store.reserve(want(text + "2", node=text, port=20001)))
    assert placed(store.placement(text)).user == text
    assert store.last_node() == text
    assert store.settle(text, 1, S.RUNNING)
    assert store.release(text, 1, keep_home=None)


def test_names_compare_exactly(store: SqlStore) -> None:
    for port, user in enumerate(["alice", "Alice", "alicé", "a_b", "a-b"], 20000):
        placed(store.reserve(want(user, port=port)))
    assert len(store.placements()) == 5
    assert [p.user for p in store.placements()] == sorted(p.user for p in store.placements())


def test_spots_are_the_placements_in_short(store: SqlStore) -> None:
    placed(store.reserve(want("bob", port=20001)))
    alice = placed(store.reserve(want()))
    assert store.settle("alice", alice.generation, PlacementState.RUNNING)
    assert store.spots() == (
        [(p.user, p.node, p.address, p.host_port, p.state) for p in store.placements()],
        [],
    )
    assert [spot.state.is_routed for spot in store.spots()[0]] == [True, False]


def test_what_was_written_is_there_after_reopening(store: SqlStore, place: Place) -> None:
    made = placed(store.reserve(want()))
    reader = place.open(create=False)
    try:
        assert reader.placements() == [made]
        with pytest.raises(WsctlError):
            reader.reserve(want("bob", port=20001))
        with pytest.raises(WsctlError):
            reader.touch(["x"], datetime.now(UTC), "touch")
    finally:
        reader.close()


def _race(place: Place, offset: int, threads: int, each: int, room: Capacity, answers: object) -> None:
    """`threads` x `each` reservations on few ports and little room; puts [placed users, conflicts]."""
    store = place.open()
    start = threading.Barrier(threads)

    def one(number: int) -> list[object]:
        rng = random.Random(offset * 1000 + number)
        start.wait()
        results: list[object] = []
        for index in range(each):
            user = f"p{offset}t{number}i{index}"
            for _ in range(200):
                port = 20000 + rng.randrange(40)
                answer = store.reserve(want(user, node=f"n{(number + index) % 2}", port=port, capacity=room))
                if answer is not Conflict.PORT_TAKEN:
                    break
            results.append(answer.user if isinstance(answer, Placement) else answer.value)
        return results

    try:
        with ThreadPoolExecutor(threads) as pool:
            found = [item for results in pool.map(one, range(threads)) for item in results]
    except BaseException as error:
        found = [repr(error)]
    finally:
        store.close()
    answers.put(found)  # type: ignore[attr-defined]


def test_racing_threads_and_processes_fill_it_exactly(place: Place) -> None:
    """4 processes of 8 threads ask for 64 places where 15 + 15 fit: no oversell, no port twice, no deadlock seen."""
    room = replace(ROOM, workspaces=15)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_race, args=(place, i, 8, 2, room, answers)) for i in range(4)]
    for worker in workers:
        worker.start()  # they also meet at creating the schema
    found = [item for _ in workers for item in answers.get(timeout=90)]
    for worker in workers:
        worker.join(30)
    store = place.open()
    try:
        users = [p.user for p in store.placements()]
        assert sorted(item for item in found if item != "node-full") == sorted(users)
        assert {node: usage.workspaces for node, usage in store.usage().items()} == {"n0": 15, "n1": 15}
        assert len(found) == 64
        counted(store)
    finally:
        store.close()


def test_32_threads_on_one_store(store: SqlStore) -> None:
    room = replace(ROOM, workspaces=20)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: store.reserve(want(f"u{i}", port=20000 + i % 64, capacity=room)), range(64)))
    assert sum(isinstance(a, Placement) for a in answers) == 20
    assert sum(a is Conflict.NODE_FULL for a in answers) == 44


def test_one_of_many_twins_wins(store: SqlStore) -> None:
    room = replace(ROOM, workspaces=1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: store.reserve(want(port=20000 + i, capacity=room)), range(16)))
    assert sum(isinstance(a, Placement) for a in answers) == 1
    assert sum(a is Conflict.USER_EXISTS for a in answers) == 15


def test_one_of_many_claims_wins(store: SqlStore) -> None:
    placed(store.reserve(want()))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: store.claim("alice", 1, S.STARTING), range(16)))
    assert sum(isinstance(a, Placement) for a in answers) == 1
    assert placed(store.placement("alice")).generation == 2


@pytest.mark.parametrize("seed", range(3))
def test_random_writers_keep_used_equal_to_counted(store: SqlStore, seed: int) -> None:
    room = replace(ROOM, workspaces=6, memory_bytes=5 << 30)

    def writer(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        for _ in range(40):
            user = f"u{rng.randrange(10)}"
            now = store.placement(user)
            act = rng.randrange(6)
            if now is None:
                store.reserve(want(user, node=f"n{rng.randrange(2)}", port=20000 + rng.randrange(12), capacity=room))
            elif act == 0:
                store.release(user, now.generation, keep_home=None)
            elif act == 1:
                port = rng.choice([None, 20000 + rng.randrange(12)])
                store.claim(user, now.generation, rng.choice(list(S)), rng.choice([room, None]), port=port)
            elif act == 2:
                on = now.state is not S.STOPPED
                other = "n1" if now.node == "n0" else "n0"
                move = Move(user, now.node, other, "10.0.0.9", 20000 + rng.randrange(12), 1 << 30, 500, 100, on)
                state = S.MIGRATING if on else S.STOPPED
                store.begin_move(move, now.generation, state, room, was=now.state)
            elif act == 3:
                store.swap(user, now.generation, rng.choice([S.STARTING, S.STOPPED]), leaves_files=True)
            else:
                store.settle(user, now.generation, rng.choice([S.STOPPED, S.RUNNING, S.FAILED]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writer, range(8)))
    counted(store)


# recount


def test_recount_mends_counters(store: SqlStore, place: Place) -> None:
    placed(store.reserve(want("u1", port=20001)))
    placed(store.reserve(want("u2", port=20002)))
    assert store.settle("u2", 1, S.STOPPED)
    right = store.usage()
    assert right == {"n1": Usage(2, 1, 1 << 30, 500)}
    assert not store.recount("n1")
    for wrong in ("workspaces = 7", "active = 0", "memory_bytes = 5", "cpus_milli = 0, active = 9"):
        place.sql(f"UPDATE node_usage SET {wrong}")
        assert store.usage() != right
        assert store.recount("n1")
        assert store.usage() == right
        assert not store.recount("n1")
    assert store.last_ports() == {"n1": 20002}


def test_a_recount_is_on_record_only_if_it_changed_something(store: SqlStore, place: Place) -> None:
    entry = AuditEntry(AuditKind.DONE, "reconcile", "n1", Actor("anna", process="h:1"), "o1", "recounted")
    placed(store.reserve(want()))
    assert not store.recount("n1", audit=[entry])
    assert store.audit() == []
    place.sql("UPDATE node_usage SET workspaces = 3")
    assert store.recount("n1", audit=[entry])
    assert [row.entry.action for row in store.audit()] == ["recounted"]


def test_recount_of_nodes_without_a_row(store: SqlStore, place: Place) -> None:
    assert not store.recount("nowhere")
    assert store.usage() == {}
    placed(store.reserve(want()))
    place.sql("DELETE FROM node_usage")
    assert store.recount("n1")
    assert store.usage() == {"n1": Usage(1, 1, 1 << 30, 500)}
    assert store.release("alice", 1, keep_home=None)
    place.sql("UPDATE node_usage SET workspaces = 3")
    assert store.recount("n1")
    assert store.usage() == {"n1": Usage()}


def test_recount_among_writers(store: SqlStore) -> None:
    """It never takes a half-done write for the truth."""

    def writer(number: int) -> None:
        for turn in range(10):
            made = store.reserve(want(f"u{number}", port=20000 + number))
            assert isinstance(made, Placement)
            store.settle(f"u{number}", made.generation, S.STOPPED)
            if turn < 9:
                store.release(f"u{number}", made.generation, keep_home=None)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(writer, number) for number in range(4)]
        counts = [pool.submit(store.recount, "n1") for _ in range(40)]
        for job in jobs:
            job.result()
    assert not any(count.result() for count in counts)
    assert store.usage() == {"n1": Usage(4, 0, 0, 0)}


# schema


def test_an_empty_database_gets_its_tables(place: Place) -> None:
    assert schema_status(place.url, base=place.base, password=place.password)[:2] == (0, migrations.KNOWN)
    reader = place.open(create=False)
    assert (reader.schema_version(), reader.placements(), reader.marks()) == (0, [], {})
    with pytest.raises(WsctlError):
        reader.reserve(want())
    reader.close()
    assert not list(place.base.iterdir())
    assert upgrade(place.url, base=place.base, password=place.password, dry_run=True)[0] == "0001_placements"
    assert schema_status(place.url, base=place.base, password=place.password)[0] == 0
    store = place.open()
    assert store.schema_version() == migrations.KNOWN
    store.close()
    assert schema_status(place.url, base=place.base, password=place.password) == (
        migrations.KNOWN,
        migrations.KNOWN,
        [],
    )
    assert upgrade(place.url, base=place.base, password=place.password) == []


def test_an_older_schema_is_refused_until_upgraded(place: Place) -> None:
    place.open().close()
    place.sql(f"DROP TABLE {LAST.name}", f"DELETE FROM schema_migrations WHERE version = {LAST.version}")
    for create in (True, False):
        with pytest.raises(SchemaError) as caught:
            place.open(create=create)
        assert "wsctl db upgrade" in str(caught.value.hint)
        assert f"version {LAST.version - 1}," in caught.value.message
    assert schema_status(place.url, base=place.base, password=place.password) == (
        LAST.version - 1,
        LAST.version,
        [LAST.title],
    )
    assert upgrade(place.url, base=place.base, password=place.password) == [LAST.title]
    place.open().close()


def test_a_newer_schema_is_refused(place: Place) -> None:
    place.open().close()
    now = "utc_now()" if place.url.startswith("sqlite") else "UTC_TIMESTAMP(6)"
    place.sql(f"INSERT INTO schema_migrations (version, name, checksum, started_at) VALUES (99, 'x', 'y', {now})")
    for action in (place.open, lambda: upgrade(place.url, base=place.base, password=place.password)):
        with pytest.raises(SchemaError, match=f"version 99, this program knows versions up to {LAST.version}"):
            action()


def test_a_changed_step_is_refused(place: Place) -> None:
    place.open().close()
    place.sql("UPDATE schema_migrations SET checksum = 'other' WHERE version = 2")
    with pytest.raises(SchemaError, match="0002_node_usage was applied in another form"):
        place.open()


@pytest.mark.parametrize("table", ["wp_posts", "schema_migrations"])
def test_somebody_elses_database_is_refused(place: Place, table: str) -> None:
    place.sql(f"CREATE TABLE {table} (id INTEGER)")
    for action in (place.open, lambda: upgrade(place.url, base=place.base, password=place.password)):
        with pytest.raises(SchemaError, match="wasn't made by wsctl"):
            action()
    assert place.sql(f"SELECT * FROM {table}") == []


def test_an_upgrade_goes_on_after_a_crash_between_step_and_record(place: Place) -> None:
    place.open().close()
    place.sql(f"UPDATE schema_migrations SET applied_at = NULL WHERE version = {LAST.version}")
    with pytest.raises(SchemaError, match=f"version {LAST.version - 1},"):
        place.open()
    assert upgrade(place.url, base=place.base, password=place.password) == [LAST.title]
    place.open().close()


def _open_once(place: Place, together: Any, results: Any) -> None:
    try:
        together.wait(30)
        place.open().close()
        results.put("ok")
    except BaseException as error:
        results.put(repr(error))


def test_many_first_openings_at_once(place: Place) -> None:
    context = multiprocessing.get_context("fork")
    results, together = context.Queue(), context.Barrier(8)
    workers = [context.Process(target=_open_once, args=(place, together, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == ["ok"] * 8
    for worker in workers:
        worker.join(30)


def test_a_damaged_row_is_named(place: Place) -> None:
    store = place.open()
    try:
        placed(store.reserve(want()))
        place.sql("UPDATE placements SET state = 'dancing'")
        with pytest.raises(WsctlError, match=r"'alice' in table placements: unknown state 'dancing'"):
            store.placements()
        with pytest.raises(WsctlError, match="unknown state"):
            store.placement("alice")
        placed(store.reserve(want("bob", port=20001)))
        good, bad = store.placements_and_damage()
        assert [p.user for p in good] == ["bob"]
        assert [(row.user, row.node, row.host_port) for row in bad] == [("alice", "n1", 20000)]
        assert "unknown state 'dancing'" in bad[0].problem
        spots, no_spots = store.spots()
        assert [spot.user for spot in spots] == ["bob"]
        assert [row.problem for row in no_spots] == [row.problem for row in bad]
        place.sql("UPDATE placements SET node = ''")
        assert [(row.node, row.host_port) for row in store.placements_and_damage()[1]] == [
            (None, 20000),
            (None, 20001),
        ]
    finally:
        store.close()


@pytest.mark.parametrize("change", ["host_port = -1", "generation = 0", "memory_bytes = -1"])
def test_the_schema_refuses_impossible_values(place: Place, change: str) -> None:
    store = place.open()
    try:
        placed(store.reserve(want()))
        with pytest.raises(WsctlError):
            place.sql(f"UPDATE placements SET {change}")
    finally:
        store.close()


def test_a_reader_isnt_blocked_by_a_writer(store: SqlStore, place: Place) -> None:
    placed(store.reserve(want()))
    entered, leave = threading.Event(), threading.Event()

    def hold(session: object) -> None:
        del session
        entered.set()
        leave.wait(10)

    writer = threading.Thread(target=lambda: store.database.write(hold))
    writer.start()
    entered.wait(5)
    other = place.open(create=False)
    try:
        started = time.monotonic()
        assert len(other.placements()) == 1
        assert time.monotonic() - started < 5
    finally:
        leave.set()
        writer.join()
        other.close()


def test_files_may_be_where_nobody_is_placed_yet(store: SqlStore) -> None:
    assert store.remember_home("alice", "n2")
    assert store.remember_home("alice", "n3")
    assert store.homes() == {"alice": "n3"}
    placed(store.reserve(want("bob")))
    assert not store.remember_home("bob", "n2")
    assert "bob" not in store.homes()


@pytest.mark.parametrize("subject", ["host:/var/log/caf\udce9.log", "host:/" + "x" * 300, "host:/log  ", "a\0b"])
def test_a_note_is_about_whatever_a_file_is_called(store: SqlStore, subject: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    store.set_notes("logs", {subject: "1"}, at)
    store.set_notes("logs", {subject: "2"}, at)
    (found,) = store.notes("logs", [subject]).items()
    assert (found[0], found[1].value) == (note_subject(subject), "2")
    assert store.notes("logs") == dict([found])
    store.drop_notes("logs", [subject])
    assert store.notes("logs") == {}
