"""The shapes a value of the inventory can have, and what a key is.

Responsible for: the vocabulary that `table` is written in. Not responsible for: reading values of these shapes
(`reader`), describing them (`schema`, `docs`), nor for which keys exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wsctl.inventory.scalars import Text

# Tuples and not dataclasses here and in `scalars`: defining one is three times as fast, which every command pays.

Values = dict[str, Any]
"""What was read of a section: key → typed value, only for the keys that were given."""


class ListOf(NamedTuple):
    """A list of at least one scalar, read as a tuple."""

    item: Text
    expected: str


class MapOf(NamedTuple):
    """A mapping from names that the operator chooses. With `reserved`, `x-` names are free text, as among keys."""

    name: Text
    value: Kind
    placeholder: str
    reserved: bool = False
    refuse: Mapping[str, str] | None = None


class Section(NamedTuple):
    """A mapping with fixed keys. With `make`, its values become one value, and layers replace it as a whole."""

    keys: Mapping[str, Key]
    make: Callable[[Values], Any] | None = None


Kind = Text | ListOf | MapOf | Section


class Key(NamedTuple):
    """One key: what it takes, what it is for, what it means when absent (`default`, as it would be written).

    `null` says what a written `null` means; without it, `null` is refused. Where there is no default, absent is null.
    """

    kind: Kind
    doc: str
    default: str | None = None
    required: bool = False
    null: str | None = None


def section(make: Callable[[Values], Any] | None = None, **keys: Key) -> Section:
    """A section from its keys, in the order they are documented."""
    return Section(keys, make)
