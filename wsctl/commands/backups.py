"""`wsctl backup init|run|prune`: users' files into a repository of restic.

Responsible for: their options and answers. Not responsible for: the order of doing it (`backups`), which snapshots stay
(`snapshots`), nor for bringing them back (`commands.restoring`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import BackendError, InventoryError, NodeError, NotFound, PartialFailure, WsctlError
from wsctl.output import Column, human_bytes

if TYPE_CHECKING:
    from wsctl import standbys
    from wsctl.backups import Backups

RUN_DEADLINE_S = 86_400.0
"""A backup isn't cut off from outside: nothing in it may be silent for two minutes."""

SomeUsers = Annotated[
    list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids (default: all).")
]
NodeOpt = Annotated[str | None, typer.Option("--on", metavar="NODE", help="The node that does it.")]


_SIZE = dict(show=lambda size: human_bytes(size) if isinstance(size, int) else "-", right=True)


@command
def init(app: App, node: NodeOpt = None) -> None:
    """Make the repository of backups where the inventory says. Safe to repeat: one that is there stays as it is.

    Example:
      wsctl backup init
    """
    backups, items, failed = open_backups(app, "backup init", None), list[dict[str, object]](), list[WsctlError]()
    for name in asked_nodes(app, node) if app.inventory.backup.is_directory else asked_nodes(app, node)[:1]:
        try:
            items.append({"node": name, "action": "created" if backups.create(name) else "unchanged", "error": None})
        except NodeError as error:
            failed.append(error)
            items.append({"node": name, "action": "failed", "error": error.message})
    if len(items) == 1 and failed:
        raise failed[0]
    app.out.rows(items, (Column("node"), Column("action"), *([Column("error")] if failed else [])))
    if failed:
        raise PartialFailure(f"{len(failed)} of {len(items)} failed", hint=failed[0].hint)


@command
def run(
    app: App,
    users: SomeUsers = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Don't pause running workspaces; the snapshots say that they were taken live."),
    ] = False,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Users copied at once.")] = 2,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Take a snapshot of users' files: only what changed is copied. A running workspace is paused for the last pass.

    Then what `backup.keep` doesn't keep is forgotten; `backup prune` frees its space.

    Examples:
      wsctl backup run
      wsctl backup run alice --live
    """
    from wsctl.requests import items_once

    backups = open_backups(app, "backup run", request_id, wait=wait, dry_run=dry_run)
    chosen = known_users(app, users)
    if dry_run:
        _rehearse(app, backups, chosen)
        return
    request = app.request(request_id, "backup run", chosen, live=live)

    def produce() -> list[dict[str, object]]:
        return _run(app, backups, chosen, live=live, parallel=parallel)

    world = app.world(wait_s=seconds(wait, "--wait"))
    items = items_once(world, request, produce, lambda found: all(one["error"] is None for one in found))
    failed = [one for one in items if one["error"] is not None]
    columns = [Column("user"), Column("node"), Column("action"), Column("files", right=True)]
    columns += [Column("content_bytes", "size", **_SIZE), Column("added_bytes", "added", **_SIZE)]  # type: ignore[arg-type]
    columns += [Column("paused_ms", "paused", show=lambda ms: f"{ms} ms" if ms else "-", right=True)]
    app.out.rows(items, [*columns, Column("error", show=_said)] if failed else columns)
    for one in items:
        if one.get("unread"):
            app.out.warn(f"{one['user']}: some files couldn't be read: {one['unread']}")
    _partly(items, "failed; the others are backed up", "repeat it")


@command
def prune(app: App, node: NodeOpt = None, dry_run: DryRunOpt = False, yes: YesOpt = False) -> None:
    """Forget what `backup.keep` doesn't keep, also of users who are gone, and free its space. Other backups wait.

    Asks before it forgets, unless --yes.

    Examples:
      wsctl backup prune --dry-run
      wsctl backup prune --yes
    """
    from wsctl.snapshots import Keep, doomed

    backups, nodes = open_backups(app, "backup prune", None, dry_run=dry_run), asked_nodes(app, node)
    keep, listing = Keep(*app.inventory.backup.keep), backups.listing(nodes)
    gone = doomed(listing.snapshots, keep)
    item: dict[str, object] = {"snapshots": len(listing.snapshots), "forgotten": len(gone)}
    if dry_run:
        app.out.record({**item, "action": "would-prune"})
        return
    if gone:
        app.out.confirm(f"Forget {len(gone)} of {len(listing.snapshots)} snapshots for good?", yes=yes)
    reached = [name for name in nodes if name not in listing.failed]
    backups.retain(reached, keep, {one.user for one in gone})
    backups.prune(reached)
    app.out.record({**item, "action": "pruned"})


# ---- for failing over


def newest_backups(app: App, failed: Collection[str]) -> standbys.Backups:
    """The newest snapshot of each user, as nodes other than the `failed` ones list them; or why that isn't known."""
    from wsctl.snapshots import by_user, choose
    from wsctl.standbys import Backup, Backups

    if app.inventory.backup.repository is None:
        return Backups()
    nodes = [name for name in asked_nodes(app, None) if name not in failed]
    try:
        listing = open_backups(app, "node fail", None, dry_run=True).listing(nodes)
    except (NodeError, InventoryError) as error:
        return Backups(unknown=error.message)
    found = {}
    for user, own in by_user(listing.snapshots).items():
        newest = choose(own, None, None)
        if newest is not None:
            found[user] = Backup(newest.id, newest.node, newest.at)
    # Where each node may have a directory of its own, those that didn't answer may have more.
    lacking = next(iter(listing.failed.values()), None) if app.inventory.backup.is_directory else None
    return Backups(found, None if lacking is None else lacking.message)


