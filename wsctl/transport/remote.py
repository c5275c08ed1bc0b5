"""The Docker Engine of a node behind SSH: channels to its socket, probes from the node itself.

Responsible for: making the streams that `engine` and `ready` use out of one session's channels. Not responsible for:
the session (`ssh`), what goes over the streams.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import paramiko

from wsctl.errors import EngineError, NodeUnreachable
from wsctl.model import Node, is_ip_literal
from wsctl.transport import diagnosis, ready
from wsctl.transport.channels import ChannelRefused
from wsctl.transport.engine import DockerEngine
from wsctl.transport.ssh import BROKEN, Session, opened
from wsctl.transport.timeouts import Timeouts


class ChannelStream:
    """A channel that fails like a socket: with OSError, never with paramiko's exceptions."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def send(self, data: bytes, /) -> int:
        with _as_os_errors():
            return self._channel.send(data)

    def sendall(self, data: bytes, /) -> None:
        """Send everything. Raises BrokenPipeError when the other side is gone."""
        rest = data
        while rest:
            sent = self.send(rest)
            if sent <= 0:
                raise BrokenPipeError("the channel is closed")
            rest = rest[sent:]

    def recv(self, size: int, /) -> bytes:
        with _as_os_errors():
            return self._channel.recv(size)

    def settimeout(self, seconds: float | None, /) -> None:
        self._channel.settimeout(seconds)

    def fileno(self) -> int:
        return self._channel.fileno()

    def shutdown(self, how: int, /) -> None:
        with _as_os_errors():
            self._channel.shutdown(how)

    def close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.close()

    @property
    def eof_received(self) -> bool:
        """Whether the other side won't send any more."""
        return bool(self._channel.eof_received or self._channel.closed)

    def recv_ready(self) -> bool:
        """Whether something came in that nobody has read yet."""
        return self._channel.recv_ready()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except BROKEN as error:
        raise ConnectionResetError(f"the SSH connection broke: {error}") from error


def remote_engine(node: Node, cluster: str, timeouts: Timeouts, session: Callable[[], Session]) -> DockerEngine:
    """The engine at the other end of what `session` gives, which makes a connection that broke anew. Raises as
    `DockerEngine` and as `session`."""
    way = _Way(node, session)
    return DockerEngine(
        node, cluster, timeouts, way.to_engine, peer=way.peer, dial=way.to_port, answers=way.sshd_answers
    )


class _Way:
    """Channels of a node's connection, made for an engine."""

    def __init__(self, node: Node, session: Callable[[], Session]) -> None:
        self._node = node
        self._connect = session
        self._session = session()
        self._forwarding = True

    def to_engine(self) -> ChannelStream:
        """A new channel to the engine's socket. Raises `NodeUnreachable` with the cause."""
        try:
            return self._opened(lambda session: session.open_unix(self._node.docker_socket))
        except ChannelRefused as refused:
            raise diagnosis.refused_socket(self._session, self._node.docker_socket, refused) from refused

    def to_port(self, address: str, port: int, limit_s: float) -> ready.Wire | None:
        """A connection to a published port, from the node; from here once sshd said that it forwards no TCP."""
        if self._forwarding:
            try:
                return self._opened(lambda session: session.open_tcp(address, port, limit_s))
            except ChannelRefused as refused:
                if refused.code != paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                    return None
                self._forwarding = False
        return ready.dial_directly(address, port, limit_s)

    def sshd_answers(self, timeout_s: float) -> bool:
        """Whether sshd still answers, whatever the engine does."""
        return self._session.answers(timeout_s)

    def _opened(self, open_channel: Callable[[Session], paramiko.Channel]) -> ChannelStream:
        try:
            return ChannelStream(opened(self._live, open_channel))
        except BROKEN as error:
            raise self._broken(error) from error

    def _live(self) -> Session:
        if not self._session.is_open:
            self._session = self._connect()
        return self._session

    def peer(self) -> str:
        """The IP literal that the node has: the other end of the connection, or what its name resolves to when the
        connection goes through something else. Raises `EngineError` when neither says."""
        if self._session.peer is not None:
            return self._session.peer
        host = self._session.target.host
        if is_ip_literal(host):
            return host
        with contextlib.suppress(OSError, UnicodeError):
            return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        said = f"{host} is reached through another host, and its name doesn't resolve here"
        raise EngineError(self._node.name, said, hint=f"set `bind_address` of {self._node.name} to its IP address")

    def _broken(self, error: BaseException) -> NodeUnreachable:
        said = f"the SSH connection to {self._session.target.host} broke: {str(error) or type(error).__name__}"
        return NodeUnreachable(self._node.name, said, hint="the network was dropped, or its sshd was stopped")
