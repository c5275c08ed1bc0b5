"""The texts that make wsctl run by itself: systemd units and cron lines.

Responsible for: which jobs there are, how often they run, and quoting. Not responsible for: writing files (`commands`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MADE_BY = "# Made by `wsctl systemd`; changes belong into a drop-in: systemctl edit"


@dataclass(frozen=True, slots=True)
class Job:
    """Something to run regularly: `argv` behind `wsctl`, when (systemd's OnCalendar, cron's five fields), how long it
    may take at most, and by how much it is spread so that control hosts don't begin in the same second. `out` is the
    file that it writes, below `/var/lib`, where systemd makes the folder. `needs` is the key of the
    inventory without which there is nothing to do. Without a calendar it is a service that runs all the time."""

    name: str
    about: str
    argv: tuple[str, ...]
    calendar: str
    cron: str
    limit: str
    spread_s: int
    out: str | None = None
    needs: str | None = None

    @property
    def is_service(self) -> bool:
        """Whether it never ends by itself."""
        return not self.calendar


STATE = "/var/lib/"

JOBS = {
    job.name: job
    for job in (
        Job(
            "reap-idle",
            "stop workspaces that nobody uses",
            ("reap-idle", "--yes", "--quiet", "--output", "plain"),
            "*:0/5",
            "*/5 * * * *",
            "30min",
            20,
        ),
        Job(
            "reconcile",
            "mend what differs from the state",
            ("reconcile", "--yes", "--quiet", "--output", "plain"),
            "*:17",
            "17 * * * *",
            "1h",
            120,
        ),
        Job(
            "backup-run",
            "take snapshots of users' files",
            ("backup", "run", "--yes", "--quiet", "--output", "plain"),
            "*-*-* 02:30",
            "30 2 * * *",
            "12h",
            600,
            needs="backup.repository",
        ),
        Job(
            "activity-flush",
            "bring activity from Redis to the state database",
            ("activity", "flush", "--quiet", "--output", "plain"),
            "*:*:30",
            "* * * * *",
            "5min",
            10,
            needs="coordination",
        ),
        Job(
            "backup-state",
            "copy the state into one file",
            ("backup", "state", "--quiet", "--output", "plain"),
            "*-*-* 03:37",
            "37 3 * * *",
            "1h",
            600,
            out="wsctl/backup/state.jsonl",
        ),
        Job(
            "metrics",
            "write figures for Prometheus",
            ("metrics", "--quiet", "--output", "plain"),
            "*:*:00",
            "* * * * *",
            "2min",
            5,
            out="wsctl/metrics/wsctl.prom",
        ),
        Job("watch", "watch over the nodes", ("watch", "--quiet", "--output", "plain"), "", "", "", 0),
        Job(
            "standby",
            "bring standby copies up to date",
            ("standby", "sync", "--yes", "--quiet", "--output", "plain"),
            "*:0/1",
            "* * * * *",
            "6h",
            10,
            needs="standby",
        ),
    )
}


_SERVICE = """\
{made_by} wsctl-{job.name}.service
[Unit]
Description=wsctl {job.name}: {job.about}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
User={user}
ExecStart={argv}
WatchdogSec=60
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def units(job: Job, command: Sequence[str], inventory: str, user: str) -> dict[str, str]:
    """The service and the timer (if any) of a job, by file name. `command` is how wsctl is started: absolute paths."""
    argv = " ".join(_word(word) for word in (*command, *job.argv, *_out(job), "--inventory", inventory))
    if job.is_service:
        return {f"wsctl-{job.name}.service": _SERVICE.format(made_by=MADE_BY, job=job, user=user, argv=argv)}
    service = f"""\
{MADE_BY} wsctl-{job.name}.service
[Unit]
Description=wsctl {job.name}: {job.about}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={user}
ExecStart={argv}
TimeoutStartSec={job.limit}
{_state_folder(job)}"""
    timer = f"""\
{MADE_BY} wsctl-{job.name}.timer
[Unit]
Description=wsctl {job.name}: {job.about}, regularly

[Timer]
OnCalendar={job.calendar}
RandomizedDelaySec={job.spread_s}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
    return {f"wsctl-{job.name}.service": service, f"wsctl-{job.name}.timer": timer}


def cron_line(job: Job, command: Sequence[str], inventory: str, user: str) -> str:
    """The same as a line of /etc/cron.d. Cron mails what is said, which is nothing unless something failed. What runs
    all the time is no work for cron, and a line says so."""
    if job.is_service:
        return f"# wsctl {job.name} runs all the time: wsctl systemd install {job.name}"
    words = shlex.join((*command, *job.argv, *_out(job), "--inventory", inventory)).replace("%", r"\%")
    return f"{job.cron}  {user}  {words} > /dev/null"


def _out(job: Job) -> tuple[str, ...]:
    return () if job.out is None else ("--out", STATE + job.out)


def _state_folder(job: Job) -> str:
    """The folder of its file, made by systemd and the user's own."""
    return "" if job.out is None else f"StateDirectory={job.out.rpartition('/')[0]}\n"


def _word(word: str) -> str:
    """A word of ExecStart: systemd expands % and $, and reads quotes and backslashes."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
