"""The gate before a start, with slots and a time of our own: order, waiting, giving up, and backends that fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from wsctl.coordination import open_slots
from wsctl.coordination.gate import StartGate
from wsctl.coordination.slots import LazySlots
from wsctl.errors import BackendError, InventoryError, LeaseHeld, LeaseLost, Refused, StartsBusy


class Time:
    """Seconds that pass when somebody waits; with `by_hand`, when the test says so."""

    def __init__(self, *, by_hand: bool = False) -> None:
        self.now = 1000.0
        self.by_hand = by_hand
        self.at: dict[float, Callable[[], None]] = {}
        self.asleep: set[threading.Event] = set()

    def __call__(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> None:
        assert seconds > 0
        until = self.now + seconds
        if self.by_hand:
            self.asleep.add(event)
            while not event.is_set() and self.now < until:
                time.sleep(0.0005)
            self.asleep.discard(event)
        elif not event.is_set():
            self.now = until
            for when in [when for when in self.at if when <= until]:
                self.at.pop(when)()


class FakeSlots:
    """Slots in memory that end with `clock`; dead, they can't be asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.ends: dict[tuple[str, str], float] = {}
        self.asked: list[tuple[float, str, str]] = []
        self.given_back: list[str] = []
        self.dead = False
        self.during: Callable[[], None] = lambda: None

    def take(self, node: str, limit: int, token: str, ttl_s: float) -> bool:
        with self._lock:
            self.asked.append((self._clock(), threading.current_thread().name, token))
        self.during()
        if self.dead:
            raise BackendError("it is dead")
        with self._lock:
            if (node, token) not in self._live(node) and len(self._live(node)) >= limit:
                return False
            self.ends[node, token] = self._clock() + ttl_s
            return True

    def give_back(self, node: str, token: str) -> None:
        with self._lock:
            self.given_back.append(token)
            self.ends.pop((node, token), None)

    def taken(self, node: str) -> int:
        return len(self._live(node))

    def close(self) -> None:
        raise AssertionError("the slots are not the gate's")

    def _live(self, node: str) -> set[tuple[str, str]]:
        return {key for key, end in self.ends.items() if key[0] == node and end > self._clock()}


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def slots(now: Time) -> FakeSlots:
    return FakeSlots(now)


@pytest.fixture
def gate(slots: FakeSlots, now: Time) -> Iterator[StartGate]:
    gate = StartGate(slots, {"n1": 2, "n2": 1, "free": None}, wait_s=20, clock=now, wait=now.wait)
    yield gate
    gate.close()


def test_a_slot_is_held_in_the_block(gate: StartGate, slots: FakeSlots) -> None:
    with gate.starting("n1", "a"):
        assert slots.taken("n1") == 1
        with gate.starting("n1", "b"), gate.starting("n2", "c"):
            assert (slots.taken("n1"), slots.taken("n2")) == (2, 1)
    assert slots.given_back == ["c", "b", "a"]
    assert len(slots.asked) == 3


def test_it_is_given_back_whatever_happens(gate: StartGate, slots: FakeSlots) -> None:
    for error in (KeyboardInterrupt, LeaseLost("x"), SystemExit):
        with pytest.raises(BaseException) as caught, gate.starting("n2", "a"):
            raise error
        assert caught.type is (error if isinstance(error, type) else type(error))
        assert slots.taken("n2") == 0


@pytest.mark.parametrize("node", ["free", "unknown"])
def test_no_limit_costs_nothing(gate: StartGate, slots: FakeSlots, node: str) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for number in range(100):
            stack.enter_context(gate.starting(node, f"t{number}"))
    assert slots.asked == slots.given_back == []
    assert threading.active_count() == before


def test_waiting_asks_ever_more_seldom(gate: StartGate, slots: FakeSlots, now: Time) -> None:
    slots.take("n2", 1, "somebody else", 15)
    slots.asked.clear()
    with gate.starting("n2", "a"):
        assert 1015 <= now.now <= 1016
    moments = [moment for moment, _, _ in slots.asked]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert moments[0] == 1000
    assert 0.025 <= gaps[0] <= 0.051
    assert all(0.025 <= gap <= 1.001 for gap in gaps)
    assert min(gaps[6:]) >= 0.499
    assert len(set(gaps[6:])) > 1, "no jitter"
    assert len(gaps) < 45


