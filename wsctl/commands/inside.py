"""`wsctl logs`, `exec`, `stats` and `top`: looking into running workspaces.

Responsible for: options, which container is meant, and passing bytes and exit codes through. Not responsible for: the
engine (`transport.inside`), nor for what a terminal needs (`terminal`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import UserArg, check_users, command
from wsctl.context import App
from wsctl.errors import NotFound, PartialFailure, Refused, WsctlError
from wsctl.model import PlacementState

if TYPE_CHECKING:
    from wsctl.insideports import Inside
    from wsctl.model import Placement


@command
def logs(
    app: App,
    user: UserArg,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends or Ctrl-C.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, metavar="N", help="Only the last N lines.")] = None,
) -> None:
    """Print what a workspace has written: its stdout to stdout, its stderr to stderr. On a terminal control characters
    are shown instead of obeyed.

    Example:
      wsctl logs alice --tail 100 -f
    """
    from wsctl.terminal import show

    placement = _placed(app, user)
    show(_inside(app, placement).logs(placement.container, tail=tail, follow=follow))


@command
def exec_(
    app: App,
    user: UserArg,
    argv: Annotated[list[str], typer.Argument(metavar="[--] CMD…", show_default=False, help="Command and words.")],
    tty: Annotated[
        bool | None, typer.Option("--tty/--no-tty", "-t/-T", help="A terminal (default: if this is one).")
    ] = None,
) -> None:
    """Run a command in a running workspace; the exit code is the command's. stdin is passed on. While it runs, the
    reaper keeps the workspace. Write `--` before the command, or its options are taken for wsctl's.

    Examples:
      wsctl exec alice -- sh
      wsctl exec -T alice -- tar cf - /workspace > files.tar
    """
    from wsctl.terminal import converse

    placement = _placed(app, user)
    if placement.state is not PlacementState.RUNNING:
        raise Refused(f"the workspace of {user} is {placement.state.value}", hint=f"wsctl start {user}")
    with_tty = tty if tty is not None else sys.stdin.isatty() and sys.stdout.isatty()
    with _inside(app, placement).run(placement.container, argv, tty=with_tty) as session:
        code = converse(session, tty=with_tty)
    if code != 0:
        raise typer.Exit(code)


@command
def stats(
    app: App,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="Users (default: all who run).")
    ] = None,
) -> None:
    """Show what running workspaces take at the moment: cores, memory, traffic since their start, processes.

    Each takes about two seconds of its engine's time; many are asked side by side.

    Example:
      wsctl stats alice bob
    """
    from wsctl.output import Column, human_bytes
    from wsctl.transport.fanout import run as fan_out

    named = check_users(users) if users else None
    store = app.store_for_reading
    homes = {p.user: p for p in store.placements_and_damage()[0]}
    chosen = named or tuple(user for user, p in homes.items() if p.state is PlacementState.RUNNING)
    for user in chosen:
        if user not in homes:
            raise _unknown(user)
    app.fleet.warm({homes[user].node for user in chosen})
    loads = fan_out(chosen, lambda user: _inside(app, homes[user]).load(homes[user].container), parallel=64)
    items: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    for user, load in loads.items():
        if isinstance(load, WsctlError):
            failed[user] = load.message
        elif isinstance(load, Exception):
            raise load
        else:
            values = {name: getattr(load, name) for name in load.__slots__}
            items.append({"user": user, "node": homes[user].node, **values})

    def size(value: object) -> str:
        return human_bytes(value) if isinstance(value, int) else "-"

    columns = (
        Column("user"),
        Column("node"),
        Column("cores", right=True),
        Column("memory_bytes", "memory", show=size, right=True),
        Column("memory_limit_bytes", "limit", show=size, right=True),
        Column("received_bytes", "received", show=size, right=True),
        Column("sent_bytes", "sent", show=size, right=True),
        Column("processes", "pids", right=True),
    )
    app.out.rows(items, columns)
    if failed:
        first = next(iter(failed.items()))
        message = f"{len(failed)} of {len(chosen)} can't be looked at ({first[0]}: {first[1]})"
        raise PartialFailure(message, hint="wsctl ls", details={"failed": failed})


@command
def top(app: App, user: UserArg) -> None:
    """Show the processes of a running workspace, as the node's `ps` has them.

    Example:
      wsctl top alice
    """
    from wsctl.output import Column

    placement = _placed(app, user)
    titles, rows = _inside(app, placement).processes(placement.container)
    keys = [title.lower().strip("%") for title in titles]
    items = [dict(zip(keys, row, strict=False)) for row in rows]
    app.out.rows(items, [Column(key) for key in keys])


def _placed(app: App, user: str) -> Placement:
    (target,) = check_users([user])
    placement = app.store_for_reading.placement(target)
    if placement is None:
        raise _unknown(target)
    return placement


def _unknown(user: str) -> NotFound:
    return NotFound(f"user {user} has no placement", hint=f"wsctl place {user}", details={"user": user})


def _inside(app: App, placement: Placement) -> Inside:
    app.inventory.node(placement.node)
    return app.fleet.inside(placement.node)
