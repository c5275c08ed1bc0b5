"""What `exchange` asks of a node's disk: the port of users' folders as streams.

Responsible for: its contract, with guarantees, as `ports` for everything else. Not responsible for: any implementation
(`transport.folders`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A user's folder on a node: whether it is there, and the free bytes and inodes of where it is or would be."""

    exists: bool
    free_bytes: int
    free_inodes: int


class Stream(Protocol):
    """Bytes that come from a node."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class Folders(Protocol):
    """The users' folders of one node (`<host_root>/<user>`), as streams.

    A folder is replaced in one step by one that is complete, and never deleted. Raises `NodeUnreachable` when no answer
    came, or nothing moved for two minutes, and `NodeError` when the node refused.
    """

    def facts(self, user: str) -> FolderFacts:
        """What is there. Changes nothing."""

    def pack(self, user: str, consume: Callable[[Stream], None], *, live: bool) -> int:
        """Let `consume` read the folder as a tar; 1 if files changed or vanished while they were read (an error unless
        `live`), else 0. What `consume` raises is raised."""

    def unpack(self, user: str, token: str, owner: str, produce: Callable[[Callable[[bytes], None]], int]) -> None:
        """Make a new folder beside, of the tar that `produce` writes; it answers how many members there must be.
        `owner` is the `uid:gid` of all members, or `many`. Older uploads for the user are removed. Durable on return.
        """

    def swap(self, user: str, token: str, kept: str) -> str | None:
        """Make the upload the user's folder. What was there is renamed to `.wsctl-kept/<kept>`: its path, or None."""

    def discard(self, user: str, token: str) -> None:
        """Remove an upload; nothing happens if it isn't there."""
