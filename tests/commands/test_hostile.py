"""Untrusted text stays data: user ids that aren't any, and control characters from nodes, files and databases."""

from __future__ import annotations

import json
import re

import pytest

from tests.commands.conftest import INVENTORY, Desk, Result
from wsctl.errors import EngineError, NodeUnreachable, NotReady

RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\u202egpj.exe\x9b31m\x00"

NOT_USERS = {
    "upper case": "Alice",
    "dots": "..",
    "path": "../../etc/passwd",
    "slash": "a/b",
    "newline": "alice\nbob",
    "newline at the end": "alice\n",
    "semicolon": "alice;reboot",
    "substitution": "$(reboot)",
    "backquotes": "`reboot`",
    "64 characters": "a" * 64,
    "empty": "",
    "blank": " ",
    "NUL": "a\0b",
    "quote": 'a"b',
    "dash first": "-alice",
    "dash last": "alice-",
    "umlaut": "älice",
    "Turkish i": "aliçe",
    "full-width": "\uff41lice",
    "direction": "a\u202eb",
    "escape": "a\x1b[31mb",
    "surrogate": "a\udcffb",
    "digits of another script": "a\u0663",
}


def clean(result: Result) -> None:
    """Nothing in what was printed can steer a terminal."""
    for text in (result.out, result.err):
        found = RAW.search(text)
        assert found is None, (found, text)


@pytest.mark.parametrize("user", NOT_USERS.values(), ids=NOT_USERS)
@pytest.mark.parametrize(
    "verb", [["place"], ["start"], ["stop"], ["restart"], ["rm", "--yes"], ["show"], ["touch"]], ids=lambda v: v[0]
)
def test_what_is_no_user_id_is_2_and_nothing_is_done(desk: Desk, verb: list[str], user: str) -> None:
    result = desk(*verb, "--", user)
    assert (result.code, result.out) == (2, "")
    assert "is not a user id" in result.err
    clean(result)
    assert not desk.state.exists()
    assert not desk.reached.opened


@pytest.mark.parametrize("argv", [["--", "-rf"], ["alice", "--", "-rf"], ["--", "--yes"], ["--", "-o"]], ids=" ".join)
def test_ids_that_look_like_options(desk: Desk, argv: list[str]) -> None:
    result = desk("place", *argv)
    assert (result.code, result.out) == (2, "")
    assert not desk.state.exists()
    assert desk("place", "-rf").code == 2


@pytest.mark.parametrize("user", NOT_USERS.values(), ids=NOT_USERS)
def test_bad_ids_as_json(desk: Desk, user: str) -> None:
    result = desk("place", "-o", "json", "--", "alice", user)
    assert (result.code, result.out, result.error["code"]) == (2, "", "usage")
    clean(result)
    assert not desk.state.exists()


@pytest.mark.parametrize("user", [user for user in NOT_USERS.values() if user.strip() and user != "alice\n"], ids=repr)
def test_bad_ids_in_a_list(desk: Desk, user: str) -> None:
    result = desk("place", "--from", "-", stdin=f"alice\n{user}\n".encode("utf-8", "surrogateescape"))
    if user == "alice\nbob":
        assert result.code == 0, "two lines are two users"
        return
    assert (result.code, result.out) == (2, "")
    assert "stdin:2: " in result.err
    clean(result)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
@pytest.mark.parametrize(
    "argv", [["reap-idle", "--user", EVIL], ["node", "show", EVIL], ["ls", "--node", EVIL]], ids=repr
)
def test_other_names_from_the_command_line(alice: Desk, argv: list[str], form: str) -> None:
    result = alice(*argv, "-o", form)
    assert result.code in (2, 4)
    clean(result)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
