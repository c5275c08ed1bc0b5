"""Where a user's files are, and what a move of them is made of, as values: the move, the copies it leaves, one pass.

Responsible for: these values, and when copying again is worth it. Not responsible for: which steps a move has
(`planner.migrate`), nor for doing them. Below everything else: standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SHORT_S = 3.0
"""A pass that took no longer than this leaves a rest that takes no longer either, and mostly next to nothing: not worth
another pass, which costs a drain more than it spares its users."""

REST_S = 0.5
"""Nor is one for a rest that is sent in so short a time: then it is looking through all files that takes long, and the
last pass looks through them in any case."""

MOST_PASSES = 5
SHRINKS = 0.7
"""A pass that copied more than this share of what the one before it did shows that the user writes as fast as we do."""


@dataclass(frozen=True, slots=True)
class Home:
    """The node that has the files of a user without a placement, and the last generation that the user had: whoever
    acts upon these files says which they mean, for the user may have been placed and removed again since."""

    node: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A move that was begun: what is reserved on the target. `active`: memory and CPU are taken there, too (a stopped
    user takes a place and a port only). There is no phase in it: what is left to do is seen from what is there."""

    user: str
    source: str
    target: str
    address: str
    host_port: int
    memory_bytes: int
    cpus_milli: int
    pids: int
    active: bool


class CopyState(StrEnum):
    """What a copy of a user's files on a node is that isn't the one they work on."""

    INCOMING = "incoming"
    """Being made by a move, beside the workspaces; never had anybody working on it."""
    SENDING = "sending"
    """No copy: what they work on, which a move copies from. The node may have a key for that."""
    LEAVING = "leaving"
    """What a move has just left, still in its old place."""
    KEPT = "kept"
    """The same, put aside until its time is over."""


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A copy on a node; `number` tells those of a user apart, also of one who was removed and came again. `expired`:
    its time is over."""

    user: str
    node: str
    number: int
    state: CopyState
    expired: bool = False

    @property
    def name(self) -> str:
        """Its folder among the kept copies of the node."""
        return f"{self.user}-{self.number}"


class RoadKind(StrEnum):
    """How files get from node to node."""

    DIRECT = "direct"
    """rsync over SSH, from the source to the target."""
    RELAY = "relay"
    """rsync on both nodes, the stream between them through the machine that wsctl runs on."""
    TAR = "tar"
    """One tar stream through that machine, while nobody works: where a node has no rsync."""


@dataclass(frozen=True, slots=True)
class Road:
    """The way that a copy takes, and why it isn't the direct one."""

    kind: RoadKind = RoadKind.DIRECT
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of copying: the bytes of files that had changed, and how long it took."""

    bytes: int
    seconds: float
    road: Road = Road()


def another_pass(passes: Sequence[Pass]) -> bool:
    """Whether to copy once more while the user works: the rest is neither small yet, nor did it stop shrinking."""
    last = passes[-1]
    if last.bytes == 0 or last.seconds <= SHORT_S or len(passes) >= MOST_PASSES:
        return False
    if len(passes) > 1 and last.bytes * passes[0].seconds <= REST_S * passes[0].bytes:
        return False
    return len(passes) == 1 or last.bytes <= SHRINKS * passes[-2].bytes
