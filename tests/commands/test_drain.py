"""`wsctl node drain` as an operator types it, on fake nodes with fake files."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.gateways import FakeGateway
from wsctl.errors import FilesError, NodeUnreachable

FIELDS = {
    "user", "source", "target", "generation", "downtime_ms", "bytes_copied", "passes", "action", "verdict", "reason",
    "kept_copy",
}  # fmt: skip
USERS = ("alice", "bob", "carol", "dave")


@pytest.fixture
def full(desk: Desk) -> Desk:
    """alice, bob and dave run on n1 with files, carol is stopped there; n2 and n3 are empty."""
    desk.ok("node", "cordon", "n2", "n3")
    desk.ok("place", *USERS)
    desk.ok("stop", "carol")
    desk.ok("node", "uncordon", "n2", "n3")
    for user in USERS:
        desk.reached.trees.live[("n1", user)] = {"work": user}
    desk.forget()
    return desk


def placed(desk: Desk) -> dict[str, str]:
    return dict(desk.sql("SELECT user, node FROM placements ORDER BY user"))


def verdicts(items: list[dict[str, object]]) -> dict[object, object]:
    return {item["user"]: item["verdict"] for item in items}


def nodes(desk: Desk) -> dict[str, dict[str, object]]:
    return {item["name"]: item for item in desk.ok("node", "ls", "-o", "json").items}


def test_everybody_moves_and_the_node_is_draining(full: Desk) -> None:
    ran = full.ok("node", "drain", "n1", "--yes", "--reason", "new disk", "-o", "json")
    assert [item["user"] for item in ran.items] == list(USERS)
    for item in ran.items:
        assert set(item) == FIELDS
        assert (item["source"], item["action"], item["verdict"], item["reason"]) == ("n1", "migrated", "moved", None)
        assert item["target"] in ("n2", "n3")
        assert str(item["kept_copy"]).startswith(f"/srv/workspaces/.wsctl-kept/{item['user']}-")
        assert full.reached.trees.live[(str(item["target"]), str(item["user"]))] == {"work": item["user"]}
    assert "n1" not in placed(full).values()
    assert len(set(placed(full).values())) == 2
    assert not [c for c in full.fleet["n1"].containers() if c.is_running]
    n1 = nodes(full)["n1"]
    assert (n1["state"], n1["workspaces"], n1["moving"]) == ("draining", 0, 0)
    assert n1["reason"] == "new disk; 0 left, 0 of them on their way"
    # Who was stopped still is, and was never started.
    shown = full.ok("show", "carol", "-o", "json").json
    assert (shown["state"], shown["node"]) == ("stopped", placed(full)["carol"])
    assert ("start", "ws-u-carol") not in full.fleet[placed(full)["carol"]].calls
    again = full("node", "drain", "n1", "--yes")
    assert (again.code, again.out) == (0, "")
    assert "n1 is empty" in again.err
    assert "keeps copies of 4 users" in again.err
    full.ok("node", "uncordon", "n1")
    assert nodes(full)["n1"]["state"] == "ready"


def test_it_is_in_the_audit(full: Desk) -> None:
    full.ok("node", "drain", "n1", "--yes", "--request-id", "r1", "-o", "json")
    rows = full.ok("audit", "--request-id", "r1", "-o", "json").items
    done = {(row["target"], row["action"]) for row in rows if row["kind"] == "done"}
    assert done == {("n1", "draining"), *((user, "migrated") for user in USERS)}
    assert {row["verb"] for row in rows} == {"node drain"}
    first = full.ok("node", "drain", "n1", "--yes", "--request-id", "r1", "-o", "json").items
    assert verdicts(first) == dict.fromkeys(USERS, "moved")


def test_a_dry_run_says_what_there_is_to_copy_and_changes_nothing(full: Desk) -> None:
    before = placed(full)
    ran = full("node", "drain", "n1", "--dry-run")
    assert ran.code == 0
    assert ran.lines[0] == ["USER", "SOURCE", "TARGET", "VERDICT", "SIZE", "REASON"]
    assert {line[0]: line[3] for line in ran.lines[1:]} == dict.fromkeys(USERS, "would-move")
    assert "4 users, 17 B in 4 files; about 0 s, 4 at a time" in ran.err
    full.reached.trees.live[("n1", "alice")] = {"work": 1000 * "alice"}
    items = full.ok("node", "drain", "n1", "-n", "-o", "json", "--bwlimit", "1k").items
    alice = next(item for item in items if item["user"] == "alice")
    assert (alice["size_bytes"], alice["files"], alice["estimate_s"]) == (5000, 1, 4.9)
    assert placed(full) == before
    assert full.effects() == {}
    assert nodes(full)["n1"]["state"] == "ready"


def test_without_yes_it_asks_and_shows_who_goes_where(full: Desk) -> None:
    ran = full("node", "drain", "n1", stdin="n\n", tty=True)
    assert ran.code == 5
    assert "~ move     alice from n1 to n" in ran.err
    assert "(5 B)" in ran.err
    assert "Move 4 users off n1?" in ran.err
    assert nodes(full)["n1"]["state"] == "ready"
    assert full("node", "drain", "n1").code == 5  # nobody can be asked
    ran = full("node", "drain", "n1", stdin="y\n", tty=True)
    assert ran.code == 0, ran.err
    assert "n1" not in placed(full).values()


def test_what_was_confirmed_is_done_or_nothing(full: Desk) -> None:
    ran = full("node", "drain", "n1", stdin="y\n", tty=True, thinking=lambda: full.sql(
        "UPDATE placements SET state = 'reserved' WHERE user = 'bob'"))  # fmt: skip
    assert ran.code == 5
    assert "changed since it was shown" in ran.err
    assert set(placed(full).values()) == {"n1"}
    assert nodes(full)["n1"]["state"] == "ready"


def test_no_room_is_found_out_before_anybody_moves(full: Desk) -> None:
    full.inventory(INVENTORY.replace("n2: {address: 10.0.0.2}", "n2: {address: 10.0.0.2, capacity: {memory: 4g}}"))
    full.ok("node", "cordon", "n3")
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert (ran.code, ran.error["code"]) == (7, "unschedulable")
    assert "1 of 4 users" in ran.error["message"]
    assert "not enough memory" in ran.error["message"]
    assert "--partial" in ran.error["hint"]
    (stays,) = ran.error["details"]["users"]
    assert set(placed(full).values()) == {"n1"}
    assert nodes(full)["n1"]["state"] == "ready"
    assert full("node", "drain", "n1", "-n").code == 7
    ran = full("node", "drain", "n1", "--yes", "--partial", "-o", "json")
    assert (ran.code, ran.error["code"]) == (9, "partial")
    assert verdicts(ran.items) == {user: "no-room" if user == stays else "moved" for user in USERS}
    assert [user for user, node in placed(full).items() if node == "n1"] == [stays]
    assert nodes(full)["n1"]["reason"] == "1 left, 0 of them on their way"
    full.ok("node", "uncordon", "n3")
    assert full.ok("node", "drain", "n1", "--yes", "-o", "json").items[0]["user"] == stays


def test_no_room_for_anybody_is_7_with_partial_too(full: Desk) -> None:
    full.ok("node", "cordon", "n2", "n3")
    assert full("node", "drain", "n1", "--yes").code == 7
    ran = full("node", "drain", "n1", "--yes", "--partial")
    assert ran.code == 7
    assert "cordoned" in ran.out


def test_where_to_is_limited_by_name_and_label(full: Desk) -> None:
    text = INVENTORY.replace("n2: {address: 10.0.0.2}", "n2: {address: 10.0.0.2, labels: {zone: b}}")
    full.inventory(text.replace("n1: {address: 10.0.0.1, labels: {zone: a}}", "n1: {address: 10.0.0.1}"))
    items = full.ok("node", "drain", "n1", "-n", "--label", "zone=b", "-o", "json").items
    assert {item["target"] for item in items} == {"n2"}
    full.ok("node", "drain", "n1", "--yes", "--to", "n3", "-o", "json")
    assert set(placed(full).values()) == {"n3"}
    ran = full("node", "drain", "n3", "--yes", "--label", "zone=c", "-o", "json")
    assert ran.code == 7
    assert "without zone=c" in ran.error["message"]


def test_only_the_idle_move(full: Desk) -> None:
    full("reap-idle", "--dry-run")
    full.ok("reap-idle")  # looks for the first time
    full.clock.advance(3600)  # type: ignore[union-attr]
    full.ok("touch", "bob")
    ran = full("node", "drain", "n1", "--yes", "--only-idle", "-o", "json")
    assert ran.code == 9, ran.err
    assert verdicts(ran.items) == {"alice": "moved", "bob": "busy", "carol": "moved", "dave": "moved"}
    bob = next(item for item in ran.items if item["user"] == "bob")
    assert "active 0 s ago (touch)" in str(bob["reason"])
    assert placed(full)["bob"] == "n1"
    full.clock.advance(3600)  # type: ignore[union-attr]
    assert verdicts(full.ok("node", "drain", "n1", "--only-idle", "--yes", "-o", "json").items) == {"bob": "moved"}


def test_after_the_deadline_no_move_begins(full: Desk) -> None:
    full.reached.trees.slow_s = 60.0
    full.reached.trees.clock = full.clock  # type: ignore[assignment]
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1", "--deadline", "90s", "-o", "json")
    assert ran.code == 9
    late = [item for item in ran.items if item["verdict"] == "late"]
    assert 0 < len(late) < 4
    assert {item["reason"] for item in late} == {"the deadline has passed"}
    assert sorted(user for user, node in placed(full).items() if node == "n1") == [item["user"] for item in late]
    assert "goes on with who is left" in ran.error["hint"]
    full.reached.trees.slow_s = 0.0
    again = full.ok("node", "drain", "n1", "--yes", "-o", "json").items
    assert [item["user"] for item in again] == [item["user"] for item in late]


def test_ctrl_c_lets_begun_moves_finish(full: Desk) -> None:
    begun: list[str] = []

    def interrupt(user: str) -> None:
        if user not in begun:
            begun.append(user)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.2)  # the signal arrives in another thread

    full.reached.trees.on_copy = interrupt
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1")
    assert ran.code == 130
    assert f"no further move begins; waiting for {begun[0]} to arrive" in ran.err
    assert len(begun) == 1
    assert [user for user, node in placed(full).items() if node != "n1"] == begun
    assert full.sql("SELECT * FROM moves") == []
    full.reached.trees.on_copy = lambda user: None
    full.ok("node", "drain", "n1", "--yes", "-o", "json")
    assert "n1" not in placed(full).values()


def test_who_has_moved_is_routed_while_the_others_still_move(full: Desk) -> None:
    text = full.ok("render-gateway").out
    full.inventory(INVENTORY + "gateway: {auto_apply: true, hosts: {east: {address: local}}}\n")
    east = full.edges.made["east"] = FakeGateway(live=text, served=text)
    seen: list[tuple[str, str]] = []
    full.reached.trees.on_copy = lambda user: seen.append((user, east.live or ""))
    items = full.ok("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json").items
    targets = {str(item["user"]): str(item["target"]).replace("n", "10.0.0.") for item in items}
    order = list(dict.fromkeys(user for user, _ in seen))
    last = next(map_ for user, map_ in seen if user == order[-1])
    for user in set(order[:-1]) - {"carol"}:
        assert f'"u:{user}" {targets[user]}:' in last
    assert east.served == full.ok("render-gateway").out


def test_one_who_cannot_be_moved_stops_nobody(full: Desk) -> None:
    full.sql("UPDATE placements SET state = 'reserved' WHERE user = 'bob'")
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert ran.code == 9
    assert verdicts(ran.items) == {"alice": "moved", "bob": "failed", "carol": "moved", "dave": "moved"}
    assert ran.error["details"]["left"] == {"bob": "bob is only being placed: there is nothing to move yet"}


def test_somebody_else_is_acting_on_a_user(full: Desk) -> None:
    full.hold("user:bob", command="stop")
    ran = full("node", "drain", "n1", "--yes", "--wait", "0", "-o", "json")
    assert ran.code == 9
    bob = next(item for item in ran.items if item["user"] == "bob")
    assert bob["verdict"] == "failed"
    assert "eve@other:7" in str(bob["reason"])
    full.clock.advance(40)  # type: ignore[union-attr]
    full.ok("node", "drain", "n1", "--yes", "-o", "json")


def test_two_drains_of_a_node_at_once(full: Desk) -> None:
    full.hold("drain:n1", command="node drain")
    ran = full("node", "drain", "n1", "--yes", "--wait", "0", "-o", "json")
    assert (ran.code, ran.error["code"]) == (6, "busy")


def test_another_target_is_taken_when_one_dies(full: Desk) -> None:
    full.reached.trees.on_copy = lambda user: full.fleet["n2"].freeze()
    ran = full("node", "drain", "n1", "--yes", "--parallel", "2", "-o", "json")
    assert ran.code == 0, ran.err
    assert set(verdicts(ran.items).values()) == {"moved"}
    assert set(placed(full).values()) == {"n3"}
    assert full.sql("SELECT * FROM moves") == []


def test_a_connection_that_broke_costs_nobody_the_move(full: Desk) -> None:
    """There is nowhere else to go, so the others have no room for a while."""
    full.ok("node", "cordon", "n3")
    full.reached.trees.fail("copy", NodeUnreachable("n2", "the SSH connection broke: SSH session not active"))
    ran = full.ok("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json")
    assert verdicts(ran.items) == dict.fromkeys(USERS, "moved")
    assert set(placed(full).values()) == {"n2"}


def test_a_copy_that_breaks_off_is_made_to_another_node(full: Desk) -> None:
    """The source's rsync tells it, whichever side broke."""
    full.reached.trees.fail("copy", FilesError("n1", "write error: Broken pipe"))
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json")
    assert ran.code == 0, ran.err
    full.reached.trees.fail("copy", FilesError("n3", "permission denied"), times=99)
    first = placed(full)
    node = first["alice"]
    ran = full("node", "drain", node, "--yes", "--parallel", "1", "-o", "json")
    assert ran.code == 9
    assert "permission denied" in str(ran.items[0]["reason"])
    assert placed(full) == first


