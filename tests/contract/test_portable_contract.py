"""A cluster's state from one database into another: SQLite and MariaDB, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backends import PASSWORD
from places import Place

from wsctl.errors import PlanChanged, Refused
from wsctl.model import Capacity, NodeState, Placement, PlacementState, Resources
from wsctl.moving import Move
from wsctl.ports import Reservation
from wsctl.records import Actor, AuditEntry, AuditKind
from wsctl.signals import NetworkSample
from wsctl.statefile import StateFile, write
from wsctl.store.store import SqlStore

ROOM = Capacity(1000, 10**13, 10**7)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WHO = Actor("tëster", None, "10.0.0.9", "here:1")


def entry(target: str, kind: AuditKind = AuditKind.DONE) -> AuditEntry:
    return AuditEntry(kind, "place", target, WHO, "op1", "created", "+ 1\n+ 2", {"a": 1}, None, "détail \u2028", "req")


def fill(store: SqlStore) -> None:
    for number in range(50):
        wanted = Reservation(
            f"u{number}", f"n{number % 3}", "10.0.0.1", 20000 + number, Resources(1 << 30, 500, 10), ROOM
        )
        made = store.reserve(wanted, audit=[entry(wanted.user, AuditKind.INTENT), entry(wanted.user)])
        assert isinstance(made, Placement)
        if number % 2:
            assert store.settle(wanted.user, 1, PlacementState.RUNNING)
    assert store.release("u7", 1, keep_home=True, audit=[entry("u7")])
    store.set_mark("n1", NodeState.CORDONED, "disk\nslow", "me@here", audit=[entry("n1")])
    store.touch(["u1", "stranger"], NOW, "http")
    store.save_samples([NetworkSample("u1", "c0ffee", 2**40, NOW)])


def seen(store: SqlStore) -> object:
    """Everything there is to know."""
    return (
        store.placements(), store.usage(), store.last_ports(), store.last_node(), store.route_generation(),
        store.homes(), store.marks(), store.activity(), store.samples(), store.audit(), store.audit_figures(),
        store.audit_problems(),
    )  # fmt: skip


@pytest.fixture(params=["sqlite", "mariadb"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where it is restored."""
    if request.param == "sqlite":
        yield Place("sqlite:///other.db", tmp_path, None)
        return
    server = request.getfixturevalue("mariadb")
    name = server.new_database()
    yield Place(server.url(name), tmp_path, PASSWORD)
    server.admin(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def opened() -> Iterator[Callable[[Place], SqlStore]]:
    stores: list[SqlStore] = []

    def open_one(place: Place) -> SqlStore:
        stores.append(place.open())
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def copied(store: SqlStore, path: Path) -> Path:
    return write(store, path, made_at=NOW, made_by="me").path


def test_what_is_copied_comes_back(
    place: Place, other: Place, opened: Callable[[Place], SqlStore], tmp_path: Path
) -> None:
    source, target = opened(place), opened(other)
    fill(source)
    path = copied(source, tmp_path / "state.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600
    with StateFile(path) as file:
        file.check("studio")
        counts = target.load_state(file.records, replaces=None, audit=[])
    assert seen(target) == seen(source)
    assert (counts["placements"], counts["audit"], counts["homes"]) == (49, 102, 1)
    assert target.audit_problems() == []
    # And it lives on: the counters are right, the chains go on.
    assert target.release("u1", 1, keep_home=None, audit=[entry("u1")])
    assert not any(target.recount(node) for node in ("n0", "n1", "n2"))
    assert target.audit_problems() == []


def test_a_cluster_that_has_something_is_left_alone(
    place: Place, other: Place, opened: Callable[[Place], SqlStore], tmp_path: Path
) -> None:
    source, target = opened(place), opened(other)
    fill(source)
    with StateFile(copied(source, tmp_path / "state.jsonl")) as file:
        target.touch(["u9"], NOW, "http")
        before = seen(target)
        with pytest.raises(Refused, match="isn't empty: 1 in activity"):
            target.load_state(file.records, replaces=None, audit=[])
        with pytest.raises(PlanChanged):
            target.load_state(file.records, replaces="another", audit=[])
    assert seen(target) == before


def test_what_is_replaced_can_be_told_from_what_came_after(
    place: Place, opened: Callable[[Place], SqlStore], tmp_path: Path
) -> None:
    store = opened(place)
    fill(store)
    first = write(store, tmp_path / "first.jsonl", made_at=NOW, made_by="me")
    claimed = store.claim("u1", 1, PlacementState.STOPPING, audit=[entry("u1")])
    assert isinstance(claimed, Placement)
    later = write(store, tmp_path / "later.jsonl", made_at=NOW, made_by="me")
    assert first.identity != later.identity
    routes = store.route_generation()
    with StateFile(first.path) as file:
        with pytest.raises(PlanChanged):
            store.load_state(file.records, replaces=first.identity, audit=[])
        store.load_state(file.records, replaces=later.identity, audit=[entry("cluster:studio")])
    back = store.placement("u1")
    assert back is not None
    assert (back.state, back.generation) == (PlacementState.RUNNING, 3)
    assert store.route_generation() > routes
    assert store.settle("u1", 2, PlacementState.STOPPED) is False
    assert store.audit_problems() == []


def test_rows_that_cant_be_together_leave_nothing(
    place: Place, other: Place, opened: Callable[[Place], SqlStore], tmp_path: Path
) -> None:
    source, target = opened(place), opened(other)
    fill(source)
    with StateFile(copied(source, tmp_path / "state.jsonl")) as file:
        rows = list(file.records())
    twice = [*rows[:1], *rows]
    with pytest.raises(Refused, match="can't be together"):
        target.load_state(lambda: iter(json.loads(json.dumps(twice))), replaces=None, audit=[])
    lonely = [row for row in rows if row[0] != "node_usage"]
    with pytest.raises(Refused, match="no record of that node"):
        target.load_state(lambda: iter(json.loads(json.dumps(lonely))), replaces=None, audit=[])
    assert target.copy_state(lambda snapshot: sum(snapshot.counts.values())) == 0


def test_a_copy_is_of_one_moment(place: Place, opened: Callable[[Place], SqlStore]) -> None:
    """A writer that comes while the copy is made is in none of it."""
    store, writer = opened(place), opened(place)
    fill(store)

    def consume(snapshot: object) -> list[str]:
        assert writer.release("u1", 1, keep_home=True, audit=[entry("u1")])
        writer.touch(["newcomer"], NOW, "http")
        return [record["user"] for name, record in snapshot.records if name in ("placements", "activity")]  # type: ignore[attr-defined]

    users = store.copy_state(consume)
    assert "u1" in users
    assert "newcomer" not in users
    assert store.placement("u1") is None


def test_what_moves_took_is_free_after_a_restore(
    place: Place, opened: Callable[[Place], SqlStore], tmp_path: Path
) -> None:
    store = opened(place)
    fill(store)
    move = Move("u1", "n1", "n2", "10.0.0.12", 20999, 1 << 30, 500, 10, True)
    assert isinstance(store.begin_move(move, 1, PlacementState.MIGRATING, ROOM, was=PlacementState.RUNNING), Placement)
    kept = write(store, tmp_path / "state.jsonl", made_at=NOW, made_by="me")
    with StateFile(kept.path) as file:
        store.load_state(file.records, replaces=kept.identity, audit=[])
    assert store.moves() == {}
    assert not any(store.recount(node) for node in ("n0", "n1", "n2"))
    wanted = Reservation("new", "n2", "10.0.0.12", 20999, Resources(1 << 30, 500, 10), ROOM)
    assert isinstance(store.reserve(wanted), Placement)
