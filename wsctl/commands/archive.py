"""`wsctl backup export` and `wsctl restore import`: one user's files as a single archive, and back.

Responsible for: their options, questions and answers, and where an import goes. Not responsible for: the archive
(`archive`), nor for the order in which things are done (`exchange`).
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from wsctl.commands.backup import FromOpt, OutOpt
from wsctl.commands.options import DryRunOpt, RequestOpt, UserArg, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import ConfirmationRequired, NotFound, Refused, UsageError

if TYPE_CHECKING:
    from wsctl.archive import Summary
    from wsctl.exchange import Exchange

ToOpt = Annotated[str | None, typer.Option("--to", metavar="NODE", help="Where, for a user who has no files anywhere.")]
ConfirmOpt = Annotated[
    str | None,
    typer.Option("--confirm", metavar="USER", help="Replace the files there are; the name, instead of typing it."),
]


@command
def backup_export(
    app: App,
    user: UserArg,
    out: OutOpt,
    live: Annotated[
        bool, typer.Option("--live", help="Don't pause a running workspace; the archive says that it was taken live.")
    ] = False,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write all files of a user into one tar archive. A running workspace is paused while they are read.

    Example:
      wsctl backup export alice --out alice.tar
    """
    from wsctl.requests import items_once

    (user,) = check_users([user])
    if out.is_dir():
        raise UsageError(f"{out} is a folder", hint=f"--out {out / f'{user}.tar'}")
    exchange = _exchange(app, "backup export", request_id, wait, dry_run=dry_run)
    if dry_run:
        found = exchange.find(user)
        if found is None:
            raise NotFound(f"user {user} has neither a placement nor files", hint="wsctl ls")
        app.out.record({"user": user, "node": found.node, "file": str(out), "action": "would-export"})
        return

    def export() -> list[dict[str, object]]:
        if out.exists():
            app.out.confirm(f"Replace {out}?", yes=yes)
        done = exchange.export(user, out, live=live)
        item: dict[str, object] = {"user": user, "node": done.node, "file": str(out), **_figures(done.summary)}
        return [{**item, "size_bytes": done.size, "live": done.live, "changed": done.changed, "action": "exported"}]

    request = app.request(request_id, "backup export", [user], out=str(out), live=live)
    (item,) = items_once(app.world(wait_s=seconds(wait, "--wait")), request, export)
    app.out.record(item)
    if item["changed"]:
        app.out.warn(f"files of {user} changed while they were read: the archive may hold a mixture")


