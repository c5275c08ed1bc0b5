"""Calls of many threads carried out together: who goes with whom, and that nobody waits for nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from wsctl.store import together
from wsctl.store.together import Together


class Carrier:
    """Doubles numbers, and remembers the groups. While `gate` is clear nothing gets through; `strike` may raise."""

    def __init__(self, limit: int = 10) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.strike: Callable[[Sequence[int]], None] = lambda items: None
        self.calls: Together[int, int] = Together(self.carry, lambda error: RuntimeError(f"told: {error}"), limit)
        self.pool = ThreadPoolExecutor(16)

    def carry(self, items: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(items))
        assert self.gate.wait(10)
        self.strike(items)
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]

    def send(self, *items: int) -> list[Future[int]]:
        """Each from a thread of its own, one behind the other; the first of all is on its way already."""
        sent = []
        for item in items:
            sent.append(self.pool.submit(self.calls.do, item))
            wait_until(lambda item=item: any(item in group for group in self.groups) or self.queued(item))
        return sent

    def queued(self, item: int) -> bool:
        return any(call.item == item for call in list(self.calls._waiting))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


def test_one_alone_waits_for_nobody(carrier: Carrier) -> None:
    assert [carrier.calls.do(item) for item in (1, 2, 3)] == [2, 4, 6]
    assert carrier.groups == [[1], [2], [3]]


def test_who_comes_meanwhile_goes_with_the_next_group_never_with_the_one_on_its_way(carrier: Carrier) -> None:
    carrier.gate.clear()
    sent = carrier.send(1, 2, 3, 4)
    assert carrier.groups == [[1]]
    carrier.gate.set()
    assert [one.result(10) for one in sent] == [2, 4, 6, 8]
    assert carrier.groups == [[1], [2, 3, 4]]
    assert carrier.calls.do(5) == 10


def test_those_of_the_last_group_come_along(carrier: Carrier) -> None:
    """They come one after the other with what is next: that is one group again, not many small ones."""
    given = []

    def give_way() -> None:
        given.append(len(carrier.calls._waiting))
        if len(given) == 1:
            wait_until(lambda: len(carrier.calls._waiting) == 3)

    carrier.calls = Together(carrier.carry, lambda error: RuntimeError(), 10, give_way)
    carrier.gate.clear()
    sent = carrier.send(1, 2, 3, 4)
    carrier.gate.set()
    assert [one.result(10) for one in sent] == [2, 4, 6, 8]
    assert given == [], "the first was alone"
    again = [carrier.pool.submit(carrier.calls.do, item) for item in (5, 6, 7, 8)]
    assert sorted(one.result(10) for one in again) == [10, 12, 14, 16]
    assert [len(group) for group in carrier.groups] == [1, 3, 4]
    assert given == [0, 3]


def test_a_group_that_is_full_waits_for_nobody_else(carrier: Carrier) -> None:
    given: list[int] = []
    carrier.calls = Together(carrier.carry, lambda error: RuntimeError(), 2, lambda: given.append(1))
    carrier.gate.clear()
    sent = carrier.send(1, 2, 3, 4, 5)
    carrier.gate.set()
    assert [one.result(10) for one in sent] == [2, 4, 6, 8, 10]
    assert given == []


def test_a_leader_who_is_interrupted_while_giving_way_is_not_waited_for(carrier: Carrier) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    carrier.calls = Together(carrier.carry, lambda error: RuntimeError(), 10, interrupted)
    carrier.calls._last = 2
    with pytest.raises(KeyboardInterrupt):
        carrier.calls.do(1)
    carrier.calls._last = 1
    assert carrier.calls.do(2) == 4


def test_a_group_has_its_limit() -> None:
    carrier = Carrier(limit=2)
    carrier.gate.clear()
    sent = carrier.send(1, 2, 3, 4, 5, 6)
    carrier.gate.set()
    assert [one.result(10) for one in sent] == [2, 4, 6, 8, 10, 12]
    assert carrier.groups == [[1], [2, 3], [4, 5], [6]]


def test_everybody_gets_their_own_result_or_error(carrier: Carrier) -> None:
    carrier.gate.clear()
    sent = carrier.send(1, 2, -3, 4)
    carrier.gate.set()
    with pytest.raises(ValueError, match="-3"):
        sent[2].result(10)
    assert [one.result(10) for one in (sent[0], sent[1], sent[3])] == [2, 4, 8]


@pytest.mark.parametrize("error", [OSError("lost"), KeyboardInterrupt("now")])
def test_what_stops_a_group_everybody_in_it_hears(carrier: Carrier, error: BaseException) -> None:
    def strike(items: Sequence[int]) -> None:
        if len(items) > 1:
            raise error

    carrier.strike = strike
    carrier.gate.clear()
    sent = carrier.send(1, 2, 3, 4)
    carrier.gate.set()
    assert sent[0].result(10) == 2
    with pytest.raises(type(error)):
        sent[1].result(10)
    told = [one.exception(10) for one in sent[2:]]
    assert [str(one) for one in told] == [f"told: {error}"] * 2
    assert told[0] is not told[1]
    assert carrier.calls.do(5) == 10


@pytest.mark.parametrize("when", ["queued", "first", "in flight"])
def test_nobody_waits_for_somebody_who_was_interrupted(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whether they were still waiting, were to lead, or were among those carried out."""
    interrupted, told = threading.Event(), threading.Event()

    class Torn(together.Turn):
        def wait(self) -> None:
            if threading.current_thread().name != "torn":
                super().wait()
                return
            if when == "first":
                super().wait()
            assert interrupted.wait(10)
            raise KeyboardInterrupt

    def torn() -> None:
        with pytest.raises(KeyboardInterrupt):
            carrier.calls.do(3)
        told.set()

    monkeypatch.setattr(together, "Turn", Torn)
    carrier.gate.clear()
    sent = carrier.send(1) if when == "first" else carrier.send(1, 2)
    thread = threading.Thread(target=torn, name="torn")
    thread.start()
    wait_until(lambda: carrier.queued(3))
    sent += carrier.send(4, 5)
    if when == "in flight":
        carrier.strike = lambda items: (interrupted.set(), told.wait(10))[0] if 3 in items else None
    else:
        interrupted.set()
        if when == "queued":
            assert told.wait(10)
    carrier.gate.set()
    assert [one.result(10) for one in sent] == ([2, 8, 10] if when == "first" else [2, 4, 8, 10])
    thread.join(10)
    assert not thread.is_alive()
    assert carrier.groups[1:] == {"queued": [[2, 4, 5]], "first": [[4, 5]], "in flight": [[2, 3, 4, 5]]}[when]
    assert carrier.calls.do(6) == 12


def test_many_threads_each_get_their_own(carrier: Carrier) -> None:
    def work(number: int) -> list[int]:
        return [carrier.calls.do(1000 * number + item) for item in range(100)]

    found = list(carrier.pool.map(work, range(16)))
    assert found == [[2 * (1000 * number + item) for item in range(100)] for number in range(16)]
    assert max(map(len, carrier.groups)) <= 10
