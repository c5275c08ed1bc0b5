"""`wsctl backup export` and `wsctl restore import` on real folders: what is copied, frozen, refused, kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands.conftest import Desk
from wsctl.errors import EngineError
from wsctl.model import container_name


def files(desk: Desk, user: str = "alice") -> Path:
    """The folder of a user on their node."""
    assert desk.reached.root is not None
    return desk.reached.root / desk.home(user) / user


@pytest.fixture
def full(alice: Desk) -> Desk:
    """alice runs and has files."""
    folder = files(alice)
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("print('hi')\n")
    (folder / "link").symlink_to("/usr/bin/env")
    (folder / "big").write_bytes(os.urandom(300_000))
    return alice


def tree(folder: Path) -> dict[str, str | bytes]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def exported(desk: Desk, *more: str) -> dict[str, object]:
    found: dict[str, object] = desk("backup", "export", "alice", "--out", "a.tar", "-o", "json", *more).json
    return found


def leftovers(desk: Desk) -> list[str]:
    """Uploads that nobody finished, half-written archives."""
    assert desk.reached.root is not None
    uploads = [str(path) for path in desk.reached.root.glob("*/.wsctl-incoming/*")]
    return uploads + [path.name for path in desk.folder.glob(".a.tar*")]


def test_a_running_workspace_is_frozen_for_the_copy_and_goes_on(full: Desk) -> None:
    done = exported(full)
    assert (done["action"], done["live"], done["changed"], done["members"]) == ("exported", False, False, 4)
    assert (full.folder / "a.tar").stat().st_mode & 0o777 == 0o600
    node = full.fleet[full.home("alice")]
    assert [call for call in node.calls if "pause" in call[0]] == [
        ("pause", "ws-u-alice"), ("unpause", "ws-u-alice"),
    ]  # fmt: skip
    assert node.held("ws-u-alice").state == "running"
    kinds = [(row["kind"], row["verb"]) for row in full.ok("audit", "alice", "-o", "json").items]
    assert kinds[-2:] == [("intent", "backup export"), ("done", "backup export")]


def test_live_is_said_in_the_archive_and_freezes_nothing(full: Desk) -> None:
    assert exported(full, "--live")["live"] is True
    assert not full.effects()
    full.ok("stop", "alice")
    full.forget()
    assert exported(full, "--live", "-y")["live"] is False
    assert not full.effects()


@pytest.mark.parametrize("what", ["gone", "unwritable"])
def test_it_goes_on_whatever_happens(full: Desk, what: str) -> None:
    if what == "gone":
        files(full).rename(files(full).with_name("elsewhere"))
    out = "a.tar" if what == "gone" else "nowhere/a.tar"
    node = full.fleet[full.home("alice")]
    node.fail("unpause", EngineError(node.name, "busy"))
    result = full("backup", "export", "alice", "--out", out, "-o", "json")
    assert result.code == (8 if what == "gone" else 5), result
    assert node.held("ws-u-alice").state == "running"
    assert not (full.folder / "a.tar").exists()
    assert leftovers(full) == []
    assert full.ok("audit", "alice", "-o", "json").items[-1]["kind"] == "failed"


def test_an_archive_isnt_replaced_without_a_yes(full: Desk) -> None:
    (full.folder / "a.tar").write_text("older")
    result = full("backup", "export", "alice", "--out", "a.tar", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "confirmation-required")
    assert (full.folder / "a.tar").read_text() == "older"
    exported(full, "-y")


def test_who_has_nothing_cant_be_exported(desk: Desk) -> None:
    assert desk("backup", "export", "bob", "--out", "b.tar").code == 4
    assert desk("backup", "export", "bob", "--out", "b.tar", "-n").code == 4


def test_rehearsals_do_nothing(full: Desk) -> None:
    assert exported(full, "-n")["action"] == "would-export"
    assert not (full.folder / "a.tar").exists()
    exported(full)
    full.ok("stop", "alice")
    full.forget()
    before = tree(files(full))
    would = full.ok("restore", "import", "alice", "--from", "a.tar", "-n", "-o", "json").json
    assert (would["action"], would["members"]) == ("would-replace", 4)
    assert tree(files(full)) == before
    assert not full.effects()


def test_a_running_workspace_is_never_touched(full: Desk) -> None:
    exported(full)
    before = tree(files(full))
    result = full("restore", "import", "alice", "--from", "a.tar", "--confirm", "alice", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "refused")
    assert result.error["hint"].startswith("wsctl stop alice")
    assert tree(files(full)) == before
    assert leftovers(full) == []


def test_what_is_replaced_is_kept(full: Desk) -> None:
    exported(full)
    saved = tree(files(full))
    (files(full) / "src" / "main.py").write_text("broken\n")
    (files(full) / "new").write_text("since then")
    broken = tree(files(full))
    full.ok("stop", "alice")
    for more in ([], ["-y"]):
        result = full("restore", "import", "alice", "--from", "a.tar", "-o", "json", *more)
        assert (result.code, result.error["code"]) == (5, "confirmation-required")
    assert full("restore", "import", "alice", "--from", "a.tar", "--confirm", "bob").code == 5
    assert tree(files(full)) == broken
    done = full("restore", "import", "alice", "--from", "a.tar", stdin="alice\n")
    assert done.code == 0, done
    assert tree(files(full)) == saved
    (kept,) = files(full).parent.glob(".wsctl-kept/*")
    assert tree(kept) == broken
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert leftovers(full) == []
    row = full.ok("audit", "alice", "-o", "json").items[-1]
    assert (row["kind"], row["action"]) == ("done", "imported")
    assert str(kept) in row["detail"]
    assert full.ok("start", "alice", "-o", "json").json["state"] == "running"


def test_a_user_who_has_nothing_gets_a_home(full: Desk) -> None:
    exported(full)
    saved = tree(files(full))
    full.ok("rm", "alice", "-y")
    full.sql("DELETE FROM homes")
    done = full("restore", "import", "alice", "--from", "a.tar", "--to", "n3", "-o", "json").json
    assert (done["action"], done["node"], done["kept"]) == ("imported", "n3", None)
    assert full.ok("place", "alice", "-o", "json").json["node"] == "n3"
    assert tree(files(full)) == saved


def test_without_a_node_the_scheduler_chooses_one(full: Desk) -> None:
    exported(full)
    full.ok("rm", "alice", "-y")
    full.sql("DELETE FROM homes")
    for name in ("n1", "n3"):
        full.ok("node", "cordon", name, "-y")
    done = full("restore", "import", "alice", "--from", "a.tar", "-o", "json").json
    assert done["node"] == "n2"
    assert full.sql("SELECT user, node FROM homes") == [("alice", "n2")]


def test_no_user_gets_files_in_two_places(full: Desk) -> None:
    exported(full)
    full.ok("stop", "alice")
    other = next(name for name in ("n1", "n2", "n3") if name != full.home("alice"))
    result = full("restore", "import", "alice", "--from", "a.tar", "--to", other, "--confirm", "alice", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "refused")
    assert full("restore", "import", "alice", "--from", "a.tar", "--to", "n9").code == 4
    assert full("restore", "import", "bob", "--from", "a.tar").code == 5


@pytest.mark.parametrize("cut", [0, 700, 100_000, -1])
def test_a_damaged_archive_changes_nothing(full: Desk, cut: int) -> None:
    exported(full)
    full.ok("stop", "alice")
    before = tree(files(full))
    data = bytearray((full.folder / "a.tar").read_bytes())
    if cut >= 0:
        del data[cut:]
    else:
        data[len(data) // 2] ^= 1
    (full.folder / "a.tar").write_bytes(data)
    rows = full.sql("SELECT COUNT(*) FROM audit")
    result = full("restore", "import", "alice", "--from", "a.tar", "--confirm", "alice", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "backup-damaged")
    assert (tree(files(full)), full.sql("SELECT COUNT(*) FROM audit")) == (before, rows)
    assert not list(files(full).parent.glob(".wsctl-*"))


def test_a_limit_of_size(full: Desk) -> None:
    exported(full)
    full.ok("stop", "alice")
    argv = ["restore", "import", "alice", "--from", "a.tar", "--confirm", "alice", "-o", "json"]
    result = full(*argv, "--max-size", "200k")
    assert (result.code, result.error["code"]) == (5, "backup-damaged")
    assert full(*argv, "--max-size", "much").code == 2
    assert full(*argv, "--max-size", "1m").code == 0


def test_the_same_request_is_done_once(full: Desk) -> None:
    exported(full)
    full.ok("stop", "alice")
    argv = ["restore", "import", "alice", "--from", "a.tar", "--confirm", "alice", "--request-id", "r", "-o", "json"]
    first = full(*argv).json
    (files(full) / "later").write_text("x")
    assert full(*argv).json == first
    assert (files(full) / "later").exists()


def test_an_upload_that_was_cut_off_is_cleared_away_by_the_next(full: Desk) -> None:
    exported(full)
    full.ok("stop", "alice")
    left = files(full).parent / ".wsctl-incoming" / "alice.0123"
    other = files(full).parent / ".wsctl-incoming" / "alice-2.0123"
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "half").touch()
    assert full("restore", "import", "alice", "--from", "a.tar", "--confirm", "alice").code == 0
    assert not left.exists()
    assert other.exists()


def test_somebody_who_starts_it_meanwhile_wins(full: Desk) -> None:
    """Who doesn't know of leases, say: the container runs when it comes to replacing."""
    exported(full)
    full.ok("stop", "alice")
    before = tree(files(full))

    def start() -> None:
        full.fleet[full.home("alice")].start(container_name("alice"))

    result = full("restore", "import", "alice", "--from", "a.tar", stdin="alice\n", thinking=start)
    assert result.code == 5, result
    assert tree(files(full)) == before
    assert leftovers(full) == []


def test_one_that_was_left_paused_goes_on_by_reconcile_or_the_next_export(full: Desk) -> None:
    node = full.fleet[full.home("alice")]
    node.held("ws-u-alice").state = "paused"
    (item,) = full("reconcile", "-o", "json").items
    assert (item["kind"], item["user"], item["repaired"]) == ("paused", "alice", True)
    assert node.held("ws-u-alice").state == "running"
    node.held("ws-u-alice").state = "paused"
    exported(full)
    assert node.held("ws-u-alice").state == "running"
