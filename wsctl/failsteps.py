"""The steps of surviving a dead node, as values: what `plan` is for everything else.

Responsible for: these step types and their text. Not responsible for: choosing them (`planner.failover`,
`planner.reconcile`) or doing them (`failwork`, `executor`). Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from wsctl.model import Capacity, PlacementState, Resources
from wsctl.plan import Step


@dataclass(frozen=True, slots=True)
class PromoteStandby(Step):
    """Give a standby copy the place that a workspace's files have on its node; what is there is put aside."""

    verb: ClassVar[str] = "promote"
    as_of: datetime | None

    def text(self) -> str:
        return f"the standby copy of {self.user} on {self.node}"


@dataclass(frozen=True, slots=True)
class RestoreBackup(Step):
    """Put a snapshot of the repository of backups in the place of a user's files; what is there is put aside."""

    verb: ClassVar[str] = "restore"
    snapshot: str
    at: datetime

    def text(self) -> str:
        return f"the backup of {self.user} on {self.node}, snapshot {self.snapshot[:8]}"


@dataclass(frozen=True, slots=True)
class TakeOver(Step):
    """Make `node` the user's, by compare-and-swap: port and room are taken there and given back on the dead one, all at
    once. `leaves_files`: the dead node has files of theirs, newer than `seen_at` on its clock perhaps."""

    verb: ClassVar[str] = "takeover"
    source: str
    address: str
    port: int
    resources: Resources
    capacity: Capacity
    generation: int
    state: PlacementState
    leaves_files: bool = False
    seen_at: int = 0

    def text(self) -> str:
        where = f"from {self.source} to {self.node} port {self.port}"
        return f"{self.user} {where} as {self.state}, generation {self.generation + 1}"


@dataclass(frozen=True, slots=True)
class KeepLeft(Step):
    """Put aside the files of a user on a node that failed and is back, and count those that are newer than the copy
    with which the user went on."""

    verb: ClassVar[str] = "aside"
    generation: int

    def text(self) -> str:
        return f"files of {self.user} on {self.node}, from before it failed"


@dataclass(frozen=True, slots=True)
class Fenced(Step):
    """Record that nothing of the user is on a node that failed and is back that could do harm, or be lost."""

    verb: ClassVar[str] = "fenced"
    generation: int

    def text(self) -> str:
        return f"{self.user} on {self.node}: nothing of theirs is left there"


@dataclass(frozen=True, slots=True)
class DropLeft(Step):
    """Delete files that were put aside on a node that had failed and whose time is over."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "drop"
    generation: int

    def text(self) -> str:
        return f"the files of {self.user} on {self.node} from before it failed, for good"


@dataclass(frozen=True, slots=True)
class DropStandby(Step):
    """Delete a standby copy: nobody ever worked on it."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "drop"

    def text(self) -> str:
        return f"the standby copy of {self.user} on {self.node}"
