"""`wsctl touch` and `wsctl reap-idle`: who is active, and stopping who isn't.

Responsible for: their options and how verdicts are shown. Not responsible for: the verdicts (`planner.idle`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.options import DryRunOpt, YesOpt, check_users, command, seconds
from wsctl.commands.place import FromOpt, read_users
from wsctl.context import App
from wsctl.errors import NotFound, PartialFailure, UsageError


@command
def touch(
    app: App,
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids.")] = None,
    source: FromOpt = None,
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
    placed = {placement.user for placement in store.placements()}
    known = [user for user in targets if user in placed]
    unknown = [user for user in targets if user not in placed]
    now = app.wiring.clock.now()
    if known and not dry_run:
        store.touch(known, now, "touch")
    from wsctl.output import Column

    if known:
        verb = "would-touch" if dry_run else "touched"
        items = [{"user": user, "last_active_at": now, "action": verb} for user in known]
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

    options = ReapOptions(
        idle_s=None if idle is None else seconds(idle, "--idle"),
        users=None if not user else check_users(user),
        dry_run=dry_run,
        limit=limit,
    )
    now = app.wiring.clock.now()
    verdicts = Reaper(app.world(dry_run=dry_run), options).run()
    items = [
        {
            "user": item.user,
            "node": item.node,
            "verdict": item.verdict.value,
            "reason": item.reason,
            "last_active_at": item.last_active_at,
            "signals": [dict(signal) for signal in item.signals],
        }
        for item in verdicts
    ]
    columns = (
        Column("user"),
        Column("node"),
        Column("verdict"),
        Column("last_active_at", "active", show=lambda at: ago(at, now)),  # type: ignore[arg-type]
        Column("reason"),
    )
    with auto_apply(app, "reap-idle", dry_run=dry_run):
        app.out.rows(items, columns)
        _say_trouble(app, [(item.user, item.verdict.value, item.reason) for item in verdicts])


def _say_trouble(app: App, verdicts: list[tuple[str, str, str]]) -> None:
    """Exit 9 if a stop failed or a node couldn't be asked: the answer is partial."""
    failed = [user for user, verdict, _ in verdicts if verdict == "failed"]
    silent = [user for user, verdict, reason in verdicts if verdict == "unknown" and "does not answer" in reason]
    if failed or silent:
        parts = [f"{len(failed)} stops failed"] if failed else []
        parts += [f"{len(silent)} users are on nodes that don't answer and were kept"] if silent else []
        raise PartialFailure("; ".join(parts), hint="wsctl node ls", details={"failed": failed, "unknown": silent})
