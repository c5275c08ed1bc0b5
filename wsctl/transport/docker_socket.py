"""Docker's HTTP over any stream: an SSH channel to the engine's socket, or the socket itself.

Responsible for: the adapter under docker-py with kept connections. Not responsible for: what is asked (`engine`), the
SSH connection (`ssh`), failures (`failures`).

docker-py reads headers through a buffered file and the rest from the raw socket underneath; over a slow link part of
an `exec`'s output is then left in the buffer and lost. Here the buffer belongs to the socket: nothing is left behind.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import requests.adapters
import urllib3.connection
import urllib3.connectionpool
from urllib3.util.retry import Retry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

POOL_SIZE = 40
"""Connections kept to one engine. sshd counts channels to sockets against no limit of its own."""

READ_AHEAD = 65536


class Stream(Protocol):
    """What a paramiko channel and a socket have in common."""

    def send(self, data: bytes, /) -> int: ...

    def recv(self, size: int, /) -> bytes: ...

    def settimeout(self, seconds: float | None, /) -> None: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


Opener = Callable[[], Stream]
"""Opens a new stream to the engine's socket; raises what the stream's kind raises."""


class BufferedSocket:
    """A socket for http.client and docker-py whose read-ahead is its own, so that files and raw readers can alternate.

    Like a real socket it stays open until the files made from it are closed too.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ahead = b""
        self._files = 0
        self._closing = False
        self._timeout: float | None = None
        self.read_ahead = True

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to `size` bytes, what was read ahead first; empty at the end of the stream."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._stream.recv(size)

    def readline(self, limit: int) -> bytes:
        """Up to and including a newline, at most `limit` bytes."""
        while (end := self._ahead.find(b"\n") + 1) == 0 and len(self._ahead) < limit:
            # A stream about to be taken over (exec, attach) is read byte by byte: who takes it waits for the stream
            # itself to become readable and wouldn't see what is held here.
            more = self._stream.recv(READ_AHEAD if self.read_ahead else 1)
            if not more:
                break
            self._ahead += more
        cut = min(end or limit, limit)
        line, self._ahead = self._ahead[:cut], self._ahead[cut:]
        return line

    def read(self, size: int) -> bytes:
        """As `recv`; docker-py asks for either."""
        return self.recv(size)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send everything. Raises BrokenPipeError when the other side is gone: paramiko would send nothing, forever."""
        rest = memoryview(data).cast("B")
        while rest:
            sent = self._stream.send(bytes(rest[:READ_AHEAD]))
            if sent <= 0:
                raise BrokenPipeError("the stream is closed")
            rest = rest[sent:]

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send some of the data and return how much."""
        return self._stream.send(data)

    def write(self, data: bytes) -> int:
        """Send everything; for callers that take this for a file."""
        self.sendall(data)
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        """Limit each following operation to `seconds`; None for no limit."""
        self._timeout = seconds
        self._stream.settimeout(seconds)

    def gettimeout(self) -> float | None:
        """The limit set last."""
        return self._timeout

    def setsockopt(self, *_: object) -> None:
        """Options of TCP mean nothing here."""

    def fileno(self) -> int:
        """A descriptor to wait for input with; only sensible when nothing was read ahead."""
        return self._stream.fileno()

    def shutdown(self, how: int) -> None:
        """Close one or both directions."""
        stop = getattr(self._stream, "shutdown", None)
        if stop is not None:
            stop(how)

    def makefile(self, mode: str = "rb", *_: object, **__: object) -> io.BufferedReader:
        """A file over this socket for http.client. It holds no data of its own."""
        self._files += 1
        return cast(io.BufferedReader, _File(self))

    def close(self) -> None:
        """Close once the last file is closed."""
        self._closing = True
        self._close_if_unused()

    def file_closed(self) -> None:
        """One of the files is gone."""
        self._files -= 1
        self._close_if_unused()

    def is_idle(self) -> bool:
        """Whether the stream can carry another request: open, and nothing unasked came in."""
        if self._closing or self._ahead:
            return False
        closed = getattr(self._stream, "eof_received", False) or getattr(self._stream, "closed", False)
        if closed:
            return False
        ready = getattr(self._stream, "recv_ready", None)
        if ready is not None:
            return not ready()
        stream = cast(socket.socket, self._stream)
        return not urllib3.util.wait_for_read(stream, timeout=0.0)

    def _close_if_unused(self) -> None:
        if self._closing and self._files <= 0:
            with contextlib.suppress(OSError, EOFError):
                self._stream.close()


class _File(io.BufferedIOBase):
    """The reading side for http.client, and `raw` for docker-py, which is the socket itself."""

    def __init__(self, sock: BufferedSocket) -> None:
        self.raw = cast(io.RawIOBase, sock)
        self._sock = sock

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        parts: list[bytes] = []
        left = size if size is not None and size >= 0 else -1
        while left != 0:
            data = self._sock.recv(READ_AHEAD if left < 0 else min(left, READ_AHEAD))
            if not data:
                break
            parts.append(data)
            left = left - len(data) if left > 0 else left
        return b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        return self._sock.recv(size if size > 0 else READ_AHEAD)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, limit: int | None = -1, /) -> bytes:
        return self._sock.readline(limit if limit is not None and limit > 0 else READ_AHEAD)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.file_closed()


class _Connection(urllib3.connection.HTTPConnection):
    """An HTTP connection over a stream of our own."""

    def __init__(self, opener: Opener, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._opener = opener

    def connect(self) -> None:
        sock = BufferedSocket(self._opener())
        sock.settimeout(cast(float, self.timeout))
        self.sock = cast(socket.socket, sock)

    @property
    def is_connected(self) -> bool:
        # urllib3 would ask the operating system, which knows nothing about a channel.
        return self.sock is not None and cast(BufferedSocket, self.sock).is_idle()

    def putheader(self, header: str | bytes, *values: Any) -> None:
        if header in ("Upgrade", b"Upgrade"):
            if self.sock is None:
                self.connect()
            cast(BufferedSocket, self.sock).read_ahead = False
        super().putheader(cast(str, header), *values)


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    """One engine's kept connections. A request that finds none free waits: more would be slower, not faster."""

    def __init__(self, opener: Opener, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=POOL_SIZE, block=True)
        self._opener = opener

    def _new_conn(self) -> _Connection:
        return _Connection(self._opener, cast(float, self.timeout.connect_timeout))


class EngineAdapter(requests.adapters.HTTPAdapter):
    """What docker-py's session sends its requests through, whatever their URL."""

    def __init__(self, opener: Opener, timeout: float) -> None:
        self._engine_pool = _Pool(opener, timeout)
        super().__init__(max_retries=Retry(0, read=False))

    def get_connection_with_tls_context(self, *_: object, **__: object) -> _Pool:
        return self._engine_pool

    def get_connection(self, *_: object, **__: object) -> _Pool:
        return self._engine_pool

    def request_url(self, request: requests.PreparedRequest, proxies: object) -> str:
        return request.path_url

    def close(self) -> None:
        super().close()
        self._engine_pool.close()
