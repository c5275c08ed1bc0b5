"""Tree → typed values, by the table, noting every problem on the way.

Responsible for: unknown, missing and misspelt keys, values of the wrong shape, and asking each kind's parser.
Not responsible for: defaults and merging (`build`), nor for rules between keys (`checks`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsctl.inventory.document import Items, Scalar, Table, Value
from wsctl.inventory.kinds import Key, Kind, ListOf, MapOf, Section, Values
from wsctl.inventory.problems import Problems, join, quote, suggestion
from wsctl.inventory.scalars import Text

INVALID: Final = object()
"""Stands for a value that couldn't be read; the problem has been noted."""


class Reader:
    """Reads one tree. A value with a problem is left out, so that the rest is still checked."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._known: dict[tuple[int, str], Any] = {}  # nodes repeat each other: most texts are parsed once

    def section(self, kind: Section, tree: Value, path: str) -> Values:
        """The keys of a section that were given and are fine."""
        values: Values = {}
        table = self._table(tree, path)
        if table is None:
            return values
        for name, (at, value) in table.entries.items():
            key = kind.keys.get(name)
            if key is None:
                if not name.startswith("x-"):
                    self._problems.add(at, join(path, name), _unknown(name, kind))
                continue
            read = self._key(key, value, f"{path}.{name}" if path else name)
            if read is not INVALID:
                values[name] = read
        for name, key in kind.keys.items():
            if key.required and name not in table.entries:
                self._problems.add(table, join(path, name), f"missing, expected {expected(key.kind)}")
        return values

    def _key(self, key: Key, value: Value, path: str) -> Any:
        if isinstance(value, Scalar) and value.is_null:
            if key.null is not None:
                return None
            if isinstance(key.kind, Text | ListOf):
                self._problems.add(value, path, f"no value, expected {expected(key.kind)}")
                return INVALID
        return self._value(key.kind, value, path)

    def _value(self, kind: Kind, value: Value, path: str) -> Any:
        if isinstance(kind, Text):
            return self._text(kind, value, path)
        if isinstance(kind, ListOf):
            return self._list(kind, value, path)
        if isinstance(kind, MapOf):
            return self._map(kind, value, path)
        if kind.make is None:
            return self.section(kind, value, path)
        return self._made(kind, kind.make, value, path)

    def _made(self, kind: Section, make: Callable[[Values], Any], value: Value, path: str) -> Any:
        before = len(self._problems)
        values = self.section(kind, value, path)
        if len(self._problems) > before:
            return INVALID
        try:
            return make(values)
        except ValueError as error:
            self._problems.add(value, path, str(error))
            return INVALID

    def _text(self, kind: Text, value: Value, path: str) -> Any:
        if not isinstance(value, Scalar):
            self._problems.add(value, path, f"{_shape(value)}, expected {kind.expected}")
            return INVALID
        if value.is_null:
            self._problems.add(value, path, f"no value, expected {kind.expected} (in quotes if it is meant so)")
            return INVALID
        key = (id(kind), value.text)
        if key not in self._known:
            try:
                self._known[key] = kind.parse(value.text)
            except ValueError as error:
                self._problems.add(value, path, _refused(kind, value.text, str(error)))
                return INVALID
        return self._known[key]

    def _list(self, kind: ListOf, value: Value, path: str) -> Any:
        if not isinstance(value, Items):
            instead = f' (write ["sh", "-c", {quote(value.text)}])' if isinstance(value, Scalar) else ""
            self._problems.add(value, path, f"{_shape(value)}, expected {kind.expected}{instead}")
            return INVALID
        if not value.items:
            self._problems.add(value, path, f"an empty list, expected {kind.expected}, or null")
            return INVALID
        read = [self._text(kind.item, item, f"{path}[{index}]") for index, item in enumerate(value.items)]
        return INVALID if any(item is INVALID for item in read) else tuple(read)

    def _map(self, kind: MapOf, value: Value, path: str) -> Values:
        values: Values = {}
        table = self._table(value, path)
        for name, (at, entry) in table.entries.items() if table else ():
            if kind.reserved and name.startswith("x-"):
                continue
            where = join(path, name)
            try:
                kind.name.parse(name)
            except ValueError as error:
                self._problems.add(at, where, _refused(kind.name, name, str(error)))
            if kind.refuse and name in kind.refuse:
                self._problems.add(at, where, f"{quote(name)} is {kind.refuse[name]}, expected another name")
            read = self._value(kind.value, entry, where)
            if read is not INVALID:
                values[name] = read
        return values

    def _table(self, value: Value, path: str) -> Table | None:
        """The mapping itself; nothing at all counts as an empty one (all its keys may be commented out)."""
        if isinstance(value, Table):
            return value
        if isinstance(value, Scalar) and value.is_null:
            return Table(value.line, value.column)
        self._problems.add(value, path, f"{_shape(value)}, expected a mapping of keys to values")
        return None


def expected(kind: Kind) -> str:
    """What a value of the kind looks like, for messages."""
    return kind.expected if isinstance(kind, Text | ListOf) else "a mapping of keys to values"


def _refused(kind: Text, text: str, reason: str) -> str:
    if kind.secret:
        return f"the URL {reason or 'is malformed'}, expected {kind.expected}"
    return f"{quote(text)} {reason}, expected {kind.expected}" if reason else f"{quote(text)}, expected {kind.expected}"


def _shape(value: Value) -> str:
    if isinstance(value, Scalar):
        return quote(value.text)
    return "a list" if isinstance(value, Items) else "a mapping"


def _unknown(name: str, kind: Section) -> str:
    """'unknown key', and the key that was probably meant: one of this section, or of a section below it."""
    inner = [f"{outer}.{name}" for outer, key in kind.keys.items() if _has(key.kind, name)]
    if inner:
        return f"unknown key, did you mean {quote(inner[0])}?"
    close = suggestion(name, kind.keys)
    return f"unknown key, {close}" if close else f"unknown key, expected one of {', '.join(kind.keys)}"


def _has(kind: Kind, name: str) -> bool:
    return isinstance(kind, Section) and name in kind.keys
