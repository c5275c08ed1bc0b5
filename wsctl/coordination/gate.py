"""The gate before every start: at most so many containers of a node are starting at once, the others wait here.

Responsible for: waiting for a slot, first come first served among the threads of this process, for keeping the slot
while the start takes, and for giving it back. Not responsible for: where slots are kept (`ports.Slots`), nor for order
among processes: each sends one thread a node to ask, and chance decides.

Politeness, as leases are: a backend that can't be asked stops no start. Then only this process's own are counted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from wsctl.coordination.held import Renewer
from wsctl.errors import BackendError, Refused, StartsBusy
from wsctl.ports import Slots

log = logging.getLogger(__name__)

SLOT_TTL_S = 30.0
"""How long a slot outlives a holder that died."""

WAIT_S = 120.0

_POLL_S = (0.05, 1.0)
_LOOK_S = 0.25
"""How late a cancellation may be noticed."""

_COURTESY = 0.05
"""How long a slot that was given back is left to other processes, as a share of the time that the start took."""

_SILENCE_S = 5.0
"""How long a backend that failed isn't asked again: its timeout must not be added to every start."""


class StartGate:
    """Slots of `slots`, which stays the caller's, within `limits`: per node, None or absent for no limit.

    A slot is renewed until it is given back, and is free `ttl_s` seconds after its process died. Who waits longer than
    `wait_s` seconds is refused. `clock` counts seconds and never goes back; `wait` waits for an event as long as told.
    """

    def __init__(
        self,
        slots: Slots,
        limits: Mapping[str, int | None],
        *,
        ttl_s: float = SLOT_TTL_S,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._slots = slots
        self._limits = limits
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._clock = clock
        self._wait = wait
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._silent_until: float | None = None
        self._renewer: Renewer[_Slot] = Renewer(clock)

    @contextlib.contextmanager
    def starting(self, node: str, token: str, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """A block in which a container may be starting on the node. `token` is this start's own.

        Raises `StartsBusy` when no slot was free in time, `Refused` when `cancelled` says True while it waits, and
        whatever `cancelled` raises. Nothing is taken then.
        """
        limit = self._limits.get(node)
        if limit is None:
            yield
            return
        with self._lock:
            line = self._lines.setdefault(node, _Line(node, limit))
        slot = self._enter(line, token, cancelled)
        entered = self._clock()
        try:
            yield
        finally:
            self._leave(line, slot, self._clock() - entered)

    def close(self) -> None:
        """Renew nothing any more, and give back what is still taken."""
        for slot in self._renewer.close():
            slot.release()

    def _enter(self, line: _Line, token: str, cancelled: Callable[[], bool]) -> _Slot | None:
        """A slot, once this thread is first in line and one is free; None to start without."""
        me = threading.Event()
        with self._lock:
            line.waiting.append(me)
        try:
            slot = self._queue(line, me, token, cancelled)
            with self._lock:
                line.starting += 1
        finally:
            with self._lock:
                line.waiting.remove(me)
                line.wake()
        if slot is not None:
            self._renewer.add(slot)
        return slot

    def _queue(self, line: _Line, me: threading.Event, token: str, cancelled: Callable[[], bool]) -> _Slot | None:
        began = ask_at = self._clock()
        pause = _POLL_S[0]
        while True:
            if cancelled():
                raise Refused(f"the command was stopped while it waited to start a workspace on {line.node}")
            now = self._clock()
            if me.is_set():
                # First now, or a slot was given back here. Who has waited already doesn't grab that in the same
                # instant: a process with many starts would leave none to the others.
                me.clear()
                pause = _POLL_S[0]
                ask_at = min(ask_at, now + _jittered(line.courtesy_s))
            is_first = line.waiting[0] is me
            if is_first and now >= ask_at and line.starting >= line.limit:
                ask_at = math.inf  # until one of ours is done, which wakes us
            elif is_first and now >= ask_at:
                answer = self._ask(line, token)
                if answer is not False:
                    return answer
                now = self._clock()
                ask_at, pause = now + _jittered(pause), min(2 * pause, _POLL_S[1])
            left = began + self._wait_s - now
            if left <= 0:
                raise _busy(line, now - began)
            self._wait(me, min(left, _LOOK_S, ask_at - now if is_first else _LOOK_S))

    def _ask(self, line: _Line, token: str) -> _Slot | Literal[False] | None:
        """A slot; False if none is free; None if that can't be known."""
        sent = self._clock()
        if self._silent_until is not None and sent < self._silent_until:
            return None
        try:
            if not self._slots.take(line.node, line.limit, token, self._ttl_s):
                return False
        except BackendError as error:
            # Should the slot be taken all the same, it runs out by itself, and until then it tells the truth.
            self._silent_until = self._clock() + _SILENCE_S
            log.warning("can't ask how much is starting on %s, starting anyway: %s", line.node, error.message)
            return None
        except BaseException:
            # Interrupted with the answer on its way: what it said yes to must not stay taken.
            self._slots.give_back(line.node, token)
            raise
        return _Slot(self._slots, line, token, ttl_s=self._ttl_s, since=sent, clock=self._clock)

    def _leave(self, line: _Line, slot: _Slot | None, took_s: float) -> None:
        try:
            if slot is not None:
                self._renewer.remove(slot)
                slot.release()
        finally:
            with self._lock:
                line.starting -= 1
                line.courtesy_s = min(_POLL_S[1], max(_POLL_S[0], _COURTESY * took_s))
                line.wake()


@dataclass(slots=True)
class _Line:
    """One node: how many starts of this process are in flight there, and who waits, each with the event to wake it."""

    node: str
    limit: int
    starting: int = 0
    courtesy_s: float = _POLL_S[0]
    waiting: deque[threading.Event] = field(default_factory=deque)

    def wake(self) -> None:
        """Let the first of those who wait look again."""
        if self.waiting:
            self.waiting[0].set()


class _Slot:
    """A slot while its start takes: what `Renewer` renews."""

    def __init__(
        self, slots: Slots, line: _Line, token: str, *, ttl_s: float, since: float, clock: Callable[[], float]
    ) -> None:
        self._slots = slots
        self._line = line
        self._token = token
        self._ttl_s = ttl_s
        self._clock = clock
        self._released = False
        self.renew_at = since + ttl_s / 3

    @property
    def is_lost(self) -> bool:
        """Whether there is nothing left to renew."""
        return self._released

    def renew(self) -> None:
        """Extend the slot; never raises. One that somebody else got meanwhile is asked for again the next time."""
        self.renew_at = self._clock() + self._ttl_s / 3
        try:
            self._slots.take(self._line.node, self._line.limit, self._token, self._ttl_s)
        except Exception as error:  # noqa: BLE001 - a thread that died of a bug would renew no slot without a word
            log.debug("can't renew a slot of %s: %s", self._line.node, error)
        if self._released:  # while the question was on its way, which then took the slot anew
            self._slots.give_back(self._line.node, self._token)

    def release(self) -> None:
        """Give the slot back, once."""
        if not self._released:
            self._released = True
            self._slots.give_back(self._line.node, self._token)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def _busy(line: _Line, waited_s: float) -> StartsBusy:
    return StartsBusy(
        f"{line.node} is starting as many workspaces as it may at once (max_concurrent_starts: {line.limit}); "
        f"none was done within {waited_s:.0f} s",
        hint="run it again in a moment; if the node can start more at once, raise its `max_concurrent_starts`",
        details={"node": line.node, "limit": line.limit, "waited_s": round(waited_s, 1)},
    )
