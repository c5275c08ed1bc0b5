"""`wsctl backup ls|verify` and `wsctl restore USER`: looking at users' snapshots, trying them, bringing them back.

Responsible for: their options, which snapshot is meant, confirmations and answers. Not responsible for: taking them
(`commands.backups`), nor for the order of a restore (`backups`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.archive import ConfirmOpt, ToOpt, confirm_replacing, confirmed_user, target_of
from wsctl.commands.backups import NodeOpt, SomeUsers, asked_nodes, home_of, known_users, open_backups
from wsctl.commands.options import DryRunOpt, RequestOpt, UserArg, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import NodeError, NotFound, PartialFailure, Refused, UsageError
from wsctl.output import Column, ago

if TYPE_CHECKING:
    from wsctl.backups import Backups, Listing
    from wsctl.snapshots import Snapshot

AtOpt = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="The newest that isn't younger, such as 2026-03-31T12:00 (UTC) or 2h ago."
    ),
]
SnapshotOpt = Annotated[
    str | None, typer.Option("--snapshot", metavar="ID", help="This one, by the beginning of its id.")
]


@command
def ls(
    app: App,
    user: Annotated[str | None, typer.Argument(metavar="[USER]", show_default=False, help="All of this user.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every snapshot, not just the newest of each user.")] = False,
) -> None:
    """List snapshots: of each user the newest, with who has none; or all of them.

    Examples:
      wsctl backup ls
      wsctl backup ls alice
    """
    if user is not None:
        check_users([user])
    listing = open_backups(app, "backup ls", None, dry_run=True).listing(asked_nodes(app, None))
    _say_failed(app, listing)
    now = app.wiring.clock.now()
    if user is not None or all_:
        items = [_item(one) for one in reversed(listing.snapshots) if user in (None, one.user)]
    else:
        items = _newest(app, listing)
    when = Column("at", "taken", show=lambda at: ago(at if isinstance(at, datetime) else None, now))
    columns = [Column("user"), when, Column("node"), Column("kind"), Column("snapshot", show=_short)]
    app.out.rows(items, columns if user is not None or all_ else [*columns, Column("snapshots", "count", right=True)])


@command
def verify(
    app: App,
    users: SomeUsers = None,
    at: AtOpt = None,
    node: NodeOpt = None,
    yes: YesOpt = False,
) -> None:
    """Prove that users' newest snapshots can be restored: into a scratch folder, compared, and removed again.

    Nothing of the users is touched. It takes their node (or --on) as much room and time as a restore.

    Examples:
      wsctl backup verify alice
      wsctl backup verify --on n3
    """
    from wsctl.snapshots import by_user

    backups = open_backups(app, "backup verify", None)
    place = None if node is None else app.inventory.node(node).name
    until = None if at is None else _moment(app, at)
    listing = backups.listing(asked_nodes(app, None))
    _say_failed(app, listing)
    own = by_user(listing.snapshots)
    chosen = check_users(users) if users else tuple(sorted(own))

    def tried(user: str) -> dict[str, object]:
        try:
            return _verified(app, backups, listing, _chosen(own, user, until, None), place)
        except NotFound as error:
            if users and len(chosen) == 1:
                raise
            return {**_no_item(user), "verdict": "failed", "detail": [error.message]}

    items = [tried(user) for user in chosen]
    failed = [one for one in items if one["verdict"] != "restorable"]
    columns = [Column("user"), Column("snapshot", show=_short), Column("node"), Column("verdict")]
    app.out.rows(items, [*columns, Column("detail", show=_first)] if failed else columns)
    if failed:
        raise PartialFailure(f"{len(failed)} of {len(items)} can't be restored as they are", hint="-o json has all")


@command
def restore_user(
    app: App,
    user: UserArg,
    to: ToOpt = None,
    at: AtOpt = None,
    snapshot: SnapshotOpt = None,
    confirm: ConfirmOpt = None,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Bring a user's files back from the repository of backups. What they replace is kept beside.

    The workspace must be stopped. A user without files gets them on the node that --to names, or on the best one.

    Examples:
      wsctl restore alice --at 2026-03-31T12:00 --dry-run
      wsctl restore alice --confirm alice
    """
    from wsctl.requests import items_once
    from wsctl.snapshots import by_user

    user = confirmed_user(user, confirm)
    backups = open_backups(app, "restore", request_id, wait=wait, dry_run=dry_run)
    listing = backups.listing(asked_nodes(app, None))
    try:
        chosen = _chosen(by_user(listing.snapshots), user, None if at is None else _moment(app, at), snapshot)
    except NotFound:
        _say_failed(app, listing)
        raise

    def bring() -> list[dict[str, object]]:
        node = target_of(app, backups.exchange, user, to, {}, f"wsctl restore {user}")
        extent = backups.extent(node, chosen)
        exists = backups.exchange.room(user, node, extent.content_bytes, extent.members)
        item = {**_item(chosen), "node": node, "taken_on": chosen.node, "content_bytes": extent.content_bytes}
        item["members"] = extent.members
        if dry_run:
            return [{**item, "kept": None, "action": "would-replace" if exists else "would-restore"}]
        if exists:
            confirm_replacing(app, user, node, confirm, f"wsctl restore {user}")
        kept = backups.restore(chosen, node, over=exists)
        return [{**item, "kept": kept, "action": "replaced" if kept else "restored"}]

    request = None if dry_run else app.request(request_id, "restore", [user], snapshot=chosen.id, to=to)
    (item,) = items_once(app.world(dry_run=dry_run, wait_s=seconds(wait, "--wait")), request, bring)
    app.out.record(item)
    if not dry_run:
        app.out.hint(f"wsctl place {user}")


