"""What the core asks of the world: protocols, each with its guarantees.

Responsible for: the contract between the pure core and the adapters (`transport`, `store`, `coordination`). Not
responsible for: any implementation. The rule throughout: a lost race is a *value* (`Conflict`, False), "I don't know"
is an *exception* (`BackendError`, `NodeUnreachable`). They are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from wsctl.coordports import ActivityLog, HeldLeases, Leases, Recorded, Slots
from wsctl.model import (
    Activity,
    Capacity,
    Container,
    DamagedPlacement,
    EngineFacts,
    NodeMark,
    NodeState,
    Placement,
    PlacementState,
    ReadyProbe,
    Resources,
    Usage,
)
from wsctl.moveports import MoveStore, NodeFiles
from wsctl.moving import Home
from wsctl.records import AuditEntry, AuditRow, Conflict, RequestRecord
from wsctl.reports import NodeReport
from wsctl.signals import ContainerSigns, NetworkSample, Note, Start
from wsctl.spots import Spot
from wsctl.standbyports import StandbyFiles, StandbyStore

__all__ = [
    "ActivityLog", "Clock", "Commands", "Conflict", "ContainerSpec", "Engine", "EngineFactory", "HeldLeases", "Leases",
    "MoveStore", "NodeFiles", "Recorded", "Reservation", "Slots", "StandbyFiles",
    "Store",
]  # fmt: skip


class Clock(Protocol):
    """Time, injected so that decisions and tests need no real one."""

    def now(self) -> datetime:
        """The current time, timezone-aware UTC."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything a create call needs. What isn't here is fixed by the adapter: never privileged, no new privileges,
    capabilities dropped to the short list, no restart policy (a returning node must not start stale copies)."""

    name: str
    image: str
    command: tuple[str, ...] | None
    env: Mapping[str, str]
    labels: Mapping[str, str]
    source: str
    mount: str
    container_port: int
    address: str
    host_port: int
    resources: Resources


class Engine(Protocol):
    """One node's Docker Engine.

    Every call has a timeout. Raises `NodeUnreachable` when no answer came (the effect may have happened!) and
    `EngineError` when the engine refused (it did not happen). Safe to use from several threads.
    """

    @property
    def address(self) -> str:
        """The IP literal ports are published on: the node's `publish_address`, or the peer of the connection."""

    def facts(self) -> EngineFacts:
        """The engine's versions and counters; doubles as the proof that it answers."""

    def containers(self) -> list[Container]:
        """All containers of the engine, running or not, ours or not (others use up ports and names too)."""

    def container(self, name_or_id: str) -> Container | None:
        """One container, or None when the engine says there is none."""

    def has_image(self, image: str) -> bool:
        """Whether the image is present on the node."""

    def pull(self, image: str) -> None:
        """Pull the image. Raises `ImageMissing` when that fails."""

    def create(self, spec: ContainerSpec) -> str:
        """Create (not start) a container and return its id. Raises `NameTaken`, `ImageMissing`."""

    def start(self, name_or_id: str) -> None:
        """Start; nothing happens if it runs. Raises `PortTaken`; the container then stays created, unstarted."""

    def stop(self, name_or_id: str, grace_s: float = 10.0) -> None:
        """Stop with SIGTERM, after `grace_s` SIGKILL; nothing happens if it is stopped or absent."""

    def rename(self, name_or_id: str, name: str) -> None:
        """Give the container another name. Raises `NameTaken`, `EngineError` if the container is absent."""

    def pause(self, name_or_id: str) -> None:
        """Freeze all its processes; nothing happens if they are frozen. Raises `EngineError` if it doesn't run."""

    def unpause(self, name_or_id: str) -> None:
        """Let them go on; nothing happens if they do, or if it is stopped or absent."""

    def remove(self, name_or_id: str) -> None:
        """Remove the container (killing it if it runs), never its data; nothing happens if it is absent."""

    def await_ready(self, name_or_id: str, address: str, port: int, probe: ReadyProbe) -> int:
        """Return once the probe passes: about how many bytes the container sent for it, to be told from its users'
        traffic. Raises `NotReady` (with the last log lines) at the timeout or when the container exits before."""

    def signs(self, name_or_id: str) -> ContainerSigns | None:
        """The container's signs of life; None if it doesn't run. Two requests; Docker before 23 takes up to a second
        for the answer, but many asked at once are answered together."""

    def tail(self, name_or_id: str, lines: int = 10) -> str:
        """The last lines of the container's output: untrusted text."""

    def purge_data(self, host_root: str, user: str, image: str) -> None:
        """Delete `<host_root>/<user>` for good, by a throw-away container of `image` that sees only `host_root`
        (so that neither a shell nor root over SSH is needed). Nothing happens if it is absent."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A placement to be: who, where, and what it takes out of the node's `capacity`. `home` is the node that was known
    to have the user's files when this was decided (None: none was). `only_ready`: not if the node is marked by now."""

    user: str
    node: str
    address: str
    port: int
    resources: Resources
    capacity: Capacity
    workspace_class: str = "default"
    home: str | None = None
    only_ready: bool = False


