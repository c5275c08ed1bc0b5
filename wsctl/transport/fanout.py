"""Doing the same with many nodes at once.

Responsible for: bounded threads, a deadline per node, jitter on the starts, and results as values: one bad node never
stops the rest. Not responsible for: what is done, nor for retrying it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from wsctl.errors import NodeUnreachable

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


def run(
    items: Iterable[K],
    fn: Callable[[K], R],
    *,
    parallel: int = 16,
    deadline_s: float = 30.0,
    jitter_s: float = 0.0,
) -> dict[K, R | Exception]:
    """Call `fn` with each of `items`, at most `parallel` at a time, and return what came out, in the given order.

    An exception of `fn` is kept as the item's value. An item that takes longer than `deadline_s` seconds gets
    `NodeUnreachable`; its thread is left behind (it ends by its own timeouts) and its place is given to the next. Each
    start waits a random time up to `jitter_s` seconds, so that a fleet isn't greeted in one burst. KeyboardInterrupt
    gets out at once: the threads are daemons and nobody waits for them.
    """
    waiting = list(dict.fromkeys(items))
    order = tuple(waiting)
    board: _Board[K, R] = _Board(deadline_s)
    waiting.reverse()
    with board.changed:
        while waiting or board.started:
            while waiting and len(board.started) < max(1, parallel):
                item = waiting.pop()
                delay = random.uniform(0.0, jitter_s) if jitter_s > 0 else 0.0  # noqa: S311 - spreads load, no secret
                board.started[item] = time.monotonic() + delay
                thread = threading.Thread(target=board.work, args=(item, fn, delay), name=f"node-{item}", daemon=True)
                thread.start()
            # Looking up now and then lets Ctrl-C through even when another thread got the signal.
            board.changed.wait(min(0.5, board.next_deadline()))
            board.give_up_late()
    return {item: board.results[item] for item in order}


class _Board(Generic[K, R]):
    """What the workers report to: who is at work since when, and what came out. Guarded by `changed`."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.changed = threading.Condition()
        self.started: dict[K, float] = {}
        self.results: dict[K, R | Exception] = {}

    def work(self, item: K, fn: Callable[[K], R], delay: float) -> None:
        """A worker's life: wait, call, report. A result that comes after the deadline is dropped."""
        if delay > 0:
            time.sleep(delay)
        result: R | Exception
        try:
            result = fn(item)
        except Exception as error:  # noqa: BLE001 - results are values; the caller decides what an error means
            result = error
        with self.changed:
            if item in self.started:
                del self.started[item]
                self.results[item] = result
                self.changed.notify()

    def next_deadline(self) -> float:
        """Seconds until the first of those at work is late."""
        if not self.started:
            return 0.0
        return max(0.0, min(self.started.values()) + self.deadline_s - time.monotonic())

    def give_up_late(self) -> None:
        """Record those at work for longer than the deadline as unreachable."""
        now = time.monotonic()
        for item in [item for item, since in self.started.items() if since + self.deadline_s <= now]:
            del self.started[item]
            self.results[item] = NodeUnreachable(
                str(item),
                f"gave no answer within {self.deadline_s:g} s",
                hint=f"wsctl node check {item}",
            )
