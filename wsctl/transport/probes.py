"""Looking at nodes again and again over connections that are kept: does the engine answer, does the machine.

Responsible for: one connection per node that is renewed when it breaks, and for what each kind of silence shows. Not
responsible for: when to look and what follows (`wsctl.watcher`, `wsctl.health`), nor for making connections
(`sessions`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wsctl.errors import HostKeyError, NodeUnreachable
from wsctl.health import Sign
from wsctl.model import Node, is_ip_literal
from wsctl.transport import lazy
from wsctl.transport.sessions import Sessions
from wsctl.transport.ssh_config import Target, resolve
from wsctl.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from wsctl.transport.ssh import Session

LIMITS = Timeouts(connect=3.0, handshake=3.0, auth=3.0, channel=2.0, request=2.0, retries=0)
"""A look that takes longer has failed: the next one is due."""

PATIENCE = 3
"""After so many silent looks in a row a connection is given up for a new one; TCP may still mend it until then."""

PING = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"


class NodeProbes:
    """`watchports.Probes` over SSH."""

    def __init__(self, nodes: Mapping[str, Node], limits: Timeouts = LIMITS) -> None:
        self._nodes = dict(nodes)
        self._limits = limits
        self._closed = threading.Event()
        self._sessions = Sessions(limits, self._closed)
        self._open: dict[str, Session] = {}
        self._silent: dict[str, int] = {}
        self._targets: dict[str, Target] = {}
        self._addresses: dict[str, str] = {}

    def look(self, name: str) -> tuple[Sign, str]:
        node = self._nodes[name]
        if node.is_local:
            return self._look_here(node)
        lazy.load_paramiko()
        try:
            session = self._session(node)
        except HostKeyError as error:
            return Sign.ALIVE, error.reason
        except NodeUnreachable as error:
            self._sessions.drop(name)
            return Sign.SILENT, error.reason
        sign, reason = _ping(session, node)
        self._keep_or_drop(name, session, sign)
        return sign, reason

    def knock(self, name: str) -> tuple[bool | None, str]:
        node = self._nodes[name]
        if node.is_local:
            return True, ""
        lazy.load_paramiko()
        try:
            target = self._target(node)
            stream = self._sessions.dial(node, target)
        except NodeUnreachable as error:
            return _answered(error), error.reason
        try:
            # A ProxyCommand takes everything; only sshd's banner shows that there is somebody behind it.
            stream.sock.settimeout(self._limits.connect)
            greeted = not target.proxy_command or bool(stream.sock.recv(1))
        except OSError:
            greeted = False
        finally:
            stream.close()
        return greeted, "" if greeted else "no banner through its ProxyCommand"

    def ask(self, witness: str, name: str) -> bool | None:
        session = self._open.get(witness)
        if session is None or self._nodes[name].is_local:
            return None
        import paramiko

        from wsctl.transport.channels import ChannelRefused

        try:
            target = self._target(self._nodes[name])
            address = self._addresses.get(name) or _address(target.host)
            session.open_tcp(address, target.port, self._limits.connect).close()
        except ChannelRefused as refused:
            return self._opinion(session, refused)
        except (paramiko.SSHException, OSError, EOFError, UnicodeError, NodeUnreachable):
            return None
        return True

    def close(self) -> None:
        self._closed.set()
        self._sessions.close()

    def _session(self, node: Node) -> Session:
        session = self._open.get(node.name)
        if session is None:
            session = self._sessions.session(node)
            self._open[node.name] = session
            if session.peer is not None:
                self._addresses[node.name] = session.peer
        return session

    def _keep_or_drop(self, name: str, session: Session, sign: Sign) -> None:
        silent = self._silent.get(name, 0) + 1 if sign is Sign.SILENT else 0
        if silent >= PATIENCE or not session.transport.is_active():
            self._open.pop(name, None)
            self._sessions.drop(name)
            silent = 0
        self._silent[name] = silent

    def _look_here(self, node: Node) -> tuple[Sign, str]:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.settimeout(self._limits.request)
            try:
                sock.connect(node.docker_socket)
                sock.sendall(PING)
                return _read(sock.recv(64))
            except OSError as error:
                return Sign.ALIVE, f"{node.docker_socket}: {error.strerror or error}"

    def _target(self, node: Node) -> Target:
        if node.name not in self._targets:
            self._targets[node.name] = resolve(node.name, node.address, node.ssh, self._limits.ssh_config)
        return self._targets[node.name]

    def _opinion(self, session: Session, refused: Exception) -> bool | None:
        """What a refusal to connect to the other node says of that node."""
        import paramiko

        code, text = getattr(refused, "code", 0), getattr(refused, "text", "").lower()
        if code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED or "network is unreachable" in text:
            return None
        if "refused" in text:
            return True
        # No word within the time: that is the other one's silence only if the witness itself still answers.
        return False if code or session.answers(self._limits.status) else None


def _ping(session: Session, node: Node) -> tuple[Sign, str]:
    """Ask the engine over an open connection. A channel that opens shows that sshd, and so the machine, is there."""
    import paramiko

    from wsctl.transport.channels import ChannelRefused

    try:
        channel = session.open_unix(node.docker_socket)
    except ChannelRefused as refused:
        if refused.code:
            return Sign.ALIVE, f"sshd can't open {node.docker_socket}: {refused.text}"
        return Sign.SILENT, f"sshd doesn't answer within {session.timeouts.channel:g} s"
    except (paramiko.SSHException, OSError, EOFError) as error:
        return Sign.SILENT, f"the SSH connection broke: {error or type(error).__name__}"
    try:
        channel.settimeout(session.timeouts.request)
        channel.sendall(PING)
        return _read(channel.recv(64))
    except TimeoutError:
        return Sign.ALIVE, f"the engine doesn't answer within {session.timeouts.request:g} s"
    except (paramiko.SSHException, OSError, EOFError) as error:
        return Sign.ALIVE, f"the engine hung up: {error or type(error).__name__}"
    finally:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            channel.close()


def _read(answer: bytes) -> tuple[Sign, str]:
    words = answer.split(b" ", 2)
    if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1] == b"200":
        return Sign.WELL, ""
    said = answer.split(b"\r\n", 1)[0].decode("ascii", "replace")
    return Sign.ALIVE, f"the engine says {said!r}" if said else "the engine hung up without a word"


def _answered(error: NodeUnreachable) -> bool | None:
    """Whether a connection that failed shows that the machine is alive; None: it ended on the way there."""
    if "jump_host" in error.details:
        return None
    cause = error.__cause__
    return isinstance(cause, ConnectionRefusedError) or "refused" in str(getattr(cause, "text", "")).lower()


def _address(host: str) -> str:
    """The address of a host as this machine knows it: a witness may not know the name."""
    if is_ip_literal(host):
        return host
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
