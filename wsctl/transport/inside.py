"""Looking into containers through the engine's socket: output, commands, processes, load.

Responsible for: `insideports.Inside` on an engine: framing, and streams that outlast the usual time limits. Not
responsible for: terminals and exit codes of wsctl (`commands`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from wsctl.errors import EngineError, NodeError
from wsctl.insideports import Load
from wsctl.transport import failures
from wsctl.transport.docker_socket import BufferedSocket
from wsctl.transport.engine import DockerEngine

_PATIENCE_S = 10.0
"""For an engine's measurement, which waits for its collector's next ticks."""


class EngineInside:
    """See `insideports.Inside`."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._client = cast(Any, engine.client)

    def logs(self, container: str, *, tail: int | None, follow: bool) -> Iterator[tuple[int, bytes]]:
        """See the port."""
        tty = self._has_terminal(container)
        params = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": "all" if tail is None else tail}
        url = self._client._url("/containers/{0}/logs", container)
        # Who follows waits for as long as nothing is said; a dead peer is noticed by keep-alives of the connection.
        limit = None if follow else self._engine.timeouts.request
        response = self._engine.ask(
            lambda: self._checked(self._client.get(url, params=params, stream=True, timeout=limit))
        )
        with contextlib.closing(response), self._translated():
            parts = response.iter_content(None)  # as they come
            yield from ((1, data) for data in parts) if tty else _pieces(_Reader(parts))

    @contextlib.contextmanager
    def run(self, container: str, argv: Sequence[str], *, tty: bool) -> Iterator[EngineExec]:
        """See the port."""
        created = self._engine.ask(
            lambda: self._client.exec_create(container, list(argv), stdin=True, tty=tty), repeat=False
        )
        sock = self._engine.ask(lambda: self._client.exec_start(created["Id"], tty=tty, socket=True), repeat=False)
        sock.settimeout(None)
        try:
            yield EngineExec(self, sock, created["Id"], tty)
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
            sock.close()

    def load(self, container: str) -> Load:
        """See the port."""
        said = self._engine.ask(lambda: self._client.stats(container, stream=False), _PATIENCE_S)
        return load_of(said)

    def processes(self, container: str) -> tuple[list[str], list[list[str]]]:
        """See the port."""
        said = self._engine.ask(lambda: self._client.top(container))
        titles = [str(title) for title in said.get("Titles") or ()]
        return titles, [[str(word) for word in row] for row in said.get("Processes") or ()]

    def resize(self, exec_id: str, columns: int, lines: int) -> None:
        """Tell an exec session's terminal its size."""
        with contextlib.suppress(NodeError):
            self._engine.ask(lambda: self._client.exec_resize(exec_id, height=lines, width=columns))

    def ended(self, exec_id: str) -> int:
        """The exit code of an exec session. Raises `EngineError` if it has none."""
        code = self._engine.ask(lambda: self._client.exec_inspect(exec_id)).get("ExitCode")
        if not isinstance(code, int):
            raise EngineError(self._engine.name, "the connection to the command broke; it may still run")
        return code

    def broken(self, error: BaseException) -> NodeError:
        """What went wrong with a stream, in wsctl's words."""
        return failures.translate(self._engine.name, self._engine.socket, error, self._engine.timeouts.request)

    def _has_terminal(self, container: str) -> bool:
        said = self._engine.ask(lambda: self._client.inspect_container(container))
        return bool((said.get("Config") or {}).get("Tty"))

    def _checked(self, response: Any) -> Any:
        self._client._raise_for_status(response)
        return response

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except failures.FOREIGN as error:
            raise self.broken(error) from error


class EngineExec:
    """See `insideports.ExecSession`."""

    def __init__(self, inside: EngineInside, sock: BufferedSocket, exec_id: str, tty: bool) -> None:
        self._inside, self._sock, self._id, self._tty = inside, sock, exec_id, tty

    def read(self) -> tuple[int, bytes]:
        try:
            if self._tty:
                return 1, self._sock.recv(65536)
            return next(_pieces(self._sock), (1, b""))
        except failures.FOREIGN as error:
            raise self._inside.broken(error) from error

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(data)

    def end_input(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(1)

    def resize(self, columns: int, lines: int) -> None:
        self._inside.resize(self._id, columns, lines)

    def exit_code(self) -> int:
        return self._inside.ended(self._id)


class _Reader:
    """Parts of a stream, by the byte."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._left = parts, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while not self._left:
            more = next(self._parts, None)
            if more is None:
                return b""
            self._left = more
        data, self._left = self._left[:size], self._left[size:]
        return data


def _pieces(source: Any) -> Iterator[tuple[int, bytes]]:
    """The framed pieces of a stream: each has a header of eight bytes, stream and length."""
    while header := _exactly(source, 8):
        yield (2 if header[0] == 2 else 1), _exactly(source, int.from_bytes(header[4:8], "big"))


def _exactly(source: Any, size: int) -> bytes:
    """So many bytes; fewer (or none) at the end of the stream."""
    parts: list[bytes] = []
    while size > 0 and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def load_of(stats: Mapping[str, Any]) -> Load:
    """What a container takes, by `GET /containers/{id}/stats`: with the figures of a moment before in it."""
    cpu, before = stats.get("cpu_stats") or {}, stats.get("precpu_stats") or {}
    used = _difference(cpu, before, "cpu_usage", "total_usage")
    system = (cpu.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cores = used / system * (cpu.get("online_cpus") or 1) if used is not None and system > 0 else None
    memory = stats.get("memory_stats") or {}
    cache = (memory.get("stats") or {}).get("inactive_file", (memory.get("stats") or {}).get("total_inactive_file", 0))
    taken = memory.get("usage")
    networks = (stats.get("networks") or {}).values()
    return Load(
        cores=None if cores is None else round(cores, 3),
        memory_bytes=None if taken is None else max(0, taken - cache),
        memory_limit_bytes=memory.get("limit"),
        received_bytes=sum(one.get("rx_bytes", 0) for one in networks) if networks else None,
        sent_bytes=sum(one.get("tx_bytes", 0) for one in networks) if networks else None,
        processes=(stats.get("pids_stats") or {}).get("current"),
    )


def _difference(now: Mapping[str, Any], before: Mapping[str, Any], *path: str) -> int | None:
    values: list[Any] = []
    for said in (now, before):
        value: Any = said
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(value)
    return values[0] - values[1] if all(isinstance(value, int) for value in values) else None
