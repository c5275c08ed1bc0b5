"""Running a command on a node that takes long, and hearing what it says while it does.

Responsible for: telling long silence from death, and for the command's end when the connection ends: its stdin stays
open as long as somebody listens. Not responsible for: commands that answer at once (`shell`).
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wsctl.errors import NodeUnreachable
from wsctl.transport.pipes import LocalLauncher
from wsctl.transport.shell import MAX_OUTPUT, Done

if TYPE_CHECKING:
    import paramiko

    from wsctl.transport.ssh import Session

SILENT_S = 15.0
"""After so long without a word sshd is asked whether it is still there."""

FOREVER_S = 86_400.0
"""What runs on this machine is as alive as we are."""

KEEP_BYTES = 1 << 20
"""How much of the words of a command that succeeds is kept: the end."""


def follow(name: str, session: Session, argv: Sequence[str], heard: Callable[[bytes], None]) -> Done:
    """Run the command to its end, however long that takes. Raises `NodeUnreachable` when the connection is dead."""
    import paramiko

    out, err, size = b"", b"", 0
    try:
        channel = session.transport.open_session(timeout=session.timeouts.channel)
        with contextlib.closing(channel):
            channel.settimeout(SILENT_S)
            channel.exec_command(shlex.join(argv))
            while True:
                try:
                    part = channel.recv(1 << 16)
                except TimeoutError:
                    # Both streams share one window: what nobody reads here keeps the other from saying anything.
                    if words := _pending(channel):
                        err = (err + words)[-KEEP_BYTES:]
                    elif not session.answers(session.timeouts.request):
                        raise NodeUnreachable(name, f"no word from {session.target.host} any more") from None
                    continue
                err = (err + _pending(channel))[-KEEP_BYTES:]
                if not part:
                    break
                size += len(part)
                if size > MAX_OUTPUT:
                    raise EOFError("it sends without end")  # noqa: TRY301 - the connection is of no use any more
                out = (out + part)[-KEEP_BYTES:]
                heard(part)
            channel.settimeout(session.timeouts.request)
            channel.status_event.wait(session.timeouts.request)
            err += _pending(channel)
            code = channel.recv_exit_status() if channel.status_event.is_set() else -1
    except (paramiko.SSHException, OSError, EOFError) as error:
        said = f"the SSH connection to {session.target.host} broke: {str(error) or type(error).__name__}"
        raise NodeUnreachable(name, said, hint="the network was dropped, or its sshd was stopped") from error
    if code < 0:
        raise NodeUnreachable(name, f"the connection ended before {argv[0]} did")
    return Done(code, out, err[-KEEP_BYTES:])


def follow_local(name: str, argv: Sequence[str], heard: Callable[[bytes], None]) -> Done:
    """The same on this machine."""
    out = b""
    with LocalLauncher(name, FOREVER_S).start(argv) as pipe:
        while part := pipe.read(1 << 16):
            out = (out + part)[-KEEP_BYTES:]
            heard(part)
        code, words = pipe.end()
    return Done(code, out, words.encode())


def _pending(channel: paramiko.Channel) -> bytes:
    parts = []
    while channel.recv_stderr_ready():
        parts.append(channel.recv_stderr(1 << 16))
    return b"".join(parts)
