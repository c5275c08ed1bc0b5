"""`wsctl touch` and `wsctl reap-idle`."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Desk
from tests.fakes import PROBE_BYTES


@pytest.fixture
def team(desk: Desk) -> Desk:
    desk.ok("place", "alice", "bob", "carol")
    desk.forget()
    return desk


def later(desk: Desk, seconds: float) -> None:
    desk.clock.advance(seconds)  # type: ignore[union-attr]


def test_touch_records_now(team: Desk) -> None:
    later(team, 60)
    items = team.ok("touch", "bob", "alice", "-o", "json").items
    assert items == [
        {"user": "bob", "last_active_at": "2026-01-01T12:01:00Z", "action": "touched"},
        {"user": "alice", "last_active_at": "2026-01-01T12:01:00Z", "action": "touched"},
    ]
    assert team.ok("show", "bob", "-o", "json").json["active_by"] == "touch"


def test_touch_of_strangers_is_4_and_of_some_is_9(team: Desk) -> None:
    result = team("touch", "zoe", "-o", "json")
    assert (result.code, result.out) == (4, "")
    assert result.error["details"]["users"] == ["zoe"]
    result = team("touch", "zoe", "alice", "yan")
    assert result.code == 9
    assert [line[0] for line in result.lines] == ["USER", "alice"]
    assert "2 of 3 have no placement: zoe, yan" in result.err
    assert team.sql("SELECT COUNT(*) FROM activity WHERE user IN ('zoe', 'yan')") == [(0,)]


def test_touch_takes_a_list_and_rehearses(team: Desk) -> None:
    later(team, 60)
    before = team.sql("SELECT * FROM activity ORDER BY user")
    result = team.ok("touch", "--from", "-", "-n", "-o", "json", stdin="alice\nbob\n")
    assert [item["action"] for item in result.items] == ["would-touch"] * 2
    assert team.sql("SELECT * FROM activity ORDER BY user") == before
    assert team.ok("touch", "--from", "-", stdin="alice\n").code == 0
    assert team("touch").code == 2
    assert team("touch", "alice", "--from", "-").code == 2


def test_reaping_says_what_and_why_for_everybody(team: Desk) -> None:
    later(team, 3600)
    team.ok("touch", "bob")
    team.fleet.cut(team.home("carol"))
    result = team("reap-idle", "-o", "json")
    assert result.code == 9, "an answer that is incomplete"
    found = {item["user"]: item for item in result.items}
    assert {user: item["verdict"] for user, item in found.items()} == {
        "alice": "stopped",
        "bob": "kept",
        "carol": "unknown",
    }
    for item in found.values():
        assert set(item) == {"user", "node", "verdict", "reason", "last_active_at", "signals"}
    assert "idle for 1h" in found["alice"]["reason"]
    assert {signal["source"] for signal in found["alice"]["signals"]} == {"start", "network"}
    assert result.error["details"] == {"failed": [], "unknown": ["carol"]}
    assert team.ok("ls", "--state", "stopped", "-o", "json").items[0]["user"] == "alice"


def test_a_rehearsal_stops_nobody_and_records_nothing(team: Desk) -> None:
    later(team, 3600)
    before = [team.sql(f"SELECT * FROM {table} ORDER BY user") for table in ("samples", "activity", "placements")]
    result = team.ok("reap-idle", "--dry-run", "-o", "json")
    assert {item["verdict"] for item in result.items} == {"would-stop"}
    assert not team.effects()
    assert [team.sql(f"SELECT * FROM {t} ORDER BY user") for t in ("samples", "activity", "placements")] == before


def test_a_rehearsal_on_a_new_cluster_makes_no_file(desk: Desk) -> None:
    assert desk.ok("reap-idle", "-n", "-o", "json").items == []
    assert not desk.state.exists()


def test_at_most_so_many_in_one_run_and_the_rest_in_the_next(team: Desk) -> None:
    later(team, 3600)
    first = team.ok("reap-idle", "--max", "2", "-o", "json").items
    assert [item["verdict"] for item in first] == ["stopped", "stopped", "would-stop"]
    second = team.ok("reap-idle", "--max", "2", "-o", "json").items
    assert [(item["user"], item["verdict"]) for item in second] == [("carol", "stopped")]
    assert team.ok("reap-idle", "-o", "json").items == []


def test_traffic_between_two_runs_keeps(team: Desk) -> None:
    later(team, 3600)
    team.fleet[team.home("alice")].held("ws-u-alice").tx = PROBE_BYTES + 10_000
    found = {item["user"]: item for item in team.ok("reap-idle", "-o", "json").items}
    assert (found["alice"]["verdict"], found["bob"]["verdict"]) == ("kept", "stopped")
    assert "sent 10000 bytes" in found["alice"]["reason"]
    later(team, 3600)
    assert [item["verdict"] for item in team.ok("reap-idle", "-o", "json").items] == ["stopped"]


def test_a_stopped_user_comes_back_with_place(team: Desk) -> None:
    later(team, 3600)
    team.ok("reap-idle", "--user", "alice")
    assert team.ok("place", "alice", "-o", "json").json["action"] == "started"
    assert team.ok("reap-idle", "--user", "alice", "-o", "json").items[0]["verdict"] == "kept"


def test_the_limit_is_a_duration(team: Desk) -> None:
    later(team, 61)
    assert {item["verdict"] for item in team.ok("reap-idle", "--idle", "2m", "-o", "json").items} == {"kept"}
    assert {item["verdict"] for item in team.ok("reap-idle", "--idle", "1m", "-o", "json").items} == {"stopped"}
    for bad in ("30", "soon", "-1m"):
        assert team("reap-idle", f"--idle={bad}").code == 2
    assert team("reap-idle", "--max", "0").code == 2
    assert team("reap-idle", "--user", "NOBODY").code == 2


def test_a_stop_that_fails_is_9_and_the_others_are_stopped(team: Desk) -> None:
    from wsctl.errors import EngineError

    later(team, 3600)
    node = team.home("alice")
    team.fleet[node].fail("stop", EngineError(node, "cannot kill container"))
    result = team("reap-idle", "-o", "json")
    assert result.code == 9
    assert [item["verdict"] for item in result.items] == ["failed", "stopped", "stopped"]
    assert result.error["details"]["failed"] == ["alice"]


def test_reaping_in_words(team: Desk) -> None:
    later(team, 3600)
    header, row, *_ = team.ok("reap-idle", "--user", "alice").out.splitlines()
    assert header.split() == ["USER", "NODE", "VERDICT", "ACTIVE", "REASON"]
    assert row.split()[0:3] == ["alice", team.home("alice"), "stopped"]
    assert "1h ago" in row
