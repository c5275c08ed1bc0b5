"""The wake hook without a network: one start per user, bounds, answers that lead nowhere else."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsctl import waker as waking
from wsctl.errors import EngineError, NotFound
from wsctl.waker import KEEP_S, Waker, WakeServer, Woken, answer_for, is_own_path, wakes


def ignore(user: str, why: str) -> None:
    pass


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Gate:
    """A start that takes until it is told to end."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.go = threading.Event()

    def start(self, user: str) -> Woken:
        self.started.append(user)
        self.go.wait(10)
        return Woken.READY


def test_one_start_however_many_wait() -> None:
    gate, found = Gate(), list[tuple[Woken, bool]]()
    waker = Waker(gate.start, ignore, time.monotonic)
    threads = [threading.Thread(target=lambda: found.append(waker.wake("alice", 10))) for _ in range(30)]
    for thread in threads:
        thread.start()
    until(lambda: gate.started == ["alice"])
    assert waker.wake("alice", 0) == (Woken.STARTING, True)
    gate.go.set()
    for thread in threads:
        thread.join()
    assert [outcome for outcome, _ in found] == [Woken.READY] * 30
    assert gate.started == ["alice"]


def test_workers_and_queue_are_bounded() -> None:
    gate = Gate()
    waker = Waker(gate.start, ignore, time.monotonic, workers=2, queue=3)
    assert [waker.wake(f"u{n}", 0)[0] for n in range(2)] == [Woken.STARTING] * 2
    until(lambda: len(gate.started) == 2)
    assert [waker.wake(f"v{n}", 0)[0] for n in range(4)] == [Woken.STARTING] * 3 + [Woken.BUSY]
    assert waker.wake("v0", 0) == (Woken.STARTING, True), "who waits already isn't turned away"
    assert sorted(gate.started) == ["u0", "u1"]
    gate.go.set()
    until(lambda: len(gate.started) == 5)
    assert waker.wake("v3", 10) == (Woken.READY, True)


def test_outcomes_are_remembered_for_their_time() -> None:
    now, tries, said = [0.0], list[str](), list[tuple[str, str]]()

    def start(user: str) -> Woken:
        tries.append(user)
        if user == "nobody":
            raise NotFound("no such user")
        raise EngineError("n1", "no space left on device")

    waker = Waker(start, lambda user, why: said.append((user, why)), lambda: now[0])
    assert waker.wake("nobody", 10) == (Woken.UNKNOWN, True)
    for _ in range(3):
        assert waker.wake("alice", 10)[0] is Woken.FAILED
    assert tries == ["nobody", "alice"]
    assert [user for user, _ in said] == ["alice"]
    now[0] = KEEP_S["failed"]
    assert waker.wake("alice", 10) == (Woken.FAILED, True)
    assert tries == ["nobody", "alice", "alice"]


def test_a_bug_ends_the_request_and_comes_out() -> None:
    def bug(user: str) -> Woken:
        raise ZeroDivisionError

    waker = Waker(bug, ignore, time.monotonic)
    assert waker.wake("alice", 10)[0] is Woken.FAILED
    with pytest.raises(ZeroDivisionError):
        waker.check()


def test_too_many_requests_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "MOST_HELD", 2)
    gate = Gate()
    with WakeServer(("127.0.0.1", 0), Waker(gate.start, ignore, time.monotonic), hold_s=10) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_address[1]
        held = []
        for _ in range(2):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"GET /wake?user=alice HTTP/1.0\r\n\r\n")
            held.append(sock)
        until(lambda: gate.started == ["alice"] and not server._room.acquire(blocking=False))
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as third:
            third.request("GET", "/wake?user=alice")
            answer = third.getresponse()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        gate.go.set()
        for sock in held:
            assert sock.recv(100).startswith(b"HTTP/1.0 503")  # no address to be sent to
            sock.close()
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize("outcome", Woken)
@pytest.mark.parametrize("waited", [True, False])
def test_every_outcome_has_an_answer(outcome: Woken, waited: bool) -> None:
    answer = answer_for(outcome, waited=waited, uri="/ws/alice/")
    assert (answer.status == 307) == (outcome is Woken.READY and waited)
    assert (answer.status == 404) == (outcome is Woken.UNKNOWN)
    assert (answer.again_s is None) == (answer.status != 503)


@given(
    st.text()
    | st.sampled_from(["//evil.example/", "/\\evil.example", "http://evil.example/", "/a\r\nSet-Cookie: x", ""])
)
def test_nobody_is_sent_elsewhere(uri: str) -> None:
    location = answer_for(Woken.READY, waited=True, uri=uri).location
    assert location is None or (is_own_path(location) and location.startswith("/") and location[1:2] not in ("/", "\\"))
    assert location is None or not any(letter in location for letter in "\r\n \\")


def test_who_opens_a_page() -> None:
    assert wakes({})
    assert wakes({"Sec-Fetch-Mode": "navigate"})
    assert not wakes({"Sec-Fetch-Mode": "no-cors"})
    assert not wakes({"Upgrade": "websocket"})
