"""`wsctl start`, `stop`, `restart`, `rm`: the rest of a workspace's life, and what must be confirmed."""

from __future__ import annotations

import json

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.commands.test_place import PLACEMENT


def test_stop_and_start_as_json_are_placements(alice: Desk) -> None:
    stopped = alice.ok("stop", "alice", "-o", "json").json
    assert set(stopped) == PLACEMENT | {"schema_version", "action"}
    assert (stopped["state"], stopped["action"], stopped["generation"]) == ("stopped", "stopped", 2)
    again = alice.ok("stop", "alice", "-o", "json").json
    assert (again["action"], again["generation"]) == ("unchanged", 2)
    started = alice.ok("start", "alice", "-o", "json").json
    assert (started["state"], started["action"], started["host_port"]) == ("running", "started", 20000)
    assert alice.ok("start", "alice", "-o", "json").json["action"] == "unchanged"


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "rm", "show"])
def test_a_user_without_a_placement_is_4(desk: Desk, verb: str) -> None:
    more = ["--yes"] if verb == "rm" else []
    result = desk(verb, "nobody", *more)
    assert (result.code, result.out) == (4, "")
    assert "user nobody has no placement" in result.err
    assert "hint: wsctl" in result.err
    error = desk(verb, "nobody", *more, "-o", "json").error
    assert (error["code"], error["details"]["user"]) == ("not-found", "nobody")


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "rm", "place"])
def test_a_silent_node_is_8(alice: Desk, verb: str) -> None:
    alice.fleet.cut("n1")
    result = alice(verb, "alice", *(["--yes"] if verb == "rm" else []))
    assert (result.code, result.out) == (8, "")
    assert "alice stays placed there" in result.err
    assert "hint: wsctl node check n1" in result.err


def test_many_at_once_and_some_of_them_fail(alice: Desk) -> None:
    alice.ok("place", "bob")
    result = alice("stop", "bob", "nobody", "alice", "bob")
    assert result.code == 9
    assert [line[0] for line in result.lines] == ["USER", "bob", "nobody", "alice"]
    assert result.lines[0][-1] == "ERROR"
    assert "user nobody has no placement" in result.out
    assert "1 of 3 failed (not-found)" in result.err
    assert "wsctl place nobody" in result.err


def test_errors_of_a_batch_are_json_too(alice: Desk) -> None:
    result = alice("stop", "alice", "nobody", "-o", "json")
    assert result.code == 9
    assert result.items[1]["error"]["code"] == "not-found"
    assert set(result.items[1]["error"]) == {"code", "message", "hint"}
    assert result.error["details"]["failed"] == ["nobody"]


def test_with_json_nothing_but_the_error_object_is_on_stderr(alice: Desk) -> None:
    """A program reads it whole: hints of single users are in the items already."""
    result = alice("stop", "alice", "nobody", "-o", "json")
    assert json.loads(result.err)["error"]["code"] == "partial"


def test_restart_keeps_the_container_and_recreate_replaces_it(alice: Desk) -> None:
    before = alice.fleet["n1"].held("ws-u-alice").id
    assert alice.ok("restart", "alice", "-o", "json").json["action"] == "restarted"
    assert alice.fleet["n1"].held("ws-u-alice").id == before
    assert alice.ok("restart", "alice", "--recreate", "-o", "json").json["state"] == "running"
    assert alice.fleet["n1"].held("ws-u-alice").id != before
    assert "alice" in alice.fleet["n1"].data


def test_an_older_spec_is_said_once_the_inventory_changed(alice: Desk) -> None:
    alice.inventory(INVENTORY.replace("  cpus: 1\n", "  cpus: 1\n  env: {NEW: '1'}\n"))
    result = alice("place", "alice", "-q")
    assert result.code == 0
    assert "warning: alice runs an older spec; `wsctl restart alice --recreate`" in result.err
    assert "older spec" in alice.ok("show", "alice").out


@pytest.mark.parametrize("grace", ["5s", "0", "1m"])
def test_a_grace_period_has_a_unit(alice: Desk, grace: str) -> None:
    assert alice.ok("stop", "alice", "--grace", grace).code == 0


@pytest.mark.parametrize("grace", ["5", "soon", "-5s", ""])
def test_a_grace_period_that_makes_no_sense_is_2(alice: Desk, grace: str) -> None:
    result = alice("stop", "alice", f"--grace={grace}")
    assert (result.code, result.out) == (2, "")
    assert not alice.effects()


# ------------------------------------------------------------------------------------------------- rm


