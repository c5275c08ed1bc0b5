"""`wsctl backup state` and `wsctl restore state`: the file, what is refused, what is replaced."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import CLUSTER
from tests.commands.conftest import Desk
from wsctl.store.columns import TABLES
from wsctl.store.migrations import KNOWN, STEPS, step_text


@pytest.fixture
def copy(alice: Desk) -> Path:
    alice.ok("place", "bob")
    alice.ok("node", "cordon", "n3", "--reason", "disk", "-y")
    alice.ok("backup", "state", "--out", "state.jsonl")
    return alice.folder / "state.jsonl"


def fresh(desk: Desk) -> None:
    """As after the loss of the database."""
    for path in desk.folder.glob("wsctl.db*"):
        path.unlink()


def signed(lines: list[bytes]) -> bytes:
    """The lines with a checksum that is right."""
    body = b"".join(lines)
    return body + json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def test_it_comes_back_and_the_audit_is_whole(alice: Desk, copy: Path) -> None:
    before = alice.ok("ls", "-o", "json").json
    fresh(alice)
    would = alice.ok("restore", "state", "--from", "state.jsonl", "-n", "-o", "json").json
    assert (would["action"], would["placements"], alice.state.exists()) == ("would-restore", 2, False)
    done = alice("restore", "state", "--from", "state.jsonl", "-o", "json").json
    assert (done["action"], done["placements"], done["replaced_file"]) == ("restored", 2, None)
    assert alice.ok("ls", "-o", "json").json == before
    assert alice.ok("audit", "--verify", "-o", "json").json["result"] == "ok"
    rows = alice.ok("audit", f"cluster:{CLUSTER}", "-o", "json").items
    assert [(row["kind"], row["verb"]) for row in rows] == [("intent", "restore state"), ("done", "restore state")]
    assert "state.jsonl" in rows[0]["plan"]
    assert alice.ok("place", "alice", "-o", "json").json["action"] == "unchanged"


def test_the_file_is_private_and_only_a_copy_is_replaced(alice: Desk, copy: Path) -> None:
    assert copy.stat().st_mode & 0o777 == 0o600
    alice.ok("backup", "state", "--out", "state.jsonl")
    (alice.folder / "thesis").write_text("years of work")
    result = alice("backup", "state", "--out", "thesis", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "refused")
    assert (alice.folder / "thesis").read_text() == "years of work"
    assert alice("backup", "state", "--out", ".").code == 2
    assert alice("backup", "state", "--out", "nowhere/file").code == 5
    assert sorted(p.name for p in alice.folder.glob(".*")) == []


def test_a_cluster_that_has_something_needs_its_name(alice: Desk, copy: Path) -> None:
    alice.ok("stop", "bob")
    before = alice.ok("ls", "-o", "json").json
    for more in ([], ["-y"]):
        result = alice("restore", "state", "--from", "state.jsonl", "-o", "json", *more)
        assert (result.code, result.error["code"]) == (5, "confirmation-required")
    assert alice("restore", "state", "--from", "state.jsonl", "--confirm", "other").code == 5
    assert alice("restore", "state", "--from", "state.jsonl", stdin="no\n").code == 5
    assert alice.ok("ls", "-o", "json").json == before
    done = alice("restore", "state", "--from", "state.jsonl", "--confirm", CLUSTER, "-o", "json").json
    assert done["action"] == "replaced"
    states = {item["user"]: item["state"] for item in alice.ok("ls", "-o", "json").items}
    assert states == {"alice": "running", "bob": "running"}
    assert alice.ok("audit", "--verify", "-o", "json").json["result"] == "ok"
    # What was replaced can itself be restored.
    again = alice("restore", "state", "--from", done["replaced_file"], stdin=f"{CLUSTER}\n")
    assert again.code == 0
    states = {item["user"]: item["state"] for item in alice.ok("ls", "-o", "json").items}
    assert states == {"alice": "running", "bob": "stopped"}


def test_what_cant_be_saved_isnt_replaced(alice: Desk, copy: Path) -> None:
    alice.ok("stop", "bob")
    result = alice("restore", "state", "--from", "state.jsonl", "--confirm", CLUSTER, "--keep", "nowhere/kept")
    assert result.code == 5
    assert {i["user"]: i["state"] for i in alice.ok("ls", "-o", "json").items}["bob"] == "stopped"


def test_what_is_saved_does_not_replace_what_is_restored(alice: Desk, copy: Path) -> None:
    alice.ok("stop", "bob")
    was = copy.read_bytes()
    for keep in ("state.jsonl", "./state.jsonl", str(copy)):
        argv = ["restore", "state", "--from", "state.jsonl", "--confirm", CLUSTER, "--keep", keep]
        assert alice(*argv, "-n").code == 2
        result = alice(*argv, "-o", "json")
        assert (result.code, result.error["code"]) == (2, "usage")
        assert "is the file that is restored" in result.error["message"]
    assert copy.read_bytes() == was
    assert {i["user"]: i["state"] for i in alice.ok("ls", "-o", "json").items}["bob"] == "stopped"


def test_a_request_that_is_repeated_restores_once(alice: Desk, copy: Path) -> None:
    fresh(alice)
    argv = ["restore", "state", "--from", "state.jsonl", "--request-id", "r1", "-o", "json"]
    first = alice(*argv).json
    alice.ok("stop", "alice")
    assert alice(*argv).json == first
    assert {i["user"]: i["state"] for i in alice.ok("ls", "-o", "json").items}["alice"] == "stopped"


Spoil = Callable[[list[bytes]], bytes]


def _edit(old: bytes, new: bytes) -> Spoil:
    return lambda lines: re.sub(old, new, b"".join(lines), count=1)


def _header(**changes: object) -> Spoil:
    return lambda lines: signed([json.dumps({**json.loads(lines[0]), **changes}).encode() + b"\n", *lines[1:-1]])


def _row(kind: bytes, /, **changes: object) -> Spoil:
    def spoil(lines: list[bytes]) -> bytes:
        at = next(i for i, line in enumerate(lines) if b'"table":"' + kind + b'"' in line)
        lines[at] = json.dumps({**json.loads(lines[at]), **changes}).encode() + b"\n"
        return signed(lines[:-1])

    return spoil


SPOILT: dict[str, tuple[Spoil, str]] = {
    "empty": (lambda lines: b"", "cut short"),
    "no end": (lambda lines: b"".join(lines[:-1]), "cut short"),
    "half a line": (lambda lines: b"".join(lines)[:-10], "cut short"),
    "a row less": (lambda lines: signed([*lines[:2], *lines[3:-1]]), "other rows"),
    "edited": (_edit(b'"node":"n1"', b'"node":"n2"'), "checksum"),
    "more behind its end": (lambda lines: b"".join([*lines, lines[1]]), "other rows"),
    "another order": (lambda lines: signed([lines[0], *reversed(lines[1:-1])]), "where none can be"),
    "not ours": (lambda lines: b'{"hello": 1}\n', "isn't a copy"),
    "not JSON": (lambda lines: b"\x00\xff\n", "isn't JSON"),
    "deep": (lambda lines: b"[" * 100_000 + b"\n", "isn't JSON"),
    "a line without end": (lambda lines: b"x" * (5 << 20), "line without end"),
    "newer": (_header(format=2), "newer wsctl"),
    "newer schema": (_header(schema_version=KNOWN + 1), "newer wsctl"),
    "foreign": (_header(cluster="other"), "is of the cluster other"),
    "a user that is a path": (_row(b"placements", user="../../etc"), "not a user id"),
    "a state that isn't": (_row(b"placements", state="asleep"), "unknown state"),
    "a column more": (_row(b"placements", extra=1), "columns"),
    "a port": (_row(b"placements", host_port=70000), "host_port"),
    "a time": (_row(b"placements", created_at="yesterday"), "not a time"),
    "a number that is a text": (_row(b"audit", sequence="1"), "not such a number"),
    "a NUL": (_row(b"audit", detail="a\0b"), "not a text"),
    "a name too long": (_row(b"audit", verb="x" * 256), "too long"),
    "nothing where something must be": (_row(b"audit", verb=None), "empty"),
    "a table that isn't": (_row(b"audit", table="leases"), "where none can be"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_file_that_isnt_as_it_was_written_is_refused(alice: Desk, copy: Path, what: str) -> None:
    spoil, said = SPOILT[what]
    copy.write_bytes(spoil(copy.read_bytes().splitlines(keepends=True)))
    fresh(alice)
    result = alice("restore", "state", "--from", "state.jsonl", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "backup-damaged"), result
    assert said in result.error["message"]
    assert not alice.state.exists(), "nothing was written"


def test_a_database_with_a_damaged_row_says_which(alice: Desk) -> None:
    alice.sql("UPDATE placements SET state = 'asleep'")
    result = alice("backup", "state", "--out", "state.jsonl")
    assert result.code == 10
    assert "'alice' in table placements" in result.err
    assert not (alice.folder / "state.jsonl").exists()


def test_the_copy_needs_no_right_to_write(alice: Desk) -> None:
    alice.ok("backup", "state", "--out", "before.jsonl")
    rows = alice.sql("SELECT COUNT(*) FROM audit")
    alice.ok("backup", "state", "--out", "state.jsonl")
    assert alice.sql("SELECT COUNT(*) FROM audit") == rows


def test_every_table_is_copied_or_known_to_be_about_the_moment() -> None:
    """A table that is added must be put into `store.columns.TABLES`, or here."""
    made = {
        match[1]: set(re.findall(r"^  ([a-z_]+) \$", text, re.MULTILINE)) - {"cluster"}
        for text in map(step_text, STEPS)
        if (match := re.search(r"CREATE TABLE IF NOT EXISTS (\w+)", text))
    }
    assert set(made) - set(TABLES) == {"leases", "slots", "requests", "moves", "node_reports", "presence"}
    for table in TABLES.values():
        missing = made[table.name] - {column.name for column in table.columns}
        counted = {"workspaces", "active", "memory_bytes", "cpus_milli"} if table.name == "node_usage" else set()
        assert missing == counted


def test_nothing_doesnt_take_the_place_of_a_good_copy(alice: Desk, copy: Path) -> None:
    good = copy.read_bytes()
    fresh(alice)
    result = alice("backup", "state", "--out", "state.jsonl", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "refused")
    assert copy.read_bytes() == good
