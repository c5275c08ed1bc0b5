"""`wsctl reconcile` as operators type it."""

from __future__ import annotations

import os
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from tests.builders import CLUSTER
from tests.commands.conftest import INVENTORY, Desk
from wsctl.errors import EngineError
from wsctl.store.sqlite import DIALECT
from wsctl.store.store import SqlStore

FIELDS = {"kind", "user", "node", "detail", "fix", "repaired"}


@pytest.fixture
def team(desk: Desk) -> Desk:
    """alice, bob and carol, running."""
    for user in ("alice", "bob", "carol"):
        desk.ok("place", user)
    desk.forget()
    return desk


def lose(desk: Desk, user: str) -> None:
    """Somebody removed the user's container by hand."""
    del desk.fleet[desk.home(user)]._held[f"ws-u-{user}"]


def test_nothing_differs(team: Desk) -> None:
    result = team("reconcile")
    assert (result.code, result.out, result.err) == (0, "", "nothing differs\n")
    assert team.ok("reconcile", "-o", "json").items == []
    assert team.ok("reconcile", "-q").out == ""
    assert team.effects() == {}


def test_what_is_safe_is_planned_shown_and_repaired(team: Desk) -> None:
    lose(team, "alice")
    team.fleet[team.home("bob")].exit("ws-u-bob")
    result = team("reconcile")
    assert result.code == 0
    assert "+ create   ws-u-alice on n1" in result.err
    assert [line[:2] for line in result.lines] == [["KIND", "USER"], ["missing", "alice"], ["not-running", "bob"]]
    assert [line[-1] for line in result.lines[1:]] == ["yes", "yes"]
    assert team("reconcile").out == ""


def test_the_json_of_the_contract(team: Desk) -> None:
    lose(team, "alice")
    (item,) = team.ok("reconcile", "-o", "json").items
    assert set(item) == FIELDS
    assert (item["kind"], item["user"], item["node"], item["repaired"]) == ("missing", "alice", "n1", True)


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_dry_run_changes_nothing_and_is_9_if_something_differs(team: Desk, form: str) -> None:
    assert team("reconcile", "-n").code == 0
    lose(team, "alice")
    before = team.sql("SELECT * FROM placements")
    result = team("reconcile", "--dry-run", "-o", form)
    assert result.code == 9
    if form == "json":
        assert [item["repaired"] for item in result.items] == [False]
        assert result.error["code"] == "partial"
    else:
        assert "+ create   ws-u-alice on n1" in result.err
        assert "1 of 1 differences are left (missing)" in result.err
    assert (team.effects(), team.sql("SELECT * FROM placements")) == ({}, before)


def test_one_user_only(team: Desk) -> None:
    for user in ("alice", "bob"):
        lose(team, user)
    assert [item["user"] for item in team.ok("reconcile", "--user", "bob", "-o", "json").items] == ["bob"]
    assert team("reconcile", "--user", "Bob").code == 2
    assert team("reconcile", "--user", "nobody").out == ""


def test_an_unreachable_node_is_said_and_is_9(team: Desk) -> None:
    lose(team, "alice")
    team.fleet.cut(team.home("bob"))
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    assert [(item["kind"], item["user"], item["node"], item["repaired"]) for item in result.items] == [
        ("missing", "alice", "n1", True),
        ("unreachable", None, team.home("bob"), False),
    ]


def test_a_repair_that_fails_is_told_and_does_not_stop_the_others(team: Desk) -> None:
    for user in ("alice", "bob"):
        lose(team, user)
    team.fleet[team.home("alice")].fail("create", EngineError("n1", "no space left on device"))
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    assert [(item["user"], item["repaired"]) for item in result.items] == [("alice", False), ("bob", True)]
    assert "no space left" in result.items[0]["error"]["message"]
    team.fleet[team.home("alice")].fail("create", EngineError("n1", "no space left on device"))
    again = team("reconcile")
    assert "alice: n1: no space left on device" in again.err


