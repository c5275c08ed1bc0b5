"""Collecting what is wrong with a file, so that an operator sees all of it at once.

Responsible for: positions, wording and order of problem lines, and for keeping control characters out of them. Not
responsible for: deciding what a problem is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from wsctl.errors import InventoryError
from wsctl.text import clean

_PLAIN_KEY = r"[A-Za-z0-9_.<-]{1,63}"


class Position(Protocol):
    """Anything that knows where in the file it stands, counted from one."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


def quote(text: str, limit: int = 48) -> str:
    """`text` in quotes as it may be shown: cut to `limit`, everything unprintable escaped."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def join(path: str, key: str) -> str:
    """The key path one level down; keys that aren't plain words are quoted."""
    step = key if re.fullmatch(_PLAIN_KEY, key) else quote(key)
    return f"{path}.{step}" if path else step


def suggestion(word: str, known: Iterable[str]) -> str:
    """'did you mean …?' if something known is close to `word`, else the empty string."""
    import difflib  # only mistakes need it

    close = difflib.get_close_matches(word.lower()[:63], list(known), n=1)
    return f"did you mean {quote(close[0])}?" if close else ""


class Problems:
    """The problems of one file, in the file's order, each once."""

    def __init__(self, file: str) -> None:
        self.file = clean(file)
        self._found: dict[tuple[int, int, str, str], str] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, at: Position, path: str, what: str) -> None:
        """Note a problem. The same one reached through several aliases of one block is noted once."""
        self._found.setdefault((at.line, at.column, path.rpartition(".")[2], what), path)

    def where(self, at: Position) -> str:
        """`file:line:column` of a position."""
        return f"{self.file}:{at.line}:{at.column}"

    def lines(self) -> tuple[str, ...]:
        """`file:line:column: key.path: what`, in the order of the file."""
        found = sorted(self._found.items(), key=lambda item: item[0][:2])
        return tuple(
            f"{self.file}:{line}:{column}: {path + ': ' if path else ''}{what}"
            for (line, column, _, what), path in found
        )

    def raise_any(self) -> None:
        """Raise everything found as one error; do nothing if nothing was."""
        count = len(self._found)
        if count:
            message = f"{count} problem{'' if count == 1 else 's'} in {self.file}"
            raise InventoryError(message, problems=self.lines(), hint="wsctl inventory check")
