"""File → inventory, or every reason why not.

Responsible for: the order of the steps and where they stop: nothing is typed before the file is syntactically whole,
nothing is compared before each value is fine. Not responsible for: any of the steps.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from wsctl.errors import InventoryError
from wsctl.inventory.build import build
from wsctl.inventory.checks import (
    check_gateway_mode,
    check_gateways,
    check_machines,
    check_nodes_given,
    check_notice,
    check_watch,
    descend,
    warnings,
)
from wsctl.inventory.document import Scalar, Value, compose, read_text
from wsctl.inventory.problems import Problems, quote
from wsctl.inventory.reader import Reader
from wsctl.inventory.settings import Inventory
from wsctl.inventory.table import ROOT
from wsctl.text import clean


def load(path: Path) -> Inventory:
    """The inventory in `path`. Raises `InventoryError` with all problems, each `file:line:column: key.path: …`."""
    return parse(read_text(path), path)


def parse(text: str, path: Path) -> Inventory:
    """The inventory in `text`, as if it stood in `path`: relative files are relative to its folder."""
    problems = Problems(str(path))
    tree = compose(text, problems)
    if tree is None or (isinstance(tree, Scalar) and tree.is_null):
        problems.raise_any()
        raise InventoryError(f"{clean(str(path))} holds nothing but comments", hint="`wsctl init` writes one")
    if not _known_version(tree, problems):
        problems.raise_any()
    values = Reader(problems).section(ROOT, tree, "")
    check_nodes_given(tree, values, problems)
    problems.raise_any()
    inventory = build(path, values)
    check_machines(inventory, tree, problems)
    check_gateways(inventory, tree, problems)
    check_notice(inventory, tree, problems)
    check_watch(inventory, tree, problems)
    check_gateway_mode(inventory, tree, problems)
    problems.raise_any()
    return replace(
        inventory,
        origins={name: problems.where(entry[0]) for name in inventory.nodes if (entry := descend(tree, "nodes", name))},
        warnings=tuple(warnings(inventory, tree, problems)),
    )


def _known_version(tree: Value, problems: Problems) -> bool:
    """Whether the rest may be judged by this program's table: complaints about a newer format would only mislead."""
    entry = descend(tree, "version")
    if entry is None:
        return True
    value = entry[1]
    if not isinstance(value, Scalar) or not re.fullmatch(r"[1-9][0-9]*", value.text, re.ASCII) or value.text == "1":
        return True  # the reader judges it
    problems.add(value, "version", f"{quote(value.text)} is of another wsctl, expected 1: this wsctl knows version 1")
    return False