def test_a_full_target_is_not_asked_twice_for_the_same_user(full: Desk) -> None:
    for _ in range(2):
        full.reached.trees.fail("verify", FilesError("n2", "no space left on device"))
        full.reached.trees.fail("verify", FilesError("n3", "no space left on device"))
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json")
    assert ran.code == 9
    failed = [item for item in ran.items if item["verdict"] == "failed"]
    assert failed
    assert "no space left on device" in str(failed[0]["reason"])
    shown = full.ok("show", str(failed[0]["user"]), "-o", "json").json
    assert (shown["node"], shown["state"]) in (("n1", "running"), ("n1", "stopped"))


def test_done_means_that_nothing_runs_there(full: Desk) -> None:
    engine = full.fleet["n1"]
    engine.add("ws-u-zoe", user="zoe", cluster="studio", generation="1")
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert ran.code == 9
    zoe = next(item for item in ran.items if item["user"] == "zoe")
    assert zoe["verdict"] == "orphan"
    assert "wsctl reconcile" in str(zoe["reason"])


def test_who_is_being_moved_there_is_said(full: Desk) -> None:
    full.ok("node", "drain", "n1", "--yes", "--to", "n2", "-o", "json")
    full.sql("INSERT INTO moves (cluster, user, source, target, address, host_port, memory_bytes, cpus_milli, pids, "
             "active, began_at) VALUES ('studio', 'alice', 'n2', 'n1', '10.0.0.1', 20050, 1, 1, 1, 1, 0)")  # fmt: skip
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert (ran.code, verdicts(ran.items)) == (9, {"alice": "arriving"})


