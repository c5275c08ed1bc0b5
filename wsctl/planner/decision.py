"""The result of deciding about one target, and what all deciders check first.

Responsible for: `Decision`, and for finding a user's placement, node and container in a view, or the error that says
why they can't be acted upon. Not responsible for any verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wsctl.errors import BackendError, NameTaken, NodeUnreachable, NotFound, Refused, Unschedulable, WsctlError
from wsctl.model import ClusterView, Container, NodeState, NodeView, Placement
from wsctl.plan import QuarantineContainer, Work
from wsctl.scheduler import next_port


@dataclass(frozen=True, slots=True)
class Decision:
    """Either `work` (perhaps without steps: nothing to do) or `error`; and why each node was or wasn't chosen."""

    target: str
    work: Work | None = None
    error: WsctlError | None = None
    explain: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Located:
    """A placed user on an observed node. `container` bears the user's name there; `fit` says whose it is.

    `current`: the authoritative one. `stale`: ours, but of another generation. `absent`: there is none.
    """

    placement: Placement
    view: NodeView
    container: Container | None
    fit: Literal["current", "stale", "absent"]

    @property
    def is_running(self) -> bool:
        """Whether the authoritative container runs."""
        return self.fit == "current" and self.container is not None and self.container.is_running


def locate(user: str, view: ClusterView) -> Located | WsctlError:
    """The user's placement with what was observed of it, or why it can't be acted upon now."""
    if user in view.damaged:
        return damaged_row(user, view)
    placement = view.placements.get(user)
    if placement is None:
        return NotFound(f"user {user} has no placement", hint=f"wsctl place {user}", details={"user": user})
    node = view.nodes.get(placement.node)
    if node is None:
        return Refused(
            f"{user} is placed on {placement.node}, which is not in the inventory",
            hint=f"add {placement.node} to the inventory again, by this name, then repeat the command; "
            f"if it is gone for good: wsctl rm {user} --node-gone",
            details={"user": user, "node": placement.node},
        )
    if node.mark.state is NodeState.DOWN:
        return Refused(
            f"{user} is placed on {placement.node}, which is marked down"
            + (f" ({node.mark.reason})" if node.mark.reason else ""),
            hint=f"wsctl node uncordon {placement.node}   # once it is back",
            details={"user": user, "node": placement.node},
        )
    if not node.reachable:
        return NodeUnreachable(
            placement.node,
            f"{node.error or 'was not asked'}; {user} stays placed there, what runs is unknown",
            hint=f"wsctl node check {placement.node}",
            details={"user": user},
        )
    return _identify(user, placement, node, view.cluster)


def damaged_row(user: str, view: ClusterView) -> BackendError:
    """The error for a user whose row of the state database can't be read: nothing is known, so nothing is done."""
    return BackendError(view.damaged[user].problem, hint="correct that row by hand, or restore a backup")


def _identify(user: str, placement: Placement, node: NodeView, cluster: str) -> Located | WsctlError:
    container = node.container_of(user)
    if container is None:
        return Located(placement, node, None, "absent")
    if container.cluster != cluster or container.user != user:
        return foreign_name(user, placement.node, container)
    current = container.generation == placement.container_generation
    return Located(placement, node, container, "current" if current else "stale")


def foreign_name(user: str, node: str, container: Container) -> NameTaken:
    """The error for a container that bears the user's name but isn't ours."""
    owner = f"cluster {container.cluster}" if container.cluster else "no wsctl cluster"
    return NameTaken(
        node,
        f"a container named {container.name} exists and belongs to {owner}",
        hint=f"rename or remove that container on {node}, then repeat the command",
        details={"user": user, "container": container.id},
    )


def port_if_taken(located: Located) -> int | WsctlError | None:
    """Another port if something else took the placement's port on the node; None if it is fine."""
    placement = located.placement
    if placement.host_port not in located.view.ports_foreign:
        return None
    port = next_port(located.view)
    if port is None:
        return Unschedulable(
            f"port {placement.host_port} of {placement.user} is taken on {placement.node}, and no other port is free",
            hint=f"widen `ports` of node {placement.node} in the inventory",
        )
    return port


def set_aside(user: str, node: str, cause: str, container: Container) -> QuarantineContainer:
    """The step that stops a copy and renames it: what is in its own layer may be somebody's work."""
    return QuarantineContainer(user, node, cause, container.id, container.name)
