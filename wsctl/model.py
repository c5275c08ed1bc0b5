"""The nouns of wsctl as frozen values: nodes, workspaces, placements, and the view of a cluster.

Responsible for: what the words mean, their invariants and their spelling. Not responsible for: where a value comes
from (`inventory`, `store`, `observe`) nor what is decided from it (`scheduler`, `planner`). Standard library only.

Units: memory and traffic in bytes, CPU in thousandths of a core (`_milli`), durations in seconds (`_s`), times as
timezone-aware UTC `datetime`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from wsctl.leased import LeaseInfo as LeaseInfo  # noqa: PLC0414 - the core takes its nouns from here
from wsctl.moving import KeptCopy, Move
from wsctl.reports import NodeReport
from wsctl.standbys import LeftFiles, Standby

USER_ID = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
"""A user id. Lower case only: nginx maps ignore case, Docker names and paths don't. Use `fullmatch`."""

CONTAINER_PREFIX = "ws-u-"
QUARANTINE_PREFIX = "ws-q-"
LABEL_CLUSTER = "io.wsctl.cluster"
LABEL_USER = "io.wsctl.user"
LABEL_GENERATION = "io.wsctl.generation"
LABEL_SPEC = "io.wsctl.spec"


def is_user_id(text: str) -> bool:
    """Whether `text` may name a user."""
    return USER_ID.fullmatch(text) is not None


def container_name(user: str) -> str:
    """The name of the user's container on their node."""
    return f"{CONTAINER_PREFIX}{user}"


def quarantine_name(user: str, container_id: str) -> str:
    """The name under which a stale copy is kept, stopped, until somebody has looked at it."""
    return f"{QUARANTINE_PREFIX}{user}-{container_id[:8]}"


def is_ip_literal(address: str) -> bool:
    """Whether `address` is an IPv4 or IPv6 literal, not a host name. With a zone (`%eth0`) it isn't taken: that may
    hold any character at all, and means nothing to another machine."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in address


def upstream(address: str, port: int) -> str:
    """`address:port` as nginx and URLs want it: IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class NodeState(StrEnum):
    """What operators say about a node. `down` is set by `node fail` or by the failover policy, never by one probe."""

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DOWN = "down"


class PlacementState(StrEnum):
    """Where a workspace is in its life. The intent is written before the first effect, so `starting` may mean
    'was being started when the controller died'."""

    RESERVED = "reserved"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    MIGRATING = "migrating"
    FAILED = "failed"

    @property
    def holds_resources(self) -> bool:
        """Whether memory and CPU are taken. Only a stopped workspace gives them back; all keep count and port."""
        return self is not PlacementState.STOPPED

    @property
    def is_routed(self) -> bool:
        """Whether the gateway sends requests there. A workspace being moved is served by its source until the swap."""
        return self in (PlacementState.RUNNING, PlacementState.MIGRATING)


class Strategy(StrEnum):
    """How a node is chosen among the feasible ones; see `scheduler`."""

    SPREAD = "spread"
    BINPACK = "binpack"
    LEAST_LOADED = "least-loaded"
    WEIGHTED = "weighted"
    ROUND_ROBIN = "round-robin"
    HASH = "hash"


