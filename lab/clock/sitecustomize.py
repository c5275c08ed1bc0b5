"""For Python programs on a control host with a clock of its own: a `time.sleep` that libfaketime doesn't break.

Python sleeps until a moment of the monotonic clock; libfaketime 0.9 takes that for one of the faked clock and refuses.
"""

from __future__ import annotations

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
