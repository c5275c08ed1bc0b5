"""Waiting until a workspace answers.

Responsible for: probing a published port from the node itself, through its SSH connection, or from here when sshd
forbids that. Not responsible for: what "ready" means for the placement (`workflow`), the container (`engine`).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wsctl.errors import NodeUnreachable
from wsctl.model import ReadyProbe, upstream

FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 0.25
LOOK_EVERY_S = 0.5
"""How often the container's state is looked at while its port doesn't answer."""
ANSWER_S = 5.0
"""How long one request may take."""
DRAIN_S = 2.0
DRAIN_BYTES = 4 << 20
"""How long, and how much of, a passing answer is read to its end."""
SETTLE_S = 0.05
"""A port that accepts and hangs up within this time is Docker's proxy without anybody behind it."""

FRAME_BYTES = 66
"""An Ethernet frame with a TCP segment without data: what a container's counter adds for each (14 + 20 + 32)."""
REFUSAL_BYTES = 54
"""A frame with a reset: the answer to a connection that nobody accepts."""
RECEIVED_IN_ONE = 16384
"""How much arrives in a frame at most, when segments are counted together as they pass a bridge inside one machine."""


class Wire(Protocol):
    """What a socket and a channel have in common."""

    def settimeout(self, seconds: float | None, /) -> None: ...

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


Dial = Callable[[str, int, float], Wire | None]
"""Connects to address and port within some seconds; None if nobody accepts."""


@dataclass(slots=True)
class Waited:
    """How the waiting ended: `why` it was in vain (None: the probe passed), and about how many bytes the container has
    sent in answer to the probes, frames included: not much more than it really sent, so that the reaper, which takes
    what was sent beyond it for a user's, errs on the side of keeping."""

    why: str | None = None
    sent_bytes: int = 0


def wait(dial: Dial, address: str, port: int, probe: ReadyProbe, has_ended: Callable[[], bool]) -> Waited:
    """Poll until the probe passes, or doesn't within its timeout, or the container ended.

    Raises what `dial` and `has_ended` raise.
    """
    waited = Waited()
    waited.why = _poll(dial, address, port, probe, has_ended, waited)
    return waited


def _poll(
    dial: Dial, address: str, port: int, probe: ReadyProbe, has_ended: Callable[[], bool], waited: Waited
) -> str | None:
    deadline = time.monotonic() + probe.timeout_s
    pause = FIRST_PAUSE_S
    looked = time.monotonic()
    last = "nobody accepts the connection"
    while True:
        left = deadline - time.monotonic()
        found = _try(dial, address, port, probe, max(0.05, min(ANSWER_S, left)), waited)
        if found is None:
            return None
        last = found
        if time.monotonic() - looked >= LOOK_EVERY_S:
            looked = time.monotonic()
            if has_ended():
                return "the container ended"
        left = deadline - time.monotonic()
        if left <= 0:
            return f"not within {probe.timeout_s:g} s: {last}"
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LAST_PAUSE_S)


def _try(dial: Dial, address: str, port: int, probe: ReadyProbe, limit_s: float, waited: Waited) -> str | None:
    """One probe: None if it passed, else why not."""
    wire = dial(address, port, limit_s)
    if wire is None:
        waited.sent_bytes += REFUSAL_BYTES
        return "nobody accepts the connection"
    # The container's part of a connection without data: SYN, FIN, and the acknowledgements of the request and the end.
    waited.sent_bytes += 4 * FRAME_BYTES
    wire = _Counting(wire, waited)
    try:
        if probe.http_path is None:
            return _stays_open(wire)
        wire.settimeout(limit_s)
        wire.sendall(_request(probe.http_path, address, port))
        return _judge(wire, time.monotonic() + limit_s)
    except NodeUnreachable:
        raise
    except (OSError, EOFError):
        return "the connection was closed without an answer"
    finally:
        with contextlib.suppress(OSError, EOFError):
            wire.close()


@dataclass(slots=True)
class _Counting:
    """A wire that counts what arrives."""

    wire: Wire
    waited: Waited

    def settimeout(self, seconds: float | None, /) -> None:
        self.wire.settimeout(seconds)

    def sendall(self, data: bytes, /) -> None:
        self.wire.sendall(data)

    def recv(self, size: int, /) -> bytes:
        data = self.wire.recv(size)
        frames = -(-len(data) // RECEIVED_IN_ONE)
        self.waited.sent_bytes += len(data) + frames * FRAME_BYTES
        return data

    def close(self) -> None:
        self.wire.close()


def _stays_open(wire: Wire) -> str | None:
    wire.settimeout(SETTLE_S)
    try:
        return None if wire.recv(1) else "the connection is closed at once"
    except TimeoutError:
        return None  # a server that waits for us to speak


def _request(path: str, address: str, port: int) -> bytes:
    safe = "".join(c if "!" <= c <= "~" else "%20" for c in path)
    head = f"GET {safe} HTTP/1.1\r\nHost: {upstream(address, port)}\r\nUser-Agent: wsctl\r\nConnection: close\r\n\r\n"
    return head.encode("ascii")


def _judge(wire: Wire, deadline: float) -> str | None:
    """Read the status line; below 500 passes. Raises TimeoutError, OSError."""
    line = b""
    while b"\n" not in line and len(line) < 256:
        if time.monotonic() > deadline:
            return "no answer yet"
        data = wire.recv(256)
        if not data:
            return "the connection was closed without an answer"
        line += data
    fields = line.split(None, 2)
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/") or not fields[1].isdigit():
        return "the answer isn't HTTP"
    status = int(fields[1])
    if status >= 500:
        return f"the answer is HTTP status {status}"
    _drain(wire, min(deadline, time.monotonic() + DRAIN_S))
    return None


def _drain(wire: Wire, deadline: float) -> None:
    """Read the rest of the answer: what is still being sent when the reaper first looks would pass for a user's."""
    left = DRAIN_BYTES
    with contextlib.suppress(OSError, EOFError):
        while left > 0 and time.monotonic() < deadline:
            wire.settimeout(max(0.01, deadline - time.monotonic()))
            data = wire.recv(65536)
            if not data:
                return
            left -= len(data)


def dial_directly(address: str, port: int, limit_s: float) -> Wire | None:
    """A plain TCP connection from this machine."""
    try:
        return socket.create_connection((address, port), timeout=limit_s)
    except OSError:
        return None