def test_who_is_busy_is_left_out_and_named_with_v(team: Desk) -> None:
    lose(team, "alice")
    team.hold("user:alice")
    result = team("reconcile", "-v")
    assert result.code == 0
    assert "alice: somebody is acting on this user; left out" in result.err
    assert team.effects() == {}


def test_a_node_that_left_the_inventory(team: Desk) -> None:
    home = team.home("alice")
    team.inventory(INVENTORY.replace(f"  {home}: {{address: 10.0.0.{home[1]}, labels: {{zone: a}}}}\n", ""))
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    assert [(item["kind"], item["user"]) for item in result.items] == [("unknown-node", "alice")]
    assert f"add {home} to the inventory" in result.items[0]["fix"]


def test_a_damaged_row_and_a_foreign_name(team: Desk) -> None:
    team.sql("UPDATE placements SET state = 'dancing' WHERE user = 'bob'")
    lose(team, "alice")
    team.fleet[team.home("alice")].add("ws-u-alice")
    lose(team, "carol")
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    assert [(item["kind"], item["user"], item["repaired"]) for item in result.items] == [
        ("foreign-name", "alice", False),
        ("missing", "carol", True),
        ("damaged-row", "bob", False),
    ]


def test_text_from_nodes_stays_text(team: Desk) -> None:
    team.fleet["n1"].add("x\x1b[31m\nerror: all is lost", cluster=CLUSTER, user="\x1b]0;owned\x07")
    result = team("reconcile")
    assert result.code == 9
    assert "\x1b" not in result.out + result.err
    assert not [line for line in (result.out + result.err).splitlines() if line.startswith("error: all")]


def test_repairs_are_in_the_audit(team: Desk) -> None:
    lose(team, "alice")
    team.sql("UPDATE node_usage SET active = 7 WHERE node = 'n2'")
    assert team("reconcile").code == 0
    rows = team.ok("audit", "-o", "json").items
    seen = [(row["target"], row["action"]) for row in rows if row["verb"] == "reconcile"]
    assert sorted(set(seen)) == [("alice", "repaired"), ("n2", "recounted")]


def test_a_request_that_left_something_is_tried_again(team: Desk) -> None:
    lose(team, "alice")
    team.fleet[team.home("alice")].fail("create", EngineError("n1", "no space left on device"))
    assert team("reconcile", "--request-id", "r-1").code == 9
    assert [item["repaired"] for item in team.ok("reconcile", "--request-id", "r-1", "-o", "json").items] == [True]


# ---- adopting


@pytest.fixture
def grown(desk: Desk) -> Desk:
    """A fleet made by hand."""
    desk.ok("place", "alice")
    for node, user, port in (("n1", "dave", 8101), ("n2", "eve", 8102)):
        desk.fleet[node].data.add(user)
        desk.fleet[node].add(f"jupyter-{user}", host_port=port, folder=f"/srv/workspaces/{user}", mount="/workspace")
    desk.forget()
    return desk


ADOPT = ["reconcile", "--adopt", "--adopt-name", "jupyter-{user}"]


def test_adopting_asks(grown: Desk) -> None:
    refused = grown(*ADOPT)
    assert refused.code == 5
    assert "Adopt dave, eve?" in refused.err
    assert "--yes" in refused.err
    no = grown(*ADOPT, tty=True, stdin="n\n")
    assert (no.code, grown.effects()) == (5, {})
    yes = grown(*ADOPT, tty=True, stdin="y\n")
    assert yes.code == 0
    assert grown.home("eve") == "n2"
    assert grown(*ADOPT).code == 0


def test_adopting_with_yes(grown: Desk) -> None:
    items = grown.ok(*ADOPT, "--yes", "-o", "json").items
    assert [(item["kind"], item["user"], item["repaired"]) for item in items] == [
        ("unmanaged", "dave", True),
        ("unmanaged", "eve", True),
    ]
    assert grown.sql("SELECT user, host_port FROM placements WHERE user <> 'alice' ORDER BY user") == [
        ("dave", 8101),
        ("eve", 8102),
    ]
    assert "remove" not in str(grown.effects())


