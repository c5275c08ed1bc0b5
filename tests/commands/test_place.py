"""`wsctl place`: each form of output, every exit code, lists of users, and that a rehearsal leaves no trace."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import INVENTORY, Desk
from wsctl.commands.place import LIST_LIMIT_BYTES
from wsctl.errors import EngineError, ImageMissing, NotReady
from wsctl.model import Strategy
from wsctl.ports import ContainerSpec

PLACEMENT = {
    "user", "node", "address", "host_port", "container", "state", "generation", "last_active_at", "url_path",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- one user


def test_a_new_user_as_a_table(desk: Desk) -> None:
    result = desk.ok("place", "alice")
    header, row = result.lines
    assert header == ["USER", "NODE", "ADDRESS", "PORT", "STATE", "GEN", "ACTION", "PATH"]
    assert row == ["alice", "n1", "10.0.0.1", "20000", "running", "1", "created", "/ws/alice/"]


def test_a_new_user_as_json_is_the_contract(desk: Desk) -> None:
    found = desk.ok("place", "alice", "-o", "json").json
    assert set(found) == PLACEMENT | {"schema_version", "action", "ready_ms"}
    assert found == {
        "schema_version": 1,
        "user": "alice",
        "node": "n1",
        "address": "10.0.0.1",
        "host_port": 20000,
        "container": "ws-u-alice",
        "state": "running",
        "generation": 1,
        "last_active_at": "2026-01-01T12:00:00Z",
        "url_path": "/ws/alice/",
        "action": "created",
        "ready_ms": 0,
    }


def test_placing_again_changes_nothing_and_says_so(alice: Desk) -> None:
    assert alice.ok("place", "alice", "-o", "json").json["action"] == "unchanged"
    assert not alice.effects()


def test_a_stopped_user_is_started(alice: Desk) -> None:
    alice.ok("stop", "alice")
    found = alice.ok("place", "alice", "-o", "json").json
    assert (found["action"], found["state"], found["node"]) == ("started", "running", "n1")


def test_table_and_plain_say_the_same_off_a_terminal(desk: Desk) -> None:
    table = desk.ok("place", "alice").out.replace("created", "unchanged").split()
    assert desk.ok("place", "alice", "-o", "plain").out.split() == table


def test_an_explanation_names_every_node(desk: Desk) -> None:
    desk.ok("node", "cordon", "n2", "--reason", "disk swap")
    desk.fleet.cut("n3")
    found = desk.ok("place", "alice", "--explain", "-o", "json").json["explain"]
    assert set(found) == {"n1", "n2", "n3"}
    assert all(set(node) == {"feasible", "reasons", "score"} for node in found.values())
    assert (found["n1"]["feasible"], found["n2"]["feasible"], found["n3"]["feasible"]) == (True, False, False)
    assert found["n1"]["score"] > 0
    assert "disk swap" in found["n2"]["reasons"][0]
    assert "no route" in found["n3"]["reasons"][0]


def test_an_explanation_in_words_also_of_a_failure(desk: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        desk.ok("node", "cordon", name, "--reason", f"why-{name}")
    result = desk("place", "alice", "--explain")
    assert result.code == 7
    assert all(f"why-{name}" in result.out for name in ("n1", "n2", "n3"))
    result = desk("place", "alice", "--explain", "-o", "json")
    assert (result.code, result.out) == (7, "")
    assert set(result.error["details"]["nodes"]) == {"n1", "n2", "n3"}


@pytest.mark.parametrize("strategy", [strategy.value for strategy in Strategy])
def test_every_strategy_places(desk: Desk, strategy: str) -> None:
    assert desk.ok("place", "alice", "--strategy", strategy, "-o", "json").json["action"] == "created"


def test_a_class_has_its_own_container_and_stays_with_its_user(desk: Desk) -> None:
    classes = "  ready: {http: /, timeout: 30s}\n  classes: {big: {memory: 8g, env: {SIZE: big}}}\n"
    desk.inventory(INVENTORY.replace("  ready: {http: /, timeout: 30s}\n", classes))
    desk.ok("place", "alice", "--class", "big")
    assert desk.fleet["n1"].held("ws-u-alice").spec.resources.memory_bytes == 8 << 30
    desk.ok("restart", "alice", "--recreate")
    assert desk.fleet["n1"].held("ws-u-alice").spec.env["SIZE"] == "big"
    assert desk.ok("show", "alice", "-o", "json").json["class"] == "big"
    missing = desk("place", "bob", "--class", "bgi")
    assert missing.code == 4
    assert "big" in missing.err


def test_fresh_starts_empty_elsewhere_when_the_files_are_out_of_reach(alice: Desk) -> None:
    alice.ok("rm", "alice", "--yes")
    alice.fleet.cut("n1")
    refused = alice("place", "alice")
    assert refused.code == 7
    assert "--fresh" in refused.err
    assert alice.ok("place", "alice", "--fresh", "-o", "json").json["node"] != "n1"


# ------------------------------------------------------------------------------------------------- exit codes


def test_nobody_fits_is_7(desk: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        desk.fleet.cut(name)
    result = desk("place", "alice")
    assert (result.code, result.out) == (7, "")
    assert "error: no node for alice: 0 of 3 nodes fit" in result.err
    assert "hint: wsctl " in result.err
    assert desk("place", "alice", "-o", "json").error["code"] == "unschedulable"


def test_a_node_that_is_lost_in_the_middle_is_8_and_the_same_command_finishes(desk: Desk) -> None:
    desk.fleet["n1"].lose_reply("create")
    result = desk("place", "alice", "-o", "json")
    assert (result.code, result.out) == (8, "")
    assert result.error["code"] == "node-unreachable"
    assert result.error["details"]["node"] == "n1"
    assert desk.ok("ls", "-o", "json").items[0]["state"] == "reserved"
    assert desk.ok("place", "alice", "-o", "json").json["action"] == "created"
    assert not any(desk.effects().get(other) for other in ("n2", "n3"))


def test_a_container_that_is_not_ready_is_8_with_its_last_words(desk: Desk) -> None:
    desk.fleet["n1"].fail("await_ready", NotReady("n1", "not within 30 s", details={"tail": "boom\n"}))
    result = desk("place", "alice", "-o", "json")
    assert (result.code, result.error["code"], result.error["details"]["tail"]) == (8, "not-ready", "boom\n")
    assert desk.ok("ls", "-o", "json").items[0]["state"] == "failed"
    assert desk.ok("place", "alice", "-o", "json").json["state"] == "running"


def test_an_image_nowhere_to_be_had(desk: Desk) -> None:
    for engine in desk.fleet.engines.values():
        engine.images.clear()
    result = desk("place", "alice")
    assert result.code == 7
    assert result.err.count("refused") >= 1
    assert not desk.sql("SELECT * FROM placements")


def test_a_placed_user_whose_image_may_not_be_pulled_is_8(desk: Desk) -> None:
    desk.inventory(INVENTORY.replace("  memory: 2g", "  pull: never\n  memory: 2g"))
    desk.ok("place", "alice")
    desk.fleet["n1"].images.clear()
    desk.fleet["n1"].remove("ws-u-alice")
    result = desk("place", "alice", "-o", "json")
    assert (result.code, result.error["code"]) == (8, ImageMissing.code)


def test_a_lease_held_by_somebody_is_6(alice: Desk) -> None:
    alice.hold("user:alice")
    result = alice("place", "alice", "--wait", "0")
    assert (result.code, result.out) == (6, "")
    assert "user:alice is held by eve@other:7 (migrate-user)" in result.err
    assert "wsctl lease" in result.err
    assert alice("place", "alice", "--wait", "0", "-o", "json").error["details"]["holder"] == "eve@other:7"


def test_in_a_batch_only_the_held_user_is_busy_and_that_is_9(alice: Desk) -> None:
    alice.hold("user:alice")
    result = alice("place", "alice", "bob", "--wait", "0", "-o", "json")
    assert result.code == 9
    assert [(item["user"], item["action"]) for item in result.items] == [("alice", "failed"), ("bob", "created")]
    assert result.items[0]["error"]["code"] == "busy"
    assert set(result.items[1]) == PLACEMENT | {"action", "ready_ms"}
    assert result.error["code"] == "partial"
    assert result.error["details"]["failed"] == ["alice"]


def test_a_bad_node_never_stops_the_rest(desk: Desk) -> None:
    users = [f"user{number}" for number in range(6)]
    desk.ok("place", *users)
    desk.fleet["n2"].freeze()
    result = desk("place", *users)
    assert result.code == 9
    assert result.out.count("unchanged") == 4
    assert result.out.count("no answer from the engine") == 2
    assert "2 of 6 failed (node-unreachable)" in result.err


def test_ctrl_c_is_130_and_the_same_command_finishes(desk: Desk) -> None:
    desk.fleet["n1"].fail("start", KeyboardInterrupt())  # type: ignore[arg-type]
    result = desk("place", "alice")
    assert (result.code, result.out) == (130, "")
    assert "interrupted" in result.err
    assert "run the same command again" in result.err
    assert not desk.sql("SELECT * FROM leases")
    assert desk.ok("place", "alice", "-o", "json").json["action"] == "created"


def test_a_bug_is_1_and_says_what_to_do(desk: Desk) -> None:
    desk.fleet["n1"].fail("create", ZeroDivisionError("division by zero"))
    result = desk("place", "alice")
    assert (result.code, result.out) == (1, "")
    assert "unexpected ZeroDivisionError" in result.err
    assert "WSCTL_DEBUG" in result.err
    desk.patch.setenv("WSCTL_DEBUG", "1")
    desk.fleet["n1"].fail("start", ZeroDivisionError("again"))
    with pytest.raises(ZeroDivisionError):
        desk("place", "alice")
    desk.reached.closed = desk.reached.opened


@pytest.mark.parametrize("argv", [[], ["alice", "--from", "-"]])
def test_users_or_a_list_not_both_not_neither(desk: Desk, argv: list[str]) -> None:
    result = desk("place", *argv)
    assert (result.code, result.out) == (2, "")
    assert "not both" in result.err


@pytest.mark.parametrize(
    "argv",
    [
        ["--parallel", "0"],
        ["--parallel", "many"],
        ["--wait", "soon"],
        ["--strategy", "best"],
        ["--nonsense"],
        ["-o", "xml"],
    ],
)
def test_options_that_make_no_sense_are_2_in_words_and_in_json(desk: Desk, argv: list[str]) -> None:
    result = desk("place", "alice", *argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    if argv[0] != "-o":
        result = desk("place", "alice", *argv, "-o", "json")
        assert (result.code, result.out, result.error["code"]) == (2, "", "usage")
    assert not desk.state.exists()


# ------------------------------------------------------------------------------------------------- lists of users


def test_a_list_may_have_comments_blank_lines_windows_line_ends_and_repetitions(desk: Desk) -> None:
    (desk.folder / "users").write_bytes(b"# the team\r\nalice\r\n\r\n  bob  # the boss\r\nalice\r\n#carol\r\n")
    result = desk.ok("place", "--from", "users", "-o", "json")
    assert [item["user"] for item in result.items] == ["alice", "bob"]


def test_a_list_of_one_is_still_a_list(desk: Desk) -> None:
    assert len(desk.ok("place", "--from", "-", "-o", "json", stdin="alice\n").items) == 1


def test_a_list_from_stdin_with_some_threads(desk: Desk) -> None:
    users = "".join(f"user{number}\n" for number in range(25))
    result = desk.ok("place", "--from", "-", "--parallel", "12", "-o", "json", stdin=users)
    assert [item["user"] for item in result.items] == users.split()
    assert len({(item["node"], item["host_port"]) for item in result.items}) == 25


def test_all_bad_lines_are_named_at_once_and_nothing_is_done(desk: Desk) -> None:
    (desk.folder / "users").write_text("alice\nBob\n# fine\n../etc\ncarol\n$(reboot)\n")
    result = desk("place", "--from", "users")
    assert (result.code, result.out) == (2, "")
    assert "3 lines of users are not user ids; nothing was done" in result.err
    for bad in ("users:2: 'Bob'", "users:4: '../etc'", "users:6: '$(reboot)'"):
        assert bad in result.err
    assert len(desk("place", "--from", "users", "-o", "json").error["details"]["problems"]) == 3
    assert not desk.state.exists()
    assert not desk.effects()


def test_thousands_of_bad_lines_are_not_all_shown(desk: Desk) -> None:
    result = desk("place", "--from", "-", stdin="NO\n" * 5000)
    assert "5000 lines of stdin" in result.err
    assert len(result.err.splitlines()) < 30


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nobody\n"], ids=["empty", "blank", "comments"])
def test_a_list_of_nobody(desk: Desk, data: bytes) -> None:
    result = desk("place", "--from", "-", stdin=data)
    assert (result.code, result.out) == (2, "")
    assert "names no users" in result.err


def test_a_binary_list_is_refused_without_its_bytes_reaching_the_terminal(desk: Desk) -> None:
    (desk.folder / "users").write_bytes(bytes(range(256)) * 40)
    result = desk("place", "--from", "users")
    assert (result.code, result.out) == (2, "")
    assert not set(result.err) & set(map(chr, [*range(10), *range(11, 32), 127, *range(128, 160)]))
    assert not desk.state.exists()


@pytest.mark.parametrize(("name", "says"), [("nowhere", "No such file"), (".", "Is a directory")])
def test_a_list_that_cannot_be_read(desk: Desk, name: str, says: str) -> None:
    result = desk("place", "--from", name)
    assert (result.code, result.out) == (2, "")
    assert f"--from: cannot read {name}: {says}" in result.err


def test_a_list_that_is_far_too_long(desk: Desk) -> None:
    result = desk("place", "--from", "-", stdin=b"#" * (LIST_LIMIT_BYTES + 1))
    assert result.code == 2
    assert "larger than 16 MiB" in result.err


def test_progress_is_shown_only_to_people(desk: Desk) -> None:
    result = desk("place", "alice", "bob", tty=True)
    assert result.code == 0
    assert "placing" in result.err
    assert "placing" not in result.out
    assert desk("place", "alice", "bob", "-q", tty=True).err == ""
    assert desk("place", "alice", "bob").err == ""


# ------------------------------------------------------------------------------------------------- rehearsals


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_a_dry_run_on_a_new_cluster_makes_no_file_and_no_effect(desk: Desk, explain: list[str]) -> None:
    before = files(desk.folder)
    result = desk.ok("place", "alice", "bob", "--dry-run", *explain)
    assert "+ reserve  alice on n1 port 20000" in result.out
    assert "+ create   ws-u-bob on " in result.out
    assert files(desk.folder) == before
    assert not desk.effects()


def test_a_dry_run_as_json_is_the_plan(desk: Desk) -> None:
    found = desk.ok("place", "alice", "-n", "-o", "json").json
    assert found["dry_run"] is True
    (work,) = found["plan"]
    assert (work["target"], work["action"]) == ("alice", "created")
    assert [step["step"] for step in work["steps"]] == ["reserve", "create", "start", "await", "record"]


def test_a_dry_run_that_would_do_nothing_says_so(alice: Desk) -> None:
    assert alice.ok("place", "alice", "-n").out == "nothing to do\n"


def test_a_dry_run_fails_as_the_command_would(desk: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        desk.fleet.cut(name)
    assert desk("place", "alice", "-n").code == 7
    result = desk("place", "alice", "bob", "-n")
    assert result.code == 9
    assert "no node for alice" in result.out


def test_a_dry_run_takes_no_lease_and_waits_for_none(alice: Desk) -> None:
    alice.hold("user:alice")
    assert alice.ok("stop", "alice", "-n").code == 0


# ------------------------------------------------------------------------------------------------- odd ids, loudness


@pytest.mark.parametrize("user", ["default", "include", "hostnames", "0", "a_b-c", "x" * 63])
def test_words_of_nginx_are_users_like_any_other(desk: Desk, user: str) -> None:
    assert desk.ok("place", user, "-o", "json").json["user"] == user
    assert f'"u:{user}" 10.0.0.' in desk.ok("render-gateway").out
    assert desk.ok("rm", user, "--yes", "-o", "json").json["action"] == "removed"


def test_a_refusing_node_is_passed_over_quietly(desk: Desk) -> None:
    desk.fleet["n1"].fail("create", EngineError("n1", "no space left on device"))
    assert desk.ok("place", "alice", "-o", "json").json["node"] != "n1"


@pytest.mark.parametrize(("limit", "most"), [("1", 1), ("2", 2), ("null", 6)])
def test_no_more_than_so_many_start_on_a_node_at_once(desk: Desk, limit: str, most: int) -> None:
    """From before the container is made until it answers; without a limit all six are at it."""
    desk.inventory(INVENTORY.replace("defaults:\n", f"defaults:\n  max_concurrent_starts: {limit}\n"))
    engine, now, seen, lock = desk.fleet["n1"], [0], [0], threading.Lock()
    create, ready = engine.create, engine.await_ready

    def slow_create(spec: ContainerSpec) -> str:
        with lock:
            now[0] += 1
            seen[0] = max(seen[0], now[0])
        time.sleep(0.5 if most == 6 else 0.1)  # all six must have come that far, on a busy machine too
        return create(spec)

    def slow_ready(*arguments: Any) -> int:
        answer = ready(*arguments)
        with lock:
            now[0] -= 1
        return answer

    engine.create, engine.await_ready = slow_create, slow_ready  # type: ignore[method-assign]
    users = [f"user{number}" for number in range(6)]
    for name in ("n2", "n3"):
        desk.ok("node", "cordon", name)
    desk.ok("place", *users, "--parallel", "6")
    assert seen[0] == most
    assert {one["state"] for one in desk.ok("ls", "-o", "json").items} == {"running"}
