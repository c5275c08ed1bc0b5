"""`--request-id` on every writer of the shared state: the second time nothing happens, and the answer is the same."""

from __future__ import annotations

import time

import pytest

from tests.commands.conftest import INVENTORY, Desk

ONCE = {
    "place": ["place", "bob"],
    "place many": ["place", "bob", "carol"],
    "start": ["start", "alice"],
    "stop": ["stop", "alice"],
    "restart": ["restart", "alice"],
    "rm": ["rm", "alice", "--yes"],
    "purge": ["rm", "alice", "--purge-data", "--confirm", "alice"],
    "touch": ["touch", "alice"],
    "reap-idle": ["reap-idle", "--idle", "0"],
    "cordon": ["node", "cordon", "n2", "--reason", "disk"],
    "uncordon": ["node", "uncordon", "n2"],
    "reconcile": ["reconcile"],
    "lease break": ["lease", "break", "user:zoe", "--yes"],
}


@pytest.mark.parametrize("argv", ONCE.values(), ids=list(ONCE))
def test_the_same_request_is_answered_the_same_and_done_once(alice: Desk, argv: list[str]) -> None:
    if argv[0] == "start":
        alice.ok("stop", "alice")
    if argv[:2] == ["node", "uncordon"]:
        alice.ok("node", "cordon", "n2")
    if argv[0] == "lease":
        alice.hold("user:zoe")
    if argv[0] == "reconcile":
        alice.fleet[alice.home("alice")].exit("ws-u-alice")
        alice.sql("UPDATE node_usage SET active = 7")
    first = alice(*argv, "--request-id", "r-1", "-o", "json")
    assert first.code == 0, first
    before = alice.sql("SELECT COUNT(*), SUM(generation) FROM placements"), alice.sql("SELECT COUNT(*) FROM audit")
    if argv[0] == "lease":
        alice.hold("user:zoe")
    alice.forget()
    alice.clock.sleep(1)
    again = alice(*argv, "--request-id", "r-1", "-o", "json")
    assert (again.code, again.json) == (0, first.json)
    assert not alice.effects()
    after = alice.sql("SELECT COUNT(*), SUM(generation) FROM placements"), alice.sql("SELECT COUNT(*) FROM audit")
    assert after == before
    table = alice(*argv, "--request-id", "r-1")
    assert (table.code, bool(table.out)) == (0, True), "also in another form"


def test_another_command_under_the_same_id_is_refused(alice: Desk) -> None:
    alice.ok("stop", "alice", "--request-id", "r-1")
    alice.forget()
    result = alice("start", "alice", "--request-id", "r-1", "-o", "json")
    assert (result.code, result.error["code"]) == (5, "request-mismatch")
    assert "wsctl audit --request-id r-1" in result.error["hint"]
    assert not alice.effects()
    assert alice("stop", "alice", "--grace", "3s", "--request-id", "r-1").code == 5


def test_the_order_of_users_and_how_it_is_gone_about_dont_matter(alice: Desk) -> None:
    alice.ok("place", "bob", "carol", "--request-id", "r-1")
    alice.forget()
    listed = alice.folder / "list"
    listed.write_text("carol\nbob\n")
    found = alice.ok(
        "place", "--from", str(listed), "--parallel", "2", "--wait", "3s", "--request-id", "r-1", "-o", "json"
    )
    assert [(item["user"], item["action"]) for item in found.items] == [("bob", "created"), ("carol", "created")], (
        "as it was answered"
    )
    assert not alice.effects()


@pytest.mark.parametrize("bad", ["", "x" * 10_240, "a b", "\x1b[2J"])
def test_what_is_no_request_id_is_2(alice: Desk, bad: str) -> None:
    result = alice("place", "bob", "--request-id", bad)
    assert (result.code, result.out) == (2, "")
    assert "\x1b" not in result.err
    assert len(result.err) < 1000
    assert not alice.effects()


def test_how_long_an_id_is_kept_is_the_inventorys(alice: Desk) -> None:
    alice.inventory(alice.folder.joinpath("inventory.yaml").read_text() + "requests: {keep: 1h}\n")
    alice.ok("place", "bob", "--request-id", "r-1")
    alice.clock.sleep(3601)
    assert alice.ok("stop", "bob", "--request-id", "r-1", "-o", "json").json["action"] == "stopped"


def test_a_time_until_which_somebody_is_kept_reads_the_same_again(alice: Desk) -> None:
    argv = ["touch", "alice", "--until", "2h", "--request-id", "r-1", "-o", "json"]
    first = alice.ok(*argv).json
    assert alice.ok(*argv).json == first


def test_who_reaped_by_a_request_is_in_the_audit(alice: Desk) -> None:
    alice.ok("reap-idle", "--idle", "0", "--request-id", "r-1")
    rows = alice.ok("audit", "--request-id", "r-1", "-o", "json").items
    assert {(row["target"], row["verb"], row["action"]) for row in rows} == {("alice", "reap-idle", "stopped")}


@pytest.mark.parametrize("argv", [["backup", "export", "alice", "--out", "a.tar"], ["render-gateway", "--apply"]])
def test_wait_is_for_somebody_elses_request_too(alice: Desk, argv: list[str]) -> None:
    alice.inventory(INVENTORY + "gateway: {hosts: {east: {address: local}}}\n")
    alice.hold("request:r-9")
    began = time.monotonic()
    assert alice(*argv, "--request-id", "r-9", "--wait", "0").code == 6
    assert time.monotonic() - began < 5
