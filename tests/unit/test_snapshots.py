"""Which snapshots are kept, and which one is meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from wsctl.snapshots import Keep, Kind, Snapshot, by_user, choose, doomed

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
ONLY_LAST = Keep(last=2, daily=0, weekly=0, monthly=0)


def snapshot(
    id_: str, hours: float, kind: Kind = Kind.CONSISTENT, user: str = "alice", complete: bool = True
) -> Snapshot:
    return Snapshot(id_, user, "n1", NOON - timedelta(hours=hours), kind, complete)


def ids(found: list[Snapshot]) -> list[str]:
    return [one.id for one in found]


def test_the_newest_are_kept_of_each_user() -> None:
    mine = [snapshot(f"a{n}", n) for n in range(4)]
    others = [snapshot(f"b{n}", n, user="bob") for n in range(3)]
    assert ids(doomed(mine + others, ONLY_LAST)) == ["a3", "a2", "b2"]


def test_one_a_day_a_week_a_month() -> None:
    hourly = [snapshot(f"{n:04}", n) for n in range(24 * 100)]
    gone = {one.id for one in doomed(hourly, Keep(last=1, daily=3, weekly=2, monthly=3))}
    kept = [one for one in hourly if one.id not in gone]
    days = [f"{one.at:%m-%d %H}" for one in kept]
    assert days == ["03-31 12", "03-30 23", "03-29 23", "02-28 23", "01-31 23"], "a Sunday's last is also its week's"


def test_what_can_be_relied_on_is_kept_beside_the_newest() -> None:
    found = [snapshot("a", 1, Kind.LIVE), snapshot("b", 2, complete=False), snapshot("c", 3), snapshot("d", 4)]
    assert ids(doomed(found, Keep(last=0, daily=0, weekly=0, monthly=0))) == ["d", "b"]


def test_a_first_pass_goes_when_there_is_something_newer() -> None:
    assert ids(doomed([snapshot("a", 1), snapshot("b", 1.1, Kind.FIRST_PASS)], Keep())) == ["b"]
    assert doomed([snapshot("b", 1, Kind.FIRST_PASS), snapshot("a", 2)], Keep()) == []


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(Kind), st.booleans()), max_size=60),
    st.builds(Keep, *[st.integers(0, 5)] * 4),
)
def test_what_is_kept_is_kept_again(facts: list[tuple[int, Kind, bool]], keep: Keep) -> None:
    found = [snapshot(str(n), hours, kind, complete=whole) for n, (hours, kind, whole) in enumerate(facts)]
    gone = doomed(found, keep)
    left = [one for one in found if one not in gone]
    assert doomed(left, keep) == []
    if found:
        assert max(one.at for one in left) == max(one.at for one in found)
    sure = [one.at for one in found if one.kind is Kind.CONSISTENT and one.complete]
    if sure:
        assert max(sure) in [one.at for one in left if one.kind is Kind.CONSISTENT and one.complete]


def test_which_one_is_meant() -> None:
    mine = [snapshot("aa2", 5), snapshot("b", 0.5, Kind.FIRST_PASS), snapshot("aa1", 1)]
    found = by_user([*mine, snapshot("c", 0, user="bob")])["alice"]
    assert ids(found) == ["b", "aa1", "aa2"]
    newest = choose(found, None, None)
    assert newest is not None
    assert newest.id == "aa1"
    older = choose(found, NOON - timedelta(hours=2), None)
    assert older is not None
    assert older.id == "aa2"
    assert choose(found, NOON - timedelta(hours=9), None) is None
    assert choose(found, None, "aa") is None, "two begin so"
    named = choose(found, None, "b")
    assert named is not None
    assert named.kind is Kind.FIRST_PASS
    assert choose(found, None, "c") is None, "it is bob's"
    only = choose(found[:1], None, None)
    assert only is not None
    assert only.id == "b"
