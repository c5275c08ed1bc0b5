"""The audit table on SQLite and on MariaDB: written with the write or not at all, and damage is found."""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import PASSWORD, MariaDb
from places import Place

import wsctl.store
from wsctl.errors import BackendError
from wsctl.model import Capacity, NodeState, Placement, PlacementState, Resources
from wsctl.moving import Home
from wsctl.ports import Conflict, Reservation
from wsctl.records import Actor, AuditEntry, AuditKind
from wsctl.store import chain
from wsctl.store.store import SqlStore

S = PlacementState
ACTOR = Actor("root", "anna", "192.0.2.7", "host:4711")
WANTED = Reservation("alice", "n1", "10.0.0.11", 20000, Resources(1 << 30, 500, 100), Capacity(1000, 10**13, 10**7))


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    opened = place.open()
    yield opened
    opened.close()


def entry(target: str = "alice", **change: Any) -> AuditEntry:
    return replace(AuditEntry(AuditKind.DONE, "place", target, ACTOR, "op1", action="created"), **change)


def intact(store: SqlStore) -> None:
    assert store.audit_problems() == []


def grown(store: SqlStore, count: int = 4) -> None:
    """`count` rows of alice, and one of bob and zoe each: neighbours whose chains must stay unsuspected."""
    for number in range(count):
        store.append_audit([entry(detail=f"number {number + 1}")])
    store.append_audit([entry("bob"), entry("zoe")])


# what is kept


def test_a_row_says_everything(store: SqlStore) -> None:
    whole = entry(
        kind=AuditKind.FAILED,
        plan="+ create alice\n~ start",
        before={"state": "stopped", "port": 1},
        after={"a": None},
        detail="it didn't start: \u00fc\U0001f600",
        request_id="r-1",
    )
    store.append_audit([whole, entry(actor=Actor("root"))])
    first, second = store.audit()
    assert (first.entry, first.sequence) == (whole, 1)
    assert (second.entry.actor, second.entry.before, second.entry.request_id) == (Actor("root"), None, None)
    assert (second.sequence, second.at) == (2, first.at)
    assert re.fullmatch("[0-9a-f]{64}", first.digest)
    assert first.digest != second.digest
    intact(store)


def test_times_are_the_databases_and_never_fall(store: SqlStore, place: Place) -> None:
    store.append_audit([entry()])
    (first,) = store.audit()
    ((now,),) = place.sql(f"SELECT {place.now}")
    passed = store.database.dialect.decode_time(now) - first.at
    assert timedelta(0) <= passed < timedelta(seconds=30)
    # The database moved to a server whose clock is behind.
    ahead = store.database.dialect.encode_time(first.at + timedelta(hours=1))
    place.sql(f"UPDATE audit_heads SET at = '{ahead}'")
    store.append_audit([entry()])
    assert store.audit()[-1].at == first.at + timedelta(hours=1)
    intact(store)


def test_odd_and_long_text_is_kept_as_it_can_be(store: SqlStore) -> None:
    odd = "a\udcff\0b \\ ' \" ? %s\r\n"
    store.append_audit(
        [
            entry(odd, action="x" * 5000, detail=odd, plan="p" * 70_000, before={odd: odd}, after={"x": "y" * 70_000}),
            entry(odd, actor=Actor(odd * 100, odd, odd, odd), operation=odd, request_id=odd, verb=odd),
        ]
    )
    intact(store)
    first, second = store.audit(targets=["a??b \\ ' \" ? %s\r\n"])
    assert first.entry.detail == "a??b \\ ' \" ? %s\r\n"
    assert first.entry.before == {odd: odd}
    assert first.entry.plan == "p" * 64_000 + " … (6000 more characters were cut)"
    assert str(first.entry.after).endswith("more characters were cut)'}")
    assert len(second.entry.actor.os_user) == 200


