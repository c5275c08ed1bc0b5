"""Commands on a machine whose stdin and stdout are streams, here or through SSH: what is too big to be held in memory.

Responsible for: moving bytes with a limit on silence (not on the whole), the last words of a command, its exit code,
and ending it when nobody wants it any more. Not responsible for: which commands (`folders`), nor for the session
(`ssh`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Protocol

from wsctl.errors import NodeError, NodeUnreachable

if TYPE_CHECKING:
    import paramiko

    from wsctl.transport.ssh import Session

WORDS = 40
"""So many lines of what a command says last are kept."""


def _unheard(part: bytes) -> None:
    """Nobody listens."""


class Pipe(Protocol):
    """A command that runs. All methods raise `NodeUnreachable` when the machine is silent for too long."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes of stdout; none at its end."""

    def write(self, data: bytes, /) -> bool:
        """Write all to stdin; False if the command doesn't want any more: how it ended says why."""

    def shut(self) -> None:
        """Close stdin: no more will be written."""

    def end(self) -> tuple[int, str]:
        """Close stdin, wait for the end; exit code, and the last words of stderr."""


class Launcher(Protocol):
    """A machine on which commands can be started."""

    def start(
        self, argv: Sequence[str], heard: Callable[[bytes], None] = _unheard
    ) -> contextlib.AbstractContextManager[Pipe]:
        """Start a command; at the end of the block it is stopped if it still runs. `heard` gets what it says on stderr
        as it comes, in a thread of its own."""


