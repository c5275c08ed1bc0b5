"""Writes of many users in one transaction, on SQLite and on MariaDB: everybody gets what they would get alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from places import Place

from tests.contract.test_store_contract import ROOM, SMALL, counted, placed, want
from wsctl.errors import BackendError
from wsctl.model import NodeState, Placement, PlacementState
from wsctl.moving import Move
from wsctl.ports import Conflict
from wsctl.records import Actor, AuditEntry, AuditKind
from wsctl.signals import NetworkSample, Start
from wsctl.store.store import SqlStore

S = PlacementState
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    counted(opened)
    assert opened.audit_problems() == []
    opened.close()


def intent(user: str) -> list[AuditEntry]:
    return [AuditEntry(AuditKind.INTENT, "place", user, Actor("tests"), f"op-{user}")]


def together(store: SqlStore, *calls: Callable[[], Any], queue: Any = None) -> list[Any]:
    """The calls, all waiting before the first is carried out; what each returned or raised."""
    queue = queue or store._writes
    answers: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            answers[number] = calls[number]()
        except Exception as error:
            answers[number] = error

    queue._busy = True  # as if one were on its way
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for number, thread in enumerate(threads):
        thread.start()
        deadline = time.monotonic() + 10
        while len(queue._waiting) <= number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    with queue._lock:
        queue._pass_on()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return answers


def transactions(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each transaction that writes."""
    seen: list[int] = []
    real = store.database.write

    def write(work: Any) -> Any:
        seen.append(1)
        return real(work)

    monkeypatch.setattr(store.database, "write", write)
    return seen


def reserving(store: SqlStore, *users: str, first: int = 20000, **change: Any) -> list[Callable[[], Any]]:
    """A reservation for each, spread over n1 and n2."""
    return [
        lambda u=user, n=number: store.reserve(want(u, node=f"n{1 + n % 2}", port=first + n, **change), audit=intent(u))
        for number, user in enumerate(users)
    ]


def settling(store: SqlStore, placements: Sequence[Placement], state: S = S.RUNNING) -> list[Callable[[], Any]]:
    return [lambda p=p: store.settle(p.user, p.generation, state, audit=intent(p.user)) for p in placements]


