"""`wsctl lease ls|break`: who is acting on what, and taking it away from them.

Responsible for: showing and breaking leases. Not responsible for: what a lease guarantees (`ports.Leases`: nothing that
correctness rests on; breaking one can't corrupt anything, the former holder stops before its next effect).
"""

from __future__ import annotations

from typing import Annotated

import typer

from wsctl.commands.options import DryRunOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import NotFound


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
            "ttl_s": round(max(0.0, (lease.expires_at - now).total_seconds()), 3),
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
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Take a lease away from its holder, who stops before their next effect.

    Example:
      wsctl lease break user:alice --yes
    """
    held = {lease.name: lease for lease in app.leases_for_reading.ls()}
    lease = held.get(name)
    if lease is None:
        raise NotFound(f"nobody holds a lease named {name}", hint="wsctl lease ls")
    if dry_run:
        app.out.record({"name": name, "holder": lease.holder, "action": "would-break"})
        return
    app.out.confirm(f"Take {name} away from {lease.holder} ({lease.command})?", yes=yes)
    if not app.leases.break_lease(name):
        raise NotFound(f"the lease {name} was given back meanwhile", hint="wsctl lease ls")
    app.out.record({"name": name, "holder": lease.holder, "action": "broken"})
