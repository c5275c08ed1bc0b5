"""Getting a byte stream to a host: TCP, or ProxyCommand.

Responsible for: name resolution, trying each address, socket options, and a message with its probable cause for each
way this fails. Not responsible for: what is spoken on the stream (`ssh`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
from typing import NamedTuple

from wsctl.errors import NodeUnreachable
from wsctl.transport.ssh_config import Target, expand_proxy_command
from wsctl.transport.timeouts import Timeouts

_CAUSES = {
    errno.ECONNREFUSED: ("refused the connection", "is sshd running there, on this port?"),
    errno.EHOSTUNREACH: ("can't be reached: no route to the host", "is the machine on, and this network right?"),
    errno.ENETUNREACH: ("can't be reached: no route to its network", "does this machine have a route (or IPv6) to it?"),
    errno.ETIMEDOUT: ("gave no answer", "is the machine on? A firewall may drop the packets"),
    errno.EACCES: ("can't be reached: forbidden by this machine", "a local firewall rule rejects the connection"),
    errno.EPERM: ("can't be reached: forbidden by this machine", "a local firewall rule rejects the connection"),
}


class PromptSocket(socket.socket):
    """A TCP socket that acknowledges at once what it received.

    sshd sends small packets by Nagle's algorithm: the second of two waits for the first one's acknowledgement, which
    Linux holds back for 40 ms in the hope of sending it along with something. That is what opening the first channel
    and each answer in two pieces would cost. The option wears off, so it is set again after each read.
    """

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return data


class Stream(NamedTuple):
    """A connected socket, and the ProxyCommand behind it if there is one."""

    sock: socket.socket
    process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """Close the socket and end the ProxyCommand; never raises."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.sock.close()
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1.0)


_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def connect(target: Target, timeouts: Timeouts) -> Stream:
    """A stream to the target's sshd. Raises `NodeUnreachable`."""
    if target.proxy_command:
        return _proxy_command(target)
    return Stream(_tcp(target, timeouts))


def _tcp(target: Target, timeouts: Timeouts) -> socket.socket:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        said = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
        raise NodeUnreachable(
            target.node,
            f"the name {target.host!r} doesn't resolve: {said}",
            hint=f"correct `address` of {target.node}, or write its IP address",
        ) from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        sock = PromptSocket(family, kind, protocol)
        try:
            sock.settimeout(timeouts.connect)
            _tune(sock, timeouts)
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise _refusal(target, failure, timeouts) from failure


def _tune(sock: socket.socket, timeouts: Timeouts) -> None:
    """Small packets at once, and a peer that vanished is noticed by the kernel: `is_active()` never would."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", int(timeouts.dead_peer * 1000)),
    ):
        option = getattr(socket, name, None)  # Linux has them all; elsewhere the request timeouts have to do
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _refusal(target: Target, failure: OSError | None, timeouts: Timeouts) -> NodeUnreachable:
    where = f"{target.host} port {target.port}"
    if isinstance(failure, TimeoutError) and failure.errno is None:
        said, hint = _CAUSES[errno.ETIMEDOUT]
        return NodeUnreachable(target.node, f"{where} {said} within {timeouts.connect:g} s", hint=hint)
    number = failure.errno if failure is not None else None
    if number in _CAUSES:
        said, hint = _CAUSES[number]
        return NodeUnreachable(target.node, f"{where} {said}", hint=hint)
    return NodeUnreachable(target.node, f"{where}: {failure or 'no address'}", hint=f"wsctl node check {target.node}")


def _proxy_command(target: Target) -> Stream:
    """ssh_config's ProxyCommand on one end of a socket pair; it ends when we close ours."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(  # noqa: S602 - ProxyCommand is a shell command by definition, from the operator's own file
            f"exec {expand_proxy_command(target)}",
            shell=True,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise NodeUnreachable(target.node, f"can't start ProxyCommand: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            theirs.close()
    return Stream(ours, process)
