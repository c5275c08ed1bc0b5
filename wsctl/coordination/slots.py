"""Slots that connect when the first is asked for, so that a command that starts nothing costs no connection.

Responsible for: that delay. Not responsible for: keeping slots (`redis_slots`, `wsctl.store`) or waiting for one
(`gate`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from wsctl.ports import Slots


class LazySlots:
    """`ports.Slots` on what `connect` opens. A `connect` that failed is tried again by the next question."""

    def __init__(self, connect: Callable[[], Slots]) -> None:
        self._connect = connect
        self._opening = threading.Lock()
        self._slots: Slots | None = None

    def take(self, node: str, limit: int, token: str, ttl_s: float) -> bool:
        return self._open().take(node, limit, token, ttl_s)

    def give_back(self, node: str, token: str) -> None:
        # Without a connection nothing was taken.
        if self._slots is not None:
            self._slots.give_back(node, token)

    def taken(self, node: str) -> int:
        return self._open().taken(node)

    def close(self) -> None:
        if self._slots is not None:
            self._slots.close()

    def _open(self) -> Slots:
        with self._opening:
            if self._slots is None:
                self._slots = self._connect()
            return self._slots