class Store(MoveStore, StandbyStore, Protocol):
    """The state database: the truth about placements.

    Every write is one transaction, durable when the call returns. Writes that depend on what was read are
    compare-and-swaps on `generation`. Raises `BackendError` when the outcome is unknown or the database unusable.
    Safe to use from several threads. All methods see only the cluster that the store was opened for.

    `audit` are audit entries that are written in the same transaction if, and only if, the write happens.
    """

    def placements(self) -> list[Placement]:
        """All placements, sorted by user. Raises `BackendError` naming the first row that is damaged."""

    def placements_and_damage(self) -> tuple[list[Placement], list[DamagedPlacement]]:
        """The placements that can be read, and the rows that cannot (or whose user cannot be one); sorted by user."""

    def spots(self) -> tuple[list[Spot], list[DamagedPlacement]]:
        """Where every placement is and in which state, sorted by user, and the rows that don't say it. A tenth of the
        work of `placements`."""

    def states(self, other_than: PlacementState | None = None) -> Mapping[str, str]:
        """The state of every user who has a placement, as it is written, readable or not; without those in a state."""

    def placement(self, user: str) -> Placement | None:
        """One placement."""

    def generation(self, user: str) -> int:
        """The generation of the user's placement, 0 if there is none: what `placement` says, for less."""

    def usage(self) -> Mapping[str, Usage]:
        """What is taken on each node that has a record."""

    def last_ports(self) -> Mapping[str, int]:
        """The port that was handed out last on each node; the next search starts behind it, so that a freed port
        isn't reused while an old route map may still point to it."""

    def last_node(self) -> str | None:
        """The node of the newest placement."""

    def reserve(self, wanted: Reservation, *, audit: Sequence[AuditEntry] = ()) -> Placement | Conflict:
        """Create the placement in state `reserved` and take capacity and port, in one transaction. Its generation and
        container_generation are 1; of a user who was removed, one more than the last they had: none is used twice.
        USER_EXISTS, PORT_TAKEN or NODE_FULL if that can't be; STALE if the user's files are known to be elsewhere than
        this was decided on: they were placed and removed since; NODE_MARKED if the node was to be ready and isn't."""

    def claim(
        self,
        user: str,
        generation: int,
        state: PlacementState,
        capacity: Capacity | None = None,
        *,
        new_container: bool = False,
        port: int | None = None,
        resources: Resources | None = None,
        was: PlacementState | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> Placement | Conflict:
        """Begin an operation: if the placement still has `generation`, add one to it and set `state`. A move
        of the user that was begun ends with it: what it had taken on its target is given back. So does `release`.

        `was` is the state that this was decided on: settling leaves the generation as it is, but a placement that is
        settled since may hold no room any more, or have files. STALE if the state is another one (None: any will do).

        `new_container` also sets container_generation to the new generation; `port` moves the placement to that port;
        `resources` are what it takes from now on. Leaving `stopped`, or growing, takes memory and CPU within
        `capacity` (NODE_FULL); None means: don't check.
        """

    def settle(
        self,
        user: str,
        generation: int,
        state: PlacementState,
        *,
        start: Start | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> bool:
        """End an operation: set `state` if the placement still has `generation`, which stays. Entering `stopped` gives
        memory and CPU back. `start` is recorded as activity, and its sample as the user's. False if the generation
        moved: then nothing is."""

    def release(
        self,
        user: str,
        generation: int,
        *,
        keep_home: bool | None,
        home: Home | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> bool:
        """Delete the placement and give back all it took, if it still has `generation`. False if it moved; True if
        the placement is gone already. `keep_home` True remembers the node as the user's home (their files are still
        there), False forgets any home, None leaves what is remembered as it is. With the placement gone already, only a
        release that was decided on there being none (`generation` 0) forgets a home, and only the one that it names:
        False if the user has another by now.
        """

    def remember_home(self, user: str, node: str) -> bool:
        """Record that the files of a user without a placement are on `node`, and are others from now on: it counts as a
        generation. False if the user has a placement."""

    def homes(self) -> Mapping[str, str]:
        """Users whose files stayed on a node when they were removed: user to node. Means nothing for users who have
        a placement again.
        """

    def known_homes(self) -> Mapping[str, Home]:
        """The same, with the last generation that each user had."""

    def home(self, user: str) -> Home | None:
        """One user's home; None for who has none, or is placed. One statement, so both are of the same moment."""

    def marks(self) -> Mapping[str, NodeMark]:
        """What operators recorded about nodes."""

    def set_mark(self, node: str, state: NodeState, reason: str, by: str, *, audit: Sequence[AuditEntry] = ()) -> None:
        """Record a node's state; `ready` also takes back what is reported against it."""

    def node_reports(self) -> list[NodeReport]:
        """What is reported against nodes and hasn't run out, sorted by node and kind."""

    def report_node(self, node: str, kind: str, reason: str, keep_s: float, seen_s: float | None = None) -> None:
        """Report something against a node for the next `keep_s` seconds; again if it is reported already, which counts
        one more and keeps since when. `seen_s`: so many seconds ago it was last seen well."""

    def drop_reports(self, node: str, kind: str | None = None) -> bool:
        """Take back what is reported against the node (None: all of it); False if there was nothing."""

    def route_generation(self) -> int:
        """Rises by one with each write that changes what the gateway must route. Never falls."""

    def touch(self, users: Collection[str], at: datetime, source: str) -> None:
        """Record activity; an older time never replaces a newer one. Unknown users are recorded too.

        The first one after the table was emptied is also remembered as the time since when there are data."""

    def activity_since(self) -> datetime | None:
        """Since when activity is recorded without a gap; None if that isn't known (nothing is recorded yet)."""

    def touch_at(self, times: Mapping[str, datetime], source: str) -> None:
        """As `touch`, with a time for each user."""

    def activity(self, users: Collection[str] | None = None) -> Mapping[str, Activity]:
        """The newest activity of the users (None: all)."""

    def samples(self) -> Mapping[str, NetworkSample]:
        """The last network sample of each user."""

    def save_samples(self, samples: Sequence[NetworkSample]) -> None:
        """Replace the users' network samples."""

    def notes(self, topic: str, subjects: Collection[str] | None = None) -> Mapping[str, Note]:
        """What is remembered under a topic about the subjects (None: all). What no database takes of a subject is
        replaced or cut off, in all three."""

    def set_notes(self, topic: str, values: Mapping[str, str], at: datetime) -> None:
        """Remember a value about each subject, in place of what was known."""

    def drop_notes(self, topic: str, subjects: Collection[str]) -> None:
        """Forget what is remembered about the subjects."""

    def recount(self, node: str, *, audit: Sequence[AuditEntry] = ()) -> bool:
        """Set what is taken on the node to what its placements add up to; False if it was right already."""

    def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append rows to the audit table, in one transaction. No row of it is ever changed or deleted."""

    def audit(
        self,
        *,
        targets: Collection[str] | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[AuditRow]:
        """Audit rows (None: all), oldest first; `limit` keeps the newest."""

    def audit_problems(self) -> list[tuple[str, int, str]]:
        """Rows of the audit table that were changed or removed: (target, sequence, what is wrong)."""

    def begin_request(self, request_id: str, verb: str, digest: str, who: str, keep_s: float) -> RequestRecord:
        """Record the request id, unless it is known; what is known of it then. Forgets those older than `keep_s`."""

    def finish_request(self, request_id: str, answer: str) -> None:
        """Record the first result (JSON) of a request id; a second one is ignored."""

    def unanswered_requests(self, request_id: str | None = None) -> list[RequestRecord]:
        """Request ids (or that one) without a first result that have begun something without an end, by the audit
        table; oldest first, a hundred at most. Of callers that are at work, or died: what failed has an end."""

    def database_time(self) -> datetime:
        """The database's clock (SQLite: this machine's)."""

    def schema_version(self) -> int:
        """The version of the database's schema; 0 for an empty database."""

    def close(self) -> None:
        """Give up the connection."""


class Commands(Protocol):
    """Commands on one node, for checks only: nothing that users depend on needs a shell there."""

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command to its end: exit code and what it said. Raises `NodeError` when it couldn't be run."""


EngineFactory = Callable[[str], Engine]
"""Node name to its engine. Connects at most once a node; a failure is remembered and raised again."""
