"""`wsctl systemd print|install`: making wsctl run by itself.

Responsible for: options, and writing unit files without replacing anybody else's. Not responsible for: the texts
(`wsctl.systemd`), nor for telling systemd, which is left to the operator.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsctl.commands.options import DryRunOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import NotFound, Refused, UsageError
from wsctl.systemd import JOBS, MADE_BY, Job, cron_line, units

JobsArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB…]", show_default=False, help=f"{', '.join(JOBS)} (default: all in use)."),
]
UserOpt = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="The user it runs as (default: who runs this).")
]
FOLDER = Path("/etc/systemd/system")


@command
def print_(
    app: App,
    jobs: JobsArg = None,
    cron: Annotated[bool, typer.Option("--cron", help="Lines of /etc/cron.d instead of units.")] = False,
    user: UserOpt = None,
) -> None:
    """Print the units (or cron lines) that run these regularly: the reaper, reconcile, the copy of the state, metrics,
    the flush of activity if there is a Redis; and watch all the time. Files go to /var/lib/wsctl; systemd makes the
    folders.

    Examples:
      wsctl systemd print reap-idle
      wsctl systemd print --cron
    """
    chosen, who = _jobs(app, jobs), _user(user)
    inventory = _inventory(app)
    if cron:
        app.out.text("\n".join(cron_line(job, _command(), inventory, who) for job in chosen))
        return
    texts = [
        f"# {FOLDER / name}\n{text}" for job in chosen for name, text in units(job, _command(), inventory, who).items()
    ]
    app.out.text("\n".join(texts))


@command
def install(
    app: App,
    jobs: JobsArg = None,
    user: UserOpt = None,
    folder: Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="Where the units go.")] = FOLDER,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write the units. systemd isn't told: the answer says how. A unit that wsctl didn't make is never replaced.

    Example:
      wsctl systemd install --user wsctl
    """
    from wsctl.newfile import current, replace_file
    from wsctl.output import Column

    who, inventory = _user(user), _inventory(app)
    texts = {name: text for job in _jobs(app, jobs) for name, text in units(job, _command(), inventory, who).items()}
    items: list[dict[str, object]] = []
    for name, text in texts.items():
        present = current(folder / name)
        if present is not None and not present.startswith(MADE_BY.encode()):
            raise Refused(f"{folder / name} wasn't made by wsctl; nothing was written", hint="remove or rename it")
        action = "unchanged" if present == text.encode() else "would-write" if dry_run else "written"
        items.append({"unit": name, "file": str(folder / name), "action": action})
    for item in items:
        if item["action"] == "written":
            replace_file(folder / str(item["unit"]), texts[str(item["unit"])])
    app.out.rows(items, (Column("unit"), Column("file"), Column("action")))
    wanted = " ".join(name for name, text in texts.items() if "[Install]" in text)
    app.out.hint(f"systemctl daemon-reload && systemctl enable --now {wanted}")


def _jobs(app: App, names: list[str] | None) -> list[Job]:
    """Those that are named, else all that the inventory has use for."""
    for name in names or ():
        if name not in JOBS:
            raise NotFound(f"no job {name!r}", hint=f"there are {', '.join(JOBS)}")
    has = {
        None: True,
        "coordination": app.inventory.coordination is not None,
        "backup.repository": app.inventory.backup.repository is not None,
        "standby": any(spec.standby for spec in app.inventory.classes.values()),
    }
    useful = [name for name, job in JOBS.items() if has[job.needs]]
    return [JOBS[name] for name in dict.fromkeys(names or useful)]


def _user(name: str | None) -> str:
    name = name or getpass.getuser()
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", name, re.ASCII):
        raise UsageError(f"--user {name!r} is not a user's name")
    return name


def _inventory(app: App) -> str:
    """The inventory's absolute path; it is loaded, so that a job doesn't fail every five minutes."""
    path = os.path.abspath(app.inventory.path)
    if not path.isprintable():
        raise UsageError(f"the inventory's path {path!r} can't stand in a unit", hint="move it")
    return path


def _command() -> list[str]:
    """How wsctl is started: as it was now if that was by a program of its own, else by this Python."""
    program = shutil.which(sys.argv[0]) if os.path.basename(sys.argv[0]) == "wsctl" else None
    return [os.path.abspath(program)] if program else [os.path.abspath(sys.executable), "-m", "wsctl"]