# ---- how


def open_backups(app: App, verb: str, request_id: str | None, *, wait: str = "10s", dry_run: bool = False) -> Backups:
    from wsctl.audit import Auditor
    from wsctl.backups import Backups

    app.backup_environment  # noqa: B018 - what is missing in the inventory is said before anything is asked
    world = app.world(dry_run=dry_run, wait_s=seconds(wait, "--wait"))
    auditor = Auditor(verb, app.actor, request_id)
    return Backups(
        world, app.repository, app.fleet.folders, auditor, is_directory=app.inventory.backup.is_directory,
        sleep=app.wiring.clock.sleep,
    )  # fmt: skip


def asked_nodes(app: App, node: str | None) -> list[str]:
    if node is not None:
        return [app.inventory.node(node).name]
    return sorted(app.inventory.nodes)


def known_users(app: App, users: Sequence[str] | None) -> tuple[str, ...]:
    """The users that are meant: all who have files somewhere, unless some are named."""
    if users:
        return check_users(list(users))
    store = app.store_for_reading
    return tuple(sorted({one.user for one in store.placements()} | set(store.homes())))


def _rehearse(app: App, backups: Backups, users: Sequence[str]) -> None:
    """Who would be backed up, and who can't be; raises `PartialFailure` then. No node is asked."""
    items = list[dict[str, object]]()
    for user in users:
        try:
            items.append({"user": user, "node": backups.find(user).node, "action": "would-back-up", "error": None})
        except NotFound as error:
            items.append(_result(user, error))
    some_fail = any(item["error"] for item in items)
    columns = (Column("user"), Column("node"), Column("action"), *([Column("error", show=_said)] if some_fail else []))
    app.out.rows(items, columns)
    _partly(items, "can't be backed up; nothing was done", None)


def _partly(items: Sequence[Mapping[str, object]], said: str, hint: str | None) -> None:
    count = sum(item["error"] is not None for item in items)
    if count:
        raise PartialFailure(f"{count} of {len(items)} {said}", hint=hint)


def _run(app: App, backups: Backups, users: Sequence[str], *, live: bool, parallel: int) -> list[dict[str, object]]:
    from wsctl.backups import Copied
    from wsctl.snapshots import Keep
    from wsctl.transport.fanout import run as fan_out

    homes = {home_of(backups, user) for user in users}
    listing = backups.listing([name for name in asked_nodes(app, None) if name in homes] or asked_nodes(app, None)[:1])
    parents = {one.user: one for one in listing.snapshots}
    with app.out.progress(len(users), "backing up") as progress:

        def copy(user: str) -> Copied:
            try:
                return backups.copy(user, parents.get(user), live=live)
            finally:
                progress.advance()

        results = fan_out(users, copy, parallel=parallel, deadline_s=RUN_DEADLINE_S)
    done = {user: result for user, result in results.items() if isinstance(result, Copied)}
    if done:
        try:
            used = dict.fromkeys(copied.node for copied in done.values())
            backups.retain(used, Keep(*app.inventory.backup.keep), done)
        except (NodeError, BackendError) as error:
            app.out.warn(f"older snapshots weren't forgotten: {error.message}; the next run does it")
    return [_result(user, results[user]) for user in users]


def home_of(backups: Backups, user: str) -> str | None:
    found = backups.exchange.find(user)
    return None if found is None else found.node


def _result(user: str, result: object) -> dict[str, object]:
    from wsctl.backups import Copied
    from wsctl.commands.present import error_dict

    if isinstance(result, Copied):
        taken = result.taken
        return {
            "user": user, "node": result.node, "snapshot": taken.snapshot, "kind": result.kind.value,
            "files": taken.files, "content_bytes": taken.content_bytes, "added_bytes": taken.added_bytes,
            "paused_ms": round(result.paused_s * 1000), "unread": taken.unread, "action": "backed-up", "error": None,
        }  # fmt: skip
    if isinstance(result, WsctlError):
        return {"user": user, "node": None, "action": "failed", "error": error_dict(result)}
    if isinstance(result, BaseException):
        raise result
    raise AssertionError(result)


def _said(error: object) -> str:
    return str(error.get("message")) if isinstance(error, dict) else ""
