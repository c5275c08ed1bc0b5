"""The inventory: what the operator wrote about the cluster, checked and complete.

Responsible for: YAML → `Inventory`, with every problem at once and where it stands; finding the file; showing it,
its schema and its reference page; writing one to start from. Not responsible for: reaching what it names.

    find(explicit, env, cwd)   which file to load
    load(path)                 the inventory, or InventoryError with all problems
    effective(inventory)       everything resolved, as plain data; render_effective_yaml(inventory): as text
    json_schema()              for editors
    starter(nodes, …)          the text that `wsctl init` writes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsctl.inventory.finding import find
from wsctl.inventory.loading import load, parse
from wsctl.inventory.settings import Inventory, StateSettings
from wsctl.routes import GatewaySettings

if TYPE_CHECKING:
    from wsctl.inventory.schema import json_schema
    from wsctl.inventory.show import effective, render_effective_yaml
    from wsctl.inventory.starting import starter

__all__ = [
    "GatewaySettings",
    "Inventory",
    "StateSettings",
    "effective",
    "find",
    "json_schema",
    "load",
    "parse",
    "render_effective_yaml",
    "starter",
]

_RARELY = {
    "effective": "show",
    "json_schema": "schema",
    "render_effective_yaml": "show",
    "starter": "starting",
}


def __getattr__(name: str) -> Any:
    """What only `init` and `inventory show|schema` need is imported when they ask for it."""
    if name in _RARELY:
        return getattr(import_module(f"wsctl.inventory.{_RARELY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
