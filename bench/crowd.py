"""Those who are being served while something changes: requests at a fixed rate, and WebSockets that stay open.

Responsible for: asking, and noticing every answer that isn't the right one. Not responsible for: what changes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from bench.measure import BenchError

RATE = 500
THREADS = 4
SOCKETS = 20
FRAME = b"\x81\x02hi"


class Crowd:
    """`RATE` requests a second over new connections, from the beginning to the end of a `with`."""

    def __init__(self, ask: Callable[[], object], right: object) -> None:
        self._ask, self._right = ask, right
        self._ended = threading.Event()
        self._counts = [0] * THREADS
        self.failed: list[object] = []
        self._seconds = 0.0
        self._threads = [threading.Thread(target=self._go_on, args=(number,)) for number in range(THREADS)]

    @property
    def count(self) -> int:
        """How many were asked."""
        return sum(self._counts)

    @property
    def rate(self) -> float:
        """How many a second there were indeed."""
        return self.count / self._seconds

    def __enter__(self) -> Crowd:
        self._seconds = -time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._seconds += time.monotonic()

    def _go_on(self, number: int) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                answer = self._ask()
            except OSError as error:
                answer = repr(error)
            self._counts[number] += 1
            if answer != self._right:
                self.failed.append(answer)
            due = max(due + THREADS / RATE, time.monotonic() - 1)  # a burst after a pause, but not for ever
            time.sleep(max(0.0, due - time.monotonic()))


class WebSockets:
    """So many WebSockets to `user`, open from the beginning to the end of a `with`."""

    def __init__(self, port: int, user: str) -> None:
        self._port, self._user = port, user
        self._open: list[socket.socket] = []

    def __len__(self) -> int:
        return SOCKETS

    def __enter__(self) -> WebSockets:
        for _ in range(SOCKETS):
            client = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._open.append(client)
            client.sendall(
                f"GET /ws/{self._user}/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            if not client.recv(4096).startswith(b"HTTP/1.1 101"):
                raise BenchError("a WebSocket doesn't open")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for client in self._open:
            client.close()

    def dropped(self) -> int:
        """How many don't echo a frame any more."""
        return sum(not self._echoes(client) for client in self._open)

    @staticmethod
    def _echoes(client: socket.socket) -> bool:
        try:
            client.sendall(FRAME)
            return client.recv(100) == b"echo:" + FRAME
        except OSError:
            return False
