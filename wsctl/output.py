"""What an operator sees: tables, plain columns and JSON on stdout; messages, progress and questions on stderr.

Responsible for: the answer's form in each format, the bytes that reach the terminal (nothing in the data can steer it),
and asking. Not responsible for: what the answer is (commands pass values, never formatted strings), nor for exit codes
(`cli.main`). The only home of rich and tabulate, both imported when they are first needed.

A closed pipe raises BrokenPipeError out of any method that writes to stdout (`close` flushes, so the last moment is
there). Whoever owns the process catches it around everything, calls `abandon_stdout()` and exits without a word.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import StringIO
from typing import TYPE_CHECKING, Protocol, TextIO

from wsctl.errors import ConfirmationRequired, Refused, WsctlError
from wsctl.text import ago, clean, human_bytes, human_cpus, human_duration, iso, shown, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from wsctl.plan import Plan

__all__ = [
    "Column",
    "Format",
    "Output",
    "Progress",
    "abandon_stdout",
    "ago",
    "clean",
    "human_bytes",
    "human_cpus",
    "human_duration",
    "iso",
]

SCHEMA_VERSION = 1


class Format(StrEnum):
    """The form of the answer. A table is for people and becomes plain columns when stdout isn't a terminal."""

    TABLE = "table"
    PLAIN = "plain"
    JSON = "json"


MANY = 1000
"""Rows from which on a table is drawn without tabulate if it can be."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: which key of an item, under which title (default: the key), and how a value is shown.

    JSON has all keys of an item, whether they are columns or not, and never the shown form.
    """

    key: str
    title: str | None = None
    show: Callable[[object], str] | None = None
    right: bool = False

    def heading(self) -> str:
        """The title in capitals."""
        return clean(self.title if self.title is not None else self.key.replace("_", " ")).upper()

    def cell(self, item: Mapping[str, object]) -> str:
        """The item's value as one clean line, `-` for nothing (an empty cell would shift the columns for awk)."""
        value = item.get(self.key)
        text = self.show(value) if self.show is not None and value is not None else shown(value)
        return clean(text) or "-"


class Progress(Protocol):
    """A bar that may or may not be visible. Safe to advance from several threads."""

    def advance(self, count: int = 1) -> None:
        """So many more are done."""


class _NoProgress:
    def advance(self, count: int = 1) -> None:
        pass


