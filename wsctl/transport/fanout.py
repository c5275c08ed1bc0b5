"""Doing the same with many nodes at once.

Responsible for: bounded threads, a deadline per node, jitter on the starts, and results as values: one bad node never
stops the rest. Not responsible for: what is done, nor for retrying it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
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
    order = tuple(dict.fromkeys(items))
    board: _Board[K, R] = _Board(order, fn, deadline_s, jitter_s)
    with board.changed:
        try:
            while board.waiting or board.started:
                while board.waiting and len(board.started) < max(1, parallel):
                    item, delay = board.take()
                    threading.Thread(target=board.work, args=(item, delay), name=f"node-{item}", daemon=True).start()
                # Looking up now and then lets Ctrl-C through even when another thread got the signal.
                board.changed.wait(min(0.5, board.next_deadline()))
                board.give_up_late()
        finally:
            board.waiting.clear()  # interrupted: those at work begin nothing new
    return {item: board.results[item] for item in order}


class _Board(Generic[K, R]):
    """What the workers report to and take work from: what waits, who is at work since when, and what came out. Guarded
    by `changed`."""

    def __init__(self, order: Sequence[K], fn: Callable[[K], R], deadline_s: float, jitter_s: float) -> None:
        self.fn = fn
        self.deadline_s = deadline_s
        self.jitter_s = jitter_s
        self.changed = threading.Condition()
        self.waiting = deque(order)
        self.started: dict[K, float] = {}
        self.results: dict[K, R | Exception] = {}

    def take(self) -> tuple[K, float]:
        """The next item, which counts as begun, and how many seconds to wait before."""
        item = self.waiting.popleft()
        delay = random.uniform(0.0, self.jitter_s) if self.jitter_s > 0 else 0.0  # noqa: S311 - spreads load, no secret
        self.started[item] = time.monotonic() + delay
        return item, delay

    def work(self, item: K, delay: float) -> None:
        """A worker's life: wait, call, report, and on with the next item. A result that comes after the deadline is
        dropped, and its worker ends: somebody else has its place."""
        while True:
            if delay > 0:
                time.sleep(delay)
            result: R | Exception
            try:
                result = self.fn(item)
            except Exception as error:  # noqa: BLE001 - results are values; the caller decides what an error means
                result = error
            with self.changed:
                if item not in self.started:
                    return
                del self.started[item]
                self.results[item] = result
                if not self.waiting:
                    self.changed.notify()
                    return
                item, delay = self.take()

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
