"""Held leases with a clock and a backend of our own: the deadline, the proof, the renewing thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from wsctl.coordination.held import Held, Renewer
from wsctl.coordination.leases import BackendLeases
from wsctl.errors import BackendError, LeaseHeld, LeaseLost
from wsctl.model import LeaseInfo


class Backend:
    """Says yes, no (`gone`) or nothing (`dead`)."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.dead = False
        self.calls: list[str] = []
        self.during: Callable[[], None] = lambda: None

    def _answer(self, what: str, names: Sequence[str]) -> set[str]:
        self.calls.append(what)
        self.during()
        if self.dead:
            raise BackendError("it is dead")
        return set(names) - self.gone

    def take(self, names: Sequence[str], *, token: str, holder: str, command: str, ttl_s: float) -> list[LeaseInfo]:
        self._answer("take", names)
        return []

    def renew(self, names: Sequence[str], token: str, ttl_s: float) -> set[str]:
        return self._answer("renew", names)

    def held(self, names: Sequence[str], token: str) -> set[str]:
        return self._answer("held", names)

    def give_back(self, names: Sequence[str], token: str) -> None:
        self._answer("give_back", names)

    def ls(self) -> list[LeaseInfo]:
        return []

    def break_lease(self, name: str) -> bool:
        return False

    def close(self) -> None:
        self.calls.append("close")


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(backend: Backend, clock: Clock) -> Held:
    return Held(backend, ("a", "b"), "t", ttl_s=30, since=100, on_release=lambda _: None, proof_s=0.5, clock=clock)


def test_a_young_proof_needs_no_question(held: Held, backend: Backend, clock: Clock) -> None:
    clock.time += 0.4
    held.check()
    assert backend.calls == []
    clock.time += 0.2
    held.check()
    held.check()
    assert backend.calls == ["held"]


def test_a_dead_backend_is_asked_once_and_the_deadline_decides(held: Held, backend: Backend, clock: Clock) -> None:
    backend.dead = True
    for _ in range(29):
        clock.time += 1
        held.check()
    assert backend.calls == ["held"]
    clock.time += 1
    with pytest.raises(LeaseLost, match="couldn't be renewed in time"):
        held.check()
    backend.dead = False
    held.renew()  # too late: others were told already that it is lost
    with pytest.raises(LeaseLost):
        held.check()


def test_renewal_moves_the_deadline_from_when_it_was_sent(held: Held, backend: Backend, clock: Clock) -> None:
    clock.time = 120

    def slowly() -> None:
        clock.time = 125

    backend.during = slowly
    held.renew()
    backend.during = lambda: None
    assert held.renew_at == 130
    clock.time = 149.9
    backend.dead = True
    held.check()
    clock.time = 150
    with pytest.raises(LeaseLost):
        held.check()


def test_a_renewal_that_comes_after_the_deadline_doesnt_help(held: Held, clock: Clock) -> None:
    clock.time = 131
    held.renew()
    with pytest.raises(LeaseLost):
        held.check()


def test_one_lost_name_loses_all(held: Held, backend: Backend, clock: Clock) -> None:
    backend.gone = {"b"}
    clock.time += 1
    with pytest.raises(LeaseLost, match="lost the lease on a and 1 more: b was broken") as caught:
        held.check()
    assert caught.value.hint
    assert held.is_lost


def test_renewal_recovers_after_a_failure(held: Held, backend: Backend, clock: Clock) -> None:
    backend.dead = True
    clock.time += 1
    held.check()
    held.renew()
    assert held.renew_at == pytest.approx(clock.time + 1)
    backend.dead = False
    held.renew()
    clock.time += 1
    held.check()
    assert backend.calls == ["held", "renew", "renew", "held"]


def test_release_never_raises(held: Held, backend: Backend) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    backend.during = bug
    held.release()
    held.release()
    assert backend.calls == ["give_back"]
    with pytest.raises(LeaseLost, match="given back"):
        held.check()


def test_the_renewer_renews_until_closed(backend: Backend) -> None:
    renewer = Renewer()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    held = Held(backend, ("a",), "t", ttl_s=0.6, since=now, on_release=renewer.remove)
    before = threading.active_count()
    renewer.add(held)
    assert threading.active_count() == before + 1
    time.sleep(1.2)
    held.check()
    assert backend.calls.count("renew") >= 3
    held.release()
    count = len(backend.calls)
    time.sleep(0.5)
    assert len(backend.calls) == count
    assert renewer.close() == []


def test_a_bug_in_the_backend_doesnt_end_the_renewing(backend: Backend) -> None:
    def bug() -> None:
        backend.during = lambda: None
        raise AttributeError("a bug")

    backend.during = bug
    renewer = Renewer()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    held = Held(backend, ("a",), "t", ttl_s=0.6, since=now, on_release=renewer.remove)
    renewer.add(held)
    time.sleep(1)
    held.check()
    assert backend.calls.count("renew") >= 3
    assert renewer.close() == [held]


def test_nothing_is_connected_before_a_lease_is_asked_for() -> None:
    made: list[Backend] = []

    def connect() -> Backend:
        made.append(Backend())
        return made[-1]

    leases = BackendLeases(connect, holder="h", ttl_s=30)
    with leases.acquire([], command="x") as nothing:
        nothing.check()
    leases.close()
    assert made == []
    leases = BackendLeases(connect, holder="h", ttl_s=30)
    held = leases.acquire(["a"], command="x")
    held.check()
    leases.close()
    assert made[0].calls == ["take", "give_back", "close"]


def test_an_interrupt_while_taking_gives_back() -> None:
    backend = Backend()

    def interrupt() -> None:
        backend.during = lambda: None
        raise KeyboardInterrupt

    backend.during = interrupt
    leases = BackendLeases(lambda: backend, holder="h", ttl_s=30)
    with pytest.raises(KeyboardInterrupt):
        leases.acquire(["a"], command="x")
    assert backend.calls == ["take", "give_back"]


def test_a_dead_backend_isnt_a_held_lease() -> None:
    backend = Backend()
    backend.dead = True
    leases = BackendLeases(lambda: backend, holder="h", ttl_s=30)
    with pytest.raises(BackendError) as caught:
        leases.acquire(["a"], command="x", wait_s=5)
    assert not isinstance(caught.value, LeaseHeld)
    assert backend.calls == ["take"]


def test_a_lease_must_live() -> None:
    with pytest.raises(ValueError, match="longer"):
        BackendLeases(Backend, holder="h", ttl_s=0)