def test_spaces_at_the_end_make_no_other_target(store: SqlStore) -> None:
    store.append_audit([entry("alice"), entry("alice "), entry("alice  ")])
    assert [(row.entry.target, row.sequence) for row in store.audit()] == [("alice", 1), ("alice", 2), ("alice", 3)]
    intact(store)


def test_many_rows_and_targets_at_once(store: SqlStore) -> None:
    store.append_audit([entry(f"u{number % 3}", detail=str(number)) for number in range(300)])
    assert [row.sequence for row in store.audit(targets=["u1"])] == list(range(1, 101))
    assert [row.entry.detail for row in store.audit(targets=["u2"])] == [str(n) for n in range(2, 300, 3)]
    intact(store)


def test_the_newest_oldest_first(store: SqlStore) -> None:
    for number in range(5):
        store.append_audit([entry(f"u{number % 2}", detail=str(number), request_id=f"r{number // 3}")])

    def details(**wanted: Any) -> str:
        return "".join(row.entry.detail for row in store.audit(**wanted))

    assert details() == "01234"
    assert details(limit=2) == "34"
    assert details(limit=0) == ""
    assert details(targets=["u0"]) == "024"
    assert details(targets=["u0"], limit=1) == "4"
    assert details(targets=[]) == ""
    assert details(targets={f"u{n}" for n in range(400)}, limit=3) == "234"
    assert details(request_id="r1") == "34"
    assert details(request_id="r1", targets=["u1"]) == "3"
    assert details(request_id="r\udcff", targets=["u\udcff"]) == ""
    rows = store.audit()
    assert details(since=rows[2].at) == "234"
    assert details(since=rows[4].at + timedelta(seconds=1)) == ""


def test_clusters_have_chains_of_their_own(place: Place, store: SqlStore) -> None:
    other = place.open("other")
    try:
        store.append_audit([entry()])
        other.append_audit([entry()])
        assert [row.sequence for row in (*store.audit(), *other.audit())] == [1, 1]
        assert store.audit()[0].digest != other.audit()[0].digest
        place.sql("DELETE FROM audit WHERE cluster = 'other'")
        intact(store)
        assert other.audit_problems()
    finally:
        other.close()


# with the write, or not at all


def test_each_write_brings_its_rows(store: SqlStore) -> None:
    made = store.reserve(WANTED, audit=[entry(detail="1", kind=AuditKind.INTENT), entry("n1", detail="2")])
    assert isinstance(made, Placement)
    assert isinstance(store.claim("alice", 1, S.STARTING, new_container=True, audit=[entry(detail="3")]), Placement)
    assert store.settle("alice", 2, S.RUNNING, audit=[entry(detail="4")])
    assert store.settle("alice", 2, S.STOPPED, audit=[entry(detail="5")])
    store.set_mark("n1", NodeState.CORDONED, "disk", "anna", audit=[entry("n1", detail="6")])
    assert store.release("alice", 2, keep_home=True, audit=[entry(detail="7")])
    assert [row.entry.detail for row in store.audit(targets=["alice"])] == ["1", "3", "4", "5", "7"]
    assert [row.entry.detail for row in store.audit(targets=["n1"])] == ["2", "6"]
    intact(store)


def test_a_conflict_brings_none(store: SqlStore) -> None:
    assert isinstance(store.reserve(WANTED), Placement)
    rows = [entry(), entry("n1")]
    tight = replace(WANTED.capacity, workspaces=1)
    assert store.reserve(WANTED, audit=rows) is Conflict.USER_EXISTS
    assert store.reserve(replace(WANTED, user="bob"), audit=rows) is Conflict.PORT_TAKEN
    assert store.reserve(replace(WANTED, user="bob", port=20001, capacity=tight), audit=rows) is Conflict.NODE_FULL
    assert isinstance(store.reserve(replace(WANTED, user="bob", port=20001)), Placement)
    assert store.claim("alice", 7, S.STARTING, audit=rows) is Conflict.STALE
    assert store.claim("alice", 1, S.STARTING, port=20001, audit=rows) is Conflict.PORT_TAKEN
    more = Resources(2 << 30, 500, 100)
    short = replace(WANTED.capacity, memory_bytes=1 << 30)
    assert store.claim("alice", 1, S.STARTING, short, resources=more, audit=rows) is Conflict.NODE_FULL
    assert not store.settle("alice", 7, S.RUNNING, audit=rows)
    assert not store.settle("zoe", 1, S.RUNNING, audit=rows)
    assert not store.release("alice", 7, keep_home=None, audit=rows)
    assert store.release("zoe", 1, keep_home=None, audit=rows)
    assert store.release("zoe", 1, keep_home=False, audit=rows)
    store.append_audit([])
    assert store.audit() == []