def test_reservations_of_many_are_one_transaction(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(store.reserve(want("zed", port=30000)))
    placed(store.reserve(want("zoe", node="n2", port=30000)))
    seen = transactions(store, monkeypatch)
    users = [f"u{n}" for n in range(9)]
    made = together(store, *reserving(store, *users))
    assert len(seen) == 1
    assert [placed(one).user for one in made] == users
    assert [one for one in store.placements() if one.user in users] == made
    assert {(one.generation, one.container_generation, one.state) for one in made} == {(1, 1, S.RESERVED)}
    assert [row.entry.target for row in store.audit()] == users
    assert store.last_ports() == {"n1": 20008, "n2": 20007}


def test_the_first_on_a_node_make_its_row(store: SqlStore) -> None:
    assert all(isinstance(one, Placement) for one in together(store, *reserving(store, "a", "b", "c")))


def test_who_was_placed_before_gets_a_new_generation(store: SqlStore) -> None:
    placed(store.reserve(want("old")))
    placed(store.claim("old", 1, S.STOPPING))
    assert store.release("old", 2, keep_home=True)
    made = together(store, *reserving(store, "new"), *reserving(store, "old", first=21000, home="n1"))
    assert [(one.generation, one.container_generation) for one in made] == [(1, 1), (3, 3)]


@pytest.mark.parametrize("size", [39, 41])
def test_a_group_may_be_large(store: SqlStore, size: int) -> None:
    users = [f"u{n:03}" for n in range(size)]
    made = together(store, *reserving(store, *users))
    assert [placed(one).user for one in made] == users
    assert all(together(store, *settling(store, made)))


def on_many_nodes(store: SqlStore, users: Sequence[str], **change: Any) -> list[Callable[[], Any]]:
    """A reservation for each, everyone on a node of their own."""
    return [lambda u=user: store.reserve(want(u, node=f"node-{u}", **change), audit=intent(u)) for user in users]


def test_a_group_over_many_nodes_is_one_transaction(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"u{n:02}" for n in range(20)]
    for call in on_many_nodes(store, [f"{user}" for user in users], port=30000):
        assert store.release(placed(call()).user, 1, keep_home=False)
    seen = transactions(store, monkeypatch)
    made = together(store, *on_many_nodes(store, users, port=25000))
    assert [len(seen), *(placed(one).user for one in made)] == [1, *users]
    assert set(store.last_ports().values()) == {25000}
    assert all(together(store, *settling(store, made)))
    assert (len(seen), store.route_generation()) == (2, 20)


def test_a_node_that_is_full_is_so_for_its_own_users_only(store: SqlStore) -> None:
    tight = replace(ROOM, workspaces=1)
    placed(store.reserve(want("first", node="node-b", capacity=tight)))
    answers = together(store, *on_many_nodes(store, ["a", "b", "c"], port=25000, capacity=tight))
    assert answers[1] is Conflict.NODE_FULL
    assert [placed(one).user for one in answers[::2]] == ["a", "c"]
    assert {row.entry.target for row in store.audit()} == {"a", "c"}


@pytest.mark.parametrize("why", ["user", "port", "moving port", "twin", "home", "mark"])
def test_one_who_comes_too_late_harms_nobody(store: SqlStore, why: str) -> None:
    placed(store.reserve(want("there", port=21000)))
    bad = {
        "user": want("there", port=21001),
        "port": want("late", port=21000),
        "moving port": want("late", port=22000),
        "twin": want("a", port=21003),
        "home": want("there", node="n2", port=21004),
        "mark": want("late", node="n3", port=21005, only_ready=True),
    }[why]
    if why == "mark":
        store.set_mark("n3", NodeState.DRAINING, "", "ops")
    if why == "home":
        assert store.release("there", 1, keep_home=True)
    if why == "moving port":
        placed(store.reserve(want("mover", node="n2", port=22000)))
        move = Move("mover", "n2", "n1", "10.0.0.11", 22000, 1 << 30, 500, 100, True)
        placed(store.begin_move(move, 1, S.MIGRATING, ROOM, was=S.RESERVED))
    calls = reserving(store, "a", "b", "c")
    *good, last = together(store, *calls, lambda: store.reserve(bad, audit=intent(bad.user)))
    if why == "twin":
        # Whoever came first; the other hears that they are placed.
        assert {type(good[0]), type(last)} == {Placement, Conflict}
        assert Conflict.USER_EXISTS in (good[0], last)
        good = good[1:]
    else:
        others = {"user": Conflict.USER_EXISTS, "home": Conflict.STALE, "mark": Conflict.NODE_MARKED}
        assert last is others.get(why, Conflict.PORT_TAKEN)
    assert all(isinstance(one, Placement) for one in good)
    assert sorted(row.entry.target for row in store.audit()) == ["a", "b", "c"], "nobody has rows for nothing"


def test_room_for_three_is_for_three(store: SqlStore) -> None:
    tight = replace(ROOM, memory_bytes=3 * SMALL.memory_bytes)
    calls = [lambda n=n: store.reserve(want(f"u{n}", port=20000 + n, capacity=tight)) for n in range(6)]
    answers = together(store, *calls)
    assert sum(isinstance(one, Placement) for one in answers) == 3
    assert answers.count(Conflict.NODE_FULL) == 3


def test_what_others_give_back_is_not_counted_on(store: SqlStore) -> None:
    """The user who stops makes room; whether in time is all the same, but never is more taken than there is."""
    tight = replace(ROOM, memory_bytes=SMALL.memory_bytes)
    mine = placed(store.reserve(want("old", capacity=tight)))
    stop, come = together(
        store,
        lambda: store.settle("old", mine.generation, S.STOPPED),
        lambda: store.reserve(want("new", port=20001, capacity=tight)),
    )
    assert stop
    assert isinstance(come, Placement) or come is Conflict.NODE_FULL
    assert store.usage()["n1"].memory_bytes <= tight.memory_bytes


def test_all_kinds_go_together(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [placed(one) for one in together(store, *reserving(store, "a", "b", "c", "d", first=21000))]
    for one in old[:2]:
        assert store.settle(one.user, 1, S.STOPPED)
    seen = transactions(store, monkeypatch)
    sample = NetworkSample("c", "c0ffee", 77, NOON, 0)
    a, b, c, d, e, f = together(
        store,
        lambda: store.claim("a", 1, S.STARTING, ROOM, was=S.STOPPED, audit=intent("a")),
        lambda: store.claim("b", 1, S.STARTING, ROOM, new_container=True, audit=intent("b")),
        lambda: store.settle("c", 1, S.RUNNING, start=Start(NOON, sample), audit=intent("c")),
        lambda: store.settle("d", 1, S.FAILED, audit=intent("d")),
        *reserving(store, "e", "f"),
    )
    assert len(seen) == 1
    assert (a.generation, a.container_generation, a.state) == (2, 1, S.STARTING)
    assert (b.generation, b.container_generation, b.state) == (2, 2, S.STARTING)
    assert (c, d) == (True, True)
    assert store.placements()[:2] == [a, b]
    assert {p.user: p.state for p in store.placements()} == {
        "a": S.STARTING, "b": S.STARTING, "c": S.RUNNING, "d": S.FAILED, "e": S.RESERVED, "f": S.RESERVED,
    }  # fmt: skip
    assert [placed(e).generation, placed(f).generation] == [1, 1]
    assert store.activity()["c"].last_active_at == NOON
    assert store.samples() == {"c": sample}
    assert store.route_generation() == 1
    assert len(store.audit()) == 10


def test_a_start_is_recorded_with_its_placement_or_not_at_all(store: SqlStore) -> None:
    placed(store.reserve(want("a")))
    assert not store.settle("a", 7, S.RUNNING, start=Start(NOON, NetworkSample("a", "x", 1, NOON)))
    assert (store.activity(), store.samples(), store.activity_since()) == ({}, {}, None)
    assert store.settle("a", 1, S.RUNNING, start=Start(NOON))
    assert (store.activity()["a"].source, store.samples()) == ("start", {})
    assert store.activity_since() is not None


def test_the_stale_are_refused_and_the_others_are_not(store: SqlStore) -> None:
    old = [placed(one) for one in together(store, *reserving(store, "a", "b", "c", "d", "e"))]
    placed(store.claim("b", 1, S.STARTING))
    answers = together(
        store,
        *settling(store, old[:2]),
        lambda: store.claim("c", 7, S.STARTING),
        lambda: store.claim("d", 1, S.STARTING, was=S.STOPPED),
        lambda: store.claim("e", 1, S.STARTING, was=S.RESERVED),
    )
    assert answers[:4] == [True, False, Conflict.STALE, Conflict.STALE]
    assert placed(answers[4]).generation == 2
    assert [p.generation for p in store.placements()] == [1, 2, 1, 1, 2]


def test_two_of_one_user_are_one_after_the_other(store: SqlStore) -> None:
    placed(store.reserve(want("a")))
    claims = [lambda: store.claim("a", 1, S.STARTING)] * 3
    answers = together(store, *claims)
    assert sum(isinstance(one, Placement) for one in answers) == 1
    assert answers.count(Conflict.STALE) == 2


def test_starting_takes_room_that_is_there(store: SqlStore) -> None:
    tight = replace(ROOM, memory_bytes=2 * SMALL.memory_bytes)
    for number, user in enumerate("abc"):
        placed(store.reserve(want(user, port=20000 + number)))
        assert store.settle(user, 1, S.STOPPED)
    answers = together(store, *[lambda u=user: store.claim(u, 1, S.STARTING, tight) for user in "abc"])
    assert sum(isinstance(one, Placement) for one in answers) == 2
    assert answers.count(Conflict.NODE_FULL) == 1


def test_a_claim_ends_its_move_in_a_group_too(store: SqlStore) -> None:
    placed(store.reserve(want("mover", node="n2")))
    move = Move("mover", "n2", "n1", "10.0.0.11", 22000, 1 << 30, 500, 100, True)
    begun = placed(store.begin_move(move, 1, S.MIGRATING, ROOM, was=S.RESERVED))
    claimed, other = together(
        store, lambda: store.claim("mover", begun.generation, S.STOPPING), *reserving(store, "other")
    )
    assert placed(claimed).state is S.STOPPING
    assert placed(other).user == "other"
    assert store.moves() == {}


def test_who_cannot_write_the_audit_does_nothing(place: Place) -> None:
    store = place.open()
    place.sql("DROP TABLE audit")
    answers = together(store, *reserving(store, "a", "b", "c"))
    assert all(isinstance(one, BackendError) for one in answers), answers
    assert store.placements() == []
    assert sum(usage.workspaces for usage in store.usage().values()) == 0
    store.close()


def test_a_damaged_row_is_its_own_users_trouble(place: Place) -> None:
    store = place.open()
    old = [placed(one) for one in together(store, *reserving(store, "a", "b", "c"))]
    place.sql("UPDATE placements SET state = 'dancing' WHERE user = 'b'")
    a, b, c = together(store, *settling(store, old))
    assert (a, c) == (True, True)
    assert isinstance(b, BackendError)
    assert "'b'" in b.message
    store.close()


def test_generations_are_read_together(store: SqlStore, place: Place) -> None:
    placed(store.reserve(want("a")))
    placed(store.reserve(want("b", port=20001)))
    placed(store.claim("b", 1, S.STARTING))
    calls = [lambda u=user: store.generation(u) for user in ("b", "nobody", "a", "b")]
    assert together(store, *calls, queue=store._reads) == [2, 0, 1, 2]
    assert store.generation("b") == 2


def test_only_who_asked_hears_of_a_damaged_generation(place: Place) -> None:
    if not place.url.startswith("sqlite"):
        pytest.skip("a server holds no text in a column of numbers")
    store = place.open()
    placed(store.reserve(want("a")))
    placed(store.reserve(want("b", port=20001)))
    place.sql("PRAGMA ignore_check_constraints = ON")
    store.database.apply("PRAGMA ignore_check_constraints = ON")
    store.database.apply("UPDATE placements SET generation = 'x' WHERE user = 'b'")
    a, b = together(store, *[lambda u=user: store.generation(u) for user in "ab"], queue=store._reads)
    assert a == 1
    assert isinstance(b, BackendError)
    store.close()


def test_an_outcome_that_is_unknown_is_unknown_to_all(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to COMMIT is lost: nobody may try again by themselves, nobody may be told that it was done."""
    real = store.database.write

    def lose_the_reply(work: Any) -> Any:
        real(work)
        raise BackendError("the connection was lost at COMMIT: outcome unknown", hint="again")

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", lose_the_reply)
        placed_or_not = together(store, *reserving(store, "a", "b", "c"))
    assert [type(one) for one in placed_or_not] == [BackendError] * 3
    assert {one.hint for one in placed_or_not} == {"again"}
    assert len({id(one) for one in placed_or_not}) == 3
    assert [row.sequence for row in store.audit()] == [1] * 3, "carried out once"


def test_a_transaction_that_never_began_is_tried_by_each(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, first = store.database.write, [True]

    def once_lost(work: Any) -> Any:
        if first.pop() if first else False:
            raise BackendError("the connection was lost; nothing was changed")
        return real(work)

    placed(store.reserve(want("zed", port=30000)))
    placed(store.reserve(want("zoe", node="n2", port=30000)))
    monkeypatch.setattr(store.database, "write", once_lost)
    assert all(isinstance(one, Placement) for one in together(store, *reserving(store, "a", "b", "c")))