class LocalLauncher:
    """This machine."""

    def __init__(self, name: str, silence_s: float) -> None:
        self._name = name
        self._silence_s = silence_s

    @contextlib.contextmanager
    def start(self, argv: Sequence[str], heard: Callable[[bytes], None] = _unheard) -> Iterator[Pipe]:
        """See `Launcher`."""
        process = subprocess.Popen(  # noqa: S603 - a fixed script; names are its arguments
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        pipe = _LocalPipe(self._name, process, self._silence_s, heard)
        try:
            yield pipe
        finally:
            with contextlib.suppress(PermissionError):  # what sudo runs as root ends when its pipes do
                process.kill()
            pipe.close()
            process.wait()


class _LocalPipe:
    """The descriptors are this object's own. A thread may still wait for one when the block ends, and the number of a
    closed one is given to the next file that is opened: nothing is read or written without `_lock`."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], silence_s: float, heard: Callable[[bytes], None]
    ) -> None:
        self._name, self._process, self._silence_s = name, process, silence_s
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("a process without pipes")
        self._in, self._out = process.stdin, process.stdout
        self._lock = threading.Lock()
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._words = _Words(process.stderr.read, heard, process.stderr.close)

    def read(self, size: int, /) -> bytes:
        while self._wait(self._out, write=False):
            with self._lock, contextlib.suppress(BlockingIOError):
                return os.read(self._out.fileno(), size) if not self._out.closed else b""
        return b""

    def write(self, data: bytes, /) -> bool:
        rest = memoryview(data)
        while rest and self._wait(self._in, write=True):
            with self._lock:
                if self._in.closed:
                    break
                try:
                    rest = rest[os.write(self._in.fileno(), rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return False
        return not rest

    def _wait(self, pipe: IO[bytes], *, write: bool) -> bool:
        """Until it can be read or written; False if it was closed here. Raises `NodeUnreachable` after the limit."""
        try:
            ready = select.select([] if write else [pipe], [pipe] if write else [], [], self._silence_s)
        except (ValueError, OSError):
            if pipe.closed:
                return False
            raise
        if not ready[0] and not ready[1]:
            raise _silent(self._name, self._silence_s)
        return True

    def shut(self) -> None:
        with self._lock:
            self._in.close()

    def close(self) -> None:
        """Nobody wants it any more; stderr is closed by its reader."""
        with self._lock:
            self._in.close()
            self._out.close()

    def end(self) -> tuple[int, str]:
        self.shut()
        try:
            code = self._process.wait(self._silence_s)
        except subprocess.TimeoutExpired:
            raise _silent(self._name, self._silence_s) from None
        return code if code >= 0 else 128 - code, self._words.last()


class SshLauncher:
    """The machine at the other end of a session."""

    def __init__(self, name: str, session: Session, silence_s: float) -> None:
        self._name = name
        self._session = session
        self._silence_s = silence_s

    @contextlib.contextmanager
    def start(self, argv: Sequence[str], heard: Callable[[bytes], None] = _unheard) -> Iterator[Pipe]:
        """See `Launcher`. When the channel is closed the command's next read or write fails, which ends it."""
        with _broken(self._name):
            channel = self._session.transport.open_session(timeout=self._session.timeouts.channel)
        try:
            with _broken(self._name, self._silence_s):
                channel.settimeout(self._silence_s)
                self._exec(channel, shlex.join(argv))
            yield _SshPipe(self._name, channel, self._silence_s, heard)
        finally:
            channel.close()

    def _exec(self, channel: paramiko.Channel, words: str) -> None:
        import paramiko

        try:
            channel.exec_command(words)
        except paramiko.SSHException as error:
            if not self._session.transport.is_active():
                raise
            said = f"its sshd runs no commands for the account {self._session.target.user}"
            raise NodeError(self._name, said, hint="it takes an account with a shell: docs/guides/backup.md") from error


class _SshPipe:
    def __init__(self, name: str, channel: paramiko.Channel, silence_s: float, heard: Callable[[bytes], None]) -> None:
        self._name, self._channel, self._silence_s = name, channel, silence_s
        self._words = _Words(channel.recv_stderr, heard)

    def read(self, size: int, /) -> bytes:
        with _broken(self._name, self._silence_s):
            return self._channel.recv(size)

    def write(self, data: bytes, /) -> bool:
        with _broken(self._name, self._silence_s):
            try:
                self._channel.sendall(data)
            except TimeoutError:
                raise
            except OSError:
                if self._channel.get_transport().is_active():
                    return False
                raise
        return True

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown_write()

    def end(self) -> tuple[int, str]:
        with _broken(self._name, self._silence_s):
            self.shut()
            if not self._channel.status_event.wait(self._silence_s):
                raise _silent(self._name, self._silence_s)
            code = self._channel.recv_exit_status()
        if code < 0:
            raise NodeUnreachable(self._name, "the connection ended before the command did")
        return code, self._words.last()


class _Words:
    """What a command says on stderr, read by a thread so that it never waits for us; the last lines are kept."""

    def __init__(
        self, read: Callable[[int], bytes], heard: Callable[[bytes], None], ended: Callable[[], None] = lambda: None
    ) -> None:
        self._heard, self._ended = heard, ended
        self._lines: deque[str] = deque(maxlen=WORDS)
        self._thread = threading.Thread(target=self._gather, args=(read,), name="words", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """The words so far; waits a moment for the last ones."""
        self._thread.join(1.0)
        return "\n".join(self._lines)

    def _gather(self, read: Callable[[int], bytes]) -> None:
        rest = b""
        with contextlib.suppress(OSError, EOFError, ValueError, TimeoutError):
            while True:
                try:
                    data = read(1 << 14)
                except TimeoutError:
                    continue
                if not data:
                    break
                self._heard(data)
                *lines, rest = (rest + data)[-(1 << 16) :].split(b"\n")
                self._lines.extend(line.decode("utf-8", "replace")[:400] for line in lines)
        if rest:
            self._lines.append(rest.decode("utf-8", "replace")[:400])
        self._ended()


@contextlib.contextmanager
def _broken(name: str, silence_s: float = 0.0) -> Iterator[None]:
    import paramiko

    started = time.monotonic()
    try:
        yield
    except TimeoutError as error:
        raise _silent(name, silence_s or time.monotonic() - started) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        said = f"the SSH connection broke: {str(error) or type(error).__name__}"
        raise NodeUnreachable(name, said, hint="the network was dropped, or its sshd was stopped") from error


def _silent(name: str, silence_s: float) -> NodeUnreachable:
    return NodeUnreachable(name, f"nothing moved for {silence_s:.0f} s", hint="is its disk or network overloaded?")