def test_forgetting_a_home_is_a_write(store: SqlStore) -> None:
    assert isinstance(store.reserve(WANTED), Placement)
    assert store.release("alice", 1, keep_home=True)
    assert store.release("alice", 0, keep_home=False, home=Home("n1", 1), audit=[entry(action="purged")])
    assert [row.entry.action for row in store.audit()] == ["purged"]


def test_a_write_whose_rows_cant_be_written_doesnt_happen(store: SqlStore, place: Place) -> None:
    assert isinstance(store.reserve(WANTED), Placement)
    usage = store.usage()
    place.sql("DROP TABLE audit_heads")
    for write in (
        lambda: store.settle("alice", 1, S.STOPPED, audit=[entry()]),
        lambda: store.claim("alice", 1, S.STARTING, audit=[entry()]),
        lambda: store.release("alice", 1, keep_home=True, audit=[entry()]),
        lambda: store.set_mark("n1", NodeState.DOWN, "", "anna", audit=[entry("n1")]),
        lambda: store.reserve(replace(WANTED, user="bob", port=20001), audit=[entry("bob")]),
    ):
        with pytest.raises(BackendError):
            write()
    (kept,) = store.placements()
    assert (kept.state, kept.generation) == (S.RESERVED, 1)
    assert (store.usage(), store.marks(), store.homes(), store.audit()) == (usage, {}, {}, [])


class _Counting:
    """A session that counts statements."""

    def __init__(self, session: Any) -> None:
        self.session, self.count = session, 0

    def execute(self, *words: Any) -> int:
        self.count += 1
        return int(self.session.execute(*words))

    def query(self, *words: Any) -> list[Any]:
        self.count += 1
        return list(self.session.query(*words))


@pytest.mark.parametrize("before", [0, 1])
def test_rows_of_a_target_cost_three_statements(store: SqlStore, before: int) -> None:
    for _ in range(before):
        store.append_audit([entry()])

    def work(session: Any) -> int:
        counting = _Counting(session)
        store._log.append(counting, [entry(), entry()])
        return counting.count

    assert store.database.write(work) == 3
    intact(store)


# damage


@pytest.mark.parametrize("column", [*chain.FIELDS, "at", "digest"])
def test_a_changed_field_is_found(store: SqlStore, place: Place, column: str) -> None:
    grown(store)
    value = "'2020-01-01 00:00:00'" if column == "at" else "'{}'"
    place.sql(f"UPDATE audit SET {column} = {value} WHERE target = 'alice' AND sequence = 2")
    found = store.audit_problems()
    assert ("alice", 2) in [problem[:2] for problem in found]
    assert {target for target, _, _ in found} == {"alice"}
    assert "changed" in found[0][2]


def test_a_field_made_empty_is_found(store: SqlStore, place: Place) -> None:
    grown(store)
    place.sql("UPDATE audit SET sudo_user = NULL WHERE target = 'alice' AND sequence = 4")
    assert [problem[:2] for problem in store.audit_problems()] == [("alice", 4)]


