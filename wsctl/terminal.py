"""This process's terminal and pipes, joined to a command that runs elsewhere.

Responsible for: raw mode and its end whatever happens, passing bytes on both ways, window sizes. Not responsible for:
how the command was started (`transport.inside`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from wsctl.insideports import ExecSession
from wsctl.text import clean as cleaned

_CHUNK = 65536


def write(stream: IO[str], data: bytes, *, clean: bool = False) -> None:
    """Bytes to a text stream, at once and as they are; `clean`: on a terminal without its control characters."""
    if clean and stream.isatty():
        stream.write(cleaned(data.decode("utf-8", "replace"), keep="\n\t"))
    else:
        stream.buffer.write(data)  # type: ignore[attr-defined]
    stream.flush()


def converse(session: ExecSession, *, tty: bool) -> int:
    """Pass stdin to the command and its output to stdout and stderr until it ends; its exit code."""
    with _raw_terminal(session) if tty and sys.stdin.isatty() else contextlib.nullcontext():
        done_reading, done_writing = os.pipe()
        feeder = threading.Thread(target=_feed, args=(session, done_reading), name="stdin", daemon=True)
        feeder.start()
        try:
            while True:
                stream, data = session.read()
                if not data:
                    break
                write(sys.stderr if stream == 2 else sys.stdout, data)
        finally:
            os.close(done_writing)
            feeder.join(1.0)
            os.close(done_reading)
    return session.exit_code()


def _feed(session: ExecSession, done: int) -> None:
    """Pass stdin to the command until either ends. Reads only what is there, and nothing meant for who comes next."""
    source: Any = getattr(sys.stdin, "buffer", None)
    try:
        number = source.fileno()
    except (AttributeError, OSError, ValueError):
        session.write(source.read() if source is not None else b"")
        session.end_input()
        return
    while True:
        ready, _, _ = select.select([number, done], [], [])
        if done in ready:
            return
        data = os.read(number, _CHUNK)
        if not data:
            session.end_input()
            return
        session.write(data)


@contextlib.contextmanager
def _raw_terminal(session: ExecSession) -> Iterator[None]:
    """The terminal hands every key on, and its size; afterwards it is as it was."""
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def tell_size(*_: object) -> None:
        size = shutil.get_terminal_size()
        session.resize(size.columns, size.lines)

    handler = signal.signal(signal.SIGWINCH, tell_size)
    try:
        tty.setraw(number)
        tell_size()
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