class Output:
    """One command's voice. `verbosity`: -1 quiet, 0 normal, 1 and more verbose. Streams default to the process's own.

    Whether a stream is a terminal is asked of each stream, unless `is_tty` says it for all of them.
    """

    def __init__(
        self,
        format: Format | str = Format.TABLE,
        verbosity: int = 0,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        stdin: TextIO | None = None,
        is_tty: bool | None = None,
    ) -> None:
        self.format = Format(format)
        self.verbosity = verbosity
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr
        self._stdin = stdin if stdin is not None else sys.stdin
        self._is_tty = is_tty
        self._live: Console | None = None

    # ------------------------------------------------------------------------------------------------ the answer

    @property
    def is_json(self) -> bool:
        """Whether the answer is for a program."""
        return self.format is Format.JSON

    @property
    def is_terminal(self) -> bool:
        """Whether somebody reads the answer as it comes."""
        return self._tty(self._stdout)

    def rows(self, items: Sequence[Mapping[str, object]], columns: Sequence[Column]) -> None:
        """A list. JSON: `{"schema_version": 1, "items": […]}` with the items whole; else a table of the columns."""
        if self.is_json:
            self._json({"schema_version": SCHEMA_VERSION, "items": [dict(item) for item in items]})
            return
        headings = [column.heading() for column in columns]
        cells = [[column.cell(item) for column in columns] for item in items]
        right = [column.right for column in columns]
        lines = _columns(headings, cells, right)
        if self.format is Format.TABLE and self._tty(self._stdout) and not _is_dumb():
            lines = _for_terminal(lines, headings, cells, right)
        self._write(self._stdout, "".join(f"{line.rstrip()}\n" for line in lines))

    def record(self, item: Mapping[str, object], columns: Sequence[Column] | None = None) -> None:
        """One thing: JSON object with `schema_version`, else a line for each of its keys (or of the columns)."""
        if self.is_json:
            self._json({"schema_version": SCHEMA_VERSION, **item})
            return
        columns = columns if columns is not None else [Column(key) for key in item]
        titles = [clean(column.title or column.key) for column in columns]
        width = max((len(title) for title in titles), default=0)
        lines = [f"{title:<{width}}  {column.cell(item)}\n" for title, column in zip(titles, columns, strict=True)]
        self._write(self._stdout, "".join(lines))

    def text(self, answer: str) -> None:
        """An answer that is a text of its own (a route map, a schema, logs), in every format and byte for byte; only
        on a terminal its control characters, other than line ends and tabs, are shown instead of sent."""
        self._write(self._stdout, clean(answer, keep="\n\t") if self._tty(self._stdout) else answer)

    def line(self, item: Mapping[str, object], text: str) -> None:
        """One of many things that come one after the other: JSON on a line of its own, else `text` as one clean line.
        It is written at once."""
        if self.is_json:
            whole = {"schema_version": SCHEMA_VERSION, **item}
            self._write(self._stdout, to_json(whole, ascii_only=not _encoding(self._stdout).startswith("utf")) + "\n")
        else:
            self._write(self._stdout, clean(text) + "\n")
        self._stdout.flush()

    def plan(self, plan: Plan, *, dry_run: bool) -> None:
        """A plan: the answer of a dry run, else (on stderr) what is about to be done or confirmed."""
        if dry_run and self.is_json:
            self._json({"schema_version": SCHEMA_VERSION, "dry_run": True, **plan.to_dict()})
        elif dry_run:
            self._write(self._stdout, clean(plan.render(), keep="\n") + "\n")
        else:
            for line in plan.render().split("\n"):
                self.note(line)

    def _json(self, value: object) -> None:
        # Outside of UTF-8 a character that the stream lacks must become \u…, or the text would no longer be JSON.
        ascii_only = not _encoding(self._stdout).startswith("utf")
        indent = 2 if self._tty(self._stdout) else None
        self._write(self._stdout, to_json(value, ascii_only=ascii_only, indent=indent) + "\n")

    def close(self) -> None:
        """Flush. Raises BrokenPipeError if nobody reads stdout any more."""
        self._stdout.flush()
        self._stderr.flush()

    # ---------------------------------------------------------------------------------------------- the messages

    def note(self, text: str) -> None:
        """Something worth knowing that isn't the answer. Silent if quiet."""
        if self.verbosity >= 0:
            self._say(text)

    def detail(self, text: str) -> None:
        """Something only `-v` shows."""
        if self.verbosity >= 1:
            self._say(text)

    def hint(self, text: str) -> None:
        """What to type next. Silent if quiet."""
        self.note(f"hint: {text}")

    def warn(self, text: str) -> None:
        """Something is wrong, but not with this command; shown even if quiet."""
        self._say(f"warning: {text}")

    def error(self, error: WsctlError) -> None:
        """Why the command failed: message, problems, hint; or the contract's error object with JSON."""
        if self.is_json:
            body = {"code": error.code, "message": error.message, "hint": error.hint, "details": error.details}
            whole = {"schema_version": SCHEMA_VERSION, "error": body}
            self._send(to_json(whole, ascii_only=not _encoding(self._stderr).startswith("utf")))
            return
        self._say(f"error: {error.message}")
        problems = getattr(error, "problems", ())
        for problem in problems:
            self._say(f"  {problem}")
        if error.hint:
            self._say(f"hint: {error.hint}")

    def _say(self, text: str) -> None:
        if self.is_json:
            return  # stderr then holds the error object or nothing, so that a program can read it
        # A line break inside of a message is indented, so that no untrusted text can pass for a message of its own.
        self._send(clean(text, keep="\n").rstrip("\n").replace("\n", "\n  "))

    def _send(self, line: str) -> None:
        if self._live is not None:
            self._live.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            self._write(self._stderr, line + "\n")

    @contextmanager
    def progress(self, total: int, label: str) -> Iterator[Progress]:
        """A bar on stderr while the block runs, if that is a terminal and not quiet; else nothing."""
        if self.verbosity < 0 or not self._tty(self._stderr) or _is_dumb():
            yield _NoProgress()
            return
        with _rich_progress(self._stderr, total, clean(label)) as (bar, console):
            self._live = console
            try:
                yield bar
            finally:
                self._live = None

    # ------------------------------------------------------------------------------------------------ the questions

    def confirm(self, question: str, *, yes: bool, flag: str = "--yes") -> None:
        """Return if the operator agrees or `yes`. Raises `Refused` if not, `ConfirmationRequired` if nobody's there."""
        if yes:
            return
        if not (self._tty(self._stdin) and self._tty(self._stderr)):
            raise ConfirmationRequired(
                f"{question} Nobody can be asked: this isn't a terminal", hint=f"repeat the command with {flag}"
            )
        answer = self._ask(f"{question} [y/N] ")
        if answer is None or answer.strip().lower() not in ("y", "yes"):
            raise Refused("not confirmed; nothing was changed")

    def typed(self, question: str, expected: str) -> None:
        """Return if the operator types `expected` exactly. stdin may be a pipe, for those who mean it."""
        answer = self._ask(f"{question}\nType {expected} to confirm: ")
        if answer is None:
            raise ConfirmationRequired(
                f"{question} This needs to be confirmed", hint=f"type {expected}, or pipe it to the command's stdin"
            )
        if answer.strip() != expected:
            raise Refused(f"not confirmed: {expected} was expected; nothing was changed")

    def _ask(self, question: str) -> str | None:
        self._write(self._stderr, clean(question, keep="\n"))
        line = self._stdin.readline()
        if not line:
            self._write(self._stderr, "\n")
        return line or None

    # -------------------------------------------------------------------------------------------------- the streams

    def _tty(self, stream: TextIO) -> bool:
        return self._is_tty if self._is_tty is not None else stream.isatty()

    def _write(self, stream: TextIO, text: str) -> None:
        """One write, so that threads don't mix their lines; what the stream's encoding lacks is shown escaped."""
        encoding = _encoding(stream)
        stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
        stream.flush()