def test_adopting_nobody_asks_nothing(alice: Desk) -> None:
    lose(alice, "alice")
    assert alice("reconcile", "--adopt").code == 0


def test_a_change_during_the_question_is_5(grown: Desk) -> None:
    def meanwhile() -> None:
        grown.fleet["n1"].add("db", host_port=8101)

    result = grown(*ADOPT, tty=True, stdin="y\n", thinking=meanwhile)
    assert result.code == 5
    assert "changed since the plan was shown" in result.err
    assert grown.effects() == {}


def test_many_adopted_users_are_shortened(desk: Desk) -> None:
    for number in range(7):
        desk.fleet["n1"].add(f"ws-u-u{number}", folder=f"/srv/workspaces/u{number}", mount="/workspace")
    assert "Adopt u0, u1, u2, u3, u4…?" in desk("reconcile", "--adopt").err


@pytest.mark.parametrize("template", ["jupyter", "{user}-{user}", "{name}"])
def test_a_template_needs_the_user_once(desk: Desk, template: str) -> None:
    result = desk("reconcile", "--adopt", "--adopt-name", template)
    assert result.code == 2
    assert "must have {user} in it once" in result.err


# ---- the published map


@pytest.fixture
def published(team: Desk) -> tuple[Desk, Path]:
    """A team with a map, and an nginx that likes everything."""
    binaries = team.folder.parent / "bin"
    binaries.mkdir()
    (binaries / "nginx").write_text("#!/bin/sh\nexit 0\n")
    (binaries / "nginx").chmod(0o755)
    team.patch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    team.patch.setattr("wsctl.nginx.SEARCHED", "/nowhere")
    path = team.folder / "map.conf"
    team.ok("render-gateway", "--out", str(path))
    return team, path


def test_a_map_that_says_the_same_is_no_difference(published: tuple[Desk, Path]) -> None:
    team, path = published
    before = path.read_text()
    team.ok("stop", "alice")
    team.ok("start", "alice")  # the generation of the routes rose, the routes are the same
    assert team("reconcile", "--map", str(path)).err == "nothing differs\n"
    assert path.read_text() == before


def test_a_stale_map_is_written_anew(published: tuple[Desk, Path]) -> None:
    team, path = published
    team.ok("stop", "alice")
    dry = team("reconcile", "--map", str(path), "-n", "-o", "json")
    assert dry.code == 9
    assert [(item["kind"], item["user"], item["repaired"]) for item in dry.items] == [("stale-route", None, False)]
    assert "2 lines" in dry.items[0]["detail"]
    assert "alice" in path.read_text()
    assert team("reconcile", "--map", str(path)).code == 0
    assert '"u:alice" stopped;' in path.read_text()
    assert team("reconcile", "--map", str(path)).out == ""


@pytest.mark.parametrize("harm", ["edited", "foreign", "absent"])
def test_a_map_that_is_not_ours_is_written_anew(published: tuple[Desk, Path], harm: str) -> None:
    team, path = published
    before = path.read_text()
    if harm == "edited":
        path.write_text(before.replace(":20000", ":20099"))
    elif harm == "foreign":
        path.write_bytes(b"\xff no map")
    else:
        path.unlink()
    assert team("reconcile", "--map", str(path)).code == 0
    assert path.read_text() == before


def test_what_repairs_changed_is_in_the_map_of_the_same_run(published: tuple[Desk, Path]) -> None:
    team, path = published
    home = team.fleet[team.home("alice")]
    home.exit("ws-u-alice")
    home.busy_ports.add(20000)
    items = team.ok("reconcile", "--map", str(path), "-o", "json").items
    assert [(item["kind"], item["repaired"]) for item in items] == [("not-running", True), ("stale-route", True)]
    assert f'"u:alice" {home.address}:20001;' in path.read_text()


