"""`wsctl audit`."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest

from tests.commands.conftest import Desk
from wsctl.records import Actor, AuditEntry, AuditKind

ACTOR = Actor("root", "anna", "192.0.2.7", "host:4711")
FIELDS = [
    "at", "target", "sequence", "kind", "verb", "action", "os_user", "sudo_user", "ssh_origin", "process", "operation",
    "request_id", "plan", "before", "after", "detail", "digest",
]  # fmt: skip


def record(desk: Desk, *targets: str, **change: Any) -> None:
    """Rows that some other command left, a minute before what comes next."""
    store = desk.store()
    whole: dict[str, Any] = {"kind": AuditKind.DONE, "verb": "place", "actor": ACTOR, "operation": "op1", **change}
    store.append_audit([AuditEntry(target=target, **whole) for target in targets])
    store.close()
    desk.clock.advance(60)  # type: ignore[union-attr]


@pytest.fixture
def kept(desk: Desk) -> Desk:
    """A cluster with a past."""
    record(desk, "alice", kind=AuditKind.INTENT, plan="+ create alice on n1", request_id="r1")
    record(desk, "alice", action="created", after={"node": "n1", "host_port": 20000}, request_id="r1")
    record(desk, "bob", kind=AuditKind.FAILED, detail="n1: no answer", actor=Actor("ben", process="host:5"))
    record(desk, "n1", verb="node cordon", action="cordoned")
    return desk


def test_nothing_was_done_yet(desk: Desk) -> None:
    assert desk.ok("audit", "-o", "json").items == []
    assert desk.ok("audit", "--verify", "-o", "json").json["rows"] == 0
    assert not desk.state.exists(), "looking creates nothing"


def test_a_table_of_who_did_what(kept: Desk) -> None:
    lines = kept.ok("audit", "-o", "plain").lines
    assert lines[0] == ["AT", "TARGET", "VERB", "ACTION", "KIND", "WHO", "DETAIL"]
    assert lines[1] == ["2026-01-01T12:00:00Z", "alice", "place", "-", "intent", "anna@host:4711", "-"]
    assert lines[2][1:6] == ["alice", "place", "created", "done", "anna@host:4711"]
    assert lines[3][1:] == ["bob", "place", "-", "failed", "ben@host:5", "n1:", "no", "answer"]
    assert lines[4][1:6] == ["n1", "node", "cordon", "cordoned", "done"]


def test_json_has_everything(kept: Desk) -> None:
    items = kept.ok("audit", "-o", "json").items
    assert [list(item) for item in items] == [FIELDS] * 4
    digest = items[1].pop("digest")
    assert len(digest) == 64
    assert items[1] == {
        "at": "2026-01-01T12:01:00Z", "target": "alice", "sequence": 2, "kind": "done", "verb": "place",
        "action": "created", "os_user": "root", "sudo_user": "anna", "ssh_origin": "192.0.2.7",
        "process": "host:4711", "operation": "op1", "request_id": "r1", "plan": "", "before": None,
        "after": {"node": "n1", "host_port": 20000}, "detail": "",
    }  # fmt: skip
    assert (items[2]["sudo_user"], items[2]["ssh_origin"], items[2]["request_id"]) == (None, None, None)
    assert items[0]["plan"] == "+ create alice on n1"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["alice"], ["alice 1", "alice 2"]),
        (["bob", "n1", "bob", "nobody"], ["bob 1", "n1 1"]),
        (["nobody"], []),
        (["--limit", "2"], ["bob 1", "n1 1"]),
        (["alice", "--limit", "1"], ["alice 2"]),
        (["--since", "2m"], ["bob 1", "n1 1"]),
        (["--since", "0"], []),
        (["--request-id", "r1"], ["alice 1", "alice 2"]),
        (["--request-id", "r2"], []),
        (["alice", "--request-id", "r1", "--since", "3m"], ["alice 2"]),
    ],
    ids=" ".join,
)
def test_only_some_rows(kept: Desk, words: list[str], expected: list[str]) -> None:
    items = kept.ok("audit", *words, "-o", "json").items
    assert [f"{item['target']} {item['sequence']}" for item in items] == expected


def test_fifty_unless_said_otherwise(desk: Desk) -> None:
    record(desk, *(f"u{number:02d}" for number in range(60)))
    items = desk.ok("audit", "-o", "json").items
    assert [item["target"] for item in items] == [f"u{number:02d}" for number in range(10, 60)]
    assert len(desk.ok("audit", "--limit", "1000", "-o", "json").items) == 60
    assert len(desk.ok("audit", "--export", "-").lines) == 60
    assert len(desk.ok("audit", "--export", "-", "--limit", "7").lines) == 7


def test_an_export_is_json_lines(kept: Desk) -> None:
    out = kept.ok("audit", "--export", "-").out
    assert [json.loads(line) for line in out.splitlines()] == kept.ok("audit", "-o", "json").items
    answer = kept.ok("audit", "--export", "audit.jsonl", "-o", "json").json
    assert answer == {"schema_version": 1, "file": "audit.jsonl", "rows": 4, "action": "written"}
    file = kept.folder / "audit.jsonl"
    assert file.read_text() == out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept.ok("audit", "--export", "audit.jsonl", "-o", "json").json["action"] == "unchanged"
    kept.ok("audit", "bob", "--export", "audit.jsonl")
    assert [json.loads(line)["target"] for line in file.read_text().splitlines()] == ["bob"]
    assert sorted(path.name for path in kept.folder.glob("*audit*")) == ["audit.jsonl"]


def test_an_export_that_cant_be_written(kept: Desk) -> None:
    result = kept("audit", "--export", "no/such/folder/file", "-o", "json")
    assert (result.code, result.out, result.error["code"]) == (5, "", "refused")
    assert kept("audit", "--export", str(kept.folder)).code == 2


def test_untrusted_text_stays_text(desk: Desk) -> None:
    evil = "\x1b[31m\nerror: all is lost\u202e"
    record(desk, "alice", detail=evil, action=evil, plan=evil, before={evil: evil})
    for words in ([], ["-o", "plain"], ["-o", "json"], ["--export", "-"]):
        out = desk.ok("audit", *words).out
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert len(desk.ok("audit", "--export", "-").out.splitlines()) == 1
    assert desk.ok("audit", "-o", "json").items[0]["detail"] == evil
    assert desk("audit", "\udcff", "--request-id", "\udcff").code == 0


def test_verify_says_that_all_is_well(kept: Desk) -> None:
    answer = kept.ok("audit", "--verify", "-o", "json").json
    assert set(answer) == {"schema_version", "rows", "targets", "digest", "result"}
    assert (answer["rows"], answer["targets"], answer["result"]) == (4, 3, "ok")
    assert kept.ok("audit", "--verify", "-o", "json").json == answer
    record(kept, "alice")
    assert kept.ok("audit", "--verify", "-o", "json").json["digest"] != answer["digest"]


def test_verify_says_what_was_changed(kept: Desk) -> None:
    kept.sql("UPDATE audit SET sudo_user = 'ben' WHERE target = 'alice' AND sequence = 2")
    kept.sql("DELETE FROM audit WHERE target = 'bob'")
    result = kept("audit", "--verify", "-o", "json")
    assert (result.code, result.json["result"], result.json["rows"]) == (5, "damaged", 3)
    assert result.error["code"] == "audit-damaged"
    problems = result.error["details"]["problems"]
    assert [(one["target"], one["sequence"]) for one in problems] == [("alice", 2), ("bob", 1)]
    assert "changed" in problems[0]["problem"]
    assert "removed" in problems[1]["problem"]
    result = kept("audit", "--verify")
    assert result.code == 5
    assert "damaged" in result.out
    assert "2 problems" in result.err
    assert "\n  alice 2: " in result.err


def test_verify_names_the_first_of_very_many(desk: Desk) -> None:
    record(desk, *(f"u{number:02d}" for number in range(30)))
    desk.sql("UPDATE audit SET verb = 'rm'")
    err = desk("audit", "--verify").err
    assert err.count("was changed") == 20
    assert "and 10 more" in err
    assert len(desk("audit", "--verify", "-o", "json").error["details"]["problems"]) == 30


@pytest.mark.parametrize(
    "words", [["alice"], ["--since", "1h"], ["--request-id", "r"], ["--limit", "3"], ["--export", "-"]]
)
def test_verify_takes_no_choice(kept: Desk, words: list[str]) -> None:
    assert kept("audit", "--verify", *words).code == 2


@pytest.mark.parametrize("words", [["--since", "soon"], ["--limit", "0"], ["--limit", "x"], ["--nonsense"]])
def test_what_isnt_understood(kept: Desk, words: list[str]) -> None:
    assert kept("audit", *words).code == 2


def test_a_row_that_cant_be_read_is_named(kept: Desk) -> None:
    kept.sql("UPDATE audit SET kind = 'dance' WHERE target = 'bob'")
    result = kept("audit", "-o", "json")
    assert result.code == 10
    assert "'bob' number 1" in result.error["message"]
    assert result.error["hint"].endswith("wsctl audit --verify")
    assert kept("audit", "--verify").code == 5
    assert len(kept.ok("audit", "alice", "-o", "json").items) == 2
