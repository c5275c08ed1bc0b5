"""`wsctl rebalance` as an operator types it, on fake nodes with fake files."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Desk
from tests.fakes import FakeCommands
from wsctl.errors import FilesError, NodeUnreachable

USERS = tuple(f"u{number}" for number in range(6))


@pytest.fixture
def lopsided(desk: Desk) -> Desk:
    """Six users run on n1, each with files; n2 and n3 are empty."""
    desk.ok("node", "cordon", "n2", "n3")
    desk.ok("place", *USERS)
    desk.ok("node", "uncordon", "n2", "n3")
    for user in USERS:
        desk.reached.trees.live[("n1", user)] = {"work": user}
    desk.forget()
    return desk


def spread_out(desk: Desk) -> list[int]:
    found = dict(desk.sql("SELECT node, COUNT(*) FROM placements GROUP BY node"))
    return [found.get(name, 0) for name in ("n1", "n2", "n3")]


def test_the_plan_with_cost_and_lower_bound(lopsided: Desk) -> None:
    plan = lopsided.ok("rebalance", "--dry-run", "-o", "json").json
    assert plan["dry_run"] is True
    assert (plan["spread_before"], plan["spread_after"], plan["target_spread"]) == (0.6, 0.0, 0.1)
    assert (plan["moves"], plan["lower_bound"], plan["size_bytes"]) == (4, 4, 8)
    assert plan["nodes"][0] == {"node": "n1", "load_before": 0.6, "load_after": 0.2}
    first = plan["items"][0]
    assert (first["user"], first["source"], first["verdict"]) == ("u0", "n1", "would-move")
    assert (first["size_bytes"], first["files"]) == (2, 1)
    assert spread_out(lopsided) == [6, 0, 0]
    ran = lopsided("rebalance", "-n")
    assert ran.code == 0
    assert "load of n1: 60.0 % → 20.0 %" in ran.err
    assert "4 moves, 8 B to copy: the loads differ by 60.0 % now, by 0.0 % afterwards" in ran.err
    assert "reaching 10.0 % takes at least 4 moves, whatever the plan" in ran.err
    assert [line[0] for line in ran.lines] == ["USER", "u0", "u1", "u2", "u3"]


def test_the_moves_are_made(lopsided: Desk) -> None:
    done = lopsided.ok("rebalance", "--yes", "-o", "json").json
    assert (done["spread_before"], done["spread_after"], done["moves"]) == (0.6, 0.0, 4)
    assert {(item["verdict"], item["action"]) for item in done["items"]} == {("moved", "migrated")}
    assert spread_out(lopsided) == [2, 2, 2]
    for item in done["items"]:
        assert lopsided.reached.trees.live[(item["target"], item["user"])] == {"work": item["user"]}
    again = lopsided.ok("rebalance", "-o", "json").json
    assert (again["moves"], again["items"], again["lower_bound"]) == (0, [], 0)
    ran = lopsided("rebalance", "-n")
    assert "nothing to do: the loads differ by 0.0 %, 10.0 % is asked for" in ran.err


def test_a_request_id_moves_once(lopsided: Desk) -> None:
    first = lopsided.ok("rebalance", "--yes", "--request-id", "r1", "-o", "json").json
    assert lopsided.ok("rebalance", "--yes", "--request-id", "r1", "-o", "json").json == first
    assert lopsided("rebalance", "--yes", "--request-id", "r1", "--target", "1%").code == 5


def test_a_bounded_plan_says_how_far_it_goes(lopsided: Desk) -> None:
    ran = lopsided("rebalance", "-n", "--max-moves", "2")
    assert ran.code == 0
    assert "at least 4 moves" in ran.err
    assert "warning: these moves don't reach 10.0 %" in ran.err
    lopsided.ok("rebalance", "--yes", "--max-moves", "2", "-o", "json")
    assert spread_out(lopsided) == [4, 1, 1]


def test_it_asks(lopsided: Desk) -> None:
    ran = lopsided("rebalance", stdin="n\n", tty=True)
    assert ran.code == 5
    assert "~ move     u0 from n1 to n" in ran.err
    assert "Move 4 users?" in ran.err
    assert lopsided("rebalance").code == 5
    ran = lopsided("rebalance", stdin="y\n", tty=True, thinking=lambda: lopsided.sql(
        "UPDATE placements SET state = 'starting' WHERE user = 'u1'"))  # fmt: skip
    assert ran.code == 5
    assert "changed since they were shown" in ran.err
    assert spread_out(lopsided) == [6, 0, 0]
    lopsided.sql("UPDATE placements SET state = 'running'")
    assert lopsided("rebalance", stdin="y\n", tty=True).code == 0


def test_idle_users_first_or_only(lopsided: Desk) -> None:
    lopsided.ok("reap-idle")
    lopsided.clock.advance(3600)  # type: ignore[union-attr]
    lopsided.ok("touch", "u0", "u1", "u2")
    items = lopsided.ok("rebalance", "-n", "-o", "json").json["items"]
    assert [(item["user"], item["reason"]) for item in items[:3]] == [("u3", "idle"), ("u4", "idle"), ("u5", "idle")]
    assert (items[3]["user"], items[3]["reason"]) == ("u0", None)
    lopsided.ok("rebalance", "--yes", "--only-idle", "-o", "json")
    assert spread_out(lopsided)[0] == 3
    plan = lopsided("rebalance", "-n", "--only-idle")
    assert "no moves of those who may be moved reach 10.0 %" in plan.err


def test_a_target_that_dies_fails_its_moves_only(lopsided: Desk) -> None:
    lopsided.reached.trees.on_copy = lambda user: lopsided.fleet["n2"].freeze()
    ran = lopsided("rebalance", "--yes", "--parallel", "1", "-o", "json")
    assert (ran.code, ran.error["code"]) == (9, "partial")
    verdicts = {item["user"]: item["verdict"] for item in ran.json["items"]}
    assert sorted(verdicts.values()) == ["failed", "moved", "moved", "no-room"]
    assert spread_out(lopsided) == [4, 0, 2]
    assert lopsided.sql("SELECT * FROM moves") == []


def test_a_failure_says_why(lopsided: Desk) -> None:
    lopsided.reached.trees.fail("verify", FilesError("n2", "no space left on device"), times=9)
    ran = lopsided("rebalance", "--yes", "-o", "json")
    assert ran.code == 9
    assert "no space left on device" in ran.error["message"]
    assert spread_out(lopsided) == [6, 0, 0]


def test_two_at_once(lopsided: Desk) -> None:
    lopsided.hold("rebalance", command="rebalance")
    assert lopsided("rebalance", "--yes", "--wait", "0").code == 6


def test_cordoned_and_silent_nodes_are_left_alone(lopsided: Desk) -> None:
    lopsided.ok("node", "cordon", "n3")
    lopsided.fleet.cut("n2")
    assert lopsided.ok("rebalance", "--yes", "-o", "json").json["moves"] == 0
    lopsided.fleet.unreachable["n2"] = NodeUnreachable("n2", "no route")
    assert spread_out(lopsided) == [6, 0, 0]


@pytest.mark.parametrize("argv", [["--target", "far"], ["--target", "120%"], ["--max-moves", "0"], ["--by", "luck"]])
def test_refusals(desk: Desk, argv: list[str]) -> None:
    assert desk("rebalance", *argv).code == 2
    assert not desk.state.exists()


def test_nobody_is_looked_at_when_there_is_nothing_to_do(lopsided: Desk) -> None:
    def machine(name: str) -> FakeCommands:
        looked.append(name)
        return FakeCommands()

    looked: list[str] = []
    lopsided.ok("reap-idle")
    lopsided.clock.advance(3600)  # type: ignore[union-attr]
    lopsided.patch.setattr(lopsided.reached, "commands", machine)
    lopsided.ok("rebalance", "--target", "60%", "--yes", "-o", "json")
    assert looked == []
    lopsided.ok("rebalance", "--yes", "-o", "json")
    assert looked != []
