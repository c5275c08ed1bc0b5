"""What is wrong with the surroundings: each gets its clear message, and nothing and nobody else suffers.

A clock that is off is in `test_sharedclock` and `test_lab_faults`, text that wants to be code in `test_hostile`.
"""

from __future__ import annotations

import sqlite3
from copy import copy

import pytest

from tests.builders import CLUSTER
from tests.commands.conftest import INVENTORY, Desk


@pytest.fixture
def team(desk: Desk) -> Desk:
    """alice, bob and carol, on a node each."""
    for user in ("alice", "bob", "carol"):
        desk.ok("place", user)
    assert {desk.home(user) for user in ("alice", "bob", "carol")} == {"n1", "n2", "n3"}
    desk.forget()
    return desk


def others_are_served(desk: Desk, *users: str) -> None:
    """The others can be stopped and started, and somebody new comes."""
    for user in users:
        assert desk.ok("stop", user, "-o", "json").json["action"] == "stopped"
        assert desk.ok("start", user, "-o", "json").json["action"] == "started"
    assert desk.ok("place", "newcomer", "-o", "json").json["action"] == "created"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("host_port = -1", "not a port: -1"),
        ("state = 'dancing'", "dancing"),
        ("node = ''", "node"),
        ("generation = 0", "not a generation"),
    ],
)
def test_a_corrupted_row(team: Desk, damage: str, says: str) -> None:
    connection = sqlite3.connect(team.state)
    connection.execute("PRAGMA ignore_check_constraints = 1")
    connection.execute(f"UPDATE placements SET {damage} WHERE user = 'bob'")
    connection.commit()
    connection.close()
    for verb in ("place", "stop", "restart"):
        result = team(verb, "bob")
        assert result.code == 10
        assert says in result.err
        assert "hint: correct that row by hand, or restore a backup" in result.err
    listed = team("ls")
    assert (listed.code, [line[0] for line in listed.lines[1:]]) == (0, ["alice", "carol"])
    assert "bob is left out" in listed.err
    (item,) = team("reconcile", "-o", "json").items
    assert (item["kind"], item["user"], item["repaired"]) == ("damaged-row", "bob", False)
    assert team.effects() == {}
    others_are_served(team, "alice", "carol")
    assert team.fleet["n2"].container("ws-u-bob") is not None


@pytest.mark.parametrize("generation", ["1", "999999", "-1", "a lot", ""])
def test_a_container_with_forged_labels(team: Desk, generation: str) -> None:
    """Somebody who may use Docker on n2 pretends to be alice's workspace, and an admin's."""
    engine = team.fleet["n2"]
    engine.add("ws-u-alice", cluster=CLUSTER, user="alice", generation=generation)
    engine.add("x", cluster=CLUSTER, user="../../etc", generation="1")
    shown = team.ok("show", "alice", "-o", "json").json
    assert (shown["node"], shown["observed"]) == (team.home("alice"), "running")
    routed = team.ok("render-gateway", "--out", "-").out
    assert f'"u:alice" {shown["address"]}:{shown["host_port"]};' in routed
    result = team("reconcile", "-o", "json")
    assert result.code == 9
    found = {(item["kind"], item["user"], item["repaired"]) for item in result.items}
    # A newer generation than is recorded could mean that the database is an old copy: that is for a person to say.
    assert ("wrong-node", "alice", generation != "999999") in found
    assert {kind for kind, user, _ in found if user is None} == {"orphan"}
    assert team.fleet[team.home("alice")].container("ws-u-alice").state == "running"  # type: ignore[union-attr]
    others_are_served(team, "bob", "carol")


def test_a_name_that_a_foreign_container_has(team: Desk) -> None:
    for name in ("n1", "n2"):
        team.fleet[name].add("ws-u-dora")
    assert team.ok("place", "dora", "-o", "json").json["node"] == "n3", "where nobody has the name"
    for name in ("n1", "n2", "n3"):
        team.fleet[name].add("ws-u-emil")
    result = team("place", "emil")
    assert result.code == 7
    assert "ws-u-emil" in result.err or "name" in result.err
    assert team("show", "emil").code == 4, "nothing of them is left"
    others_are_served(team, "alice", "bob", "carol")
    assert all(team.fleet[name].container("ws-u-emil") is not None for name in ("n1", "n2", "n3"))