def test_rows_that_changed_places_are_found(store: SqlStore, place: Place) -> None:
    grown(store)
    place.sql(
        "UPDATE audit SET target = 'x' WHERE target = 'bob'",
        "UPDATE audit SET target = 'bob' WHERE target = 'zoe'",
        "UPDATE audit SET target = 'zoe' WHERE target = 'x'",
    )
    assert {problem[0] for problem in store.audit_problems()} == {"bob", "zoe"}


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("sequence = 1", [("alice", 1, "it was removed")]),
        ("sequence = 2", [("alice", 2, "it was removed")]),
        ("sequence IN (2, 3)", [("alice", 2, "it and all up to 3 were removed")]),
        ("sequence = 4", [("alice", 4, "it was removed")]),
        ("sequence > 1", [("alice", 2, "it and all up to 4 were removed")]),
        ("sequence > 0", [("alice", 1, "all rows of its target up to 4 were removed")]),
    ],
)
def test_a_removed_row_is_found(store: SqlStore, place: Place, gone: str, expected: list[Any]) -> None:
    grown(store)
    place.sql(f"DELETE FROM audit WHERE target = 'alice' AND {gone}")
    assert store.audit_problems() == expected
    store.append_audit([entry()])  # it stays found
    assert expected[0][:2] in [problem[:2] for problem in store.audit_problems()]


def test_a_removed_head_is_found_for_good(store: SqlStore, place: Place) -> None:
    grown(store)
    place.sql("DELETE FROM audit_heads WHERE target = 'alice'")
    assert store.audit_problems() == [("alice", 4, "its target has no head: that was removed")]
    # Work goes on, and doesn't cover it up.
    assert isinstance(store.reserve(WANTED, audit=[entry(detail="later")]), Placement)
    assert store.audit()[-1].sequence == 5
    assert [problem[:2] for problem in store.audit_problems()] == [("alice", 5)]
    store.append_audit([entry()])
    assert [problem[:2] for problem in store.audit_problems()] == [("alice", 5)]


def test_a_last_row_removed_with_its_head_is_found_later(store: SqlStore, place: Place) -> None:
    grown(store)
    place.sql(
        "DELETE FROM audit_heads WHERE target = 'alice'", "DELETE FROM audit WHERE target = 'alice' AND sequence = 4"
    )
    assert [problem[:2] for problem in store.audit_problems()] == [("alice", 3)]
    store.append_audit([entry()])
    assert [problem[:2] for problem in store.audit_problems()] == [("alice", 4)]


@pytest.mark.parametrize("change", ["sequence = 3", "sequence = 9", "digest = 'f'"])
def test_a_changed_head_is_found(store: SqlStore, place: Place, change: str) -> None:
    grown(store)
    place.sql(f"UPDATE audit_heads SET {change} WHERE target = 'alice'")
    assert {problem[0] for problem in store.audit_problems()} == {"alice"}
    store.append_audit([entry()])
    assert {problem[0] for problem in store.audit_problems()} == {"alice"}


def test_a_chain_removed_whole_is_found_by_the_placement(store: SqlStore, place: Place) -> None:
    old = replace(WANTED, user="old", port=20009)
    assert isinstance(store.reserve(old), Placement)  # of a time before there was an audit table
    for number, user in enumerate(("alice", "bob")):
        assert isinstance(
            store.reserve(replace(WANTED, user=user, port=20000 + number), audit=[entry(user)]), Placement
        )
    intact(store)
    place.sql("DELETE FROM audit WHERE target = 'bob'", "DELETE FROM audit_heads WHERE target = 'bob'")
    found = store.audit_problems()
    assert [problem[:2] for problem in found] == [("bob", 1)]
    assert "placed" in found[0][2]


def test_a_row_that_cant_be_read_is_named(store: SqlStore, place: Place) -> None:
    grown(store)
    place.sql("UPDATE audit SET kind = 'dance' WHERE target = 'bob'")
    with pytest.raises(BackendError, match="'bob' number 1 in table audit") as caught:
        store.audit()
    assert caught.value.hint is not None
    assert "wsctl audit --verify" in caught.value.hint
    assert len(store.audit(targets=["alice"])) == 4
    for damage in ("kind = 'done', before_state = '[1'", "before_state = '[1]'", "before_state = NULL, at = 'then'"):
        if place.url.startswith("mysql") and "at =" in damage:
            continue  # its type refuses it
        place.sql(f"UPDATE audit SET {damage} WHERE target = 'bob'")
        with pytest.raises(BackendError, match="'bob' number 1 in table audit"):
            store.audit()
        assert [problem[:2] for problem in store.audit_problems()] == [("bob", 1)]


