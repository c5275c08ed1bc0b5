"""What surviving a dead node is made of, as values: standby copies, what a failed node has left, how far to go.

Responsible for: these values and their words. Not responsible for: which copy is used (`planner.failover`), where one
is made (`planner.standby`), nor for doing either. Beside `moving`, below everything else: standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Standby:
    """A copy of a user's files on another node than theirs. `as_of` is when the copying began that made it what it is:
    whatever the user had written by then is in it. None: it was begun and never was complete.

    `source` is the node that it is a copy of, `generation` the placement's then, and `seen_at` the clock of the source
    at that moment, in microseconds since 1970: only that one can be compared with the times of its files.
    """

    user: str
    node: str
    source: str
    generation: int = 0
    seen_at: int = 0
    as_of: datetime | None = None
    finished_at: datetime | None = None
    bytes: int | None = None


def by_user(copies: Iterable[Standby]) -> dict[str, tuple[Standby, ...]]:
    """The copies of each user, in the given order."""
    found: dict[str, list[Standby]] = {}
    for copy in copies:
        found.setdefault(copy.user, []).append(copy)
    return {user: tuple(theirs) for user, theirs in found.items()}


KEEP_LEFT_S = 86_400.0
"""How long files are kept that nothing speaks for any more."""


class LeftState(StrEnum):
    """What became of the files on a node that failed, when their user went on elsewhere."""

    BEHIND = "behind"
    """Still in their old place: the node hasn't answered since."""
    NOTHING = "nothing"
    """There are none, for every node sees them. A container may be there."""
    CONFLICT = "conflict"
    """Put aside, and some are newer than the copy with which the user went on: an operator decides."""
    KEPT = "kept"
    """Put aside until their time is over: nothing is newer, or an operator has decided."""


@dataclass(frozen=True, slots=True)
class LeftFiles:
    """Files of a user on a node that failed; the user went on elsewhere from a copy of the moment `seen_at`, in
    microseconds since 1970 by that node's clock (0: from nothing that these files can be compared with). `generation`
    is that of their last container there. `expired`: their time is over."""

    user: str
    node: str
    generation: int
    seen_at: int
    state: LeftState = LeftState.BEHIND
    newer_files: int | None = None
    newer_bytes: int | None = None
    expired: bool = False

    @property
    def name(self) -> str:
        """Their folder among the kept copies of the node."""
        return f"{self.user}-failed-{self.generation}"


class FailoverPolicy(StrEnum):
    """Who decides that the users of a dead node go on elsewhere."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


class DataLoss(StrEnum):
    """What becomes of users whose files are on the dead node only."""

    NEVER = "never"
    """They stay down until the node is back."""
    ACCEPT = "accept"
    """They go on without those files."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The newest snapshot of a user in the repository of backups: their files as they were `at` on `node`."""

    snapshot: str
    node: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Backups:
    """What failing over knows of backups, by user. `unknown` says why they couldn't be listed: then nobody starts
    without files, for there may be some."""

    newest: Mapping[str, Backup] = field(default_factory=dict)
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class FailoverRules:
    """How far a failover may go. `max_age_s`: older standby copies count as none (None: any age will do), measured at
    `now`. `backups` are used where there is no copy and the loss of what is newer is accepted."""

    now: datetime
    loss: DataLoss = DataLoss.NEVER
    max_age_s: float | None = None
    backups: Backups = field(default_factory=Backups)
