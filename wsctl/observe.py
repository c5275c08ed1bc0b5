"""Looking: a snapshot of the state database, enriched by what nodes answer.

Responsible for building `ClusterView`s. A node that doesn't answer is recorded as unreachable with the reason, never
dropped and never taken for empty. Not responsible for deciding anything, nor for how a node is reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from wsctl.errors import NodeError
from wsctl.model import ClusterView, Container, EngineFacts, Node, NodeMark, NodeState, NodeView, Usage
from wsctl.ports import Engine, Store
from wsctl.reports import NodeReport
from wsctl.standbys import by_user


@dataclass(frozen=True, slots=True)
class Observation:
    """What one node answered. `facts` is None when only one user was asked about."""

    address: str
    containers: tuple[Container, ...]
    image_present: Mapping[str, bool]
    facts: EngineFacts | None = None


def snapshot(cluster: str, nodes: Mapping[str, Node], store: Store) -> ClusterView:
    """What the state database knows; no node has been asked yet (`reachable` is None)."""
    readable, damaged = store.placements_and_damage()
    placements = {placement.user: placement for placement in readable}
    usage, marks, last_ports = store.usage(), store.marks(), store.last_ports()
    taken: dict[str, set[int]] = {}
    for placement in placements.values():
        taken.setdefault(placement.node, set()).add(placement.host_port)
    for row in damaged:
        if row.node is not None and row.host_port is not None:
            taken.setdefault(row.node, set()).add(row.host_port)
    moves = store.moves()
    for move in moves.values():
        taken.setdefault(move.target, set()).add(move.host_port)
    reports: dict[str, list[NodeReport]] = {}
    for report in store.node_reports():
        reports.setdefault(report.node, []).append(report)
    views = {
        name: NodeView(
            node=node,
            mark=marks.get(name, NodeMark()),
            usage=usage.get(name, Usage()),
            ports_used=frozenset(taken.get(name, ())),
            last_port=last_ports.get(name),
            address=node.publish_address,
            reports=tuple(reports.get(name, ())),
        )
        for name, node in sorted(nodes.items())
    }
    damage = {row.user: row for row in damaged}
    kept = tuple(store.kept_copies())
    known = store.known_homes()
    homes = {user: home.node for user, home in known.items()}
    generations = {user: home.generation for user, home in known.items()}
    view = ClusterView(cluster, views, placements, store.last_node(), homes, damage, moves, kept, generations)
    return replace(view, standbys=by_user(store.standbys()), left=tuple(store.left_files()))


def taken_as_down(view: ClusterView, names: Collection[str]) -> ClusterView:
    """The view with these nodes as if they were marked down."""
    nodes = {
        name: replace(node, mark=replace(node.mark, state=NodeState.DOWN)) if name in names else node
        for name, node in view.nodes.items()
    }
    return replace(view, nodes=nodes) if names else view


def ask_node(engine: Engine, images: Collection[str]) -> Observation:
    """Everything a node tells about itself: facts, all containers, presence of images. Raises `NodeError`."""
    facts = engine.facts()
    present = {image: engine.has_image(image) for image in sorted(images)}
    return Observation(engine.address, tuple(engine.containers()), present, facts)


def ask_user(engine: Engine, container: str, image: str) -> Observation:
    """Only what concerns one user: their container and the image. Two calls, whatever the size of the node."""
    found = engine.container(container)
    return Observation(engine.address, () if found is None else (found,), {image: engine.has_image(image)})


def merge(view: ClusterView, name: str, seen: Observation | NodeError) -> ClusterView:
    """The view with one node's answer, or its failure to answer, in it."""
    known = view.nodes[name]
    if isinstance(seen, NodeError):
        node = replace(known, reachable=False, error=seen.reason)
    else:
        foreign = known.ports_foreign | _foreign_ports(view, name, seen)
        node = replace(
            known,
            reachable=True,
            error=None,
            address=known.node.publish_address or seen.address,
            facts=seen.facts,
            containers=seen.containers,
            image_present=seen.image_present,
            ports_foreign=foreign,
            ports_used=known.ports_used | foreign,
        )
    return replace(view, nodes={**view.nodes, name: node})


def block_port(view: ClusterView, name: str, port: int) -> ClusterView:
    """The view in which something unknown holds `port` on the node, as its engine said."""
    node = view.nodes[name]
    changed = replace(node, ports_foreign=node.ports_foreign | {port}, ports_used=node.ports_used | {port})
    return replace(view, nodes={**view.nodes, name: changed})


def exclude(view: ClusterView, name: str, reason: str) -> ClusterView:
    """The view in which the node is out of the question for new placements, because it refused earlier in this run."""
    return replace(view, nodes={**view.nodes, name: replace(view.nodes[name], excluded=reason)})


def _foreign_ports(view: ClusterView, name: str, seen: Observation) -> frozenset[int]:
    """Ports published by containers that aren't the owner of the port by the state database."""
    owners = {p.host_port: p.user for p in view.placements.values() if p.node == name}
    return frozenset(
        container.host_port
        for container in seen.containers
        if container.host_port is not None
        and not (container.cluster == view.cluster and owners.get(container.host_port) == container.user)
    )