def test_files_of_removed_users_are_said(full: Desk) -> None:
    full.ok("rm", "dave", "--yes")
    ran = full("node", "drain", "n1", "--yes")
    assert ran.code == 0
    assert "n1 still has the files of 1 user without a placement: dave" in ran.err


def test_uncordon_ends_it(full: Desk) -> None:
    def uncordon(user: str) -> None:
        full.sql("DELETE FROM node_marks")

    full.reached.trees.on_copy = uncordon
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json")
    assert ran.code == 9
    assert sorted(verdicts(ran.items).values(), key=str) == ["late", "late", "late", "moved"]
    assert "n1 isn't draining any more" in {item["reason"] for item in ran.items}


def test_a_node_that_does_not_answer(full: Desk) -> None:
    full.fleet.cut("n1")
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert (ran.code, ran.error["code"]) == (8, "node-unreachable")
    assert nodes(full)["n1"]["state"] == "ready"


def test_a_node_that_is_marked_down(full: Desk) -> None:
    full.ok("node", "cordon", "n1")
    full.sql("UPDATE node_marks SET state = 'down'")
    assert full("node", "drain", "n1", "--yes").code == 5


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["n9"], 4),
        (["n1", "--to", "n9"], 4),
        (["n1", "--to", "n1"], 2),
        (["n1", "--label", "zone"], 2),
        (["n1", "--deadline", "soon"], 2),
        (["n1", "--parallel", "0"], 2),
        (["n1", "--verify", "much"], 2),
    ],
)
def test_refusals(desk: Desk, argv: list[str], code: int) -> None:
    ran = desk("node", "drain", *argv)
    assert ran.code == code
    assert not desk.state.exists()


