"""One time for all control hosts: the state database's.

Responsible for: a clock that is set by the database once and then counts by itself, so that neither a wrong clock of
this machine nor a step of it reaches what is decided or recorded. Not responsible for: leases, whose times are those of
whoever keeps them, nor for what is shown as "ago".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from wsctl.ports import Clock
from wsctl.text import human_duration

TELL_S = 60.0
"""How far this machine's clock may be off before an operator is told."""


def boot_clock() -> float:
    """Seconds since boot, time asleep included; nobody can set them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SharedClock:
    """`ports.Clock` by the database's time, which `ask` tells when the clock is first looked at. `tell` is told when
    this machine's clock, `local`, is off. Raises what `ask` raises."""

    def __init__(
        self,
        ask: Callable[[], datetime],
        local: Clock,
        tell: Callable[[str], None],
        elapsed: Callable[[], float] = boot_clock,
    ) -> None:
        self._ask = ask
        self._local = local
        self._tell = tell
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._set: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        with self._lock:
            if self._set is None:
                self._set = self._look()
        at, then = self._set
        return at + timedelta(seconds=self._elapsed() - then)

    def sleep(self, seconds: float) -> None:
        self._local.sleep(seconds)

    def _look(self) -> tuple[datetime, float]:
        before = self._elapsed()
        at = self._ask()
        after = self._elapsed()
        off_s = (self._local.now() - at).total_seconds()
        if abs(off_s) >= TELL_S + (after - before):
            which = "ahead of" if off_s > 0 else "behind"
            self._tell(
                f"this machine's clock is {human_duration(abs(off_s))} {which} the state database's, which counts: "
                "timedatectl set-ntp true"
            )
        return at, (before + after) / 2