def test_who_waits_too_long_is_refused(gate: StartGate, slots: FakeSlots, now: Time) -> None:
    slots.take("n2", 1, "somebody else", 1000)
    with pytest.raises(StartsBusy) as caught, gate.starting("n2", "a"):
        pytest.fail("it started")
    error = caught.value
    assert (error.exit_code, error.code) == (6, "starts-busy")
    assert isinstance(error, LeaseHeld)
    assert error.message == (
        "n2 is starting as many workspaces as it may at once (max_concurrent_starts: 1); none was done within 20 s"
    )
    assert error.details == {"node": "n2", "limit": 1, "waited_s": 20.0}
    assert "max_concurrent_starts" in str(error.hint)
    assert now.now == pytest.approx(1020)
    slots.give_back("n2", "somebody else")
    with gate.starting("n2", "b"):  # nothing of the one that gave up is in the way
        assert now.now == pytest.approx(1020)


def test_a_wait_of_no_time_asks_once(slots: FakeSlots, now: Time) -> None:
    gate = StartGate(slots, {"n1": 1}, wait_s=0, clock=now, wait=now.wait)
    with gate.starting("n1", "a"), pytest.raises(StartsBusy), gate.starting("n1", "b"):
        pytest.fail("it started")
    gate.close()


def test_cancelled_while_waiting(gate: StartGate, slots: FakeSlots, now: Time) -> None:
    slots.take("n2", 1, "somebody else", 1000)
    stopped = threading.Event()
    now.at[1009.9] = stopped.set
    with pytest.raises(Refused, match="stopped while it waited"), gate.starting("n2", "a", cancelled=stopped.is_set):
        pytest.fail("it started")
    assert 1009.9 <= now.now <= 1009.9 + 0.51
    assert slots.taken("n2") == 1


def test_what_cancelled_raises_goes_through(gate: StartGate, slots: FakeSlots) -> None:
    def lost() -> bool:
        raise LeaseLost("broken")

    with pytest.raises(LeaseLost), gate.starting("n2", "a", cancelled=lost):
        pytest.fail("it started")
    assert slots.asked == []
    with gate.starting("n2", "b"):
        assert slots.taken("n2") == 1


def test_a_dead_backend_stops_no_start(
    gate: StartGate, slots: FakeSlots, now: Time, caplog: pytest.LogCaptureFixture
) -> None:
    slots.dead = True
    with caplog.at_level(logging.WARNING), gate.starting("n1", "a"), gate.starting("n1", "b"), gate.starting("n2", "c"):
        assert now.now == 1000
    assert [record.getMessage() for record in caplog.records] == [
        "can't ask how much is starting on n1, starting anyway: it is dead"
    ]
    assert len(slots.asked) == 1, "every start waited for the same dead backend"
    assert slots.given_back == []
    slots.dead = False
    now.now += 5.1
    with gate.starting("n1", "d"):
        assert slots.taken("n1") == 1


def test_with_a_dead_backend_the_starts_of_this_process_still_count(
    gate: StartGate, slots: FakeSlots, now: Time
) -> None:
    slots.dead = True
    with gate.starting("n2", "a"), pytest.raises(StartsBusy), gate.starting("n2", "b"):
        pytest.fail("it started")
    with gate.starting("n2", "c"):
        assert now.now < 1021


def test_a_backend_that_dies_while_somebody_waits(gate: StartGate, slots: FakeSlots, now: Time) -> None:
    slots.take("n2", 1, "somebody else", 1000)
    now.at[1003.0] = lambda: setattr(slots, "dead", True)
    with gate.starting("n2", "a"):
        assert 1003 <= now.now <= 1004.1


