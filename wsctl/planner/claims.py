"""Which containers concern which user, whatever their labels and names say of each other.

Responsible for: giving each container that bears our labels, or a name that could be ours, to exactly one user. Labels
may be forged and names reused: the name decides before the label, because the name is what a user's own container
needs. Not responsible for: what follows from it (`reconcile`, `adopt`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from wsctl.model import (
    CONTAINER_PREFIX,
    QUARANTINE_PREFIX,
    ClusterView,
    Container,
    NodeView,
    is_user_id,
)

HELPER_PREFIX = "ws-"
"""Containers that wsctl uses for a moment (`ws-purge-…`): labelled with the cluster, but with no user."""

PLACEHOLDER = "{user}"


class Copy(NamedTuple):
    """A container, and the node that it is on."""

    node: str
    container: Container


def user_in(name: str, template: str) -> str | None:
    """The user id that stands in `name` where `template` has `{user}`; None if the name doesn't fit."""
    before, _, after = template.partition(PLACEHOLDER)
    if len(name) <= len(before) + len(after) or not (name.startswith(before) and name.endswith(after)):
        return None
    user = name[len(before) : len(name) - len(after)]
    return user if is_user_id(user) else None


def is_set_aside(container: Container) -> bool:
    """Whether the container was put into quarantine."""
    return container.name.startswith(QUARANTINE_PREFIX)


def claimed_user(container: Container, cluster: str, template: str | None = None) -> str | None:
    """The user whose affair the container is. `template` also names containers that wsctl didn't make."""
    ours = container.cluster == cluster
    if is_set_aside(container):
        return user_in(container.name.rpartition("-")[0], QUARANTINE_PREFIX + PLACEHOLDER) if ours else None
    named = user_in(container.name, CONTAINER_PREFIX + PLACEHOLDER)
    if named is not None:
        return named
    if ours:
        return container.user
    return user_in(container.name, template) if template is not None else None


def all_claims(view: ClusterView, template: str | None = None) -> dict[str, list[Copy]]:
    """The copies of each user on all nodes that answered, in the order of the nodes."""
    claims: dict[str, list[Copy]] = {}
    for copy in _copies(view):
        user = claimed_user(copy.container, view.cluster, template)
        if user is not None:
            claims.setdefault(user, []).append(copy)
    return claims


def claims_of(user: str, view: ClusterView, template: str | None = None) -> list[Copy]:
    """The copies of one user."""
    return [copy for copy in _copies(view) if claimed_user(copy.container, view.cluster, template) == user]


def nobodys(view: ClusterView) -> list[Copy]:
    """Containers with our cluster's label that name no user, other than the helpers of a command."""
    return [
        copy
        for copy in _copies(view)
        if copy.container.cluster == view.cluster
        and not copy.container.name.startswith(HELPER_PREFIX)
        and claimed_user(copy.container, view.cluster) is None
    ]


def without(view: ClusterView, node: str, container: Container) -> ClusterView:
    """The view as it will be once the container was put aside: its name and its port are free."""
    known = view.nodes[node]
    left = tuple(one for one in known.containers if one.id != container.id)
    changed = replace(known, containers=left)
    port = container.host_port
    if port is not None and all(one.host_port != port for one in left):
        changed = replace(changed, ports_foreign=known.ports_foreign - {port}, ports_used=_used(view, changed, port))
    return replace(view, nodes={**view.nodes, node: changed})


def _used(view: ClusterView, node: NodeView, port: int) -> frozenset[int]:
    name = node.node.name
    recorded = any(p.host_port == port and p.node == name for p in view.placements.values())
    damaged = any(row.host_port == port and row.node == name for row in view.damaged.values())
    return node.ports_used if recorded or damaged else node.ports_used - {port}


def _copies(view: ClusterView) -> Iterator[Copy]:
    for name, node in view.nodes.items():
        for container in node.containers:
            yield Copy(name, container)
