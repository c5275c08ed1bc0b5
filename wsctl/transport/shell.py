"""Running commands on a machine: here, or there through SSH; and connecting to what listens there.

Responsible for: exit codes, words and time limits, the same in both cases. The words of a command are quoted, and none
of them is ever read as anything else. Not responsible for: which commands (`gateways`), nor for the session (`ssh`).
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wsctl.errors import GatewayError, NodeUnreachable

if TYPE_CHECKING:
    import paramiko

    from wsctl.transport.ready import Wire
    from wsctl.transport.ssh import Session

MAX_OUTPUT = 256 << 20
"""More than any map, in bytes: what sends more isn't what it should be."""

RISE = """PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH; LC_ALL=C; export LC_ALL; script=$1; shift
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null
then exec sudo -n sh -c "$script" wsctl "$@"; fi
exec sh -c "$script" wsctl "$@" """
"""Runs the script `$1` with the words after it, as root where that can be had: an account that isn't root gets what
sudo gives it without a password."""

ALIVE = """alive() {
"$@" </dev/null >&2 & p=$!; trap 'kill $p 2>/dev/null || :' EXIT; trap 'exit 1' PIPE HUP TERM INT
n=0; while kill -0 $p 2>/dev/null; do n=$((n + 1)); [ $((n % 20)) -ne 1 ] || echo; sleep 0.1; done
c=0; wait $p || c=$?; trap - EXIT; return $c; }
"""
"""Runs what is silent for long: a sign of life (an empty line) every few seconds, and an end when nobody hears it."""


class Done(NamedTuple):
    """How a command ended. 128 and more: by a signal."""

    code: int
    out: bytes
    err: bytes

    @property
    def words(self) -> str:
        """All that it said."""
        return (self.err + self.out).decode("utf-8", "replace")


class Shell(Protocol):
    """A machine to run commands on. Raises `NodeUnreachable` when no answer came, or not in time."""

    def run(self, argv: Sequence[str], data: bytes, timeout_s: float) -> Done:
        """Run a command with `data` as its stdin, to its end."""

    def connect(self, host: str, port: int, timeout_s: float) -> Wire:
        """Connect to a TCP port as that machine sees it; port 0: to the Unix socket `host`. Raises OSError."""


class LocalShell:
    """This machine."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(self, argv: Sequence[str], data: bytes, timeout_s: float) -> Done:
        try:
            done = subprocess.run(  # noqa: S603 - the words come from the inventory
                argv, input=data, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _late(self._name, argv, timeout_s) from error
        except OSError as error:
            raise GatewayError(self._name, f"cannot run {argv[0]}: {error.strerror or error}") from error
        code = done.returncode
        return Done(code if code >= 0 else 128 - code, done.stdout, done.stderr)

    def connect(self, host: str, port: int, timeout_s: float) -> Wire:
        if port:
            return socket.create_connection((host, port), timeout=timeout_s)
        wire = socket.socket(socket.AF_UNIX)
        try:
            wire.settimeout(timeout_s)
            wire.connect(host)
        except OSError:
            wire.close()
            raise
        return wire


class SshShell:
    """The machine at the other end of what `session` gives, which makes a connection that broke anew."""

    def __init__(self, name: str, session: Callable[[], Session]) -> None:
        self._name = name
        self._session = session

    def run(self, argv: Sequence[str], data: bytes, timeout_s: float) -> Done:
        self._session()  # while it is on its way to the host, paramiko is loaded
        from wsctl.transport.ssh import BROKEN, opened

        deadline = time.monotonic() + timeout_s
        try:
            channel = opened(self._session, lambda one: one.transport.open_session(timeout=one.timeouts.channel))
            with contextlib.closing(channel):
                channel.settimeout(timeout_s)
                channel.exec_command(shlex.join(argv))
                _feed(channel, data)
                out = _drain(channel.recv, channel, deadline)
                err = _drain(channel.recv_stderr, channel, deadline)
                ended = channel.status_event.wait(max(0.0, deadline - time.monotonic()))
                code = channel.recv_exit_status() if ended else None
        except TimeoutError as error:
            raise _late(self._name, argv, timeout_s) from error
        except BROKEN as error:
            said = f"the SSH connection broke: {str(error) or type(error).__name__}"
            raise NodeUnreachable(self._name, said, hint="the network was dropped, or its sshd was stopped") from error
        if code is None:
            raise _late(self._name, argv, timeout_s)
        if code < 0:
            raise NodeUnreachable(self._name, f"the connection ended before {argv[0]} did")
        return Done(code, out, err)

    def connect(self, host: str, port: int, timeout_s: float) -> Wire:
        try:
            self._session()
        except NodeUnreachable as error:
            raise ConnectionResetError(error.reason) from error
        import paramiko

        from wsctl.transport.channels import ChannelRefused
        from wsctl.transport.remote import ChannelStream
        from wsctl.transport.ssh import opened

        try:
            channel = opened(
                self._session, lambda one: one.open_tcp(host, port, timeout_s) if port else one.open_unix(host)
            )
        except ChannelRefused as refused:
            if refused.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                raise PermissionError("its sshd forbids forwarding (AllowTcpForwarding, PermitOpen)") from refused
            raise ConnectionRefusedError(refused.text) from refused
        except NodeUnreachable as error:
            raise ConnectionResetError(error.reason) from error
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionResetError(f"the SSH connection broke: {str(error) or type(error).__name__}") from error
        channel.settimeout(timeout_s)
        return ChannelStream(channel)


class NodeCommands:
    """`ports.Commands` on a shell that is opened when it is needed."""

    def __init__(self, shell: Callable[[], Shell], timeout_s: float) -> None:
        self._shell = shell
        self._timeout_s = timeout_s

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        done = self._shell().run(argv, b"", self._timeout_s)
        return done.code, (done.out + done.err).decode("utf-8", "replace")


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    """Send stdin and its end. A command that ends before it read all of it says why itself."""
    with contextlib.suppress(OSError):
        view = memoryview(data)
        for start in range(0, len(view), 1 << 20):
            channel.sendall(bytes(view[start : start + (1 << 20)]))
        channel.shutdown_write()


def _drain(read: Callable[[int], bytes], channel: paramiko.Channel, deadline: float) -> bytes:
    """Everything up to the end of a stream."""
    parts: list[bytes] = []
    size = 0
    while True:
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        part = read(1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAX_OUTPUT:
            raise EOFError("it sends without end")


def _late(name: str, argv: Sequence[str], timeout_s: float) -> NodeUnreachable:
    return NodeUnreachable(name, f"{argv[0]} didn't end within {timeout_s:g} s")