def test_a_map_that_nginx_refuses_stays_and_is_9(published: tuple[Desk, Path]) -> None:
    team, path = published
    (team.folder.parent / "bin" / "nginx").write_text("#!/bin/sh\necho no >&2; exit 1\n")
    before = path.read_text()
    team.ok("stop", "alice")
    result = team("reconcile", "--map", str(path), "-o", "json")
    assert result.code == 9
    assert result.items[0]["error"]["code"] == "map-refused"
    assert path.read_text() == before


def test_a_user_with_a_damaged_row_keeps_the_route_that_they_have(published: tuple[Desk, Path]) -> None:
    team, path = published
    team.sql("UPDATE placements SET state = 'dancing' WHERE user = 'alice'")
    team.ok("stop", "bob")
    result = team("reconcile", "--map", str(path), "-o", "json")
    assert [(item["kind"], item["repaired"]) for item in result.items] == [
        ("damaged-row", False),
        ("stale-route", True),
    ]
    assert '"u:alice"' in path.read_text()
    assert '"u:bob" stopped;' in path.read_text()


def test_a_placement_that_must_not_reach_nginx(published: tuple[Desk, Path]) -> None:
    team, path = published
    team.inventory(INVENTORY.replace("10.0.0.1", "node-one.example"))
    team.sql("UPDATE placements SET address = '1.2.3.4; }' WHERE node = 'n1'")
    result = team("reconcile", "--map", str(path))
    assert (result.code, "must not reach Nginx" in result.err) == (10, True)


def test_a_folder_is_no_map(team: Desk) -> None:
    assert team("reconcile", "--map", ".").code == 2


# ------------------------------------------------------------------------------------------------- what the dead left


