"""`wsctl logs`, `exec`, `stats` and `top`."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Desk
from tests.looking_in import FakeInside
from wsctl.errors import NodeUnreachable


def test_output_goes_where_it_came_from(alice: Desk) -> None:
    alice.fleet[alice.home("alice")].held("ws-u-alice").output = "one\n!two\nthree\n"
    result = alice("logs", "alice")
    assert (result.code, result.out, result.err) == (0, "one\nthree\n", "!two\n")
    assert alice("logs", "alice", "--tail", "1").out == "three\n"
    assert alice("logs", "alice", "--tail", "0", "-f").out == ""


def test_output_is_passed_on_byte_for_byte_into_a_pipe(alice: Desk) -> None:
    alice.fleet[alice.home("alice")].held("ws-u-alice").output = "\x1b[31mred\n"
    assert alice("logs", "alice").out == "\x1b[31mred\n"


def test_a_character_that_comes_in_two_pieces_is_one_on_a_terminal(alice: Desk) -> None:
    pieces = [(2, b"caf\xc3"), (1, b"x"), (2, b"\xa9 \x1b[31m"), (2, b"\xf0\x9f")]
    alice.patch.setattr(FakeInside, "logs", lambda *_, **__: iter(pieces))
    result = alice("logs", "alice", tty=True)
    assert result.out == "x"
    assert result.err == "caf\N{LATIN SMALL LETTER E WITH ACUTE} \\x1b[31m\N{REPLACEMENT CHARACTER}"


def test_a_command_has_stdin_and_its_exit_code_is_ours(alice: Desk) -> None:
    result = alice("exec", "alice", "--", "cat", stdin="hello\n")
    assert (result.code, result.out) == (0, "hello\n")
    result = alice("exec", "alice", "--", "fail", "42")
    assert (result.code, result.out, result.err) == (42, "", "no\n")
    assert alice("exec", "alice", "--", "size").out == "tty False\n"
    assert alice("exec", "alice", "-t", "--", "size").out == "tty True\n"


def test_only_in_a_running_workspace(alice: Desk) -> None:
    alice.ok("stop", "alice")
    result = alice("exec", "alice", "--", "cat")
    assert result.code == 5
    assert "wsctl start alice" in result.err


@pytest.mark.parametrize("words", [("logs", "zoe"), ("exec", "zoe", "--", "cat"), ("stats", "zoe"), ("top", "zoe")])
def test_strangers_are_4(alice: Desk, words: tuple[str, ...]) -> None:
    result = alice(*words)
    assert result.code == 4
    assert "wsctl place zoe" in result.err


def test_what_everybody_takes(alice: Desk) -> None:
    alice.ok("place", "bob", "carol")
    alice.ok("stop", "carol")
    items = alice.ok("stats", "-o", "json").items
    assert [item["user"] for item in items] == ["alice", "bob"]
    assert items[0] == {
        "user": "alice", "node": alice.home("alice"), "cores": 0.25, "memory_bytes": 100 << 20,
        "memory_limit_bytes": 2 << 30, "received_bytes": 10, "sent_bytes": 20, "processes": 3,
    }  # fmt: skip
    assert "100.0 MiB" in alice.ok("stats", "bob").out


def test_who_cannot_be_looked_at_does_not_hide_the_others(alice: Desk) -> None:
    alice.ok("place", "bob")
    home = alice.home("bob")
    alice.fleet[home].fail("load", NodeUnreachable(home, "timed out"), times=9)
    result = alice("stats", "-o", "json")
    assert result.code == 9
    assert [item["user"] for item in result.items] == ["alice"]
    assert list(result.error["details"]["failed"]) == ["bob"]


def test_processes_are_text_of_others(alice: Desk) -> None:
    result = alice.ok("top", "alice")
    assert result.lines[0] == ["PID", "CPU", "CMD"]
    assert "\x1b" not in result.out
    assert alice.ok("top", "alice", "-o", "json").items[0]["pid"] == "7"
