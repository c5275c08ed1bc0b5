"""Deciding how a user comes to run: place (new or not) and start (must be placed).

Responsible for the steps that lead from whatever is observed to a running container on the user's node, also after a
crash half-way: there is no resume code, only this. A placed user stays on their node. Not responsible for choosing
among nodes (`scheduler`).
"""

from __future__ import annotations

from dataclasses import replace

from wsctl.errors import ImageMissing, Unschedulable, WsctlError
from wsctl.feasibility import request_for
from wsctl.model import Capacity, ClusterView, NodeState, Placement, PlacementState, PullPolicy, WorkspaceSpec
from wsctl.model import Strategy as StrategyName
from wsctl.plan import (
    AwaitReady,
    Claim,
    CreateContainer,
    PullImage,
    RemoveContainer,
    Reserve,
    Settle,
    StartContainer,
    Step,
    Work,
)
from wsctl.planner.decision import Decision, Located, damaged_row, locate, port_if_taken, set_aside
from wsctl.scheduler import Placed, choose, explain, fits


def plan_place(
    user: str, spec: WorkspaceSpec, view: ClusterView, strategy: StrategyName, *, fresh: bool = False
) -> Decision:
    """Bring the user to run: on their node if placed, else where their files are, else on the best node.

    `fresh` allows a new home although files of the user remain on another node.
    """
    if user in view.placements:
        return _resume(user, spec, view, strategy)
    if user in view.damaged:
        return Decision(user, error=damaged_row(user, view))
    home = None if fresh else view.homes.get(user)
    candidates_view = view if home is None else _only_home(user, home, view)
    found = choose(request_for(user, spec), candidates_view, strategy)
    reasons = explain(found.candidates)
    if not isinstance(found, Placed):
        hint = (
            f"wsctl place {user} --dry-run --explain"
            if home is None
            else f"wsctl place {user} --fresh   # start empty on another node"
        )
        error = Unschedulable(
            f"no node for {user}: {found.summary()}", hint=hint, details={"user": user, "nodes": reasons}
        )
        return Decision(user, error=error, explain=reasons)
    node = view.nodes[found.node]
    # The scheduler passes over nodes where the name belongs to somebody else: this one is ours.
    leftover = node.container_of(user)
    cause = f"files of {user} are there" if home is not None else _choice_cause(found, strategy)
    steps: list[Step] = [
        Reserve(
            user,
            found.node,
            cause,
            address=node.address or node.node.publish_address or "",
            port=found.port,
            resources=spec.resources,
            capacity=node.node.capacity,
            workspace_class=spec.name,
            home=view.homes.get(user),
            only_ready=True,
        )
    ]
    if leftover is not None:
        steps.append(set_aside(user, found.node, "left over, in no placement", leftover))
    steps += create(user, spec, found.node, node.image_present.get(spec.image), "new")
    steps += bring_up(user, spec, found.node)
    return Decision(user, Work(user, "created", tuple(steps)), explain=reasons)