def test_interrupted_with_the_answer_on_its_way(gate: StartGate, slots: FakeSlots) -> None:
    def interrupt() -> None:
        slots.ends["n2", "a"] = 1e9  # it had arrived
        raise KeyboardInterrupt

    slots.during = interrupt
    with pytest.raises(KeyboardInterrupt), gate.starting("n2", "a"):
        pytest.fail("it started")
    assert slots.taken("n2") == 0
    slots.during = lambda: None
    with gate.starting("n2", "b"):
        assert slots.taken("n2") == 1


# several threads


class Storm:
    """Threads that start on one node when the test lets them, in a known order."""

    def __init__(self, gate: StartGate, node: str, clock: Time) -> None:
        self.gate = gate
        self.node = node
        self.clock = clock
        self.inside: list[str] = []
        self.errors: list[str] = []
        self.done: dict[str, threading.Event] = {}
        self.stop: dict[str, threading.Event] = {}
        self.threads: dict[str, threading.Thread] = {}

    def begin(self, name: str) -> None:
        """The thread `name` stands in line, or is inside."""
        self.done[name], self.stop[name] = threading.Event(), threading.Event()
        self.threads[name] = threading.Thread(target=self._run, args=(name,), name=name)
        waiting = self._waiting() + len(self.inside)
        self.threads[name].start()
        until(lambda: self._waiting() + len(self.inside) > waiting)
        self.settle()

    def end(self, name: str) -> None:
        self.done[name].set()
        self.threads[name].join(5)
        assert not self.threads[name].is_alive()
        self.settle()

    def settle(self) -> None:
        """Until the first in line has seen all that happened, and sleeps again."""

        def settled() -> bool:
            with self.gate._lock:
                first = next(iter(self.gate._lines[self.node].waiting), None)
            return first is None or (first in self.clock.asleep and not first.is_set())

        until(settled)

    def _waiting(self) -> int:
        line = self.gate._lines.get(self.node)
        return 0 if line is None else len(line.waiting)

    def _run(self, name: str) -> None:
        try:
            with self.gate.starting(self.node, name, cancelled=self.stop[name].is_set):
                self.inside.append(name)
                self.done[name].wait(30)
        except Refused:
            self.errors.append(name)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def by_hand() -> Time:
    return Time(by_hand=True)


@pytest.fixture
def storm(by_hand: Time) -> Iterator[Storm]:
    slots = FakeSlots(by_hand)
    gate = StartGate(slots, {"n1": 2}, wait_s=1e6, clock=by_hand, wait=by_hand.wait)
    storm = Storm(gate, "n1", by_hand)
    yield storm
    for name in storm.threads:
        storm.stop[name].set()
        storm.done[name].set()
    by_hand.now += 10
    for thread in storm.threads.values():
        thread.join(5)
    gate.close()


def fake(storm: Storm) -> FakeSlots:
    slots = storm.gate._slots
    assert isinstance(slots, FakeSlots)
    return slots


def test_first_come_first_served(storm: Storm, by_hand: Time) -> None:
    names = list("abcdefgh")
    for name in names:
        storm.begin(name)
    assert storm.inside == ["a", "b"]
    for number, name in enumerate(names[:6]):
        storm.end(name)
        assert len(storm.inside) == 2 + number, "it grabbed the slot before others could"
        by_hand.now += 0.06
        until(lambda n=number: len(storm.inside) == 3 + n)  # type: ignore[misc]
        storm.settle()
    assert storm.inside == names


def test_only_the_first_in_line_asks(storm: Storm, by_hand: Time) -> None:
    slots = fake(storm)
    for token in ("x", "y"):
        slots.take("n1", 2, token, 1e6)
    slots.asked.clear()
    for name in "abcdefgh":
        storm.begin(name)
    for _ in range(40):
        asked = len(slots.asked)
        by_hand.now += 1
        until(lambda n=asked: len(slots.asked) > n)  # type: ignore[misc]
    assert {name for _, name, _ in slots.asked} == {"a"}
    slots.give_back("n1", "x")
    by_hand.now += 1
    until(lambda: storm.inside == ["a"])
    until(lambda: slots.asked[-1][2] == "b")  # the next one asks at once
    assert storm.inside == ["a"]


