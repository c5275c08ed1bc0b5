"""`wsctl touch` and `wsctl activity`: recording who is active.

Responsible for: their options and answers. Not responsible for: reading access logs (`accesslog`), nor for what
activity means (`planner.idle`).
"""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, check_users, command, seconds
from wsctl.commands.place import FromOpt, read_users
from wsctl.context import App
from wsctl.errors import NotFound, PartialFailure, UsageError

if TYPE_CHECKING:
    from wsctl.ports import Store


@command
def touch(
    app: App,
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids.")] = None,
    source: FromOpt = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Keep them until then, active or not: 18:00, 2h, or `now` to end it."
        ),
    ] = None,
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Record that users are active now, so that the reaper keeps them. The answer says in which state they are after
    that: who is `running` stays so, who is `stopping` or `stopped` needs `wsctl start`.

    Examples:
      wsctl touch alice bob
      wsctl touch alice --until 18:00
    """
    if bool(users) == (source is not None):
        raise UsageError("name users, or a list of them with --from, not both", hint="wsctl touch --help")
    targets = check_users(users) if users else read_users(source or "-")
    store = app.store_for_reading if dry_run else app.store
    placed = store.states()
    known = [user for user in targets if user in placed]
    unknown = [user for user in targets if user not in placed]
    from wsctl.output import Column
    from wsctl.recording import record_touch
    from wsctl.requests import items_once

    clock = app.clock_of(store)
    keep = None if until is None else _until(until, clock.now())

    def record() -> list[dict[str, object]]:
        now = clock.now()
        if keep is not None and not dry_run:
            _keep(store, known, keep, now)
        states = placed if dry_run else record_touch(store, app.activity, known, now)
        verb = "would-touch" if dry_run else "touched"
        more = {} if keep is None else {"keep_until": keep if keep > now else None}
        return [
            {"user": user, "last_active_at": now, "state": states.get(user, "running"), "action": verb, **more}
            for user in known
        ]

    if known:
        request = None if dry_run else app.request(request_id, "touch", targets, until=until)
        items = record() if request is None else items_once(app.world(), request, record)
        columns = [Column("user"), Column("last_active_at"), Column("state"), Column("action")]
        app.out.rows(items, columns if keep is None else [*columns, Column("keep_until", "kept until")])
    if unknown:
        message = f"{len(unknown)} of {len(targets)} have no placement: {', '.join(unknown[:5])}"
        kind = PartialFailure if known else NotFound
        raise kind(message, hint=f"wsctl place {unknown[0]}", details={"users": unknown})


def _until(text: str, now: datetime) -> datetime:
    """`18:00` (the next one, in this machine's time zone), a duration from now, or `now`. Raises `UsageError`."""
    if text == "now":
        return now
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text, re.ASCII)
    if found is None:
        return now + timedelta(seconds=seconds(text, "--until"))
    here = now.astimezone()
    then = here.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
    return (then if then > here else then + timedelta(days=1)).astimezone(UTC)


def _keep(store: Store, users: list[str], until: datetime, now: datetime) -> None:
    from wsctl.evidence import KEEP_ALIVE

    if until > now:
        store.set_notes(KEEP_ALIVE, dict.fromkeys(users, until.isoformat()), now)
    else:
        store.drop_notes(KEEP_ALIVE, users)


@command
def ingest(
    app: App,
    source: Annotated[
        str, typer.Option("--from", metavar="FILE", help="The access log (- for stdin).", show_default=False)
    ],
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="Paths that don't count, behind /ws/<user>; * for anything."),
    ] = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Record activity from the gateway's access log: who was asked for, and when. Made for cron.

    Reads on where the last run stopped, also when the log was rotated in between. Only requests that a workspace may
    have answered count (not 4xx or 5xx), and not those whose path matches --ignore: a browser tab that pings must not
    keep a workspace.

    Examples:
      wsctl activity ingest --from /var/log/nginx/ws.log --ignore '/api/ping' --ignore '*/heartbeat'
    """
    from wsctl.accesslog import Counter, read_log
    from wsctl.evidence import INGESTED
    from wsctl.store.signals import note_subject

    store = app.store_for_reading if dry_run else app.store
    now = app.clock_of(store).now()
    placed = store.states()
    counter = Counter(app.inventory.gateway.path_prefix, tuple(ignore or ()), placed, now)
    name = note_subject(source if source == "-" else f"{socket.gethostname()}:{os.path.abspath(source)}")
    note = store.notes(INGESTED, [name]).get(name)
    position = read_log(source, counter, note.value if note is not None else None)
    if not dry_run:
        # The activity first: what is read twice does no harm, what is skipped would.
        app.activity.touch(counter.newest, "gateway")
        if position is not None:
            store.set_notes(INGESTED, {name: position}, now)
    app.out.record(
        {
            "log": name,
            "lines": counter.lines,
            "counted": counter.counted,
            "ignored": counter.ignored,
            "unknown_users": counter.strangers,
            "unreadable": counter.unreadable,
            "users": len(counter.newest),
            "action": "would-record" if dry_run else "recorded",
        }
    )


@command
def flush(app: App, dry_run: DryRunOpt = False, yes: YesOpt = False) -> None:
    """Bring activity from Redis to the state database, so that losing Redis loses no more than what came since.

    Made for cron; `reap-idle` does it too. Repeating it does no harm, also from several hosts at once. Without
    `coordination` there is nothing to do.

    Example:
      wsctl activity flush
    """
    now = app.clock_of(app.store_for_reading).now()
    flushed = app.activity_for_reading.held() if dry_run else app.activity.flush(now)
    done = "would-flush" if dry_run else "flushed"
    app.out.record({"users": flushed or 0, "action": "unchanged" if flushed is None else done})


@command
def ls(app: App) -> None:
    """List the access logs that are ingested, and when each was last read.

    Example:
      wsctl activity ls
    """
    from wsctl.evidence import INGESTED
    from wsctl.output import Column, ago

    now = app.clock_of(app.store_for_reading).now()
    notes = app.store_for_reading.notes(INGESTED)
    items = [{"log": name, "read_at": note.noted_at} for name, note in sorted(notes.items())]
    app.out.rows(items, (Column("log"), Column("read_at", "read", show=lambda at: ago(at, now))))  # type: ignore[arg-type]


@command
def forget(
    app: App,
    log: Annotated[str, typer.Argument(metavar="LOG", show_default=False, help="As `wsctl activity ls` names it.")],
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Forget an access log that isn't ingested any more; until then its silence keeps everybody running.

    Example:
      wsctl activity forget edge:/var/log/nginx/ws.log
    """
    from wsctl.evidence import INGESTED
    from wsctl.store.signals import note_subject

    store, log = app.store_for_reading if dry_run else app.store, note_subject(log)
    if log not in store.notes(INGESTED):
        raise NotFound(f"no access log {log!r} is ingested", hint="wsctl activity ls")
    if not dry_run:
        store.drop_notes(INGESTED, [log])
    app.out.record({"log": log, "action": "would-forget" if dry_run else "forgotten"})