def plan_start(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
    """Start the workspace of a placed user on their node."""
    return _resume(user, spec, view, None)


def _only_home(user: str, home: str, view: ClusterView) -> ClusterView:
    """The view with every other node out of the question; shared storage makes every node a home."""
    origin = view.nodes.get(home)
    if origin is not None and origin.node.storage == "shared":
        return view
    nodes = {
        name: node if name == home else replace(node, excluded=node.excluded or f"files of {user} are on {home}")
        for name, node in view.nodes.items()
    }
    return replace(view, nodes=nodes)


def _choice_cause(found: Placed, strategy: StrategyName) -> str:
    feasible = sum(candidate.feasible for candidate in found.candidates)
    return f"{strategy}: best of {feasible} that fit, {len(found.candidates)} in all"


def _resume(user: str, spec: WorkspaceSpec, view: ClusterView, strategy: StrategyName | None) -> Decision:
    located = locate(user, view)
    if isinstance(located, WsctlError):
        return Decision(user, error=located)
    placement = located.placement
    reasons: dict[str, object] = {
        placement.node: {"feasible": True, "reasons": ["placed here: a placed user stays"], "score": None}
    }
    moved = port_if_taken(located)
    if isinstance(moved, WsctlError):
        return Decision(user, error=moved, explain=reasons)
    if located.is_running and moved is None and placement.state is PlacementState.RUNNING:
        return Decision(user, Work(user, "unchanged", (), placement.generation, _drift(located, spec)), explain=reasons)
    refusal = _no_room(user, spec, located) or _no_image(spec, located, moved)
    if refusal is not None:
        return Decision(user, error=refusal, explain=reasons)
    steps = _steps_to_running(user, spec, located, moved)
    action = "created" if placement.state is PlacementState.RESERVED else "started"
    warnings = _drift(located, spec) + _mark_warning(located)
    return Decision(user, Work(user, action, tuple(steps), placement.generation, warnings), explain=reasons)


def _no_room(user: str, spec: WorkspaceSpec, located: Located) -> Unschedulable | None:
    """Why a stopped workspace can't come back now: it gave its memory and CPU away."""
    placement = located.placement
    if placement.state.holds_resources:
        return None
    reasons = fits(request_for(user, spec, placement.resources), located.view)
    if not reasons:
        return None
    return Unschedulable(
        f"{placement.node} has no room to start {user}: {', '.join(map(str, reasons))}",
        hint="wsctl reap-idle --dry-run   # who could be stopped; or raise the node's capacity",
        details={"user": user, "node": placement.node},
    )


def _steps_to_running(user: str, spec: WorkspaceSpec, located: Located, moved: int | None) -> list[Step]:
    placement, node = located.placement, located.placement.node
    reuse = located.fit == "current" and moved is None
    # A container that is made anew is made from the present spec, and takes what that says.
    takes = not placement.state.holds_resources or not reuse
    capacity: Capacity | None = located.view.node.capacity if takes else None
    steps: list[Step] = [
        Claim(
            user,
            node,
            _why(placement, located, moved),
            generation=placement.generation,
            # Reserved says that the user never had a container: if the node refuses, the place can be given back.
            state=placement.state if placement.state is PlacementState.RESERVED else PlacementState.STARTING,
            capacity=capacity,
            new_container=not reuse,
            port=moved,
            resources=None if reuse else spec.resources,
        )
    ]
    if reuse:
        ready_only = located.is_running
        return steps + bring_up(user, spec, node, start=not ready_only)
    if located.container is not None:
        steps.append(
            set_aside(user, node, "stale copy", located.container)
            if located.fit == "stale"
            else RemoveContainer(user, node, "its port is taken", located.container.id)
        )
    steps += create(user, spec, node, located.view.image_present.get(spec.image), "")
    return steps + bring_up(user, spec, node)


def _why(placement: Placement, located: Located, moved: int | None) -> str:
    if moved is not None:
        return f"port {placement.host_port} is taken on {placement.node}"
    if located.is_running:
        return f"runs, but recorded as {placement.state}"
    if located.fit == "absent" and placement.state is not PlacementState.RESERVED:
        return f"{placement.state}, and its container is missing"
    return f"was {placement.state}"


def create(user: str, spec: WorkspaceSpec, node: str, image_present: bool | None, cause: str) -> list[Step]:
    """Make the container, after bringing its image to the node if it isn't there."""
    create = CreateContainer(user, node, cause)
    if image_present is False and spec.pull is not PullPolicy.NEVER:
        return [PullImage(user, node, "not on the node", spec.image), create]
    return [create]


def bring_up(user: str, spec: WorkspaceSpec, node: str, *, start: bool = True) -> list[Step]:
    """Start the container, wait until it answers, and record that it runs."""
    steps: list[Step] = [StartContainer(user, node, "")] if start else []
    if spec.ready is not None:
        steps.append(AwaitReady(user, node, "", spec.ready))
    return [*steps, Settle(user, node, "", PlacementState.RUNNING)]


def _drift(located: Located, spec: WorkspaceSpec) -> tuple[str, ...]:
    """A word when the running container was made from an older spec: it isn't replaced behind the user's back."""
    container = located.container
    if container is None or located.fit != "current" or container.spec in (None, spec.digest()):
        return ()
    user = located.placement.user
    return (f"{user} runs an older spec; `wsctl restart {user} --recreate` applies the present one",)


def _mark_warning(located: Located) -> tuple[str, ...]:
    mark = located.view.mark
    if mark.state is NodeState.READY:
        return ()
    return (
        f"{located.placement.node} is {mark.state}; {located.placement.user} is started there because they live there",
    )


def _no_image(spec: WorkspaceSpec, located: Located, moved: int | None) -> ImageMissing | None:
    """Why the container can't be made anew, if it has to be: its image isn't on the node and may not be pulled."""
    must_create = located.fit != "current" or moved is not None
    present = located.view.image_present.get(spec.image)
    if not must_create or present is not False or spec.pull is not PullPolicy.NEVER:
        return None
    node = located.placement.node
    return ImageMissing(
        node, f"image {spec.image} is missing, and `pull: never` forbids fetching it", hint=f"load it on {node}"
    )
