"""What surviving a dead node asks of the world: standby copies of files, and what is recorded of them.

Responsible for: the contract between the core and the adapters, as in `ports`. Not responsible for: any implementation
(`transport.standby_files`, `store.standbys`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wsctl.failsteps import TakeOver
from wsctl.model import Placement, PlacementState
from wsctl.moveports import Way
from wsctl.moving import Pass
from wsctl.records import AuditEntry, Conflict
from wsctl.standbys import LeftFiles, Standby


@dataclass(frozen=True, slots=True)
class SourceMark:
    """A user's folder at the moment before it is copied: which one it is (`inode`), and when, in microseconds since
    1970 by the node's clock."""

    inode: int
    at: int


@dataclass(frozen=True, slots=True)
class Newer:
    """How many files, and bytes, are newer than a moment."""

    files: int
    bytes: int


class StandbyFiles(Protocol):
    """Standby copies on the nodes: `<root>/.wsctl-standby/<user>`, each complete as it was at one moment. A newer one
    is made beside it and takes its place when it is complete: an interrupted copying costs nothing but its time.

    Every method is safe to repeat, after a crash at any point too. Raises `NodeUnreachable` when no answer came (the
    effect may have happened) and `FilesError` when a node refused.
    """

    def begin(self, way: Way) -> SourceMark:
        """Make the target ready: what is beside the complete copy shares its files until they change, or is what an
        interrupted copying has left."""

    def bring(self, way: Way, *, bwlimit: int | None) -> Pass:
        """Make what is beside the complete copy like the source, whose user may be working. `bwlimit` in bytes a
        second."""

    def complete(self, way: Way, mark: SourceMark) -> int:
        """Put what was brought in the complete copy's place, unless the source's folder was replaced since `mark`
        (`FilesError`); how many bytes it holds."""

    def finish(self, way: Way) -> None:
        """Take back key and permission of this copying, if they were given. Never raises."""

    def promote(self, node: str, root: str, user: str) -> str | None:
        """Make the complete copy the user's files on the node, in one step. Files of theirs that are there already are
        put aside: the name they are kept under, or None."""

    def drop(self, node: str, root: str, user: str) -> None:
        """End copying of the user to the node and delete their standby copy there. Never anything else."""

    def keep_left(self, node: str, root: str, left: LeftFiles) -> Newer:
        """Put the user's files aside under the name of `left`, in one step; those that are newer than its moment."""


class StandbyStore(Protocol):
    """What `Store` promises about standby copies and failovers; all of what is said there holds here too."""

    def standbys(self, user: str | None = None) -> list[Standby]:
        """All standby copies, or those of one user, sorted by user and node."""

    def begin_standby(self, user: str, node: str, source: str) -> Placement | None:
        """Record that a copy of the user's files is being made on `node`; nothing changes if that is known. The
        placement, or None if the user isn't placed on `source`: then nothing is recorded."""

    def finish_standby(self, copy: Standby) -> bool:
        """The copy is complete as of its moment. False if it isn't recorded any more, or the user isn't on `source`."""

    def forget_standby(self, user: str, node: str) -> None:
        """The copy is no more."""

    def left_files(self) -> list[LeftFiles]:
        """What failed nodes have of users who went on elsewhere, sorted by user."""

    def take_over(
        self, step: TakeOver, *, was: PlacementState, audit: Sequence[AuditEntry] = ()
    ) -> Placement | Conflict:
        """If the placement has the step's generation and the state `was`: make the step's node the user's, with
        address, port, state, generation and container_generation; room is taken there within its capacity and given
        back on the source, what stays on the source is recorded, the standby copy there isn't one any more, and a move
        of the user ends. All in one transaction. STALE, PORT_TAKEN, NODE_FULL if that can't be."""

    def keep_left(self, left: LeftFiles) -> None:
        """Record what became of the files, as of now; those that are only kept expire `KEEP_LEFT_S` seconds later."""

    def forget_left(self, left: LeftFiles) -> None:
        """Nothing is to be done about them any more."""
