"""Which file is the inventory.

Responsible for: the order of places and the message when there is none. Not responsible for: whether the file is any
good (`loading`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsctl.errors import InventoryError
from wsctl.text import clean

FILE_NAME = "inventory.yaml"
SYSTEM_FILE = Path("/etc/wsctl") / FILE_NAME


def find(explicit: Path | None, env: Mapping[str, str], cwd: Path, *, system: Path = SYSTEM_FILE) -> Path:
    """The file that `-i` or `WSCTL_INVENTORY` names (there or not: `load` says), else the first usual one there is."""
    named = explicit or (Path(env["WSCTL_INVENTORY"]) if env.get("WSCTL_INVENTORY") else None)
    if named is not None:
        return cwd / named
    looked = []
    for place in _places(env, cwd, system):
        if os.path.lexists(place):  # a dangling link is somebody's intent: it is found, and `load` complains
            return place
        looked.append(clean(str(place)))
    raise InventoryError(
        f"there is no inventory; looked for -i, WSCTL_INVENTORY, {', '.join(looked)}",
        hint="`wsctl init` writes one to start from",
    )


def _places(env: Mapping[str, str], cwd: Path, system: Path) -> Iterator[Path]:
    yield cwd / FILE_NAME
    config = env.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(config):  # a relative one is to be ignored, says the XDG specification
        yield Path(config) / "wsctl" / FILE_NAME
    elif env.get("HOME"):
        yield Path(env["HOME"]) / ".config" / "wsctl" / FILE_NAME
    yield system
