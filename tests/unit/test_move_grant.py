"""The permission of a move in ~/.ssh/authorized_keys: whose lines come and go, and what kind of file it stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

from wsctl.transport.copy_scripts import GRANT

OTHERS = "ssh-ed25519 AAAA eve@desk\n"
LINE = 'restrict,expiry-time="@EXPIRY@" ssh-ed25519 BBBB wsctl-move:demo:alice:@UNTIL@\n'


def granted(home: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    argv = ["sh", "-c", GRANT, "wsctl", "demo:alice", "grant" if line else ""]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, input=line.encode(), env=environment, capture_output=True, check=False)


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    real = tmp_path / "managed" / "keys"
    real.parent.mkdir()
    real.write_text(OTHERS)
    real.chmod(0o640)
    (tmp_path / ".ssh").mkdir()
    link = tmp_path / ".ssh" / "authorized_keys"
    link.symlink_to("../managed/keys")
    assert granted(tmp_path, LINE).returncode == 0
    assert "wsctl-move:demo:alice:" in real.read_text()
    assert granted(tmp_path, "").returncode == 0
    assert (link.is_symlink(), real.read_text(), real.stat().st_mode & 0o777) == (True, OTHERS, 0o640)
    assert [one.name for one in real.parent.iterdir()] == ["keys"]


def test_a_link_that_leads_nowhere_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    link = tmp_path / ".ssh" / "authorized_keys"
    link.symlink_to("/nowhere/at/all")
    done = granted(tmp_path, LINE)
    assert (done.returncode, b"leads nowhere" in done.stderr, link.is_symlink()) == (1, True, True)
    assert granted(tmp_path, "").returncode == 0


def test_a_file_that_isnt_there_yet_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    assert granted(tmp_path, LINE).returncode == 0
    made = tmp_path / ".ssh" / "authorized_keys"
    assert (made.stat().st_mode & 0o777, "@UNTIL@" in made.read_text()) == (0o600, False)
