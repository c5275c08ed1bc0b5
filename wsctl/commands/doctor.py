"""`wsctl doctor`: is this side in order.

Responsible for: which checks are made, and how they are shown. Not responsible for: any check (`wsctl.doctor`); the
nodes have `node check`.
"""

from __future__ import annotations

import os
from pathlib import Path

from wsctl.commands.options import command
from wsctl.context import App
from wsctl.errors import PartialFailure
from wsctl.findings import Check, CheckStatus


@command
def doctor(app: App) -> None:
    """Check this side: inventory, state database, coordination, Nginx, keys, disk and time; with the fix to type.

    Writes one row into the database and deletes it. Nodes aren't asked: wsctl node check.

    Example:
      wsctl doctor
    """
    from wsctl.output import Column

    found = _checks(app)
    app.out.rows([check.to_dict() for check in found], [Column(name) for name in ("check", "status", "detail", "fix")])
    failed = [check.check for check in found if check.status is CheckStatus.FAIL]
    if failed:
        raise PartialFailure(
            f"{len(failed)} of {len(found)} checks failed", hint="see the fixes above", details={"failed": failed}
        )


def _checks(app: App) -> list[Check]:
    """All checks; what needs an inventory is left out when there is none."""
    from wsctl import doctor as checks

    first, inventory = checks.check_inventory(lambda: app.inventory)
    if inventory is None:
        return [first]
    folders = [Path(os.path.dirname(os.path.abspath(inventory.path)))]
    state, absent = inventory.state.url, None
    if state.startswith("sqlite:///"):
        from urllib.parse import unquote

        file = Path(unquote(state.removeprefix("sqlite:///")))
        folders.append(file.parent)
        absent = file if not file.exists() else None
    if absent is not None:
        text = f"{absent} isn't there yet; the first command that writes makes it"
        middle = [Check("state", CheckStatus.OK, text)]
    else:
        middle = checks.check_state(lambda: app.store, app.wiring.clock)
    where = "in the state database" if inventory.coordination is None else "in Redis"
    if absent is None or inventory.coordination is not None:
        middle.append(checks.check_coordination(lambda: app.leases_for_reading, where))
    if absent is None or inventory.coordination is not None:
        middle.append(checks.check_watchers(inventory, lambda: app.presence_for_reading))
    return [
        first,
        *middle,
        checks.check_nginx(inventory),
        *checks.check_ssh(inventory, os.environ.get("SSH_AUTH_SOCK")),
        *checks.check_disk(folders),
    ]
