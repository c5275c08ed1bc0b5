"""What watching over the nodes asks of the world.

Responsible for: the protocols of looking at nodes and of comparing notes with other watchers, with their guarantees,
and the values that they exchange. Not responsible for: what is concluded (`health`), nor for the loop (`watcher`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from wsctl.health import Sign
from wsctl.model import NodeMark
from wsctl.reports import NodeReport


class Ages(NamedTuple):
    """How many seconds ago a node was seen well, and alive, by one watcher; None: not lately."""

    well_s: float | None
    alive_s: float | None


class Sighting(NamedTuple):
    """What a watcher has reported of a node. With an empty `node` it is about the watcher itself."""

    watcher: str
    node: str
    ages: Ages


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed: `event` is ok, suspect, down, unsure, returned, alarm, calm, blind, paused, done or
    failed; without a `node` it is about the watcher itself. `silent_s`: how long there has been no sign of life."""

    event: str
    node: str | None
    reason: str
    silent_s: float | None = None


class Notes(Protocol):
    """What watching needs of the state database; see `ports.Store`."""

    def marks(self) -> Mapping[str, NodeMark]: ...

    def node_reports(self) -> list[NodeReport]: ...

    def report_node(self, node: str, kind: str, reason: str, keep_s: float, seen_s: float | None = None) -> None: ...

    def drop_reports(self, node: str, kind: str | None = None) -> bool: ...


class Probes(Protocol):
    """Looking at nodes. No method raises for what a node does or doesn't do, and each has its time limit. Safe to use
    from several threads, for a node one `look` at a time."""

    def look(self, name: str) -> tuple[Sign, str]:
        """Ask the node's engine whether it is there: what that showed, and why it wasn't more."""

    def knock(self, name: str) -> tuple[bool | None, str]:
        """Whether the node's machine answers a new connection at all, be it with a no; None: that can't be tried."""

    def ask(self, witness: str, name: str) -> bool | None:
        """Whether another node reaches this one; None if it can't say."""

    def close(self) -> None:
        """Close every connection; never raises."""


class Presence(Protocol):
    """Who was seen when and by which watcher: notes that run out. Ages are by the backend's clock, so that those of
    control hosts don't matter. Raises `BackendError` when it can't be asked."""

    def beat(self, watcher: str, seen: Mapping[str, Ages]) -> Sequence[Sighting]:
        """Note that the watcher, whose name is one word, is there and what it has seen, and return all that isn't older
        than its time."""

    def ls(self) -> Sequence[Sighting]:
        """All that isn't older than its time."""

    def close(self) -> None:
        """Give up the connection."""
