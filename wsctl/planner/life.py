"""Deciding the rest of a workspace's life: stop, restart, remove, undo; and the marks of nodes.

Responsible for steps that are safe to repeat: each plan starts from what is observed. No plan here deletes files but
`plan_remove(purge=True)`. Not responsible for bringing a workspace up (`place`).
"""

from __future__ import annotations

from wsctl.errors import NotFound, Refused, WsctlError
from wsctl.model import ClusterView, NodeState, Placement, PlacementState, WorkspaceSpec
from wsctl.moving import Home
from wsctl.plan import (
    AwaitReady,
    Claim,
    CreateContainer,
    MarkNode,
    PurgeData,
    Release,
    RemoveContainer,
    Settle,
    StartContainer,
    Step,
    StopContainer,
    Work,
)
from wsctl.planner.decision import Decision, Located, damaged_row, locate, port_if_taken, set_aside
from wsctl.planner.standby import dropped_with


def plan_stop(user: str, view: ClusterView, *, cause: str = "asked", grace_s: float = 10.0) -> Decision:
    """Stop the user's container; data, placement and port stay, memory and CPU are given back."""
    located = locate(user, view)
    if isinstance(located, WsctlError):
        return Decision(user, error=located)
    placement = located.placement
    alive = located.container is not None and located.container.is_running
    if placement.state is PlacementState.STOPPED and not alive:
        return Decision(user, Work(user, "unchanged", (), placement.generation))
    steps: list[Step] = [_claim(placement, _on_the_way_down(placement), cause)]
    if alive:
        steps.append(StopContainer(user, placement.node, "", grace_s))
    steps.append(Settle(user, placement.node, "" if alive else "it doesn't run", PlacementState.STOPPED))
    return Decision(user, Work(user, "stopped", tuple(steps), placement.generation))


def plan_keep(user: str, view: ClusterView, cause: str) -> Decision:
    """Leave the user's container running; a stop that was begun, and reached nothing yet, is taken back."""
    placement = view.placements[user]
    located = locate(user, view)
    running = isinstance(located, Located) and located.is_running and located.fit == "current"
    if placement.state is not PlacementState.STOPPING or not running:
        return Decision(user, Work(user, cause))
    steps = (
        _claim(placement, PlacementState.STARTING, cause),
        Settle(user, placement.node, "it was never stopped", PlacementState.RUNNING),
    )
    return Decision(user, Work(user, cause, steps, placement.generation))


def plan_restart(user: str, spec: WorkspaceSpec, view: ClusterView, *, recreate: bool = False) -> Decision:
    """Stop and start the container; with `recreate`, make it anew from the present spec (files in the mount stay)."""
    located = locate(user, view)
    if isinstance(located, WsctlError):
        return Decision(user, error=located)
    placement, node = located.placement, located.placement.node
    moved = port_if_taken(located)
    if isinstance(moved, WsctlError):
        return Decision(user, error=moved)
    anew = recreate or located.fit != "current" or moved is not None
    cause = "made anew from the present spec" if recreate else "restart"
    if moved is not None:
        cause = f"port {placement.host_port} is taken on {node}"
    steps: list[Step] = [_claim(placement, PlacementState.STARTING, cause, located, spec if anew else None, moved)]
    if located.is_running:
        steps.append(StopContainer(user, node, ""))
    if anew:
        if located.fit == "stale" and located.container is not None:
            steps.append(set_aside(user, node, "stale copy", located.container))
        elif located.container is not None:
            steps.append(RemoveContainer(user, node, "", located.container.id))
        steps.append(CreateContainer(user, node, ""))
    steps.append(StartContainer(user, node, ""))
    if spec.ready is not None:
        steps.append(AwaitReady(user, node, "", spec.ready))
    steps.append(Settle(user, node, "", PlacementState.RUNNING))
    return Decision(user, Work(user, "restarted", tuple(steps), placement.generation))


def plan_remove(user: str, spec: WorkspaceSpec, view: ClusterView, *, purge: bool = False) -> Decision:
    """Remove container and placement. The files stay, and the node is remembered as the user's home, unless `purge`.

    A user who was removed before but whose files remain can still be purged.
    """
    if user not in view.placements and user not in view.damaged and purge and user in view.homes:
        return _purge_home(user, view.homes[user], spec, view)
    located = locate(user, view)
    if isinstance(located, NotFound):
        home = view.homes.get(user)
        hint = "wsctl ls" if home is None else f"wsctl rm {user} --purge-data   # its files are still on {home}"
        return Decision(user, error=NotFound(located.message, hint=hint, details=located.details))
    if isinstance(located, WsctlError):
        return Decision(user, error=located)
    placement, node = located.placement, located.placement.node
    steps: list[Step] = [_claim(placement, _on_the_way_down(placement), "asked")]
    if located.container is not None:
        if located.container.is_running:
            steps.append(StopContainer(user, node, ""))
        steps.append(RemoveContainer(user, node, "", located.container.id))
    steps += dropped_with(user, view)
    if purge:
        steps.append(PurgeData(user, node, "--purge-data", located.view.node.host_root, spec.image))
    steps.append(Release(user, node, "" if purge else "files stay", keep_home=not purge))
    return Decision(user, Work(user, "purged" if purge else "removed", tuple(steps), placement.generation))


