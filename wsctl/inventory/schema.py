"""Table → JSON Schema (draft 2020-12), for completion and hover texts in editors.

Responsible for: `wsctl inventory schema`. Not responsible for: being as strict as `load`: an editor that accepts a
little more is better than one that marks a good file as wrong.
"""

from __future__ import annotations

from typing import Any

from wsctl.inventory.kinds import Key, Kind, ListOf, MapOf, Section
from wsctl.inventory.scalars import Text
from wsctl.inventory.table import ROOT

Data = dict[str, Any]


def json_schema() -> Data:
    """The schema of an inventory."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wsctl inventory",
        "description": "The nodes of one cluster, and the workspace every user gets.",
        **_section(ROOT),
    }


def _section(section: Section) -> Data:
    required = [name for name, key in section.keys.items() if key.required]
    return {
        "type": "object",
        "properties": {name: _key(key) for name, key in section.keys.items()},
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
    } | ({"required": required} if required else {})


def _key(key: Key) -> Data:
    schema = _kind(key.kind)
    if not key.required and (key.null is not None or isinstance(key.kind, Section | MapOf)):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return {"description": describe(key), **schema}


def describe(key: Key) -> str:
    """What the key is for, and what null and absence mean, as one text."""
    parts = [key.doc]
    if key.null is not None:
        parts.append(f"null: {key.null}.")
    if key.default is not None:
        parts.append(f"Default: {key.default}.")
    return " ".join(parts)


def _kind(kind: Kind) -> Data:
    if isinstance(kind, Text):
        return dict(kind.schema)
    if isinstance(kind, ListOf):
        return {"type": "array", "items": dict(kind.item.schema), "minItems": 1}
    if isinstance(kind, MapOf):
        names = {"pattern": kind.name.schema["pattern"]} if "pattern" in kind.name.schema else {}
        free: Data = {"patternProperties": {"^x-": {}}} if kind.reserved else {}
        if kind.reserved and names:
            names = {"pattern": f"^x-|{names['pattern']}"}
        schema = _kind(kind.value)
        value = {"anyOf": [schema, {"type": "null"}]} if isinstance(kind.value, Section) else schema
        return {"type": "object", "propertyNames": names, "additionalProperties": value} | free
    return _section(kind)
