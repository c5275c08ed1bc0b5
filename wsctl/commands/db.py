"""`wsctl db version|upgrade`: the schema of the state database.

Responsible for: showing and starting migrations. Not responsible for: the migrations (`store.migrations`).
"""

from __future__ import annotations

from typing import Any

from wsctl.commands.options import DryRunOpt, YesOpt, command
from wsctl.context import App


@command
def version(app: App) -> None:
    """Show the schema version of the state database, and what this program knows.

    Example:
      wsctl db version
    """
    from wsctl.store import schema_status

    current, known, pending = schema_status(**_where(app))
    app.out.record(
        {
            "version": current,
            "known": known,
            "pending": pending,
            "state": app.inventory.state.url,
        }
    )


@command
def upgrade(app: App, dry_run: DryRunOpt = False, yes: YesOpt = False) -> None:
    """Bring the schema of the state database up to date. Forward only; safe to repeat and to run twice at once.

    Example:
      wsctl db upgrade --dry-run
    """
    from wsctl.store import upgrade as run_upgrade

    applied = run_upgrade(**_where(app), dry_run=dry_run)
    app.out.record(
        {"applied": list(applied), "action": "would-upgrade" if dry_run else "upgraded" if applied else "unchanged"}
    )


def _where(app: App) -> dict[str, Any]:
    return {
        "url": app.inventory.state.url,
        "password": app.state_password,
        "base": app.inventory_file.parent,
    }
