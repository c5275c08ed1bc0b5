"""`wsctl standby …`: copies of users' files on other nodes, for the day on which theirs dies.

Responsible for: the options and answers of `sync`, `ls` and `settle`. Not responsible for: copying (`wsctl.standby`),
nor for failing over (`fail`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, UserArg, YesOpt, check_users, command, rate
from wsctl.context import App
from wsctl.errors import NotFound, PartialFailure, UsageError

if TYPE_CHECKING:
    from wsctl.model import ClusterView
    from wsctl.standby import Synced

SomeUsers = Annotated[
    list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids (default: who is due).")
]


@command
def sync(
    app: App,
    users: SomeUsers = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, max=64, help="Copied at once (default: the inventory's).")
    ] = None,
    bwlimit: Annotated[
        str | None, typer.Option("--bwlimit", metavar="SIZE", help="Copy at most so much a second, e.g. 20m.")
    ] = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Bring standby copies up to date (the timer's job): of who is due, the oldest first, or of the users named.

    Users go on working. A copy counts when it is complete; until then the older one does.

    Examples:
      wsctl standby sync
      wsctl standby sync alice --bwlimit 20m
    """
    from wsctl.output import Column
    from wsctl.standby import Keeper, SyncOptions
    from wsctl.text import human_bytes

    settings = app.inventory.failover
    options = SyncOptions(
        app.inventory.strategy,
        check_users(users) if users else None,
        settings.every_s,
        parallel or settings.parallel,
        settings.bwlimit if bwlimit is None else rate(bwlimit, "--bwlimit"),
        dry_run,
    )
    if options.users:
        _want_one(app, options.users)
    results = Keeper(app.world(dry_run=dry_run), options).run()
    columns = (
        Column("user"),
        Column("source", "from"),
        Column("node", "to"),
        Column("bytes", "copied", show=lambda size: human_bytes(size) if isinstance(size, int) else "-", right=True),
        Column("seconds", right=True),
        Column("action"),
        Column("reason"),
    )
    app.out.rows([_synced(done) for done in results], columns)
    failed = [done for done in results if done.error is not None]
    if failed and failed[0].error is not None:
        if len(results) == 1:
            raise failed[0].error
        raise PartialFailure(
            f"{len(failed)} of {len(results)} copies failed; the older ones stay as they are",
            hint="the next run tries again",
            details={"failed": [done.user for done in failed]},
        )


@command
def ls(app: App) -> None:
    """List standby copies with their age, and users who should have one and don't.

    Example:
      wsctl standby ls
    """
    from wsctl.model import spec_of
    from wsctl.output import Column, ago
    from wsctl.planner.standby import wants
    from wsctl.text import human_bytes

    view, now = _view(app), app.clock_of(app.store_for_reading).now()
    classes = app.inventory.classes
    items: list[dict[str, object]] = [
        {
            "user": copy.user,
            "node": copy.node,
            "source": copy.source,
            "as_of": copy.as_of,
            "age_s": _age_s(copy.as_of, now),
            "finished_at": copy.finished_at,
            "bytes": copy.bytes,
        }
        for copies in view.standbys.values()
        for copy in copies
    ]
    for user, placement in view.placements.items():
        if user not in view.standbys and wants(placement, spec_of(classes, placement), view):
            none = dict.fromkeys(("node", "as_of", "age_s", "finished_at", "bytes"))
            items.append({"user": user, "source": placement.node, **none})
    columns = (
        Column("user"),
        Column("source", "of"),
        Column("node", "on"),
        Column("as_of", "files as of", show=lambda at: ago(at if isinstance(at, datetime) else None, now)),
        Column("bytes", "size", show=lambda size: human_bytes(size) if isinstance(size, int) else "-", right=True),
    )
    app.out.rows(sorted(items, key=lambda item: (str(item["user"]), str(item["node"]))), columns)


@command
def settle(
    app: App,
    user: UserArg,
    node: Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only what that node has.")] = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Say that files which a failed node had kept aren't missed any more: `reconcile` deletes them a day later.

    Example:
      wsctl standby settle alice --node n1
    """
    from dataclasses import replace

    from wsctl.audit import Auditor
    from wsctl.output import Column
    from wsctl.plan import Work
    from wsctl.standbys import LeftState

    (target,) = check_users([user])
    store = app.store_for_reading if dry_run else app.store
    found = [
        left
        for left in store.left_files()
        if left.user == target and left.state is LeftState.CONFLICT and node in (None, left.node)
    ]
    if not found:
        raise NotFound(f"nothing of {target} waits for a decision", hint="wsctl reconcile --dry-run")
    places = ", ".join(f"{left.node}: .wsctl-kept/{left.name}" for left in found)
    if not dry_run:
        app.out.confirm(f"Let {places} be deleted a day from now?", yes=yes)
        placement = store.placement(target)
        trail = Auditor("standby settle", app.actor).trail(Work(target, "settled"), placement)
        with trail.recorded(store.append_audit, plan=f"{places}: deleted a day from now", after=placement):
            for left in found:
                store.keep_left(replace(left, state=LeftState.KEPT))
    items: list[dict[str, object]] = [
        {
            "user": target,
            "node": left.node,
            "folder": f".wsctl-kept/{left.name}",
            "newer_files": left.newer_files,
            "newer_bytes": left.newer_bytes,
            "action": "would-settle" if dry_run else "settled",
        }
        for left in found
    ]
    app.out.rows(items, (Column("user"), Column("node"), Column("folder"), Column("action")))


def _synced(done: Synced) -> dict[str, object]:
    from wsctl.commands.present import error_dict

    item: dict[str, object] = {
        "user": done.user,
        "source": done.source,
        "node": done.node,
        "as_of": done.as_of,
        "bytes": done.bytes,
        "seconds": round(done.seconds, 3),
        "action": done.action,
        "reason": done.error.message if done.error is not None else done.reason,
    }
    return item if done.error is None else {**item, "error": error_dict(done.error)}


def _want_one(app: App, users: Sequence[str]) -> None:
    """Refuse users of whom no copy is kept, saying why."""
    from wsctl.model import spec_of
    from wsctl.planner.standby import wants

    view = _view(app)
    for user in users:
        placement = view.placements.get(user)
        if placement is None:
            raise NotFound(f"user {user} has no placement", hint=f"wsctl place {user}", details={"user": user})
        if not wants(placement, spec_of(app.inventory.classes, placement), view):
            raise UsageError(
                f"no standby copy of {user} is kept: class {placement.workspace_class} doesn't ask for one, or their "
                "files are on shared storage",
                hint="standby: 1 in `workspace` or the class",
            )


def _view(app: App) -> ClusterView:
    from wsctl import observe

    inventory = app.inventory
    return observe.snapshot(inventory.cluster, inventory.nodes, app.store_for_reading)


def _age_s(as_of: datetime | None, now: datetime) -> float | None:
    return None if as_of is None else round((now - as_of).total_seconds(), 1)
