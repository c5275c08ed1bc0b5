"""`wsctl migrate-user` as an operator types it, on fake nodes with fake files."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Desk
from wsctl.errors import FilesError


def other(desk: Desk) -> str:
    return next(name for name in ("n1", "n2", "n3") if name != desk.home("alice"))


def test_the_answer_is_that_of_the_contract(alice: Desk) -> None:
    source, target = alice.home("alice"), other(alice)
    alice.reached.trees.write("alice", "work")
    said = alice.ok("migrate-user", "alice", "--to", target, "-o", "json").json
    assert said["downtime_ms"] >= 0
    del said["downtime_ms"]
    assert said == {
        "schema_version": 1, "user": "alice", "source": source, "target": target, "generation": 3, "bytes_copied": 4,
        "passes": 3, "action": "migrated", "bytes_stopped": 0, "road": "direct", "road_why": "",
        "left_out": 0,
    }  # fmt: skip
    assert alice.home("alice") == target
    assert alice.reached.trees.live[(target, "alice")] == {"work": "work"}
    back = alice.ok("migrate-user", "alice", "--rollback", "-o", "json").json
    assert (back["action"], back["source"], back["target"]) == ("rolled-back", target, source)
    same = alice.ok("migrate-user", "alice", "--to", source, "-o", "json").json
    assert (same["action"], same["source"], same["target"], same["passes"]) == ("unchanged", source, source, 0)


def test_a_dry_run_shows_steps_and_sizes_and_changes_nothing(alice: Desk) -> None:
    before = alice.home("alice")
    ran = alice("migrate-user", "alice", "--dry-run", "--bwlimit", "1m")
    assert ran.code == 0
    assert "~ swap" in ran.out
    assert "files; about" in ran.err
    assert alice.home("alice") == before
    assert alice.effects() == {}


def test_a_failure_before_the_swap_leaves_them_where_they_were(alice: Desk) -> None:
    before, target = alice.home("alice"), other(alice)
    alice.reached.trees.fail("verify", FilesError(target, "no space left on device"))
    ran = alice("migrate-user", "alice", "--to", target, "-o", "json")
    assert (ran.code, ran.error["code"]) == (8, "files")
    shown = alice.ok("show", "alice", "-o", "json").json
    assert (shown["node"], shown["state"]) == (before, "running")
    assert alice.fleet[before].held("ws-u-alice").state == "running"
    assert alice.sql("SELECT * FROM moves") == []
    assert alice.sql("SELECT * FROM kept_copies") == []
    assert not alice.reached.trees.incoming


def test_a_request_id_moves_once(alice: Desk) -> None:
    first = alice.ok("migrate-user", "alice", "--request-id", "r1", "-o", "json").json
    again = alice.ok("migrate-user", "alice", "--request-id", "r1", "-o", "json").json
    assert again == first


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--verify", "much"], 2),
        (["--bwlimit", "fast"], 2),
        (["--bwlimit", "0"], 2),
        (["--keep", "long"], 2),
        (["--rollback", "--to", "n2"], 2),
        (["--rollback"], 4),
        (["--to", "n9"], 4),
    ],
)
def test_refusals(alice: Desk, argv: list[str], code: int) -> None:
    ran = alice("migrate-user", "alice", *argv)
    assert ran.code == code
    assert "hint:" in ran.err or code == 2
    assert alice.effects() == {}
