"""Telling systemd how we are: ready, alive, ending.

Responsible for: its datagrams (sd_notify). Not responsible for: when they are due. Without systemd nothing is sent.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping

OFTEN_S = 1.0


class Supervisor:
    """systemd, if the environment says that it waits for word."""

    def __init__(self, environ: Mapping[str, str], now: Callable[[], float] = time.monotonic) -> None:
        where = environ.get("NOTIFY_SOCKET", "")
        self._where = "\0" + where[1:] if where.startswith("@") else where
        self._now = now
        self._said: float | None = None

    def ready(self) -> None:
        """The service is up."""
        self._send("READY=1")

    def alive(self) -> None:
        """The loop goes round; said once a second at most."""
        now = self._now()
        if self._said is None or now - self._said >= OFTEN_S:
            self._said = now
            self._send("WATCHDOG=1")

    def ending(self) -> None:
        """The service is going down because it was told to."""
        self._send("STOPPING=1")

    def _send(self, word: str) -> None:
        if not self._where:
            return
        # systemd notices by itself that nothing comes.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.sendto(word.encode(), self._where)
