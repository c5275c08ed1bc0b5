"""`wsctl node …`: listing with and without answers, checking, trusting a host key, marking."""

from __future__ import annotations

import pytest

from tests.commands.conftest import INVENTORY, KEY, Desk
from wsctl.errors import HostKeyError
from wsctl.transport.host_keys import KeyStatus

NODE = {"name", "address", "state", "reachable", "workspaces", "capacity", "ports_free", "reason"}


def test_ls_as_json_is_the_contract(alice: Desk) -> None:
    alice.ok("node", "cordon", "n2", "--reason", "disk swap")
    alice.fleet.cut("n3")
    n1, n2, n3 = alice.ok("node", "ls", "-o", "json").items
    assert set(n1) >= NODE
    assert (n1["name"], n1["address"], n1["state"], n1["reachable"]) == ("n1", "10.0.0.1", "ready", True)
    assert (n1["workspaces"], n1["ports_free"], n1["reason"]) == (1, 99, None)
    assert n1["capacity"] == {"workspaces": 10, "memory_bytes": 20 << 30, "cpus": 10}
    assert (n2["state"], n2["reason"]) == ("cordoned", "disk swap")
    assert (n3["state"], n3["reachable"], n3["reason"]) == ("ready", False, "no route to the host")


def test_ls_needs_no_state_and_makes_none(desk: Desk) -> None:
    assert [item["name"] for item in desk.ok("node", "ls", "-o", "json").items] == ["n1", "n2", "n3"]
    assert not desk.state.exists()


def test_ls_without_probing_asks_nobody(alice: Desk) -> None:
    opened = alice.reached.opened
    items = alice.ok("node", "ls", "--no-probe", "-o", "json").items
    assert {item["reachable"] for item in items} == {None}
    assert alice.reached.opened == opened


def test_ls_in_words(alice: Desk) -> None:
    alice.fleet.cut("n3")
    header, first, *_, last = alice.ok("node", "ls").out.splitlines()
    assert header.split() == [
        "NAME", "ADDRESS", "STATE", "REACHABLE", "WORKSPACES", "CAP", "PORTS", "FREE", "REASON",
    ]  # fmt: skip
    assert first.split() == ["n1", "10.0.0.1", "ready", "yes", "1", "10", "99", "-"]
    assert last.split()[:4] == ["n3", "10.0.0.3", "ready", "NO"]
    assert last.endswith("no route to the host")


def test_a_bug_while_asking_is_a_bug(desk: Desk) -> None:
    desk.fleet["n2"].fail("facts", ZeroDivisionError("a bug"))
    assert desk("node", "ls").code == 1


def test_show_tells_the_engine_and_who_lives_there(alice: Desk) -> None:
    found = alice.ok("node", "show", "n1", "-o", "json").json
    assert found["users"] == ["alice"]
    assert (found["docker_version"], found["api_version"], found["containers_running"]) == ("20.10.24", "1.41", 1)
    alice.fleet.cut("n1")
    found = alice.ok("node", "show", "n1", "-o", "json").json
    assert (found["reachable"], found["docker_version"], found["users"]) == (False, None, ["alice"])


@pytest.mark.parametrize("argv", [["show"], ["check"], ["trust"], ["cordon"], ["uncordon"]])
def test_a_node_that_is_not_there_is_4(desk: Desk, argv: list[str]) -> None:
    result = desk("node", *argv, "n11")
    assert (result.code, result.out) == (4, "")
    assert "no node 'n11'" in result.err
    assert "did you mean 'n1'" in result.err
    assert not desk.state.exists()


# ------------------------------------------------------------------------------------------------- check


def test_check_gives_a_line_a_check_and_a_fix(desk: Desk) -> None:
    desk.fleet["n1"].images.clear()
    result = desk.ok("node", "check", "n1", "-o", "json")
    for item in result.items:
        assert set(item) == {"node", "check", "status", "detail", "fix"}
    found = {item["check"]: item for item in result.items}
    assert list(found) == ["reach", "engine", "memory", "cpus", "time", "image", "disk", "inodes", "rsync", "sshd"]
    assert found["image"]["status"] == "WARN"
    assert found["image"]["fix"].startswith("docker pull")


def test_check_of_a_bad_node_is_8_and_of_some_is_9(desk: Desk) -> None:
    desk.fleet.unreachable["n2"] = HostKeyError("n2", "unknown host key", hint="wsctl node trust n2")
    result = desk("node", "check", "n2")
    assert result.code == 8
    assert "wsctl node trust n2" in result.out
    assert "n2: has failed checks" in result.err
    result = desk("node", "check", "-o", "json")
    assert result.code == 9
    assert result.error["details"]["nodes"] == ["n2"]
    assert {item["node"] for item in result.items} == {"n1", "n2", "n3"}
    assert desk("node", "check", "n1", "n3", "n1", "-o", "json").code == 0


