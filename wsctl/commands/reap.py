"""`wsctl reap-idle`: stopping who isn't active.

Responsible for: its options and how verdicts are shown. Not responsible for: the verdicts (`planner.idle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsctl.planner.idle import IdleVerdict
    from wsctl.reaper import ReapOptions


@command
def reap_idle(
    app: App,
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="DURATION", help="Idle limit (default: each class's idle_after).")
    ] = None,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="USER", help="Only these users.")] = None,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="Stop at most so many in this run.")] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="USER|all", help="Why they are kept or stopped, and when; stop nobody."),
    ] = None,
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Stop workspaces that nobody uses. Data and placement stay; `wsctl start` or `place` brings them back.

    Activity is: `touch`, the gateway's access log, a start, bytes the container sent, CPU it used, and open `exec`
    sessions. Missing data keeps a workspace running, so the first run after a change of container stops nobody it
    knows nothing about.

    Examples:
      wsctl reap-idle --dry-run
      wsctl reap-idle --idle 2h
      wsctl reap-idle --explain alice
    """
    from wsctl.output import Column, ago
    from wsctl.reaper import Reaper
    from wsctl.requests import items_once

    if explain is not None:
        if user:
            raise UsageError("--explain names the user itself", hint="wsctl reap-idle --explain alice")
        user, dry_run = None if explain == "all" else [explain], True
    options = _options(app, idle, user, limit, request_id, dry_run=dry_run, thorough=explain is not None)
    world = app.world(dry_run=dry_run)
    now = world.clock.now()
    reaper = Reaper(world, options)

    def reap() -> list[dict[str, object]]:
        return [_verdict_dict(item) for item in reaper.run()]

    request = None if dry_run else app.request(request_id, "reap-idle", options.users or (), idle=idle, limit=limit)
    items = items_once(world, request, reap, lambda items: all(item["verdict"] != "failed" for item in items))
    columns = [
        Column("user"),
        Column("node"),
        Column("verdict"),
        Column("last_active_at", "active", show=lambda at: ago(at, now)),  # type: ignore[arg-type]
        Column("reason"),
    ]
    if explain is not None:
        columns += [Column("stops_at", "stops at"), Column("signals", show=_signals_text)]
    with auto_apply(app, "reap-idle", dry_run=dry_run):
        app.out.rows(items, columns)
        _say_trouble(items, reaper.unheard)


def _options(
    app: App,
    idle: str | None,
    users: list[str] | None,
    limit: int | None,
    request_id: str | None,
    *,
    dry_run: bool,
    thorough: bool,
) -> ReapOptions:
    from wsctl.reaper import ReapOptions

    return ReapOptions(
        idle_s=None if idle is None else seconds(idle, "--idle"),
        user_limits=app.inventory.reap.users,
        users=None if not users else check_users(users),
        dry_run=dry_run,
        thorough=thorough,
        limit=limit,
        notify=app.notify,
        notice_s=app.inventory.reap.notice_s,
        request_id=request_id,
    )


def _signals_text(signals: object) -> str:
    """Each signal in few words: `touch 5m ago`, `exec 2`."""
    from wsctl.text import human_duration

    words = []
    for signal in signals if isinstance(signals, list) else ():
        age = signal.get("age_s")
        more = [
            f"{signal[key]:g} {key.replace('_', ' ')}" for key in ("sent_bytes", "cores", "sessions") if key in signal
        ]
        if "open" in signal:
            more.append(f"{signal['open']} open")
        if "unknown" in signal:
            more.append("unknown")
        if "until" in signal:
            more.append(f"until {signal['until']:%Y-%m-%d %H:%M} UTC")
        when = [f"{human_duration(max(0.0, age))} ago"] if isinstance(age, float) and not more else []
        words.append(" ".join([str(signal["source"]), *more, *when]))
    return ", ".join(words)


def _verdict_dict(item: IdleVerdict) -> dict[str, object]:
    return {
        "user": item.user,
        "node": item.node,
        "verdict": item.verdict.value,
        "reason": item.reason,
        "last_active_at": item.last_active_at,
        "stops_at": item.stops_at,
        "signals": [dict(signal) for signal in item.signals],
    }


def _say_trouble(items: Sequence[Mapping[str, object]], unheard: Mapping[str, str]) -> None:
    """Exit 9 if a stop or a notice failed, or a node or Redis couldn't be asked: the answer is partial."""
    from wsctl.evidence import UNREADABLE

    failed = [item["user"] for item in items if item["verdict"] == "failed"]
    silent = [i["user"] for i in items if i["verdict"] == "unknown" and "does not answer" in str(i["reason"])]
    blind = [item["user"] for item in items if str(item["reason"]).startswith(UNREADABLE)]
    if failed or silent or unheard or blind:
        parts = [f"{len(failed)} stops failed"] if failed else []
        parts += [f"{len(silent)} users are on nodes that don't answer and were kept"] if silent else []
        if blind:
            parts.append(f"{UNREADABLE}, so {len(blind)} users aren't known to be idle and were kept")
        if unheard:
            first = next(iter(unheard.items()))
            parts.append(f"{len(unheard)} users couldn't be told and were kept ({first[0]}: {first[1]})")
        details: dict[str, object] = {"failed": failed, "unknown": silent}
        if unheard:
            details["unheard"] = dict(unheard)
        hint = "wsctl node ls" if failed or silent else "mend `reap.hook` or `reap.url` in the inventory"
        hint = "wsctl doctor" if blind else hint
        raise PartialFailure("; ".join(parts), hint=hint, details=details)
