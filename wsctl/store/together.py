"""Calls of many threads, carried out together: who comes while one is on its way waits, and goes with the next.

Responsible for: forming the groups, and giving each caller their own result or error. Not responsible for: what is done
with a group (`grouped`). Nobody waits for others to come: alone, a call is carried out at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PAUSE_S = 0.00005
"""Long enough for a thread that has just been woken to come: the system adds about as much."""


class Turn:
    """What a thread waits for. Cheaper than an event: only one waits, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Return once `come` was called."""
        self._lock.acquire()

    def come(self) -> None:
        """Let whoever waits go on."""
        self._lock.release()


class _Call(Generic[T, R]):
    """One caller: what they want, and what came of it. One that `leads` carries out the next group."""

    __slots__ = ("behind", "error", "gone", "item", "leads", "result", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.turn = Turn()
        self.leads = False
        self.gone = False
        self.result: R | None = None
        self.error: Exception | None = None
        self.behind: _Call[T, R] | None = None


class Together(Generic[T, R]):
    """Hands the items of many threads to `carry`, at most `limit` at a time and one group at a time.

    `carry` gets the items in the order in which they came, and returns as many results, an exception for who is to get
    one. What it raises itself everybody of the group gets, made anew for each by `told`. `give_way` is called before a
    group is formed, if the last one had several.
    """

    def __init__(
        self,
        carry: Callable[[Sequence[T]], Sequence[R | Exception]],
        told: Callable[[BaseException], Exception],
        limit: int,
        give_way: Callable[[], object] = partial(time.sleep, PAUSE_S),  # noqa: B008 - immutable
    ) -> None:
        self._carry = carry
        self._told = told
        self._limit = limit
        self._give_way = give_way
        self._last = 1
        self._lock = threading.Lock()
        self._waiting: deque[_Call[T, R]] = deque()
        self._busy = False

    def do(self, item: T) -> R:
        """The result of `item`, once its group was carried out. What came before this call has no part in it."""
        call: _Call[T, R] = _Call(item)
        with self._lock:
            if self._busy:
                self._waiting.append(call)
            else:
                self._busy = call.leads = True
        if not call.leads:
            self._wait(call)
        if call.leads:
            self._lead(call)
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def _wait(self, call: _Call[T, R]) -> None:
        try:
            call.turn.wait()
        except BaseException:
            # Interrupted: nobody may wait for a leader who is gone, nor for somebody gone to wake them.
            with self._lock:
                call.gone = True
                if call in self._waiting:
                    self._waiting.remove(call)
                elif call.leads:
                    self._pass_on()
            raise
        finally:
            if call.behind is not None:
                call.behind.turn.come()

    def _lead(self, own: _Call[T, R]) -> None:
        others: list[_Call[T, R]] = []
        try:
            self._let_come()
            with self._lock:
                others = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limit - 1))]
            group = [own, *others]
            self._last = len(group)
            for call, result in zip(group, self._carry([call.item for call in group]), strict=True):
                if isinstance(result, Exception):
                    call.error = result
                else:
                    call.result = result
        except BaseException as error:
            for call in others:
                call.error = self._told(error)
            raise
        finally:
            with self._lock:
                self._pass_on()
                woken = [call for call in others if not call.gone]
                # Each wakes the next: woken all at once, they would only fight for the interpreter.
                for call, behind in pairwise(woken):
                    call.behind = behind
            if woken:
                woken[0].turn.come()

    def _let_come(self) -> None:
        """Give way to those of the last group, who one after the other come with what is next, as long as that brings
        somebody new. Who was alone the last time doesn't wait for anybody."""
        seen = -1
        while self._last > 1 and seen < len(self._waiting) < self._limit - 1:
            seen = len(self._waiting)
            self._give_way()

    def _pass_on(self) -> None:
        """The first of those who wait leads the next group. The caller holds the lock."""
        if self._waiting:
            following = self._waiting.popleft()
            following.leads = True
            following.turn.come()
        else:
            self._busy = False
