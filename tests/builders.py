"""Values for tests: every builder has defaults for all but the one thing under test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from wsctl.model import (
    Capacity,
    ClusterView,
    Container,
    EngineFacts,
    Node,
    NodeMark,
    NodeState,
    NodeView,
    Placement,
    PlacementState,
    PortRange,
    Resources,
    SshSettings,
    Usage,
    container_name,
)
from wsctl.scheduler import Request

GIB = 1 << 30
CLUSTER = "studio"
IMAGE = "studio/workspace:1"

RESOURCES = Resources(memory_bytes=2 * GIB, cpus_milli=1000, pids=512)
CAPACITY = Capacity(workspaces=100, memory_bytes=64 * GIB, cpus_milli=32_000)


def resources(memory_bytes: int = 2 * GIB, cpus_milli: int = 1000, pids: int = 512) -> Resources:
    """What one workspace takes."""
    return Resources(memory_bytes, cpus_milli, pids)


def capacity(workspaces: int = 100, memory_bytes: int = 64 * GIB, cpus_milli: int = 32_000) -> Capacity:
    """What a node offers."""
    return Capacity(workspaces, memory_bytes, cpus_milli)


def node(
    name: str = "n1",
    address: str = "10.0.0.11",
    *,
    ports: PortRange | tuple[int, int] = (20000, 29999),
    capacity: Capacity = CAPACITY,
    weight: float = 1.0,
    labels: Mapping[str, str] | None = None,
    bind_address: str | None = None,
    ssh: SshSettings | None = None,
) -> Node:
    """A machine of the inventory."""
    return Node(
        name=name,
        address=address,
        ports=ports if isinstance(ports, PortRange) else PortRange(*ports),
        capacity=capacity,
        ssh=ssh or SshSettings(),
        bind_address=bind_address,
        weight=weight,
        labels=labels or {},
    )


def facts(running: int = 0, ncpu: int = 8, memory_bytes: int = 64 * GIB) -> EngineFacts:
    """What an engine says about itself."""
    return EngineFacts("28.0.0", "1.48", ncpu, memory_bytes, running)


def container(user: str = "alice", *, cluster: str | None = CLUSTER, **changes: Any) -> Container:
    """A container as an engine reported it, by default the user's own and running."""
    values: dict[str, Any] = {
        "id": f"id-{user}",
        "name": container_name(user),
        "state": "running",
        "cluster": cluster,
        "user": user if cluster is not None else None,
        "generation": 1 if cluster is not None else None,
        "image": IMAGE,
    }
    return Container(**{**values, **changes})


def view(
    of: Node | str = "n1",
    *,
    state: NodeState = NodeState.READY,
    reason: str = "",
    usage: Usage | None = None,
    ports_used: Collection[int] = (),
    last_port: int | None = None,
    reachable: bool | None = True,
    error: str | None = None,
    facts: EngineFacts | None = None,
    containers: Iterable[Container] = (),
    image_present: Mapping[str, bool] | None = None,
    excluded: str | None = None,
    **node_changes: Any,
) -> NodeView:
    """One node as it is known: reachable, ready, empty. Other keywords are the node's own."""
    return NodeView(
        node=node(of, **node_changes) if isinstance(of, str) else of,
        mark=NodeMark(state=state, reason=reason),
        usage=usage or Usage(),
        ports_used=frozenset(ports_used),
        last_port=last_port,
        reachable=reachable,
        error=error,
        facts=facts,
        containers=tuple(containers),
        image_present=image_present or {},
        excluded=excluded,
    )


def cluster(
    *nodes: NodeView | Node | str, placements: Iterable[Placement] = (), last_node: str | None = None
) -> ClusterView:
    """Several nodes; names and inventory nodes become views with `view`'s defaults."""
    views = [of if isinstance(of, NodeView) else view(of) for of in nodes]
    return ClusterView(
        cluster=CLUSTER,
        nodes={of.node.name: of for of in views},
        placements={placed.user: placed for placed in placements},
        last_node=last_node,
    )


def placement(user: str = "alice", node: str = "n1", host_port: int = 20000, **changes: Any) -> Placement:
    """A running workspace of generation 1."""
    values: dict[str, Any] = {
        "user": user,
        "node": node,
        "address": "10.0.0.11",
        "host_port": host_port,
        "state": PlacementState.RUNNING,
        "generation": 1,
        "container_generation": 1,
        "resources": RESOURCES,
    }
    return Placement(**{**values, **changes})


def request(user: str = "alice", **changes: Any) -> Request:
    """A user who asks for the default workspace."""
    return Request(**{"user": user, "resources": RESOURCES, "image": IMAGE, **changes})
