"""Virtual time and one baton: threads of which only one runs, in an order that a seed decides.

Responsible for: whose turn it is and what time it is then. Not responsible for: what is simulated (`sim_world`).

A `Task` is a real thread with production code in it. It runs until it calls `sleep` (or `block`), takes the earliest
entry of the agenda itself, and hands the baton to that task; entries that aren't tasks are called on the spot. So
nothing runs side by side, no moment passes but by the agenda, and the same seed gives the same order.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

FOREVER = float("inf")


class Killed(BaseException):
    """The process is dead: what it still calls never arrives. No `except Exception` of production code sees it."""


@dataclass(eq=False)
class Process:
    """One run of wsctl on some control host. `births` say which placement of each user (the first, the second after a
    removal, …) there was when it looked at the placements last, `homes` the same of its last look at the homes.

    `clock_s` is how far the wall clock of its host is off.
    """

    name: str
    clock_s: float = 0.0
    dead: bool = False
    paused_until: float = 0.0
    births: dict[str, int] = field(default_factory=dict)
    homes: dict[str, int] = field(default_factory=dict)


class Task:
    """One thread of a process. `looked_at` is the time of its last contact with the outside, `op` what it asks of the
    store, `group` what it asks for others along with its own, `claimed` the generations that it was given, by user. One
    that `leads` is the main thread of its process, which Ctrl-C reaches."""

    def __init__(self, name: str, process: Process, work: Callable[[], Any] | None, *, leads: bool = True) -> None:
        self.name = name
        self.process = process
        self.work = work
        self.leads = leads
        self.baton = threading.Lock()
        self.baton.acquire()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.looked_at = 0.0
        self.op: tuple[str, tuple[Any, ...]] = ("", ())
        self.group: list[tuple[str, tuple[Any, ...]]] = []
        self.claimed: dict[str, int] = {}
        self.ticket = 0


class Kernel:
    """The agenda. `main` is the task of the thread that made the kernel; its turn comes when nothing else is left."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.main = Task("main", Process("main"), None)
        self.current = self.main
        self.in_event = False
        self.aborted = False
        self._agenda: list[tuple[float, int, int, Task | Callable[[], None]]] = []
        self._numbers = itertools.count()

    def later(self, delay_s: float, event: Callable[[], None]) -> None:
        """Call `event` after so many seconds; it must not sleep."""
        heapq.heappush(self._agenda, (self.now + delay_s, next(self._numbers), 0, event))

    def spawn(
        self, name: str, process: Process, work: Callable[[], Any], delay_s: float = 0.0, *, leads: bool = True
    ) -> Task:
        """A new thread that begins after so many seconds."""
        task = Task(name, process, work, leads=leads)
        task.looked_at = self.now
        threading.Thread(target=self._live, args=(task,), name=name, daemon=True).start()
        self._put(task, self.now + delay_s)
        return task

    def sleep(self, seconds: float) -> None:
        """Let others go on; return after so many seconds, or later if the process was paused."""
        task = self.current
        self._put(task, self.now + seconds)
        self._pass_on(task)

    def block(self) -> None:
        """Let others go on until somebody wakes this task."""
        task = self.current
        task.ticket += 1
        self._pass_on(task)

    def wake(self, task: Task) -> None:
        """The blocked task goes on, now."""
        self._put(task, self.now)

    def run(self) -> None:
        """Let everything happen that is on the agenda; only for `main`."""
        self._put(self.main, FOREVER)
        self._pass_on(self.main)

    def _put(self, task: Task, at: float) -> None:
        task.ticket += 1
        heapq.heappush(self._agenda, (at, next(self._numbers), task.ticket, task))

    def _live(self, task: Task) -> None:
        task.baton.acquire()
        try:
            if not self.aborted and not task.process.dead and task.work is not None:
                task.result = task.work()
        except BaseException as error:
            task.error = error
        task.done = True
        task.on_end()
        self._pass_on(None)

    def _pass_on(self, task: Task | None) -> None:
        """Hand the baton to whose turn it is; return when it is back (None: at once, the thread ends)."""
        while True:
            at, _, ticket, what = heapq.heappop(self._agenda)
            if at < FOREVER:
                self.now = at
            if not isinstance(what, Task):
                self._call(what)
                continue
            if ticket != what.ticket:
                continue  # it was woken by something else
            if what.process.paused_until > at and not self.aborted:
                self._put(what, what.process.paused_until)
                continue
            self.current = what
            if what is task:
                return
            what.baton.release()
            if task is not None:
                task.baton.acquire()
            return

    def _call(self, event: Callable[[], None]) -> None:
        if self.aborted:
            return
        self.in_event = True
        try:
            event()
        finally:
            self.in_event = False