def _encoding(stream: TextIO) -> str:
    return (getattr(stream, "encoding", None) or "utf-8").lower()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def _columns(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Columns two spaces apart, as wide as they need to be: nothing is cut, whatever reads it."""
    if len(cells) > MANY and all(cell.isascii() for row in cells for cell in row):
        return _ascii_columns([headings, *cells], right)
    from tabulate import tabulate

    align = ["right" if flag else "left" for flag in right]
    # The headings go in as a row: tabulate makes a column with a heading of its own wider than it needs to be.
    rows = [headings, *cells]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align, preserve_whitespace=True)
    return table.splitlines()


def _ascii_columns(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """The same of texts that are as wide as they are long, ten times as fast."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{'>' if flag else '<'}{width}}}" for flag, width in zip(right, widths, strict=True))
    return [form.format(*row) for row in rows]


def _for_terminal(
    lines: list[str], headings: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> list[str]:
    """The same columns with bold headings, their cells folded (never cut) if they are too wide for the terminal.

    Rich needs a quarter of a millisecond a cell, so it only draws what needs folding, and no table so long that nobody
    reads it line by line: that one is left to the terminal to wrap.
    """
    width = shutil.get_terminal_size().columns
    if any(_cells_wide(line) > width for line in lines) and len(cells) * len(headings) <= 2000:
        return _folded(headings, cells, right, width)
    return lines if os.environ.get("NO_COLOR") else [f"\x1b[1m{lines[0].rstrip()}\x1b[0m", *lines[1:]]


def _cells_wide(line: str) -> int:
    if line.isascii():
        return len(line)
    from rich.cells import cell_len

    return cell_len(line)


def _folded(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = "" if os.environ.get("NO_COLOR") else "bold"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=style)
    for heading, flag in zip(headings, right, strict=True):
        table.add_column(Text(heading), justify="right" if flag else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    buffer = StringIO()
    Console(file=buffer, force_terminal=True, highlight=False, legacy_windows=False, width=width).print(table)
    return buffer.getvalue().splitlines()


class _Bar:
    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance

    def advance(self, count: int = 1) -> None:
        self._advance(count)


@contextmanager
def _rich_progress(stream: TextIO, total: int, label: str) -> Iterator[tuple[_Bar, Console]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=stream, force_terminal=True, highlight=False)
    parts = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*parts, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task(label, total=total)
        yield _Bar(lambda count: progress.advance(task, count)), console


def abandon_stdout() -> None:
    """After a BrokenPipeError: point stdout to nowhere, so that the interpreter's own flush at exit stays silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