def test_a_foreign_process_on_the_reserved_port(team: Desk) -> None:
    port, home = 20000, team.home("alice")
    team.ok("stop", "alice")
    team.fleet[home].busy_ports.add(port)
    started = team.ok("start", "alice", "-o", "json").json
    assert (started["state"], started["node"]) == ("running", home)
    assert started["host_port"] != port
    assert team.ok("reconcile", "-o", "json").items == []
    others_are_served(team, "bob", "carol")


def test_a_request_id_of_10_kb(team: Desk) -> None:
    result = team("stop", "alice", "--request-id", "x" * 10_240)
    assert (result.code, result.out) == (2, "")
    assert "--request-id must be 1 to 128 printable ASCII characters" in result.err
    assert "xxxxxxxxxx" not in result.err
    assert team.effects() == {}
    assert team.sql("SELECT COUNT(*) FROM requests") == [(0,)]


@pytest.mark.parametrize("renamed", [False, True], ids=["removed", "renamed"])
def test_a_node_that_left_the_inventory_while_users_live_on_it(team: Desk, renamed: bool) -> None:
    home = team.home("alice")
    gone = next(line for line in INVENTORY.splitlines(keepends=True) if line.startswith(f"  {home}:"))
    team.inventory(INVENTORY.replace(gone, gone.replace(home, "n9", 1) if renamed else ""))
    if renamed:
        team.fleet.engines["n9"] = copy(team.fleet[home])  # the same machine
        team.fleet["n9"].name = "n9"
    for verb in (["place"], ["stop"], ["start"], ["restart"], ["rm", "--yes"], ["migrate-user"]):
        result = team(*verb, "alice")
        assert result.code == 5, (verb, result.err)
        assert f"alice is placed on {home}, which is not in the inventory" in result.err
        assert f"add {home} to the inventory again" in result.err
        assert "wsctl rm alice --node-gone" in result.err
    assert f"1 users are placed on {home}, which is not in the inventory" in team("node", "ls").err
    assert "alice" in team.ok("ls").out
    (item,) = team("reconcile", "-o", "json").items
    assert (item["kind"], item["user"], item["repaired"]) == ("unknown-node", "alice", False)
    assert ("their container is on n9" if renamed else "--node-gone") in item["fix"]
    assert team.effects() == {}
    others_are_served(team, "bob", "carol")


def test_saying_that_a_node_is_gone_removes_what_is_recorded_and_nothing_else(team: Desk) -> None:
    home = team.home("alice")
    assert team("rm", "alice", "--node-gone", "--yes").code == 5, "it is in the inventory"
    assert team("rm", "alice", "--node-gone", "--purge-data").code == 2
    gone = next(line for line in INVENTORY.splitlines(keepends=True) if line.startswith(f"  {home}:"))
    team.inventory(INVENTORY.replace(gone, ""))
    assert team("rm", "alice", "--node-gone").code == 5, "it asks"
    assert team.ok("rm", "alice", "--node-gone", "--yes", "-o", "json").json["action"] == "removed"
    assert team.effects() == {}
    assert team.ok("reconcile", "-o", "json").items == []
    refused = team("place", "alice")
    assert refused.code == 7
    assert "wsctl place alice --fresh" in refused.err
    assert team.ok("place", "alice", "--fresh", "-o", "json").json["node"] != home
    assert team("rm", "nobody", "--node-gone", "--yes").code == 4
    # The machine comes back into the inventory: the copy that went on running there is put aside.
    team.inventory(INVENTORY)
    (item,) = team("reconcile", "-o", "json").items
    assert (item["kind"], item["node"], item["repaired"]) == ("wrong-node", home, True)
