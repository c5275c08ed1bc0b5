"""`wsctl ls` and `wsctl show`: reading placements.

Responsible for: what is shown of placements. `ls` asks the state database only, so that it answers when nodes don't;
`show` also asks the user's node. Not responsible for: changing anything.
"""

from __future__ import annotations

from typing import Annotated

import typer

from wsctl.commands.options import UserArg, check_users, command
from wsctl.context import App
from wsctl.errors import NodeError, NotFound
from wsctl.model import Container, Placement, PlacementState


@command
def ls(
    app: App,
    node: Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only users on this node.")] = None,
    state: Annotated[PlacementState | None, typer.Option("--state", help="Only placements in this state.")] = None,
) -> None:
    """List placements, from the state database (nodes aren't asked).

    Example:
      wsctl ls --node n1 -o json
    """
    from wsctl.commands.present import (
        PLACEMENT_COLUMNS,
        activity_column,
        newest_copies,
        placement_dict,
        standby_dict,
    )

    inventory, store = app.inventory, app.store_for_reading
    readable, damaged = store.placements_and_damage()
    for row in damaged:
        app.out.warn(f"{row.user} is left out: {row.problem}")
    placements = [p for p in readable if (node is None or p.node == node) and (state is None or p.state is state)]
    if node is not None and not placements:
        inventory.node(node)
    activity = app.activity_for_reading.recorded().activity
    prefix = inventory.gateway.path_prefix
    copies = newest_copies(store.standbys())
    now = app.clock_of(store).now()
    items = [
        placement_dict(p, activity.get(p.user), prefix) | standby_dict(copies.get(p.user), now) for p in placements
    ]
    app.out.rows(items, (*PLACEMENT_COLUMNS, activity_column(now)))


@command
def show(app: App, user: UserArg) -> None:
    """Show everything about one user: the placement, what their node says, and their activity.

    Example:
      wsctl show alice
    """
    from wsctl.commands.present import newest_copies, placement_dict, standby_dict

    (target,) = check_users([user])
    store = app.store_for_reading
    placement = store.placement(target)
    if placement is None:
        raise _unknown(app, target)
    activity = app.activity_for_reading.recorded([target]).activity.get(target)
    item = placement_dict(placement, activity, app.inventory.gateway.path_prefix)
    item |= {
        "active_by": activity.source if activity is not None else None,
        "class": placement.workspace_class,
        "memory_bytes": placement.resources.memory_bytes,
        "cpus": placement.resources.cpus_milli / 1000,
        "created_at": placement.created_at,
        "updated_at": placement.updated_at,
    }
    copies = newest_copies(store.standbys(target))
    item |= standby_dict(copies.get(target), app.clock_of(store).now())
    item |= _observed(app, placement)
    item |= _idleness(app, placement)
    app.out.record(item)


def _unknown(app: App, user: str) -> NotFound:
    home = app.store_for_reading.home(user)
    if home is not None:
        return NotFound(
            f"user {user} has no placement; their files are on {home.node}",
            hint=f"wsctl place {user}   # starts there; or: wsctl rm {user} --purge-data",
            details={"user": user, "home": home.node},
        )
    return NotFound(f"user {user} has no placement", hint=f"wsctl place {user}", details={"user": user})


def _observed(app: App, placement: Placement) -> dict[str, object]:
    """What the node says of the container now; a node that doesn't answer is said, and is no failure of `show`."""
    if placement.node not in app.inventory.nodes:
        return {"observed": "unknown", "observed_detail": f"{placement.node} is not in the inventory"}
    try:
        container = app.fleet.engine(placement.node).container(placement.container)
    except NodeError as error:
        return {"observed": "unknown", "observed_detail": error.reason}
    if container is None:
        return {"observed": "missing", "observed_detail": "no such container on the node"}
    return {"observed": container.state, "observed_detail": _fit(app, placement, container)}


def _idleness(app: App, placement: Placement) -> dict[str, object]:
    """Whether the reaper would stop it, why, and when; until when an operator wants it kept."""
    from wsctl.evidence import KEEP_ALIVE
    from wsctl.reaper import Reaper, ReapOptions

    user, now = placement.user, app.wiring.clock.now()
    note = app.store_for_reading.notes(KEEP_ALIVE, [user]).get(user)
    item: dict[str, object] = {"keep_until": note.value if note is not None and note.value > now.isoformat() else None}
    reap = app.inventory.reap
    options = ReapOptions(
        user_limits=reap.users, users=[user], dry_run=True, thorough=True, notify=app.notify, notice_s=reap.notice_s
    )
    for verdict in Reaper(app.world(dry_run=True), options).run():
        item |= {"idle": verdict.verdict.value, "idle_reason": verdict.reason, "stops_at": verdict.stops_at}
    return item


def _fit(app: App, placement: Placement, container: Container) -> str:
    if container.cluster != app.inventory.cluster or container.user != placement.user:
        return "a container of that name that isn't ours"
    if container.generation != placement.container_generation:
        return f"stale copy: generation {container.generation}, not {placement.container_generation}"
    spec = app.inventory.classes.get(placement.workspace_class)
    if spec is not None and container.spec not in (None, spec.digest()):
        return f"made from an older spec; wsctl restart {placement.user} --recreate applies the present one"
    return f"image {container.image}"