def test_an_empty_node_is_only_marked(desk: Desk) -> None:
    assert desk.ok("node", "drain", "n3", "-o", "json").items == []
    assert nodes(desk)["n3"]["state"] == "draining"


def test_a_node_that_is_marked_down_meanwhile(full: Desk) -> None:
    """What was done is told, and nobody calls a node empty that wasn't asked."""
    full.reached.trees.on_copy = lambda user: full.sql("UPDATE node_marks SET state = 'down' WHERE node = 'n1'")
    ran = full("node", "drain", "n1", "--yes", "--parallel", "1", "-o", "json")
    assert ran.code == 9, ran.err
    (moved,) = [user for user, node in placed(full).items() if node != "n1"]
    late = {user: "moved" if user == moved else "late" for user in USERS}
    assert verdicts(ran.items) == {**late, None: "unknown"}
    assert ran.items[-1]["reason"] == "n1 is marked down: nothing can be brought away from it"
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "refused")


def test_marked_down_before_the_last_look(full: Desk) -> None:
    full.ok("rm", *USERS[1:], "--yes")
    full.reached.trees.on_copy = lambda user: full.sql("UPDATE node_marks SET state = 'down' WHERE node = 'n1'")
    ran = full("node", "drain", "n1", "--yes", "-o", "json")
    assert (ran.code, verdicts(ran.items)) == (9, {"alice": "moved", None: "unknown"})
    assert "is empty" not in ran.err


def test_who_is_gone_meanwhile_is_not_left(full: Desk) -> None:
    """Somebody else was acting on bob: they removed him."""
    full.ok("stop", "bob")
    full.hold("user:bob", command="rm")
    full.reached.trees.on_copy = lambda user: full.sql("DELETE FROM placements WHERE user = 'bob'")
    ran = full("node", "drain", "n1", "--yes", "--wait", "0", "-o", "json")
    assert ran.code == 0, ran.err
    assert verdicts(ran.items) == {"alice": "moved", "bob": "gone", "carol": "moved", "dave": "moved"}


@pytest.mark.parametrize("least", ["0", "1023", "fast"])
def test_a_limit_under_which_nothing_arrives_is_refused(full: Desk, least: str) -> None:
    for more in ("--dry-run", "--yes"):
        ran = full("node", "drain", "n1", more, "--bwlimit", least, "-o", "json")
        assert (ran.code, ran.error["code"]) == (2, "usage")
        assert "at least 1k" in ran.error["message"]