def gone_process() -> int:
    """The number of a process that has just ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def hold(desk: Desk, name: str, holder: str, *, for_s: float = 1.0) -> None:
    """A lease that was taken `for_s` seconds ago, and renewed since."""
    assert desk.hold(name, holder=holder) == []
    began = desk.clock.now() - timedelta(seconds=for_s)
    desk.sql("UPDATE leases SET acquired_at = ? WHERE name = ?", DIALECT.encode_time(began), name)


def test_the_lease_of_a_dead_process_is_broken_and_its_user_repaired_in_the_same_run(team: Desk) -> None:
    lose(team, "alice")
    hold(team, "user:alice", f"root@{socket.gethostname()}:{gone_process()}")
    result = team("reconcile", "-o", "json")
    assert result.code == 0, result.err
    assert [(item["kind"], item["user"], item["repaired"]) for item in result.items] == [
        ("missing", "alice", True),
        ("left-lease", "alice", True),
    ]
    assert team.ok("lease", "ls", "-o", "json").items == []
    assert team.ok("reconcile", "-o", "json").items == []
    assert ("reconcile", "user:alice", "broken") in {
        (row["verb"], row["target"], row["action"]) for row in team.ok("audit", "-o", "json").items
    }


@pytest.mark.parametrize(
    "holder",
    ["root@elsewhere:1", f"root@{socket.gethostname()}:{os.getpid()}", "nobody knows"],
    ids=["elsewhere", "alive", "odd"],
)
def test_a_lease_of_somebody_who_may_live_is_left_alone(team: Desk, holder: str) -> None:
    lose(team, "alice")
    hold(team, "user:alice", holder)
    assert team.ok("reconcile", "-o", "json").items == []
    assert [item["name"] for item in team.ok("lease", "ls", "-o", "json").items] == ["user:alice"]


def test_a_lease_that_is_held_for_more_than_a_day_is_said(team: Desk) -> None:
    hold(team, "user:alice", "root@elsewhere:1", for_s=25 * 3600)
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    (item,) = result.items
    assert (item["kind"], item["repaired"]) == ("left-lease", False)
    assert "wsctl lease break user:alice" in item["fix"]


def cut_off(desk: Desk, request_id: str, *users: str) -> None:
    """As if the caller had died after its first effects: intents, and nothing else."""
    desk.ok("place", *users, "--request-id", request_id)
    desk.sql("UPDATE requests SET answer = NULL WHERE request_id = ?", request_id)
    for user in users:
        desk.sql("DELETE FROM audit WHERE request_id = ? AND target = ? AND kind <> 'intent'", request_id, user)
        last = "SELECT digest FROM audit WHERE target = audit_heads.target"
        desk.sql(f"UPDATE audit_heads SET sequence = 1, digest = ({last}) WHERE target = ?", user)


def test_a_request_that_was_cut_off_is_ended_and_can_be_repeated(desk: Desk) -> None:
    cut_off(desk, "r1", "alice", "bob")
    shown = desk("reconcile", "-n", "-o", "json")
    assert shown.code == 9
    (item,) = shown.items
    assert (item["kind"], item["user"], item["repaired"]) == ("left-request", None, False)
    assert "r1 (place" in item["detail"]
    assert "alice, bob" in item["detail"]
    (item,) = desk.ok("reconcile", "-o", "json").items
    assert item["repaired"]
    assert desk.ok("reconcile", "-o", "json").items == []
    ends = [row for row in desk.ok("audit", "-o", "json").items if row["kind"] == "failed"]
    assert {(row["target"], row["request_id"]) for row in ends} == {("alice", "r1"), ("bob", "r1")}
    again = desk.ok("place", "alice", "bob", "--request-id", "r1", "-o", "json").items
    assert [item["action"] for item in again] == ["created", "created"]
    assert desk.ok("audit", "--verify").code == 0


def test_a_request_whose_users_are_not_right_yet_stays(desk: Desk) -> None:
    cut_off(desk, "r1", "alice")
    lose(desk, "alice")
    desk.fleet[desk.home("alice")].fail("create", EngineError("n1", "no"))
    result = desk("reconcile", "-o", "json")
    assert result.code == 9
    assert [(item["kind"], item["repaired"]) for item in result.items] == [("missing", False), ("left-request", False)]


def test_a_request_that_somebody_works_on_or_that_failed_is_no_difference(desk: Desk) -> None:
    cut_off(desk, "r1", "alice")
    hold(desk, "request:r1", "root@elsewhere:1")
    assert desk.ok("reconcile", "-o", "json").items == []
    desk.sql("DELETE FROM requests")
    assert desk("place", "alice", "--class", "nowhere", "--request-id", "r2").code != 0
    assert desk.ok("reconcile", "-o", "json").items == []


def test_a_rehearsal_makes_no_state_database(desk: Desk) -> None:
    assert desk.ok("reconcile", "-n", "-o", "json").items == []
    assert not desk.state.exists()


def count(desk: Desk, cls: type, name: str) -> list[object]:
    """A list that grows with each call of the method."""
    real, calls = getattr(cls, name), list[object]()

    def counted(self: object, *args: object, **more: object) -> object:
        calls.append((args, more))
        return real(self, *args, **more)

    desk.patch.setattr(cls, name, counted)
    return calls


def test_each_request_that_was_cut_off_is_looked_at_alone(desk: Desk) -> None:
    users = [f"u{number}" for number in range(5)]
    for user in users:
        cut_off(desk, f"r-{user}", user)
    asked = count(desk, SqlStore, "audit")
    assert len(desk.ok("reconcile", "-o", "json").items) == len(users)
    assert len(asked) == 3 * len(users), "found, looked at again, ended"


def test_nothing_is_read_once_more_when_no_files_were_put_aside(team: Desk) -> None:
    asked = count(team, SqlStore, "left_files")
    assert team("reconcile").code == 0
    assert len(asked) == 2, "before the nodes were asked, and after"