def test_check_needs_no_state(desk: Desk) -> None:
    desk.ok("node", "check")
    assert not desk.state.exists()


# ------------------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize("fingerprint", [KEY.fingerprint, KEY.fingerprint.removeprefix("SHA256:")])
def test_the_right_fingerprint_needs_no_question(desk: Desk, fingerprint: str) -> None:
    found = desk.ok("node", "trust", "n1", "--fingerprint", fingerprint, "-o", "json").json
    assert (found["action"], found["fingerprint"], found["key_type"]) == ("trusted", KEY.fingerprint, "ssh-ed25519")
    assert desk.reached.trusted == [("n1", KEY)]


@pytest.mark.parametrize("wrong", ["SHA256:AAAA", "", "SHA256:", KEY.fingerprint.lower(), KEY.fingerprint + "="])
def test_a_wrong_fingerprint_trusts_nothing(desk: Desk, wrong: str) -> None:
    result = desk("node", "trust", "n1", f"--fingerprint={wrong}", stdin="yes\n", tty=True)
    assert (result.code, result.out) == (5, "")
    assert "nothing was trusted" in result.err
    assert KEY.fingerprint in result.err
    assert not desk.reached.trusted


@pytest.mark.parametrize(
    ("typed", "code"), [("yes\n", 0), ("yes", 0), ("y\n", 5), ("no\n", 5), ("YES\n", 5), ("\n", 5), ("", 5)]
)
def test_a_key_is_trusted_when_yes_is_typed(desk: Desk, typed: str, code: int) -> None:
    result = desk("node", "trust", "n1", stdin=typed)
    assert result.code == code
    assert f"n1 presents ssh-ed25519 {KEY.fingerprint}. Trust it?" in result.err
    assert bool(desk.reached.trusted) == (code == 0)


def test_a_changed_key_is_shouted_about(desk: Desk) -> None:
    desk.reached.key = KEY._replace(status=KeyStatus.CHANGED)
    assert "CHANGED: it isn't the key trusted before" in desk("node", "trust", "n1", stdin="yes\n").err
    assert desk.reached.trusted


def test_a_trusted_key_is_left_alone(desk: Desk) -> None:
    desk.reached.key = KEY._replace(status=KeyStatus.TRUSTED)
    assert desk.ok("node", "trust", "n1", "-o", "json").json["action"] == "unchanged"
    assert not desk.reached.trusted


def test_a_revoked_key_is_never_trusted(desk: Desk) -> None:
    """A line of ours beside `@revoked` would change nothing but what the operator believes."""
    desk.reached.key = KEY._replace(status=KeyStatus.REVOKED)
    result = desk("node", "trust", "n1", "--fingerprint", KEY.fingerprint)
    assert result.code == 5
    assert "revoked" in result.err
    assert not desk.reached.trusted


def test_trust_of_a_silent_node_is_8(desk: Desk) -> None:
    desk.fleet.cut("n1")
    assert desk("node", "trust", "n1").code == 8


# ------------------------------------------------------------------------------------------------- marks


def test_a_cordoned_node_takes_nobody_new_until_it_is_uncordoned(desk: Desk) -> None:
    assert desk.ok("node", "cordon", "n1", "n2", "n1", "-o", "json").items == [
        {"name": "n1", "state": "cordoned", "action": "cordoned"},
        {"name": "n2", "state": "cordoned", "action": "cordoned"},
    ]
    assert desk.ok("node", "cordon", "n1", "-o", "json").items[0]["action"] == "unchanged"
    assert desk.ok("place", "alice", "-o", "json").json["node"] == "n3"
    uncordoned = desk.ok("node", "uncordon", "n1", "-o", "json").items
    assert uncordoned == [{"name": "n1", "state": "ready", "action": "uncordoned"}]
    assert desk.ok("node", "uncordon", "n1", "-o", "json").items[0]["action"] == "unchanged"


def test_marking_needs_no_node_to_answer(desk: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        desk.fleet.cut(name)
    desk.ok("node", "cordon", "n1", "--reason", "fire")
    assert desk.ok("node", "show", "n1", "-o", "json").json["reason"] == "fire; no route to the host"


def test_marking_rehearsed_makes_no_file(desk: Desk) -> None:
    assert desk.ok("node", "cordon", "n1", "-n").out.startswith("~ mark     n1 as cordoned")
    assert not desk.state.exists()


def test_who_marked_it_is_shown(desk: Desk) -> None:
    desk.patch.setenv("SUDO_USER", "carol")
    desk.ok("node", "cordon", "n1")
    assert desk.ok("node", "show", "n1", "-o", "json").json["changed_by"].startswith("carol@")


def test_an_inventory_without_the_node_of_a_mark(desk: Desk) -> None:
    desk.ok("node", "cordon", "n3")
    desk.inventory(INVENTORY.replace("  n3: {address: 10.0.0.3}\n", ""))
    assert len(desk.ok("node", "ls", "-o", "json").items) == 2
