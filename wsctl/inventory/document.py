"""Bytes → a tree of texts with positions, before anything has a type.

Responsible for: reading the file, YAML's syntax, duplicate keys, anchors, aliases and merge keys, and refusing what is
no honest inventory (binary, huge, self-referring, exploding, tagged). Not responsible for: what keys and values mean.

It works on YAML *events*, not on PyYAML's objects, for two reasons: a plain scalar stays the text that was written
(YAML 1.1 would read `no` as False, `22:22` as 1342, `012` as 10), and nesting is bounded by our own stack, where
PyYAML's composer would overflow the C stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from wsctl.errors import InventoryError
from wsctl.inventory.problems import Problems, join, quote
from wsctl.text import clean

MAX_BYTES = 5 * 1024**2
_MAX_DEPTH = 32
_MAX_VALUES = 500_000  # after all aliases are followed; 10,000 nodes of 50 values
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_INIT = "`wsctl init` writes one to start from"


# Plain classes: there may be a million of these, and defining a dataclass costs each command half a millisecond.


class Scalar:
    """One value as it was written. `plain` means: without quotes and not a block of text."""

    __slots__ = ("column", "line", "plain", "text")

    def __init__(self, text: str, plain: bool, line: int, column: int) -> None:
        self.text = text
        self.plain = plain
        self.line = line
        self.column = column

    @property
    def is_null(self) -> bool:
        """Whether nothing, `~` or `null` was written."""
        return self.plain and self.text in _NULLS


class Items:
    """A list."""

    __slots__ = ("column", "items", "line")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Value] = []
        self.line = line
        self.column = column


class Table:
    """A mapping: key → (the key as written, its value). Merge keys are already followed."""

    __slots__ = ("column", "entries", "line")

    def __init__(self, line: int, column: int) -> None:
        self.entries: dict[str, tuple[Scalar, Value]] = {}
        self.line = line
        self.column = column


Value = Scalar | Items | Table


class _Place(NamedTuple):
    line: int
    column: int


class _Stop(Exception):
    """The rest of the file can't be read or mustn't be."""

    def __init__(self, at: _Place, what: str) -> None:
        super().__init__(what)
        self.at = at
        self.what = what


def read_text(path: Path) -> str:
    """The file's text. Everything that isn't a readable text file of sane size is an `InventoryError`."""
    name = clean(str(path))
    data = _read_bytes(path, name)
    if len(data) > MAX_BYTES:
        raise InventoryError(f"{name} is larger than {MAX_BYTES // 1024**2} MiB, which no inventory is", hint=_INIT)
    if not data.strip():
        raise InventoryError(f"{name} is empty", hint=_INIT)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"{name} isn't text in UTF-8 (byte 0x{data[error.start]:02x} in line {line})"
        raise InventoryError(what, hint=_INIT) from error
    if "\0" in text:
        raise InventoryError(f"{name} is a binary file, not YAML text", hint=_INIT)
    return text


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InventoryError(f"there is no inventory {name}", hint=_INIT) from error
    except IsADirectoryError as error:
        raise InventoryError(f"{name} is a directory, not an inventory", hint="name the file inside it") from error
    except PermissionError as error:
        raise InventoryError(f"{name} may not be read by this user", hint=f"check `ls -l {name}`") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path itself
        raise InventoryError(
            f"{name} can't be read: {getattr(error, 'strerror', None) or error}", hint=_INIT
        ) from error


def compose(text: str, problems: Problems) -> Value | None:
    """The tree of the one document in `text`; None when it is broken beyond reading. Problems are noted, not raised."""
    bad = re.search(_UNPRINTABLE, text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        problems.add(_Place(line, column), "", f"control character {bad[0]!r}, expected printable text")
        return None
    composer = _Composer(problems)
    try:
        for event in _events(text):
            composer.take(event)
    except _Stop as stop:
        problems.add(stop.at, "", stop.what)
        return None
    return composer.root


def _events(text: str) -> Iterator[Any]:
    """PyYAML's events; its errors become `_Stop`."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from cast("Iterator[Any]", yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = _Place(mark.line + 1, mark.column + 1) if mark else _Place(1, 1)
        raise _Stop(at, _explain(error, text, at)) from error
    except yaml.YAMLError as error:
        raise _Stop(_Place(1, 1), f"not valid YAML: {quote(str(error), 120)}") from error


def _explain(error: Any, text: str, at: _Place) -> str:
    """PyYAML's own words, and the character they are about, which libyaml leaves out."""
    told = f"not valid YAML: {error.problem or 'malformed'}" + (f" {error.context}" if error.context else "")
    line = text.split("\n")[at.line - 1 : at.line]
    found = line[0][at.column - 1 : at.column] if line else ""
    if found == "\t":
        return clean(told) + "; there is a tab, and YAML indents with spaces"
    return clean(told) + (f"; there is {quote(found)}" if found in ("@", "`") else "")


class _Frame:
    """A list or mapping that isn't closed yet. `size` counts its values with every alias followed."""

    __slots__ = ("anchor", "awaits_value", "key", "merges", "path", "size", "value")

    def __init__(self, value: Items | Table, anchor: str | None, path: str) -> None:
        self.value = value
        self.anchor = anchor
        self.path = path
        self.size = 1
        self.key: Scalar | None = None
        self.awaits_value = False
        self.merges: tuple[Scalar, Value] | None = None


