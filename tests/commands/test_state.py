"""The state database as commands meet it: absent, newer, read-only, damaged; `wsctl db` and `wsctl lease`."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.rights import under_permissions
from wsctl.context import SystemClock
from wsctl.store.migrations import KNOWN, STEPS

WRITERS = [["place", "bob"], ["stop", "alice"], ["touch", "alice"], ["node", "cordon", "n1"], ["reap-idle"]]
READERS = [["ls"], ["show", "alice"], ["node", "ls"], ["render-gateway"]]
EVERYBODY = [*WRITERS, *READERS]


def words(argv: list[str]) -> str:
    return " ".join(argv)


# ------------------------------------------------------------------------------------------------- db


def test_version_of_nothing_yet_and_of_what_there_is(desk: Desk) -> None:
    found = desk.ok("db", "version", "-o", "json").json
    assert (found["version"], found["known"], len(found["pending"])) == (0, KNOWN, len(STEPS))
    assert not desk.state.exists()
    assert len(desk.ok("db", "upgrade", "-n", "-o", "json").json["applied"]) == len(STEPS)
    assert not desk.state.exists()
    done = desk.ok("db", "upgrade", "-o", "json").json
    assert (done["action"], len(done["applied"])) == ("upgraded", len(STEPS))
    assert desk.ok("db", "upgrade", "-o", "json").json == {
        "schema_version": 1,
        "applied": [],
        "action": "unchanged",
    }
    found = desk.ok("db", "version", "-o", "json").json
    assert (found["version"], found["pending"]) == (KNOWN, [])


@pytest.mark.parametrize("argv", [*EVERYBODY, ["db", "version"], ["db", "upgrade"], ["lease", "ls"]], ids=words)
def test_a_newer_schema_is_refused_by_everybody(alice: Desk, argv: list[str]) -> None:
    alice.sql("INSERT INTO schema_migrations VALUES (?, 'later', 'x', '2027', '2027')", KNOWN + 1)
    result = alice(*argv, "-o", "json") if argv != ["render-gateway"] else alice(*argv)
    assert (result.code, result.out) == (10, "")
    assert f"schema version {KNOWN + 1}, this program knows versions up to {KNOWN}" in result.err
    assert not alice.effects()


def test_an_older_schema_is_upgraded_on_demand(alice: Desk) -> None:
    alice.sql("DROP TABLE left_files")
    alice.sql("DELETE FROM schema_migrations WHERE version = ?", KNOWN)
    result = alice("place", "bob", "-o", "json")
    assert (result.code, result.error["hint"]) == (10, "upgrade it with: wsctl db upgrade")
    assert alice.ok("db", "upgrade", "-o", "json").json["action"] == "upgraded"
    alice.ok("place", "bob")


# ------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("argv", [*EVERYBODY, ["db", "version"], ["db", "upgrade"], ["lease", "ls"]], ids=words)
@pytest.mark.parametrize("how", ["not a database", "cut short", "scribbled over"])
def test_a_damaged_database_is_10(alice: Desk, argv: list[str], how: str) -> None:
    data = bytearray(alice.state.read_bytes())
    for suffix in ("-wal", "-shm"):
        alice.state.with_name(f"wsctl.db{suffix}").unlink(missing_ok=True)
    if how == "not a database":
        alice.state.write_bytes(b"this is not the file you are looking for\n" * 100)
    elif how == "cut short":
        alice.state.write_bytes(data[:5000])
    else:
        data[100:] = os.urandom(64) * ((len(data) - 100) // 64)
        alice.state.write_bytes(data)
    result = alice(*argv)
    assert result.code == 10, result
    assert result.out == ""
    assert "wsctl.db" in result.err
    assert "unexpected" not in result.err
    assert not alice.effects()


def test_somebody_elses_database_is_10(desk: Desk) -> None:
    desk.sql("CREATE TABLE songs (title TEXT)")
    result = desk("place", "alice")
    assert result.code == 10
    assert "wasn't made by wsctl" in result.err
    assert desk.sql("SELECT name FROM sqlite_master") == [("songs",)]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_database_refuses_every_writer(alice: Desk, what: str) -> None:
    source = alice.state.read_bytes()
    alice.clock.advance(3600)  # type: ignore[union-attr]
    with under_permissions() as folder:
        (folder / "inventory.yaml").write_text(INVENTORY)
        state = folder / "wsctl.db"
        state.write_bytes(source)
        (state if what == "file" else folder).chmod(0o444 if what == "file" else 0o555)
        for argv in WRITERS:
            result = alice(*argv, "-i", str(folder / "inventory.yaml"))
            assert (result.code, result.out) == (10, ""), (argv, result)
            assert "unexpected" not in result.err
        folder.chmod(0o755)
    assert not alice.effects()


def test_a_folder_that_is_not_there_is_10(desk: Desk) -> None:
    desk.inventory(INVENTORY.replace("sqlite:///wsctl.db", "sqlite:////nowhere/at/all/wsctl.db"))
    result = desk("place", "alice")
    assert result.code == 10
    assert "the folder /nowhere/at/all doesn't exist" in result.err
    assert desk("ls").code in (0, 10)


def test_a_row_that_nothing_in_wsctl_can_have_written_concerns_its_user_only(alice: Desk) -> None:
    alice.ok("place", "bob")
    alice.sql("UPDATE placements SET state = 'asleep\x1b[31m' WHERE user = 'alice'")
    result = alice("ls", "-o", "plain")
    assert (result.code, [line[0] for line in result.lines]) == (0, ["USER", "bob"])
    assert "'alice' in table placements" in result.err
    assert "\x1b" not in result.err
    alice.ok("stop", "bob")
    alice.forget()
    for argv in (
        ["place", "alice"],
        ["start", "alice"],
        ["stop", "alice"],
        ["restart", "alice"],
        ["rm", "alice", "--yes"],
        ["show", "alice"],
    ):
        result = alice(*argv)
        assert (result.code, result.out) == (10, ""), argv
        assert "'alice' in table placements: unknown state" in result.err
    assert alice.effects() == {}


def test_what_a_damaged_row_has_is_not_given_to_others(alice: Desk) -> None:
    alice.inventory(
        INVENTORY.replace("ports: 20000-20099", "ports: 20000-20001").replace("n2:", "x-n2:").replace("n3:", "x-n3:")
    )
    alice.sql("UPDATE placements SET state = 'asleep', node = 'n1', host_port = 20000")
    alice.sql("UPDATE node_usage SET node = 'n1'")
    assert alice.ok("place", "bob", "-o", "json").json["host_port"] == 20001
    refused = alice("place", "carol", "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "unschedulable")


@pytest.mark.parametrize("argv", EVERYBODY, ids=words)
def test_a_password_file_that_cannot_be_read_is_3(desk: Desk, argv: list[str]) -> None:
    desk.inventory(INVENTORY.replace("state: ", "state_password_file: /nowhere/secret\nstate: "))
    result = desk(*argv)
    assert (result.code, result.out) == (3, "")
    assert "state_password_file: cannot read /nowhere/secret" in result.err
    assert "WSCTL_STATE_PASSWORD" in result.err
    desk.patch.setenv("WSCTL_STATE_PASSWORD", "x")
    assert desk("ls").code == 0


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["binary", "a folder"])
def test_a_password_file_with_anything_but_a_password_is_3(desk: Desk, content: bytes | None) -> None:
    secret = desk.folder / "secret"
    if content is None:
        secret.mkdir()
    else:
        secret.write_bytes(content)
    desk.inventory(INVENTORY.replace("state: ", "state_password_file: secret\nstate: "))
    assert desk("place", "alice").code == 3


def test_two_clusters_share_a_database_without_seeing_each_other(alice: Desk) -> None:
    alice.inventory(INVENTORY.replace("cluster: studio", "cluster: lab"), "lab.yaml")
    assert alice.ok("ls", "-i", "lab.yaml", "-o", "json").items == []
    alice.fleet["n1"].remove("ws-u-alice")
    alice.ok("place", "alice", "-i", "lab.yaml")
    assert alice.sql("SELECT COUNT(*) FROM placements") == [(2,)]


# ------------------------------------------------------------------------------------------------- leases


@pytest.fixture
def now(desk: Desk) -> Desk:
    """With the machine's clock, which is what the ages of leases are told by."""
    desk.clock = SystemClock()
    return desk