def test_rm_without_anybody_to_ask_needs_yes(alice: Desk) -> None:
    result = alice("rm", "alice")
    assert (result.code, result.out) == (5, "")
    assert "- release  alice from n1   (files stay)" in result.err
    assert "--yes" in result.err
    assert alice("rm", "alice", "-o", "json").error["code"] == "confirmation-required"
    assert not alice.effects()
    removed = alice.ok("rm", "alice", "--yes", "-o", "json")
    assert removed.json == {"schema_version": 1, "user": "alice", "action": "removed"}
    assert "alice" in alice.fleet["n1"].data


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 5), ("\n", 5), ("", 5), ("alice\n", 5)])
def test_rm_asks_people(alice: Desk, answer: str, code: int) -> None:
    result = alice("rm", "alice", stdin=answer, tty=True)
    assert result.code == code
    assert "Remove alice? The files stay." in result.err
    assert bool(alice.effects()) == (code == 0)


def test_rm_is_remembered_as_the_users_home(alice: Desk) -> None:
    alice.ok("rm", "alice", "-y")
    gone = alice("show", "alice")
    assert gone.code == 4
    assert "their files are on n1" in gone.err
    alice.ok("place", "bob", "carol", "dave")
    assert alice.ok("place", "alice", "-o", "json").json["node"] == "n1"


def test_yes_is_not_enough_to_delete_files(alice: Desk) -> None:
    result = alice("rm", "alice", "--purge-data", "--yes")
    assert (result.code, result.out) == (5, "")
    assert "hint: wsctl rm alice --purge-data --confirm alice" in result.err
    assert not alice.effects()
    assert "alice" in alice.fleet["n1"].data


@pytest.mark.parametrize(("answer", "code"), [("alice\n", 0), ("alice", 0), ("y\n", 5), ("yes\n", 5), ("bob\n", 5)])
def test_files_are_deleted_when_the_users_name_is_typed(alice: Desk, answer: str, code: int) -> None:
    result = alice("rm", "alice", "--purge-data", stdin=answer)
    assert result.code == code
    assert "all files, for good" in result.err
    assert ("alice" in alice.fleet["n1"].data) == (code == 5)


def test_files_are_deleted_when_the_users_name_is_given(alice: Desk) -> None:
    wrong = alice("rm", "alice", "--purge-data", "--confirm", "bob")
    assert wrong.code == 5
    assert "isn't alice; nothing was changed" in wrong.err
    assert not alice.effects()
    assert alice.ok("rm", "alice", "--purge-data", "--confirm", "alice", "-o", "json").json["action"] == "purged"
    assert "alice" not in alice.fleet["n1"].data
    assert alice("rm", "alice", "--purge-data", "--confirm", "alice").code == 4


def test_files_of_a_removed_user_can_still_be_deleted(alice: Desk) -> None:
    alice.ok("rm", "alice", "-y")
    assert alice.ok("rm", "alice", "--purge-data", "--confirm", "alice", "-o", "json").json["action"] == "purged"
    assert "alice" not in alice.fleet["n1"].data


def test_files_are_deleted_of_one_user_at_a_time(alice: Desk) -> None:
    alice.ok("place", "bob")
    alice.forget()
    result = alice("rm", "alice", "bob", "--purge-data", "--confirm", "alice")
    assert (result.code, result.out) == (2, "")
    assert "one user at a time" in result.err
    assert not alice.effects()


def test_a_confirmation_without_anything_to_delete_is_not_taken_for_consent(alice: Desk) -> None:
    """--confirm belongs to --purge-data; without it, rm asks as ever."""
    assert alice("rm", "alice", "--confirm", "alice").code in (2, 5)
    assert not alice.effects()


@pytest.mark.parametrize("more", [[], ["--purge-data"]])
def test_rm_rehearsed_asks_nobody_and_does_nothing(alice: Desk, more: list[str]) -> None:
    result = alice.ok("rm", "alice", "-n", *more)
    assert "- release  alice from n1" in result.out
    assert ("- purge    /srv/workspaces/alice" in result.out) == bool(more)
    assert not alice.effects()


def test_a_world_that_changed_while_the_operator_thought_is_5(alice: Desk) -> None:
    def think() -> None:
        alice.fleet["n1"].exit("ws-u-alice")

    result = alice("rm", "alice", "--purge-data", stdin="alice\n", thinking=think)
    assert (result.code, result.out) == (5, "")
    assert "changed since the plan was shown; nothing was done" in result.err
    assert not alice.effects()
    assert "alice" in alice.fleet["n1"].data
    assert alice.sql("SELECT state, generation FROM placements") == [("running", 1)]


def test_a_node_outside_the_inventory_is_refused(alice: Desk) -> None:
    alice.inventory(INVENTORY.replace("  n1: {address: 10.0.0.1, labels: {zone: a}}\n", ""))
    result = alice("stop", "alice")
    assert result.code == 5
    assert "not in the inventory" in result.err
    assert alice.ok("ls", "-o", "json").items[0]["node"] == "n1"
    assert alice.ok("show", "alice", "-o", "json").json["observed"] == "unknown"


def test_a_broken_lease_of_a_killed_command_lets_others_go_on(alice: Desk) -> None:
    alice.hold("user:alice", command="place")
    assert alice("stop", "alice", "--wait", "0").code == 6
    alice.ok("lease", "break", "user:alice", "--yes")
    alice.ok("stop", "alice", "--wait", "0")