def plan_abandon(user: str, view: ClusterView) -> Decision:
    """Remove the placement of a user whose node was taken out of the inventory; nobody is asked and nothing is touched
    there. The node is remembered as the user's home."""
    if user in view.damaged:
        return Decision(user, error=damaged_row(user, view))
    placement = view.placements.get(user)
    if placement is None:
        return Decision(user, error=NotFound(f"user {user} has no placement", hint="wsctl ls"))
    if placement.node in view.nodes:
        node = placement.node
        error = Refused(f"{node}, where {user} is placed, is in the inventory", hint=f"wsctl rm {user}")
        return Decision(user, error=error)
    cause = f"{placement.node} is not in the inventory"
    steps = (
        _claim(placement, _on_the_way_down(placement), cause),
        Release(user, placement.node, "files stay, if they are still there"),
    )
    return Decision(user, Work(user, "removed", steps, placement.generation))


def _purge_home(user: str, home: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
    node = view.nodes.get(home)
    if node is None:
        return Decision(user, error=NotFound(f"files of {user} are on {home}, which is not in the inventory"))
    known = Home(home, view.home_generations.get(user, 0))
    steps = (
        *dropped_with(user, view),
        PurgeData(user, home, "--purge-data", node.node.host_root, spec.image, known),
        Release(user, home, "its files are gone", keep_home=False, home=known),
    )
    return Decision(user, Work(user, "purged", steps))


def plan_undo(user: str, view: ClusterView, cause: str) -> Work:
    """Take back a reservation whose node refused to create or start the container: nothing of it may stay behind.

    Removes only a container that is ours; one that merely bears the name is left alone.
    """
    placement = view.placements[user]
    located = locate(user, view)
    steps: list[Step] = []
    if isinstance(located, Located) and located.container is not None:
        steps.append(RemoveContainer(user, placement.node, cause, located.container.id))
    steps.append(Release(user, placement.node, cause, keep_home=None))
    return Work(user, "undone", tuple(steps), placement.generation)


def plan_mark(node: str, state: NodeState, reason: str, view: ClusterView) -> Decision:
    """Cordon, uncordon or otherwise mark a node."""
    known = view.nodes.get(node)
    if known is None:
        return Decision(node, error=NotFound(f"no node {node} in the inventory", hint="wsctl node ls"))
    spoken_against = state is NodeState.READY and bool(known.reports)
    if known.mark.state is state and (known.mark.reason == reason or not reason) and not spoken_against:
        return Decision(node, Work(node, "unchanged"))
    was = known.mark.state if known.mark.state is not state else known.reports[0].kind if known.reports else state
    step = MarkNode("", node, reason or f"was {was}", state, reason)
    return Decision(node, Work(node, "uncordoned" if state is NodeState.READY else str(state), (step,)))


def plan_back(node: str, view: ClusterView) -> Decision:
    """Cordon a node that was given up and is back. What somebody made of its mark meanwhile stays."""
    known = view.nodes.get(node)
    if known is not None and known.mark.state is not NodeState.DOWN:
        return Decision(node, Work(node, "unchanged"))
    return plan_mark(node, NodeState.CORDONED, "came back after it had failed", view)


def _on_the_way_down(placement: Placement) -> PlacementState:
    """The state while a workspace is stopped or removed.

    A stopped one stays stopped: `stopping` would take its memory and CPU again, which others may have by now.
    """
    return PlacementState.STOPPED if placement.state is PlacementState.STOPPED else PlacementState.STOPPING


def _claim(
    placement: Placement,
    state: PlacementState,
    cause: str,
    located: Located | None = None,
    anew: WorkspaceSpec | None = None,
    port: int | None = None,
) -> Claim:
    """`located` is given when the workspace is to run afterwards; `anew` when its container will be made from it."""
    takes = located is not None and (anew is not None or not placement.state.holds_resources)
    return Claim(
        placement.user,
        placement.node,
        cause,
        generation=placement.generation,
        state=state,
        capacity=located.view.node.capacity if located is not None and takes else None,
        new_container=anew is not None,
        port=port,
        resources=anew.resources if anew is not None else None,
    )