def test_a_chain_over_several_pages(store: SqlStore, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsctl.store.audit._PAGE", 3)
    grown(store, 6)
    store.append_audit([entry("bob")] * 5)
    intact(store)
    place.sql("DELETE FROM audit WHERE target = 'bob' AND sequence = 3")
    assert store.audit_problems() == [("bob", 3, "it was removed")]


def test_the_figures_change_with_every_row(store: SqlStore) -> None:
    seen = {store.audit_figures()}
    assert seen == {(0, 0, chain.heads_digest([]))}
    for number in range(3):
        store.append_audit([entry()])
        rows, targets, digest = store.audit_figures()
        assert (rows, targets) == (number + 1, 1)
        seen.add((rows, targets, digest))
    assert len({digest for _, _, digest in seen}) == 4


def test_an_empty_database_reads_as_intact(place: Place) -> None:
    reader = place.open(create=False)
    try:
        assert (reader.audit(), reader.audit_problems()) == ([], [])
        with pytest.raises(BackendError):
            reader.append_audit([entry()])
    finally:
        reader.close()


# races


def test_racing_threads_on_one_chain(store: SqlStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.append_audit([entry(detail=str(number))]), range(64)))
    rows = store.audit()
    assert [row.sequence for row in rows] == list(range(1, 65))
    assert sorted(int(row.entry.detail) for row in rows) == list(range(64))
    intact(store)


def test_racing_threads_on_targets_in_any_order(store: SqlStore) -> None:
    names = ["a", "b", "c", "d"]

    def one(number: int) -> None:
        turned = names[number % 4 :] + names[: number % 4]
        store.append_audit([entry(name) for name in turned])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert [len(store.audit(targets=[name])) for name in names] == [40] * 4
    intact(store)


def test_racing_writes_with_rows(store: SqlStore) -> None:
    """Nodes, users and chains at once: every write that happened has its row, and no other has."""

    def life(number: int) -> int:
        user, done = f"u{number % 4}", 0
        rows = [entry(user), entry("n1")]
        done += isinstance(store.reserve(replace(WANTED, user=user, port=20000 + number), audit=rows), Placement)
        now = store.placement(user)
        if now is not None:
            done += store.settle(user, now.generation, S.RUNNING, audit=rows)
            done += isinstance(store.claim(user, now.generation, S.STOPPING, audit=rows), Placement)
        return done

    with ThreadPoolExecutor(12) as pool:
        happened = sum(pool.map(life, range(48)))
    assert len(store.audit(targets=["n1"])) == happened
    assert len(store.audit()) == 2 * happened
    intact(store)


def _append(place: Place, number: int, count: int, answers: Any) -> None:
    store = place.open()
    try:
        for index in range(count):
            store.append_audit([entry(detail=f"{number}.{index}"), entry(f"own{number}")])
        answers.put("ok")
    except BaseException as error:
        answers.put(repr(error))
    finally:
        store.close()


def test_racing_processes(place: Place) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_append, args=(place, number, 15, answers)) for number in range(4)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join(30)
    store = place.open()
    try:
        assert [row.sequence for row in store.audit(targets=["alice"])] == list(range(1, 61))
        assert len(store.audit()) == 120
        intact(store)
    finally:
        store.close()