@command
def restore_import(
    app: App,
    user: UserArg,
    source: FromOpt,
    to: ToOpt = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Refuse an archive with more in it, such as 20g.")
    ] = None,
    confirm: ConfirmOpt = None,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Put the files of an archive in a user's place. The whole archive is checked first; what it replaces is kept.

    The workspace must be stopped. A user without files gets them on the node that --to names, or on the best one, and
    `wsctl place` then starts them there.

    Examples:
      wsctl restore import alice --from alice.tar --dry-run
      wsctl restore import alice --from alice.tar --confirm alice
    """
    from wsctl.requests import items_once

    user = confirmed_user(user, confirm)
    with _opened(source) as file:
        summary, head = _checked(file, user, _limit(max_size))
        exchange = _exchange(app, "restore import", request_id, wait, dry_run=dry_run)

        def bring() -> list[dict[str, object]]:
            node = target_of(app, exchange, user, to, head, f"wsctl restore import {user} --from …")
            exists = exchange.room(user, node, summary.size, summary.members)
            item: dict[str, object] = {"user": user, "node": node, "file": str(source), **_figures(summary)}
            if dry_run:
                return [{**item, "kept": None, "action": "would-replace" if exists else "would-import"}]
            if exists:
                confirm_replacing(app, user, node, confirm, f"wsctl restore import {user} --from …")
            done = exchange.import_(user, file, node, summary, over=exists)
            return [{**item, "kept": done.kept, "action": "replaced" if done.kept else "imported"}]

        request = None if dry_run else app.request(request_id, "restore import", [user], sha256=summary.sha256, to=to)
        (item,) = items_once(app.world(dry_run=dry_run, wait_s=seconds(wait, "--wait")), request, bring)
    app.out.record(item)
    if not dry_run:
        app.out.hint(f"wsctl place {user}")


def _exchange(app: App, verb: str, request_id: str | None, wait: str, *, dry_run: bool) -> Exchange:
    from wsctl.audit import Auditor
    from wsctl.exchange import Exchange

    world = app.world(dry_run=dry_run, wait_s=seconds(wait, "--wait"))
    return Exchange(world, app.fleet.folders, Auditor(verb, app.actor, request_id))


def _opened(source: Path) -> IO[bytes]:
    try:
        return source.open("rb")
    except OSError as error:
        raise UsageError(f"--from: cannot read {source}: {error.strerror}", hint="name an archive") from error


def _limit(text: str | None) -> int:
    from wsctl.inventory.scalars import parse_size

    if text is None:
        return 2**62
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--max-size {text!r}: {error}", hint="for example --max-size 20g") from error


def _checked(file: IO[bytes], user: str, limit: int) -> tuple[Summary, dict[str, Any]]:
    """Read the archive to its end, before anything is asked or done. Raises `BackupDamaged`, `Refused`."""
    from wsctl import archive

    head = archive.read_head(file)
    file.seek(0)
    summary = archive.read(file, lambda data: None, limit)
    if head.get("user") != user:
        raise Refused(
            f"the archive has the files of {str(head.get('user'))[:80]!r}, not of {user}; nothing was changed",
            hint="is it the right one?",
        )
    return summary, head


def confirmed_user(user: str, confirm: str | None) -> str:
    """The user, as a name that is one. Raises `Refused` if another one was confirmed."""
    (user,) = check_users([user])
    if confirm is not None and confirm != user:
        raise Refused(f"--confirm {confirm} isn't {user}; nothing was changed")
    return user


def target_of(app: App, exchange: Exchange, user: str, to: str | None, head: dict[str, Any], again: str) -> str:
    """The node it goes to: where the user's files are, else `to`, else the best one."""
    found = exchange.find(user)
    if to is not None and to not in app.inventory.nodes:
        raise NotFound(f"no node named {to!r} in the inventory", hint="wsctl node ls")
    if found is not None:
        if to not in (None, found.node):
            raise Refused(
                f"the files of {user} are on {found.node}: --to {to} would make two of them",
                hint=f"{again}   # to {found.node}",
            )
        if found.node not in app.inventory.nodes:
            raise NotFound(f"the files of {user} are on {found.node}, which is not in the inventory")
        return found.node
    return to if to is not None else _best(app, user, head)


def _best(app: App, user: str, head: dict[str, Any]) -> str:
    """The node that `wsctl place` would choose."""
    from wsctl.commands.place import operation_for
    from wsctl.plan import Reserve
    from wsctl.workflow import Options, Workflow

    known = head.get("class") if head.get("class") in app.inventory.classes else None
    operation = operation_for(app, (user,), known, None, fresh=False, explain=False)
    (outcome,) = Workflow(app.world(dry_run=True)).run(operation, Options(dry_run=True))
    if outcome.error is not None:
        raise outcome.error
    steps = outcome.work.steps if outcome.work is not None else ()
    return next(step.node for step in steps if isinstance(step, Reserve))


def confirm_replacing(app: App, user: str, node: str, confirm: str | None, again: str) -> None:
    """Ask for the user's name, unless it was given; raises `ConfirmationRequired`."""
    if confirm is not None:
        return
    try:
        app.out.typed(f"{user} has files on {node}. They will be put aside, and the others take their place.", user)
    except ConfirmationRequired as error:
        raise ConfirmationRequired(
            f"{user} has files on {node}: replacing them must be confirmed by the user's name",
            hint=f"{again} --confirm {user}",
        ) from error


def _figures(summary: Summary) -> dict[str, object]:
    return {
        "members": summary.members, "content_bytes": summary.size, "sha256": summary.sha256,
        "left_out": [{"path": path, "reason": why} for path, why in summary.left_out],
        "setuid_cleared": summary.setuid_cleared,
    }  # fmt: skip