class PullPolicy(StrEnum):
    """Whether a missing image may be pulled on the node."""

    MISSING = "missing"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one workspace is limited to, and what it takes from its node while it isn't stopped."""

    memory_bytes: int
    cpus_milli: int
    pids: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node offers. `workspaces` counts every placement, stopped ones too: a user's home must not fill up
    behind their back. Memory and CPU count those that aren't stopped."""

    workspaces: int
    memory_bytes: int
    cpus_milli: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What is taken from a node's capacity. `active` counts placements that aren't stopped."""

    workspaces: int = 0
    active: int = 0
    memory_bytes: int = 0
    cpus_milli: int = 0


@dataclass(frozen=True, slots=True)
class PortRange:
    """Host ports `first`..`last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How to reach a node by SSH. None means: not said here; ~/.ssh/config (if `config`) or SSH's default decides."""

    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    proxy_jump: str | None = None
    config: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the inventory. `address` is an IP literal, a host name or ssh_config alias, or `local`."""

    name: str
    address: str
    ports: PortRange
    capacity: Capacity
    ssh: SshSettings = field(default_factory=SshSettings)
    docker_socket: str = "/var/run/docker.sock"
    host_root: str = "/srv/workspaces"
    storage: str = "local"
    bind_address: str | None = None
    weight: float = 1.0
    max_concurrent_starts: int | None = 8
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether this is the control host's own engine, reached without SSH."""
        return self.address == "local"

    @property
    def publish_address(self) -> str | None:
        """The IP literal that ports are published on and the gateway sends requests to. None if only a host name is
        known: then the address that the connection went to is taken."""
        if self.bind_address is not None:
            return self.bind_address
        if self.is_local:
            return "127.0.0.1"
        return self.address if is_ip_literal(self.address) else None

    def data_path(self, user: str) -> str:
        """The user's files on this node."""
        if not is_user_id(user):
            raise ValueError(f"not a user id: {user!r}")
        return f"{self.host_root.rstrip('/')}/{user}"


@dataclass(frozen=True, slots=True)
class ReadyProbe:
    """When a started container counts as running: `http_path` answered below 500, or (None) the port accepts."""

    http_path: str | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    """The container every user of a class gets. `name` is the class; the unnamed one is `default`. `busy_connections`:
    whether open connections to its port keep it (None: where they can be seen)."""

    image: str
    resources: Resources
    container_port: int = 8080
    mount: str = "/workspace"
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    idle_after_s: float | None = 1800.0
    max_age_s: float | None = None
    busy_cpus: float | None = 0.2
    busy_bytes: int | None = 256
    busy_connections: bool | None = None
    ready: ReadyProbe | None = None
    pull: PullPolicy = PullPolicy.MISSING
    labels: Mapping[str, str] = field(default_factory=dict)
    standby: int = 0
    name: str = "default"

    def digest(self) -> str:
        """Twelve hex digits that change whenever a container made from this spec would differ."""
        parts = (
            self.image, self.resources.memory_bytes, self.resources.cpus_milli, self.resources.pids,
            self.container_port, self.mount, self.command, sorted(self.env.items()),
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Placement:
    """The fact that a user lives on a node. `generation` rises by one with every operation that claims the placement:
    it is the fencing token that each write is checked against. `container_generation` is the generation at which the
    authoritative container was created, and its label; a container with another label is a stale copy."""

    user: str
    node: str
    address: str
    host_port: int
    state: PlacementState
    generation: int
    container_generation: int
    resources: Resources
    workspace_class: str = "default"
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def container(self) -> str:
        """The container's name on the node."""
        return container_name(self.user)


def spec_of(classes: Mapping[str, WorkspaceSpec], placement: Placement | None) -> WorkspaceSpec:
    """What a user's container is made from: the spec of their class; of the default one if there is none such."""
    return classes.get(placement.workspace_class if placement is not None else "default", classes["default"])


@dataclass(frozen=True, slots=True)
class DamagedPlacement:
    """A row of the placements that nothing in wsctl can have written: `problem` says why. Its user must not be acted
    upon. `node` and `host_port` are None where the row doesn't say them; what it does say isn't given to others."""

    user: str
    problem: str
    node: str | None = None
    host_port: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A container as an engine reported it; label values are untrusted text that has been parsed or set to None.
    `binds` maps each folder inside of it that is a folder of the node to that folder."""

    id: str
    name: str
    state: str
    cluster: str | None = None
    user: str | None = None
    generation: int | None = None
    spec: str | None = None
    address: str | None = None
    host_port: int | None = None
    image: str = ""
    binds: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether processes of the container run (a paused one has processes too)."""
        return self.state in ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself: versions, CPUs, memory in bytes, how many containers run in all, its time."""

    version: str
    api_version: str
    ncpu: int
    memory_bytes: int
    containers_running: int
    system_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeMark:
    """What operators recorded about a node. A node without a record is `ready`."""

    state: NodeState = NodeState.READY
    reason: str = ""
    changed_at: datetime | None = None
    changed_by: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as it is known at one moment. `reachable` None means: not asked, which is not the same as empty.

    `ports_used` are the ports of placements and those in `ports_foreign`: taken on the node by something that isn't the
    placement which owns the port. `excluded` is why the node is out of the question: it refused
    earlier in this run, or isn't where the user is to go.
    """

    node: Node
    mark: NodeMark = NodeMark()
    usage: Usage = Usage()
    ports_used: frozenset[int] = frozenset()
    ports_foreign: frozenset[int] = frozenset()
    last_port: int | None = None
    reachable: bool | None = None
    error: str | None = None
    address: str | None = None
    facts: EngineFacts | None = None
    containers: tuple[Container, ...] = ()
    image_present: Mapping[str, bool] = field(default_factory=dict)
    excluded: str | None = None
    reports: tuple[NodeReport, ...] = ()
    _by_name: Mapping[str, Container] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def ports_free(self) -> int:
        """How many ports of the node's range no placement and no observed container uses."""
        return len(self.node.ports) - sum(1 for port in self.ports_used if port in self.node.ports)

    def container_of(self, user: str) -> Container | None:
        """The container that bears the user's name on this node, ours or not."""
        if self._by_name is None:
            object.__setattr__(self, "_by_name", {one.name: one for one in reversed(self.containers)})
        return (self._by_name or {}).get(container_name(user))


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything a decision may use. `last_node` is where the newest placement went (for round-robin); `homes` maps
    users without a placement to the node that still has their files, `home_generations` to the last generation they
    had; `damaged` are users whose row can't be read; `moves` were begun and not ended, `kept` are copies of files that
    moves made or left, `standbys` those made in advance, by user, `left` what is on nodes that failed."""

    cluster: str
    nodes: Mapping[str, NodeView]
    placements: Mapping[str, Placement]
    last_node: str | None = None
    homes: Mapping[str, str] = field(default_factory=dict)
    damaged: Mapping[str, DamagedPlacement] = field(default_factory=dict)
    moves: Mapping[str, Move] = field(default_factory=dict)
    kept: tuple[KeptCopy, ...] = ()
    home_generations: Mapping[str, int] = field(default_factory=dict)
    standbys: Mapping[str, tuple[Standby, ...]] = field(default_factory=dict)
    left: tuple[LeftFiles, ...] = ()


@dataclass(frozen=True, slots=True)
class Activity:
    """When a user was last seen to be active, and by which signal (`touch`, `start`, `network` …)."""

    user: str
    last_active_at: datetime
    source: str
