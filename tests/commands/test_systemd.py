"""`wsctl systemd`: units and cron lines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import INVENTORY, Desk
from wsctl.systemd import JOBS, cron_line, units

USED = [job for job in JOBS if JOBS[job].needs is None]
FILES = {f"wsctl-{job}.{kind}" for job in USED for kind in ("service", "timer")} - {"wsctl-watch.timer"}


def test_units_are_written_once_and_kept_up_to_date(desk: Desk, tmp_path: Path) -> None:
    argv = ("systemd", "install", "--dir", str(tmp_path), "--user", "wsctl", "-o", "json")
    dry = desk(*argv, "--dry-run").items
    assert {item["action"] for item in dry} == {"would-write"}
    assert not list(tmp_path.iterdir())
    first = desk(*argv)
    assert {item["action"] for item in first.items} == {"written"}
    assert {path.name for path in tmp_path.iterdir()} == FILES
    text = (tmp_path / "wsctl-reap-idle.service").read_text()
    assert f"--inventory {desk.folder}/inventory.yaml\n" in text
    assert "User=wsctl\n" in text
    assert {item["action"] for item in desk(*argv).items} == {"unchanged"}
    told = desk(*argv[:-2]).err
    assert "systemctl enable --now wsctl-reap-idle.timer wsctl-reconcile.timer wsctl-backup-state.timer" in told
    again = desk(*argv[:-4], "--user", "ops", "-o", "json", "reap-idle").items
    assert [item["action"] for item in again] == ["written", "unchanged"]


def test_watch_is_a_service(desk: Desk, tmp_path: Path) -> None:
    told = desk("systemd", "install", "--dir", str(tmp_path), "watch")
    assert "systemctl enable --now wsctl-watch.service\n" in told.err
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    for line in ("Type=notify", "WatchdogSec=60", "Restart=always", "WantedBy=multi-user.target"):
        assert f"\n{line}\n" in text
    assert "wsctl watch runs all the time" in desk.ok("systemd", "print", "--cron", "watch").out


def test_somebody_elses_unit_stays(desk: Desk, tmp_path: Path) -> None:
    theirs = tmp_path / "wsctl-reconcile.timer"
    theirs.write_text("[Timer]\n")
    result = desk("systemd", "install", "--dir", str(tmp_path))
    assert (result.code, result.out) == (5, "")
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]


def test_what_is_printed(desk: Desk) -> None:
    out = desk.ok("systemd", "print", "reap-idle", "--user", "wsctl").out
    assert out.startswith("# /etc/systemd/system/wsctl-reap-idle.service\n")
    assert "OnCalendar=*:0/5" in out
    assert "reconcile" not in out
    lines = desk.ok("systemd", "print", "--cron", "--user", "wsctl", "reap-idle", "reconcile").out.splitlines()
    assert [line.split()[5:6] for line in lines] == [["wsctl"], ["wsctl"]]
    desk.inventory(INVENTORY.replace("  idle_after: 30m\n", "  standby: 1\n"))
    assert "standby sync" in desk.ok("systemd", "print", "--cron", "--user", "wsctl", "standby").out
    assert desk("systemd", "print", "backups").code == 4
    assert desk("systemd", "print", "--user", "a b").code == 2


def test_a_flush_only_where_there_is_a_redis(desk: Desk) -> None:
    assert "activity flush" not in desk.ok("systemd", "print").out
    assert "activity flush" in desk.ok("systemd", "print", "activity-flush").out, "who asks for it gets it"
    desk.inventory(INVENTORY + "coordination: redis://127.0.0.1:1/0\n")
    assert "activity flush" in desk.ok("systemd", "print").out
    assert "activity flush" in desk.ok("systemd", "print", "--cron").out


def test_who_writes_a_file_has_a_folder_for_it(desk: Desk) -> None:
    out = desk.ok("systemd", "print", "metrics", "backup-state").out
    assert "metrics --quiet --output plain --out /var/lib/wsctl/metrics/wsctl.prom --inventory" in out
    assert "StateDirectory=wsctl/metrics\n" in out
    assert "StateDirectory=wsctl/backup\n" in out
    assert "StateDirectory" not in desk.ok("systemd", "print", "reap-idle").out


@pytest.mark.parametrize("job", [*(job for job in USED if not JOBS[job].is_service), "activity-flush"])
def test_every_job_is_a_command_that_works(desk: Desk, job: str, tmp_path: Path) -> None:
    """What the unit runs, with its file elsewhere; and it says nothing, or cron would mail it."""
    desk.ok("place", "alice")
    out = () if JOBS[job].out is None else ("--out", str(tmp_path / "file"))
    result = desk.ok(*JOBS[job].argv, *out, "-i", str(desk.folder / "inventory.yaml"))
    assert result.err == ""
    assert JOBS[job].out is None or (tmp_path / "file").stat().st_size > 0


def test_odd_paths_are_quoted() -> None:
    job = JOBS["reap-idle"]
    text = units(job, ["/opt/my tools/wsctl"], '/etc/100%/$x/"y"\\z.yaml', "u")["wsctl-reap-idle.service"]
    assert 'ExecStart="/opt/my tools/wsctl" reap-idle' in text
    assert '--inventory "/etc/100%%/$$x/\\"y\\"\\\\z.yaml"\n' in text
    assert "'/etc/100\\%/a b.yaml'" in cron_line(job, ["wsctl"], "/etc/100%/a b.yaml", "u")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't on this machine")
def test_systemd_reads_them(desk: Desk, tmp_path: Path) -> None:
    desk("systemd", "install", "--dir", str(tmp_path), *JOBS)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(files) == sum(1 if job.is_service else 2 for job in JOBS.values())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "wsctl-" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