def test_looking_while_others_write(store: SqlStore, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written meanwhile doesn't look like damage."""
    monkeypatch.setattr("wsctl.store.audit._PAGE", 5)
    store.append_audit([entry("alice"), entry("bob")])
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            store.append_audit([entry("alice"), entry("bob")])

    writer = threading.Thread(target=write)
    writer.start()
    reader = place.open(create=False)
    try:
        for _ in range(10):
            assert reader.audit_problems() == []
    finally:
        done.set()
        writer.join()
        reader.close()


def test_a_stalled_writer_blocks_only_its_own_target(store: SqlStore, place: Place) -> None:
    if place.url.startswith("sqlite"):
        return  # there one writer at a time is the rule
    store.append_audit([entry("alice"), entry("bob")])
    entered, leave = threading.Event(), threading.Event()

    def stall(session: Any) -> None:
        store._log.append(session, [entry("alice"), entry("new")])
        entered.set()
        leave.wait(20)

    writer = threading.Thread(target=lambda: store.database.write(stall))
    writer.start()
    try:
        assert entered.wait(5)
        for target in ("bob", "carl", "aaa", "zzz"):
            store.append_audit([entry(target)])
        behind = threading.Thread(target=lambda: store.append_audit([entry("alice")]))
        behind.start()
        behind.join(0.3)
        assert behind.is_alive(), "the head of its own target is locked"
        assert len(store.audit(targets=["bob", "carl", "aaa", "zzz"])) == 5
    finally:
        leave.set()
        writer.join()
    behind.join(10)
    assert len(store.audit(targets=["alice"])) == 3
    intact(store)


# append-only


def test_no_statement_changes_or_deletes_a_row() -> None:
    folder = Path(wsctl.store.__file__).parent
    statements = re.compile(
        r"(UPDATE|DELETE\s+FROM|REPLACE\s+INTO|TRUNCATE\s+TABLE|TRUNCATE|DROP\s+TABLE|upsert\()\W*audit\b(?!_)"
    )
    for path in (*folder.rglob("*.py"), *folder.rglob("*.sql")):
        text = re.sub(r"[\"'()\s]+", " ", path.read_text())
        assert not statements.search(text), path.name
    assert statements.search("DELETE FROM audit WHERE")


def test_a_user_who_may_only_insert_is_enough(mariadb: MariaDb, tmp_path: Path) -> None:
    """The server itself says that nothing changes or deletes a row."""
    name = mariadb.new_database()
    Place(mariadb.url(name), tmp_path, PASSWORD).open().close()
    tables = [str(row[0]) for row in mariadb.admin("SHOW TABLES", database=name)]
    mariadb.admin(
        f"CREATE USER 'insert_only'@'%' IDENTIFIED BY '{PASSWORD}'",
        f"GRANT SELECT, INSERT ON {name}.audit TO 'insert_only'@'%'",
        *(f"GRANT ALL ON {name}.{table} TO 'insert_only'@'%'" for table in tables if table != "audit"),
    )
    place = Place(mariadb.url(name).replace("wsctl@", "insert_only@"), tmp_path, PASSWORD)
    store = place.open()
    try:
        grown(store)
        assert isinstance(store.reserve(WANTED, audit=[entry()]), Placement)
        assert store.release("alice", 1, keep_home=False, audit=[entry()])
        assert len(store.audit()) == 8
        intact(store)
        with pytest.raises(BackendError, match="the user may not do this"):
            place.sql("DELETE FROM audit")
    finally:
        store.close()
        mariadb.admin("DROP USER 'insert_only'@'%'", f"DROP DATABASE {name}")


def test_every_kind_of_write_leaves_older_rows_alone(store: SqlStore, place: Place) -> None:
    grown(store)
    kept = place.sql("SELECT * FROM audit ORDER BY target, sequence")
    assert isinstance(store.reserve(WANTED, audit=[entry()]), Placement)
    assert store.settle("alice", 1, S.RUNNING, audit=[entry()])
    assert store.release("alice", 1, keep_home=False, audit=[entry()])
    store.recount("n1")
    store.begin_request("r", "place", "d", "anna", 0.0)
    store.begin_request("r", "place", "d", "anna", 0.0)
    after = place.sql("SELECT * FROM audit ORDER BY target, sequence")
    assert [row for row in after if row in kept] == kept
    assert len(after) == len(kept) + 3
