"""Fan-out: bounds, deadlines, order, exceptions as values, a quick way out."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from wsctl.errors import NodeUnreachable
from wsctl.transport import fanout


def test_results_in_given_order_and_errors_as_values() -> None:
    def work(item: str) -> str:
        if item == "b":
            raise ValueError("no")
        return item.upper()

    results = fanout.run(["c", "b", "a", "c"], work)
    assert list(results) == ["c", "b", "a"]
    assert results["c"] == "C"
    assert isinstance(results["b"], ValueError)


def test_nothing_to_do() -> None:
    assert fanout.run([], str) == {}


def test_at_most_so_many_at_a_time() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def work(_: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    fanout.run(range(20), work, parallel=3)
    assert most[0] == 3


def test_a_late_one_is_unreachable_and_holds_nobody_up() -> None:
    stuck = threading.Event()
    started = time.monotonic()
    results = fanout.run(
        ["slow", "a", "b"], lambda item: stuck.wait(5) if item == "slow" else item, parallel=1, deadline_s=0.2
    )
    assert time.monotonic() - started < 2
    assert isinstance(results["slow"], NodeUnreachable)
    assert "within 0.2 s" in str(results["slow"])
    assert (results["a"], results["b"]) == ("a", "b")
    stuck.set()


def test_jitter_delays_but_does_not_count() -> None:
    results = fanout.run(range(5), lambda item: item, jitter_s=0.2, deadline_s=0.15)
    assert list(results.values()) == list(range(5))


def test_ctrl_c_gets_out_at_once() -> None:
    program = (
        "import os, signal, threading, time\n"
        "from wsctl.transport import fanout\n"
        "threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "started = time.monotonic()\n"
        "try:\n    fanout.run(range(4), lambda _: time.sleep(60), deadline_s=60)\n"
        "except KeyboardInterrupt:\n    print('out' if time.monotonic() - started < 2 else 'late')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "out\n"
