"""`wsctl lease ls|break`: who is acting on what, and taking it away from them.

Responsible for: showing and breaking leases. Not responsible for: what a lease guarantees (`ports.Leases`: nothing that
correctness rests on; breaking one can't corrupt anything, the former holder stops before its next effect).
"""

from __future__ import annotations

from typing import Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import NotFound
from wsctl.model import LeaseInfo


@command
def ls(app: App) -> None:
    """List the leases that are held now.

    Example:
      wsctl lease ls
    """
    from wsctl.output import Column, ago

    now = app.wiring.clock.now()
    items = [
        {
            "name": lease.name,
            "holder": lease.holder,
            "command": lease.command,
            "acquired_at": lease.acquired_at,
            "expires_at": lease.expires_at,
            "ttl_s": None if lease.endless else round(max(0.0, (lease.expires_at - now).total_seconds()), 3),
        }
        for lease in app.leases_for_reading.ls()
    ]
    columns = (
        Column("name"),
        Column("holder"),
        Column("command"),
        Column("acquired_at", "since", show=lambda at: ago(at, now)),  # type: ignore[arg-type]
        Column("ttl_s", "ttl", right=True),
    )
    app.out.rows(items, columns)


@command
def break_(
    app: App,
    name: Annotated[str, typer.Argument(metavar="LEASE", show_default=False, help="As `wsctl lease ls` names it.")],
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Take a lease away from its holder, who stops before their next effect.

    Example:
      wsctl lease break user:alice --yes
    """
    from wsctl.requests import items_once

    if dry_run:
        app.out.record({"name": name, "holder": _held(app, name).holder, "action": "would-break"})
        return
    request = app.request(request_id, "lease break", [name])
    (item,) = items_once(app.world(), request, lambda: [_break(app, name, request_id, yes=yes)])
    app.out.record(item)


def _break(app: App, name: str, request_id: str | None, *, yes: bool) -> dict[str, object]:
    from wsctl.audit import Auditor
    from wsctl.plan import Work

    lease = _held(app, name)
    app.out.confirm(f"Take {name} away from {lease.holder} ({lease.command})?", yes=yes)
    trail = Auditor("lease break", app.actor, request_id).trail(Work(name, "broken"), None)
    with trail.recorded(app.store.append_audit):
        if not app.leases.break_lease(name):
            raise NotFound(f"the lease {name} was given back meanwhile", hint="wsctl lease ls")
    return {"name": name, "holder": lease.holder, "action": "broken"}


def _held(app: App, name: str) -> LeaseInfo:
    """The lease as it is held now. Raises `NotFound` if nobody holds it."""
    for lease in app.leases_for_reading.ls():
        if lease.name == name:
            return lease
    raise NotFound(f"nobody holds a lease named {name}", hint="wsctl lease ls")