def test_leases_are_listed_with_their_holder(now: Desk) -> None:
    assert now.ok("lease", "ls", "-o", "json").items == []
    now.hold("user:alice", "node:n1")
    node, user = now.ok("lease", "ls", "-o", "json").items
    assert set(user) == {"name", "holder", "command", "acquired_at", "expires_at", "ttl_s"}
    assert (node["name"], user["name"]) == ("node:n1", "user:alice")
    assert (user["holder"], user["command"]) == ("eve@other:7", "migrate-user")
    assert 25 < user["ttl_s"] <= 30
    assert datetime.fromisoformat(user["acquired_at"]) <= datetime.now(UTC)
    assert "just now" in now.ok("lease", "ls").out


def test_looking_at_leases_makes_no_file(desk: Desk) -> None:
    assert desk.ok("lease", "ls", "-o", "json").items == []
    assert desk("lease", "break", "user:alice", "-n").code == 4
    assert not desk.state.exists()


def test_breaking_must_be_confirmed(now: Desk) -> None:
    now.hold("user:alice")
    assert now("lease", "break", "user:alice").code == 5
    assert now("lease", "break", "user:alice", stdin="n\n", tty=True).code == 5
    assert now.ok("lease", "break", "user:alice", "-n", "-o", "json").json["action"] == "would-break"
    assert len(now.ok("lease", "ls", "-o", "json").items) == 1
    done = now.ok("lease", "break", "user:alice", "-y", "-o", "json").json
    assert done == {"schema_version": 1, "name": "user:alice", "holder": "eve@other:7", "action": "broken"}
    assert now.ok("lease", "ls", "-o", "json").items == []


def test_breaking_what_nobody_holds_is_4(desk: Desk) -> None:
    result = desk("lease", "break", "user:nobody", "--yes")
    assert (result.code, result.out) == (4, "")
    assert "hint: wsctl lease ls" in result.err
    assert desk("lease", "break", "user:nobody", "-n").code == 4


def test_redis_that_does_not_answer_is_10_for_writers_only(desk: Desk) -> None:
    desk.inventory(INVENTORY.replace("state: ", "coordination: redis://127.0.0.1:1/0\nstate: "))
    result = desk("place", "alice")
    assert (result.code, result.out) == (10, "")
    assert not desk.effects()
    assert desk("lease", "ls").code == 10
    assert desk.ok("ls", "-o", "json").items == []
    assert "+ reserve" in desk.ok("place", "alice", "-n").out
