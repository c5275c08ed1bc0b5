"""Taking over containers that are in no placement: a hand-grown fleet, or users that an old backup doesn't know.

Responsible for: whether a container can be taken over without touching its files, and the steps. Its user gets a
placement where it is, it is put aside, and one from the spec is made on the same folder. Not responsible for: which
containers could be meant (`claims`).
"""

from __future__ import annotations

from collections.abc import Sequence

from wsctl.feasibility import request_for
from wsctl.model import ClusterView, Container, NodeView, PlacementState, PullPolicy, WorkspaceSpec
from wsctl.plan import Claim, Reserve, Settle, Step
from wsctl.planner.claims import Copy
from wsctl.planner.decision import set_aside
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.place import bring_up, create
from wsctl.scheduler import fits, next_port

CAUSE = "adopted"


def has_their_files(user: str, spec: WorkspaceSpec, node: NodeView, container: Container) -> bool:
    """Whether the container's workspace is the folder that the user's own container would mount."""
    return container.binds.get(spec.mount) == node.node.data_path(user)


def adoption(
    user: str, spec: WorkspaceSpec, view: ClusterView, copies: Sequence[Copy]
) -> tuple[list[Difference], list[Step]]:
    """What is said of the user's containers, and the steps that adopt the one that there is."""
    kinds = [Kind.ORPHAN if copy.container.cluster == view.cluster else Kind.UNMANAGED for copy in copies]
    if len(copies) > 1:
        fix = f"decide which one has {user}'s work, rename or remove the others, then repeat the command"
        return [
            Difference(
                kind, user, copy.node, f"{copy.container.name} is one of {len(copies)} of {user}", fix, safe=False
            )
            for kind, copy in zip(kinds, copies, strict=True)
        ], []
    ((name, container),) = copies
    node = view.nodes[name]
    port = _port(node, view, container)
    why_not = _why_not(user, spec, view, copies[0]) or _no_place(spec, node, user)
    if why_not is None and port is None:
        why_not = ("no port is free there", f"widen `ports` of node {name} in the inventory")
    if why_not is not None or port is None:
        reason, fix = why_not or ("", "")
        return [Difference(kinds[0], user, name, f"{container.name}: {reason}", fix, safe=False)], []
    fix = f"adopted on port {port}: put aside, and made anew on the same files"
    found = Difference(kinds[0], user, name, f"{container.name} is in no placement", fix)
    return [found], _steps(user, spec, node, container, port, view.homes.get(user))


def _why_not(user: str, spec: WorkspaceSpec, view: ClusterView, copy: Copy) -> tuple[str, str] | None:
    """Why the files would not be the ones that the user has now, and how to put that right."""
    node, container = view.nodes[copy.node], copy.container
    wanted = node.node.data_path(user)
    home = view.homes.get(user)
    if home not in (None, copy.node) and node.node.storage != "shared":
        return (
            f"older files of {user} are on {home}",
            f"decide which files count; wsctl rm {user} --purge-data deletes those on {home}",
        )
    if has_their_files(user, spec, node, container):
        return None
    has = container.binds.get(spec.mount)
    if has is None:
        return (
            f"no folder of the node is mounted at {spec.mount}",
            f"copy its files to {wanted} on {copy.node}, and run it with -v {wanted}:{spec.mount}",
        )
    return (
        f"its files are in {has}, not in {wanted}",
        f"on {copy.node}: stop it, move {has} to {wanted}, and run it with -v {wanted}:{spec.mount}",
    )


def _no_place(spec: WorkspaceSpec, node: NodeView, user: str) -> tuple[str, str] | None:
    name = node.node.name
    reasons = [str(reason) for reason in fits(request_for(user, spec), node)]
    if node.usage.workspaces >= node.node.capacity.workspaces:
        reasons.insert(0, "it has all the workspaces that it may have")
    if reasons:
        return f"{name} has no room: {', '.join(reasons)}", f"raise `capacity` of node {name} in the inventory"
    if node.image_present.get(spec.image) is False and spec.pull is PullPolicy.NEVER:
        return f"image {spec.image} is missing, and `pull: never` forbids fetching it", f"load it on {name}"
    return None


def _port(node: NodeView, view: ClusterView, container: Container) -> int | None:
    """The port that the container has, if it can stay; else the next one of the range."""
    port, name = container.host_port, node.node.name
    if port is None or container.address != node.address:
        return next_port(node)
    others = any(one.host_port == port for one in node.containers if one.id != container.id)
    recorded = any(p.host_port == port for p in view.placements.values() if p.node == name)
    damaged = any(row.host_port == port for row in view.damaged.values() if row.node == name)
    return next_port(node) if others or recorded or damaged else port


def _steps(
    user: str, spec: WorkspaceSpec, node: NodeView, container: Container, port: int, home: str | None
) -> list[Step]:
    name = node.node.name
    steps: list[Step] = [
        Reserve(
            user,
            name,
            CAUSE,
            address=node.address or "",
            port=port,
            resources=spec.resources,
            capacity=node.node.capacity,
            workspace_class=spec.name,
            home=home,
        )
    ]
    aside = set_aside(user, name, CAUSE, container)
    if not container.is_running:
        return [*steps, aside, Settle(user, name, "it doesn't run", PlacementState.STOPPED)]
    # Past `reserved`, so that a node that refuses now can't make anybody take the place back: the files are here.
    steps.append(Claim(user, name, CAUSE, generation=1, state=PlacementState.STARTING, new_container=True))
    present = node.image_present.get(spec.image)
    return [*steps, aside, *create(user, spec, name, present, ""), *bring_up(user, spec, name)]
