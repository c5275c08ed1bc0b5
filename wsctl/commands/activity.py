"""`wsctl touch` and `wsctl reap-idle`: who is active, and stopping who isn't.

Responsible for: their options and how verdicts are shown. Not responsible for: the verdicts (`planner.idle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, check_users, command, seconds
from wsctl.commands.place import FromOpt, read_users
from wsctl.context import App
from wsctl.errors import NotFound, PartialFailure, UsageError

if TYPE_CHECKING:
    from wsctl.planner import IdleVerdict


@command
def touch(
    app: App,
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids.")] = None,
    source: FromOpt = None,
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Record that users are active now, so that the reaper keeps them.

    Example:
      wsctl touch alice bob
    """
    if bool(users) == (source is not None):
        raise UsageError("name users, or a list of them with --from, not both", hint="wsctl touch --help")
    targets = check_users(users) if users else read_users(source or "-")
    store = app.store_for_reading if dry_run else app.store
    placed = {placement.user for placement in store.placements_and_damage()[0]}
    known = [user for user in targets if user in placed]
    unknown = [user for user in targets if user not in placed]
    from wsctl.output import Column
    from wsctl.requests import items_once

    def record() -> list[dict[str, object]]:
        now = app.wiring.clock.now()
        if not dry_run:
            store.touch(known, now, "touch")
        verb = "would-touch" if dry_run else "touched"
        return [{"user": user, "last_active_at": now, "action": verb} for user in known]

    if known:
        request = None if dry_run else app.request(request_id, "touch", targets)
        items = record() if request is None else items_once(app.world(), request, record)
        app.out.rows(items, (Column("user"), Column("last_active_at"), Column("action")))
    if unknown:
        message = f"{len(unknown)} of {len(targets)} have no placement: {', '.join(unknown[:5])}"
        kind = PartialFailure if known else NotFound
        raise kind(message, hint=f"wsctl place {unknown[0]}", details={"users": unknown})


@command
def reap_idle(
    app: App,
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="DURATION", help="Idle limit (default: each class's idle_after).")
    ] = None,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="USER", help="Only these users.")] = None,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="Stop at most so many in this run.")] = None,
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Stop workspaces that nobody uses. Data and placement stay; `wsctl start` or `place` brings them back.

    Activity is: `touch`, the container's start, and bytes it sent between two runs. Missing data keeps a workspace
    running, so the first run after a change of container stops nobody it knows nothing about.

    Examples:
      wsctl reap-idle --dry-run
      wsctl reap-idle --idle 2h
    """
    from wsctl.output import Column, ago
    from wsctl.reaper import Reaper, ReapOptions
    from wsctl.requests import items_once

    options = ReapOptions(
        idle_s=None if idle is None else seconds(idle, "--idle"),
        users=None if not user else check_users(user),
        dry_run=dry_run,
        limit=limit,
    )
    now = app.wiring.clock.now()
    world = app.world(dry_run=dry_run)

    def reap() -> list[dict[str, object]]:
        return [_verdict_dict(item) for item in Reaper(world, options).run()]

    request = None if dry_run else app.request(request_id, "reap-idle", options.users or (), idle=idle, limit=limit)
    items = items_once(world, request, reap, lambda items: all(item["verdict"] != "failed" for item in items))
    columns = (
        Column("user"),
        Column("node"),
        Column("verdict"),
        Column("last_active_at", "active", show=lambda at: ago(at, now)),  # type: ignore[arg-type]
        Column("reason"),
    )
    with auto_apply(app, "reap-idle", dry_run=dry_run):
        app.out.rows(items, columns)
        _say_trouble(items)


def _verdict_dict(item: IdleVerdict) -> dict[str, object]:
    return {
        "user": item.user,
        "node": item.node,
        "verdict": item.verdict.value,
        "reason": item.reason,
        "last_active_at": item.last_active_at,
        "signals": [dict(signal) for signal in item.signals],
    }


def _say_trouble(items: list[dict[str, object]]) -> None:
    """Exit 9 if a stop failed or a node couldn't be asked: the answer is partial."""
    failed = [item["user"] for item in items if item["verdict"] == "failed"]
    silent = [i["user"] for i in items if i["verdict"] == "unknown" and "does not answer" in str(i["reason"])]
    if failed or silent:
        parts = [f"{len(failed)} stops failed"] if failed else []
        parts += [f"{len(silent)} users are on nodes that don't answer and were kept"] if silent else []
        raise PartialFailure("; ".join(parts), hint="wsctl node ls", details={"failed": failed, "unknown": silent})
