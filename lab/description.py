"""lab.json: what a lab consists of. What is running is never written down: that is asked of the kernel.

Not here: making any of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.shell import LabError, write_atomically

FILE = "lab.json"


@dataclass(frozen=True)
class NodeDescription:
    """What is decided about a node once and for all."""

    name: str
    index: int
    small_disk: bool = False


@dataclass(frozen=True)
class Description:
    """What is decided about a lab; nodes may be added, and services."""

    name: str
    number: int  # K of 10.213.K.0/24
    nodes: tuple[NodeDescription, ...] = ()
    ports: dict[str, int] = field(default_factory=dict)  # by service; none without services

    @property
    def services(self) -> bool:
        return bool(self.ports)


def load(folder: Path) -> Description | None:
    """The lab in a folder, or nothing if there is none."""
    path = folder / FILE
    try:
        data = json.loads(path.read_text())
        nodes = tuple(NodeDescription(**node) for node in data.pop("nodes"))
        return Description(nodes=nodes, **data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"{path} can't be read ({error}): `python -m lab down`, then up") from error


def save(folder: Path, description: Description) -> None:
    """Write it for the next process to find."""
    write_atomically(folder / FILE, json.dumps(asdict(description), indent=2) + "\n")


def numbers_in_use(root: Path) -> set[int]:
    """The K of every lab described under a root, also of those that are not running."""
    found = set()
    for path in root.glob(f"*/{FILE}"):
        try:
            found.add(int(json.loads(path.read_text())["number"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written or broken: its own `down` deals with it
    return found
