"""The loop on a fleet in memory: who is called what, by whom, and when; and what is never done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import CLUSTER
from tests.fakes import FakeClock
from tests.watching import Fleet, Post
from tests.worlds import copy_of_empty_database
from wsctl.errands import Errands
from wsctl.errors import BackendError, EngineError
from wsctl.model import NodeState
from wsctl.store.store import SqlStore

NAMES = ("n1", "n2", "n3", "n4")


def make_post(*names: str) -> Post:
    clock = FakeClock()
    return Post(Fleet(names or NAMES), clock, SqlStore(*_rows(clock)))


def _rows(clock: FakeClock) -> tuple[object, str, int]:
    database, version = copy_of_empty_database(clock.now)
    return database, CLUSTER, version


@pytest.fixture
def post() -> Iterator[Post]:
    made = make_post()
    yield made
    made.store.close()


def reports(post: Post) -> dict[str, str]:
    return {report.node: report.reason for report in post.store.node_reports()}


def until(post: Post, true: Callable[[], bool], most_s: float, *names: str) -> float:
    """How long it takes."""
    for number in range(round(most_s / 0.25)):
        if true():
            return number * 0.25
        post.turn(0.25, *names)
    raise AssertionError(f"not within {most_s} s: {post.events}")


def test_a_dead_node_is_suspect_then_down(post: Post) -> None:
    post.watcher("w1")
    post.turn(20)
    assert post.said() == []
    post.fleet.dead.add("n1")
    assert until(post, lambda: "n1" in reports(post), 15) <= 8
    assert until(post, lambda: post.downs != [], 15) <= 12
    assert post.downs == [("w1", "n1")]
    assert post.said() == [("suspect", "n1"), ("down", "n1"), ("done", "n1")][: len(post.said())]
    assert "can't reach it either" in post.events["w1"][1].reason
    post.turn(20)
    assert len(post.downs) == 1, "not again at each turn"
    post.turn(20)
    assert len(post.downs) == 2, "but again when nothing came of it"


def test_what_was_down_comes_back(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(6)
    assert list(reports(post)) == ["n1"]
    assert post.store.node_reports()[0].seen_at is not None
    post.fleet.dead.clear()
    post.turn(3)
    assert reports(post) == {}
    assert post.said() == [("suspect", "n1"), ("ok", "n1")]
    assert post.downs == []


def test_the_suspicion_outlives_a_dead_watcher_for_a_while_only(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(60)
    assert list(reports(post)) == ["n1"], "renewed"
    post.clock.advance(31)
    assert reports(post) == {}


def test_a_frozen_engine_is_suspect_and_never_down(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.hung.add("n1")
    post.turn(120)
    assert post.downs == []
    assert reports(post)["n1"].startswith("its machine answers, its engine doesn't")


def test_a_path_that_only_we_lack(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.cut.add(("w1", "n1"))
    post.turn(120)
    assert post.downs == [], "n2 reaches it"
    assert list(reports(post)) == ["n1"]


def test_another_watcher_sees_it(post: Post) -> None:
    """Its network is cut from us and from all other nodes, but not from the other control host."""
    post.watcher("w1")
    post.watcher("w2")
    post.turn(10)
    post.fleet.cut |= {("w1", "n1"), *((name, "n1") for name in NAMES)}
    post.turn(60)
    assert (post.downs, reports(post), post.said("w1")) == ([], {}, [])
    post.turn(120, "w1")
    assert post.downs == [("w1", "n1")] * len(post.downs) != [], "what a dead watcher saw runs out"


def test_all_at_once_is_us(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.cut |= {("w1", name) for name in NAMES}
    post.turn(1500)
    assert (post.downs, reports(post)) == ([], {})
    assert post.said().count(("alarm", None)) == 1
    post.fleet.cut.clear()
    post.turn(10)
    assert ("calm", None) in post.said()


def test_two_of_four_one_after_the_other(post: Post) -> None:
    def fail_over(node: str, reason: str) -> str:
        post.store.set_mark(node, NodeState.DOWN, reason, "w1")
        return "its users go on elsewhere"

    post.watcher("w1", fail_over)
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(30)
    assert post.downs == [("w1", "n1")]
    post.fleet.dead.add("n2")
    post.turn(60)
    assert post.downs == [("w1", "n1")], "two within minutes are too many to be true"
    assert post.said()[-2:] == [("alarm", None), ("unsure", "n2")]
    post.turn(600)
    assert post.downs[-1] == ("w1", "n2")


def test_no_word_from_redis_means_no_verdict(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.presence.is_gone = True
    post.fleet.dead.add("n1")
    post.turn(60)
    assert (post.downs, reports(post), post.said()) == ([], {}, [("blind", None)])
    post.presence.is_gone = False
    began = post.now()
    until(post, lambda: post.downs != [], 30)
    assert post.now() - began >= post.rules.down_after_s, "it counts anew"


def test_no_database_means_no_verdict(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise BackendError("MySQL: can't connect")

    watcher = post.watcher("w1")
    post.turn(10)
    monkeypatch.setattr(watcher, "notes", type("Gone", (), {"marks": staticmethod(gone)})())
    post.fleet.dead.add("n1")
    post.turn(60)
    assert (post.downs, post.said()) == ([], [("blind", None)])


def test_a_comparison_that_never_ends_means_no_verdict(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = post.watcher("w1")
    post.turn(10)
    monkeypatch.setattr(watcher, "_compare", lambda: None)
    post.fleet.dead.add("n1")
    post.turn(60)
    assert (post.downs, post.said()[-1]) == ([], ("blind", None))


def test_who_stood_still_forgets(post: Post) -> None:
    post.watcher("w1")
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(7)
    post.clock.advance(20)
    post.turn(2)
    assert post.downs == []
    assert ("paused", None) in post.said()
    post.turn(15)
    assert post.downs == [("w1", "n1")]


def test_of_two_watchers_one_may_die(post: Post) -> None:
    post.watcher("w1")
    post.watcher("w2")
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(5)
    post.turn(15, "w2")
    assert set(post.downs) == {("w2", "n1")}


def test_a_node_that_was_given_up_and_answers(post: Post) -> None:
    back: list[str] = []
    watcher = post.watcher("w1")
    watcher.on_return = lambda node: back.append(node) or "cordoned"  # type: ignore[func-returns-value]
    post.store.set_mark("n1", NodeState.DOWN, "no power", "eve")
    post.fleet.dead.add("n1")
    post.turn(20)
    assert (post.said(), post.downs, back) == ([], [], []), "that one is dead isn't news"
    post.fleet.dead.clear()
    post.turn(5)
    assert (back, post.said()) == (["n1"], [("returned", "n1"), ("done", "n1")])


def test_a_failover_that_fails_is_tried_again(post: Post) -> None:
    """Also when it is marked down by now: some of its users are still to go on elsewhere."""

    def half(node: str, reason: str) -> str:
        post.store.set_mark(node, NodeState.DOWN, reason, "w1")
        if len(post.downs) < 3:
            raise EngineError("n2", "no space left on device")
        return "all went on elsewhere"

    post.watcher("w1", half)
    post.turn(10)
    post.fleet.dead.add("n1")
    post.turn(300)
    assert len(post.downs) == 3
    assert [event for event, _ in post.said()] == ["suspect", "down", "failed", "failed", "done"]


def test_a_failover_that_failed_is_forgotten_when_the_node_is_well_again(post: Post) -> None:
    def fails(node: str, reason: str) -> str:
        raise EngineError("n2", "no space left on device")

    post.watcher("w1", fails)
    post.turn(10)
    post.fleet.dead.add("n1")
    until(post, lambda: post.downs != [], 30)
    post.fleet.dead.clear()
    post.turn(60)
    assert post.said()[-1] == ("ok", "n1")
    tried = len(post.downs)
    # Weeks later somebody gives it up for one user.
    post.store.set_mark("n1", NodeState.DOWN, "disk", "eve")
    post.turn(5)
    post.fleet.dead.add("n1")
    post.turn(120)
    assert len(post.downs) == tried


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["hang", "thaw", "cut", "heal", "gap", "redis"]), st.integers(0, 3)), max_size=12
    )
)
def test_nobody_who_lives_is_ever_down(script: list[tuple[str, int]]) -> None:
    """Engines hang, paths to us are cut, Redis goes, the process stops: no node dies, and none is called down."""
    post = make_post()
    post.watcher("w1")
    for what, number in script:
        name = NAMES[number]
        if what == "hang":
            post.fleet.hung.add(name)
        elif what == "thaw":
            post.fleet.hung.clear()
        elif what == "cut":
            post.fleet.cut.add(("w1", name))
        elif what == "heal":
            post.fleet.cut.clear()
        elif what == "gap":
            post.clock.advance(7.0 * number)
        else:
            post.presence.is_gone = not post.presence.is_gone
        post.turn(9, step_s=0.5)
    assert post.downs == []
    post.store.close()


def test_errands_are_bounded_and_bugs_come_out() -> None:
    errands, go = Errands(2), threading.Event()
    assert errands.begin("a", go.wait)
    assert not errands.begin("a", go.wait), "the same"
    assert errands.begin("b", go.wait)
    assert not errands.begin("c", go.wait), "too many"
    go.set()
    deadline = threading.Event()
    while not errands.idle():
        deadline.wait(0.01)

    def bug() -> None:
        raise ZeroDivisionError

    errands.check()
    assert errands.begin("c", bug)
    while not errands.idle():
        deadline.wait(0.01)
    with pytest.raises(ZeroDivisionError):
        errands.check()
