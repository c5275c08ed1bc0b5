"""What moving a user asks of the world: the half of `ports` about copies of files and the moves that make them.

Responsible for: the contract between the core and the adapters, as in `ports`, which re-exports it. Not responsible
for: any implementation (`transport.files`, `store.moves`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wsctl.model import Capacity, Placement, PlacementState
from wsctl.moving import KeptCopy, Move, Pass, Road
from wsctl.records import AuditEntry, Conflict

Progress = Callable[[int, float], None]
"""Called now and then while a pass goes on: bytes so far, and the share that is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Way:
    """Whose files, from which node to which; the folders on both."""

    user: str
    source: str
    target: str
    source_root: str
    target_root: str


@dataclass(frozen=True, slots=True)
class Size:
    """What a user's folder holds: bytes of all files, and how many there are. `odd` names some of those that aren't
    copied, `odd_count` in all: sockets, pipes and devices (text from file names, untrusted)."""

    bytes: int
    files: int
    odd: tuple[str, ...] = ()
    odd_count: int = 0


class NodeFiles(Protocol):
    """Users' files on the nodes, and copying them from node to node. A user's files are `<root>/<user>`.

    Beside them a node has `<root>/.wsctl-incoming/<user>`, what a move is copying, and `<root>/.wsctl-kept/…`, what was
    put aside. Every method is safe to repeat, after a crash at any point too. Raises `NodeUnreachable` when no answer
    came (the effect may have happened) and `FilesError` when a node refused.
    """

    def check(self, way: Way) -> Road:
        """Raise unless both nodes have what a copy needs; the way that it will take. Changes nothing."""

    def size(self, node: str, root: str, user: str) -> Size:
        """What the user's folder holds; nothing if there is none. Reads everything's metadata."""

    def prepare(self, way: Way) -> str | None:
        """Make the target ready: ends copying that a crash left going on, takes back what this move had installed, and
        puts aside files of the user that the target has already. The name they are kept under, or None."""

    def copy(self, way: Way, *, final: bool, bwlimit: int | None, compress: bool, progress: Progress) -> Pass:
        """Make what is incoming on the target like the source: everything that differs is copied, what is too much is
        deleted there. Node to node, by a key for this move only, or through this machine if that can't be. Files that
        vanish meanwhile are fine unless `final`. By tar everything is copied, and it must be `final`. `bwlimit` is in
        bytes a second."""

    def sync(self, way: Way, *, wait: bool) -> None:
        """Have the target write to its disk what was copied so far; `wait` for it, half a minute at most."""

    def verify(self, way: Way, *, full: bool) -> list[str]:
        """How what is incoming differs from the source, one line each (untrusted text): in names, types, modes, owners,
        sizes, times, links, attributes; in content for a sample of files, or of all with `full`. Empty: not at all."""

    def install(self, way: Way) -> None:
        """Make what is incoming the user's files on the target, in one step, and take back the move's key. Raises if
        there are some already."""

    def discard(self, node: str, root: str, user: str, *, installed: bool) -> None:
        """Delete what is incoming; with `installed` also if it was installed already. Never anything else. A key that
        was allowed to copy it there is allowed no more."""

    def disarm(self, node: str, root: str, user: str) -> None:
        """End what copies from the node for a move of the user, and delete the key of it there."""

    def keep(self, node: str, root: str, user: str, name: str) -> Size:
        """Put the user's files aside as `name`, in one step; nothing happens if they are there already. What it was;
        nothing if it wasn't done now."""

    def drop(self, node: str, root: str, user: str, name: str) -> None:
        """Delete what was put aside as `name`, for good."""

    def finish(self, way: Way) -> None:
        """Take back key and permission of this move on both nodes, if they were given. Never raises."""


class MoveStore(Protocol):
    """What `Store` promises about moves; all of what is said there holds here too."""

    def moves(self) -> Mapping[str, Move]:
        """Moves that were begun and not ended, by user. What they take on their targets is in `usage`."""

    def begin_move(
        self,
        move: Move,
        generation: int,
        state: PlacementState,
        capacity: Capacity,
        *,
        was: PlacementState,
        audit: Sequence[AuditEntry] = (),
    ) -> Placement | Conflict:
        """Like `claim`, with the move recorded and its room and port on the target taken, and a copy noted there as
        incoming, and the source as sending. A move that was begun before ends. STALE, PORT_TAKEN, NODE_FULL if that
        can't be."""

    def swap(
        self, user: str, generation: int, state: PlacementState, *, leaves_files: bool, audit: Sequence[AuditEntry] = ()
    ) -> Placement | Conflict:
        """Make the target of the user's move their node: address, port, room, generation and container_generation, in
        one transaction. The source's room and port are given back, the move ends, its copy isn't incoming any more nor
        the source sending, and with `leaves_files` the source's is noted as leaving. STALE if the placement or its move
        isn't there any more.
        """

    def kept_copies(self) -> list[KeptCopy]:
        """All copies, sorted by user; which ones are expired says the database's clock."""

    def keep_copy(self, copy: KeptCopy, keep_s: float) -> None:
        """The copy was put aside, to be kept for so many seconds."""

    def forget_copy(self, copy: KeptCopy) -> None:
        """The copy is no more."""
