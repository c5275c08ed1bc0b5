"""What the executor knows of kinds of steps, and the words for a lost race.

Responsible for: which steps write to the state database, which touch a container or files, and the errors of a
compare-and-swap that lost. Not responsible for: doing any of them (`executor`, `movework`, `failwork`).
"""

from __future__ import annotations

from wsctl.errors import StaleGeneration
from wsctl.failsteps import DropLeft, DropStandby, Fenced, KeepLeft, PromoteStandby, RestoreBackup, TakeOver
from wsctl.plan import (
    BeginMove,
    CheckCopy,
    Claim,
    CopyPass,
    CreateContainer,
    DiscardCopy,
    DropCopy,
    InstallCopy,
    KeepSource,
    MarkNode,
    PrepareTarget,
    PurgeData,
    QuarantineContainer,
    Release,
    RemoveContainer,
    Reserve,
    Settle,
    StartContainer,
    StopContainer,
    SwapPlacement,
    UnpauseContainer,
    VerifyCopy,
)
from wsctl.records import Conflict

FILES = (
    CheckCopy, PrepareTarget, CopyPass, VerifyCopy, InstallCopy, KeepSource, DiscardCopy, DropCopy,
)  # fmt: skip
FAILING = (PromoteStandby, RestoreBackup, DropStandby, KeepLeft, DropLeft, Fenced)
WRITES = (Reserve, Claim, Settle, Release, MarkNode, BeginMove, SwapPlacement, TakeOver)
FENCED = (
    CreateContainer, StartContainer, StopContainer, UnpauseContainer, RemoveContainer, QuarantineContainer, PurgeData,
    *FILES, *FAILING,
)  # fmt: skip

CONFLICTS = {
    Conflict.USER_EXISTS: "somebody else placed the user first",
    Conflict.PORT_TAKEN: "somebody else took the port first",
    Conflict.NODE_FULL: "somebody else took the last room",
    Conflict.STALE: "somebody placed and removed the user since",
    Conflict.NODE_MARKED: "somebody cordoned it, is emptying it, or marked it down",
}


def changed(user: str, generation: int) -> StaleGeneration:
    """The error for a write that began an operation too late."""
    return _moved(user, generation, ": somebody else changed it")


def stale(user: str, generation: int) -> StaleGeneration:
    """The error for a write within an operation that was overtaken."""
    return _moved(user, generation, " while this command worked on it")


def _moved(user: str, generation: int, how: str) -> StaleGeneration:
    return StaleGeneration(
        f"the placement of {user} moved past generation {generation}{how}",
        hint=f"wsctl show {user}",
        details={"user": user, "generation": generation},
    )