class _Composer:
    """Builds the tree from events with its own stack."""

    def __init__(self, problems: Problems) -> None:
        self.root: Value | None = None
        self._problems = problems
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Value, int] | None] = {}  # None while the anchored value is still open
        self._documents = 0
        self._take: dict[str, Callable[[Any, int, int], None]] = {
            "ScalarEvent": self._scalar,
            "AliasEvent": self._alias,
            "MappingStartEvent": self._open_table,
            "SequenceStartEvent": self._open_items,
            "MappingEndEvent": self._close,
            "SequenceEndEvent": self._close,
            "DocumentStartEvent": self._document,
        }

    def take(self, event: Any) -> None:
        """The next event."""
        handler = self._take.get(type(event).__name__)
        if handler is not None:
            mark = event.start_mark
            handler(event, mark.line + 1, mark.column + 1)

    def _document(self, _: Any, line: int, column: int) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _Stop(_Place(line, column), "a second document begins, expected only one in the file")

    def _scalar(self, event: Any, line: int, column: int) -> None:
        tag = event.tag
        if tag is not None and tag not in _TEXT_TAGS:
            self._refuse_tag(tag, line, column)
        scalar = Scalar(event.value, tag is None and event.implicit[0], line, column)
        if event.anchor is not None:
            self._anchors[event.anchor] = (scalar, 1)
        self._put(scalar, 1)

    def _alias(self, event: Any, line: int, column: int) -> None:
        name = event.anchor
        if name not in self._anchors:
            raise _Stop(_Place(line, column), f"alias {quote('*' + name)} has no anchor {quote('&' + name)} before it")
        target = self._anchors[name]
        if target is None:
            raise _Stop(_Place(line, column), f"alias {quote('*' + name)} refers to the block that contains it")
        value, size = target
        if isinstance(value, Scalar):  # the text is the anchor's, the place is where it is used
            value = Scalar(value.text, value.plain, line, column)
        self._put(value, size, _Place(line, column))

    def _open_table(self, event: Any, line: int, column: int) -> None:
        self._open(Table(line, column), event, line, column)

    def _open_items(self, event: Any, line: int, column: int) -> None:
        self._open(Items(line, column), event, line, column)

    def _open(self, value: Items | Table, event: Any, line: int, column: int) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise _Stop(_Place(line, column), f"nested deeper than {_MAX_DEPTH} levels")
        if event.tag is not None and event.tag != "!":
            self._refuse_tag(event.tag, line, column)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(value, event.anchor, self._path()))

    def _close(self, *_: object) -> None:
        frame = self._stack.pop()
        if frame.merges is not None and isinstance(frame.value, Table):
            self._merge(frame.value, *frame.merges, frame.path)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.value, frame.size)
        self._put(frame.value, frame.size)

    def _put(self, value: Value, size: int, at: _Place | None = None) -> None:
        """Hand a finished value to whatever it stands in."""
        if not self._stack:
            self.root = value
            return
        frame = self._stack[-1]
        frame.size += size
        if frame.size > _MAX_VALUES:
            place = at or _Place(value.line, value.column)
            raise _Stop(place, f"more than {_MAX_VALUES:,} values once aliases are followed, which no inventory has")
        if isinstance(frame.value, Items):
            frame.value.items.append(value)
        elif frame.awaits_value:
            self._put_value(frame, frame.value, value)
        else:
            self._put_key(frame, value)

    def _put_key(self, frame: _Frame, key: Value) -> None:
        frame.awaits_value = True
        frame.key = key if isinstance(key, Scalar) else None
        if frame.key is None:
            what = "a list or mapping as a key, expected a word (text that begins with { or [ needs quotes)"
            self._problems.add(key, frame.path, what)

    def _put_value(self, frame: _Frame, table: Table, value: Value) -> None:
        frame.awaits_value = False
        key = frame.key
        if key is None:
            return
        if key.plain and key.text == "<<":
            if frame.merges is not None:
                self._problems.add(key, join(frame.path, "<<"), "duplicate key, expected one `<<` with a list")
            frame.merges = (key, value)
        elif key.text in table.entries:
            first = table.entries[key.text][0]
            self._problems.add(key, join(frame.path, key.text), f"duplicate key, first set in line {first.line}")
        else:
            table.entries[key.text] = (key, value)

    def _merge(self, table: Table, key: Scalar, value: Value, path: str) -> None:
        """Follow `<<`: what the mapping says itself wins, then the sources in their order."""
        for source in value.items if isinstance(value, Items) else [value]:
            if not isinstance(source, Table):
                what = "not a mapping, expected an alias of one, or a list of such aliases"
                self._problems.add(key, join(path, "<<"), what)
                continue
            for name, entry in source.entries.items():
                table.entries.setdefault(name, entry)

    def _path(self) -> str:
        if not self._stack:
            return ""
        frame = self._stack[-1]
        return join(frame.path, frame.key.text) if frame.key is not None else frame.path

    def _refuse_tag(self, tag: str, line: int, column: int) -> None:
        self._problems.add(_Place(line, column), self._path(), f"tag {quote(tag)}, expected plain YAML without tags")