@pytest.mark.parametrize("error", [EngineError, NodeUnreachable, NotReady])
@pytest.mark.parametrize("users", [["alice"], ["alice", "bob"]], ids=["one", "many"])
def test_what_engines_say(desk: Desk, users: list[str], error: type[EngineError], form: str) -> None:
    for name, engine in desk.fleet.engines.items():
        engine.fail("start", error(name, f"it said {EVIL}", hint=EVIL, details={"tail": EVIL}), times=9)
    result = desk("place", *users, "-o", form, "--explain")
    assert result.code in (7, 8, 9)
    if form == "json" or len(users) == 1:
        assert "it said" in result.out + result.err
    clean(result)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_what_silent_nodes_said_last(alice: Desk, form: str) -> None:
    for name in ("n1", "n2", "n3"):
        alice.fleet.unreachable[name] = NodeUnreachable(name, f"banner: {EVIL}", hint=EVIL)
    for argv in (["node", "ls"], ["node", "check"], ["node", "show", "n1"], ["show", "alice"], ["stop", "alice"]):
        result = alice(*argv, "-o", form)
        assert "banner" in result.out + result.err
        clean(result)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_what_containers_are_called(alice: Desk, form: str) -> None:
    engine = alice.fleet["n1"]
    engine.remove("ws-u-alice")
    engine.add("ws-u-alice", cluster=f"lab{EVIL}", user="alice", generation="1")
    for argv in (["show", "alice"], ["stop", "alice"], ["place", "alice", "--explain"], ["node", "show", "n1"]):
        clean(alice(*argv, "-o", form))
    engine.version = engine.api_version = EVIL
    for argv in (["node", "check", "n1"], ["node", "show", "n1"]):
        result = alice(*argv, "-o", form)
        assert result.code == 0
        clean(result)


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_what_inventories_say(desk: Desk, form: str) -> None:
    text = json.dumps("x" + EVIL.replace("\x00", ""))
    for before, after in (
        ("labels: {zone: a}", f"labels: {{zone: {text}}}"),
        ("cluster: studio", f"cluster: {text}"),
        ("memory: 2g", f"memory: {text}"),
        ("image: studio/workspace:1", f"image: {text}"),
        ("  n3:", f"  {text}:"),
        ("version: 1", f"version: 1\n{text}: 1"),
    ):
        desk.inventory(INVENTORY.replace(before, after))
        for argv in (["inventory", "check"], ["inventory", "show"], ["node", "ls"], ["node", "show", "n1"]):
            clean(desk(*argv, "-o", form))


@pytest.mark.parametrize("form", ["table", "plain", "json"])
def test_what_operators_and_other_hosts_wrote_into_the_state(alice: Desk, form: str) -> None:
    alice.ok("node", "cordon", "n1", "--reason", EVIL.replace("\0", ""))
    alice.hold("user:bob", command=EVIL, holder=EVIL)
    alice.sql("UPDATE placements SET address = ?, workspace_class = ?", EVIL, EVIL)
    alice.sql("UPDATE activity SET source = ?", EVIL)
    for argv in (
        ["node", "ls"],
        ["node", "show", "n1"],
        ["lease", "ls"],
        ["ls"],
        ["show", "alice"],
        ["reap-idle", "-n"],
    ):
        result = alice(*argv, "-o", form)
        assert result.code == 0, result
        clean(result)
    for argv in (["place", "bob", "--wait", "0"], ["lease", "break", "user:bob"]):
        result = alice(*argv, "-o", form)
        assert result.code in (5, 6)
        clean(result)
    alice.inventory(INVENTORY.replace("10.0.0.1", "some-host"))
    result = alice("render-gateway", "-o", form)
    assert (result.code, result.out) == (10, "")
    clean(result)


def test_a_reason_cannot_pass_for_a_message_of_our_own(desk: Desk) -> None:
    desk.fleet["n1"].fail("create", NodeUnreachable("n1", "x\nerror: everything is lost\nhint: rm -rf /"))
    lines = desk("place", "alice").err.splitlines()
    assert len([line for line in lines if line.startswith(("error:", "hint:"))]) == len(lines) - 2


def test_a_bug_with_evil_words(desk: Desk) -> None:
    desk.fleet["n1"].fail("create", ValueError(EVIL))
    result = desk("place", "alice")
    assert result.code == 1
    clean(result)


def test_json_stays_json_whatever_is_in_it(alice: Desk) -> None:
    alice.sql("UPDATE placements SET address = ?", EVIL)
    (item,) = alice.ok("ls", "-o", "json").items
    assert item["address"] == EVIL, "escaped, not lost"
