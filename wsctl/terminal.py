"""This process's terminal and pipes, joined to a command that runs elsewhere.

Responsible for: raw mode and its end whatever happens, passing bytes on both ways, window sizes. Not responsible for:
how the command was started (`transport.inside`).
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Any

from wsctl.insideports import ExecSession
from wsctl.text import clean

_CHUNK = 65536


def _write(stream: IO[str], data: bytes) -> None:
    """Bytes to a text stream, at once and as they are."""
    stream.buffer.write(data)  # type: ignore[attr-defined]
    stream.flush()


def _ours(number: int) -> IO[str]:
    return sys.stderr if number == 2 else sys.stdout


def show(output: Iterable[tuple[int, bytes]]) -> None:
    """Pass on what a command wrote to its stdout (1) and stderr (2), as it comes: on a terminal without its control
    characters, else as it is."""
    # A character may come in two pieces, and a piece of the other stream in between.
    decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in (1, 2)}

    def say(number: int, data: bytes, *, final: bool = False) -> None:
        stream = _ours(number)
        if stream.isatty():
            stream.write(clean(decoders[number].decode(data, final), keep="\n\t"))
            stream.flush()
        else:
            _write(stream, data)

    for number, data in output:
        say(number, data)
    for number in decoders:
        say(number, b"", final=True)


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
                _write(_ours(stream), data)
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