def _verified(app: App, backups: Backups, listing: Listing, chosen: Snapshot, place: str | None) -> dict[str, object]:
    if place is None:
        place, home = listing.where[chosen.id], home_of(backups, chosen.user)
        if home is not None and home in app.inventory.nodes and not app.inventory.backup.is_directory:
            place = home
    item = {**_item(chosen), "node": place}
    try:
        different = backups.verify(chosen, place)
    except (NodeError, Refused) as error:
        return {**item, "verdict": "failed", "detail": [error.message]}
    return {**item, "verdict": "different" if different else "restorable", "detail": different}


def _chosen(own: Mapping[str, Sequence[Snapshot]], user: str, until: datetime | None, id_: str | None) -> Snapshot:
    from wsctl.snapshots import choose

    chosen = choose(own.get(user, ()), until, id_)
    if chosen is None:
        which = "snapshot"
        if id_ is not None:
            which = f"one snapshot that begins with {id_}"
        elif until is not None:
            which = f"snapshot that isn't younger than {until:%Y-%m-%dT%H:%M:%SZ}"
        raise NotFound(f"user {user} has no {which}", hint=f"wsctl backup ls {user}")
    return chosen


def _moment(app: App, text: str) -> datetime:
    """A time in UTC, or a duration before now."""
    from datetime import UTC, timedelta

    from wsctl.inventory.scalars import parse_duration

    if text.endswith(" ago"):
        try:
            return app.wiring.clock.now() - timedelta(seconds=parse_duration(text.removesuffix(" ago").strip()))
        except ValueError as error:
            raise UsageError(f"--at {text!r}: {error}", hint="for example --at '2h ago'") from error
    try:
        at = datetime.fromisoformat(text.removesuffix("Z") + ("+00:00" if text.endswith("Z") else ""))
    except ValueError as error:
        raise UsageError(f"--at {text!r} is no time", hint="for example --at 2026-03-31T12:00 (UTC)") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _newest(app: App, listing: Listing) -> list[dict[str, object]]:
    """The newest of each user, the oldest of these first; and before them who has none."""
    newest: dict[str, Snapshot] = {one.user: one for one in listing.snapshots}
    counts: dict[str, int] = {}
    for one in listing.snapshots:
        counts[one.user] = counts.get(one.user, 0) + 1
    none = [user for user in known_users(app, None) if user not in newest]
    items = [{**_no_item(user), "snapshots": 0} for user in none]
    by_age = sorted(newest.values(), key=lambda one: one.at)
    return items + [{**_item(one), "snapshots": counts[one.user]} for one in by_age]


def _item(one: Snapshot) -> dict[str, object]:
    return {
        "user": one.user, "node": one.node, "snapshot": one.id, "at": one.at, "kind": one.kind.value,
        "complete": one.complete,
    }  # fmt: skip


def _no_item(user: str) -> dict[str, object]:
    return {"user": user, "node": None, "snapshot": None, "at": None, "kind": None, "complete": None}


def _say_failed(app: App, listing: Listing) -> None:
    for error in listing.failed.values():
        app.out.warn(f"not asked: {error.message}")


def _short(id_: object) -> str:
    return str(id_)[:8] if id_ else "-"


def _first(detail: object) -> str:
    return str(detail[0]) if isinstance(detail, list) and detail else ""