def test_after_long_starts_others_have_longer_to_take_the_slot(storm: Storm, by_hand: Time) -> None:
    for name in "abc":
        storm.begin(name)
    by_hand.now += 10
    storm.end("a")
    assert fake(storm).taken("n1") == 1
    by_hand.now += 0.24
    time.sleep(0.02)
    assert storm.inside == ["a", "b"]
    by_hand.now += 0.27
    until(lambda: storm.inside == ["a", "b", "c"])


def test_own_starts_that_fill_the_limit_need_no_asking(storm: Storm, by_hand: Time) -> None:
    for name in "abc":
        storm.begin(name)
    for _ in range(5):
        by_hand.now += 1
        time.sleep(0.005)
    assert {name for _, name, _ in fake(storm).asked} == {"a", "b"}


def test_one_that_leaves_the_line_holds_up_nobody(storm: Storm, by_hand: Time) -> None:
    for name in "abcde":
        storm.begin(name)
    storm.stop["d"].set()  # in the middle
    by_hand.now += 0.3
    until(lambda: storm.errors == ["d"])
    storm.stop["c"].set()  # the first
    by_hand.now += 0.3
    until(lambda: storm.errors == ["d", "c"])
    storm.settle()
    storm.end("a")
    by_hand.now += 1.1
    until(lambda: storm.inside == ["a", "b", "e"])


# while a start takes


def test_a_slot_is_renewed_while_the_start_takes() -> None:
    slots = FakeSlots(time.monotonic)
    gate = StartGate(slots, {"n1": 1}, ttl_s=0.3)
    with gate.starting("n1", "a"):
        deadline = time.monotonic() + 0.8
        while time.monotonic() < deadline:
            assert slots.taken("n1") == 1
            time.sleep(0.01)
    assert slots.taken("n1") == 0
    asked = len(slots.asked)
    time.sleep(0.25)
    assert len(slots.asked) == asked
    gate.close()


def test_a_renewal_on_its_way_takes_nothing_back(slots: FakeSlots, now: Time, gate: StartGate) -> None:
    with gate.starting("n2", "a"):
        (slot,) = gate._renewer._held
        slots.during = slot.release
        slot.renew()
        assert slots.taken("n2") == 0
    assert slot.is_lost


def test_a_renewal_that_fails_is_tried_again(slots: FakeSlots, now: Time, gate: StartGate) -> None:
    with gate.starting("n2", "a"):
        (slot,) = gate._renewer._held
        slots.dead = True
        slot.renew()
        assert slot.renew_at == pytest.approx(1010)
        now.now = 1035.0
        assert slots.taken("n2") == 0
        slots.dead = False
        slot.renew()
        assert slots.taken("n2") == 1


def test_closing_gives_back(slots: FakeSlots, now: Time) -> None:
    gate = StartGate(slots, {"n1": 1}, clock=now, wait=now.wait)
    with gate.starting("n1", "a"):
        gate.close()
        assert slots.taken("n1") == 0
    assert slots.given_back == ["a"]


# opening


def test_rows_are_opened_with_the_first_question(slots: FakeSlots) -> None:
    opened: list[FakeSlots] = []

    def rows() -> FakeSlots:
        opened.append(slots)
        return slots

    lazy = open_slots(None, cluster="c", rows=rows)
    lazy.give_back("n1", "a")
    lazy.close()
    assert opened == []
    assert lazy.take("n1", 1, "a", 30)
    assert lazy.taken("n1") == 1
    lazy.give_back("n1", "a")
    assert opened == [slots]
    assert slots.taken("n1") == 0


def test_a_connection_that_failed_is_tried_again(slots: FakeSlots) -> None:
    answers: list[Exception | FakeSlots] = [BackendError("not yet"), slots]

    def connect() -> FakeSlots:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    lazy = LazySlots(connect)
    with pytest.raises(BackendError):
        lazy.take("n1", 1, "a", 30)
    assert lazy.take("n1", 1, "a", 30)


def test_a_wrong_url_is_told_at_once() -> None:
    with pytest.raises(InventoryError):
        open_slots("http://h", cluster="c", rows=lambda: pytest.fail("asked"), base=Path("/"))
