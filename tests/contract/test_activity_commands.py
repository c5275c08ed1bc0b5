"""`wsctl touch`, `activity flush` and `reap-idle` on a real Redis, alone, a Cluster, and behind Sentinel: with it no
more is lost than what came since the last flush, and nobody is stopped for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import RedisServer, make_redis
from test_activity_contract import sentinel

from tests.commands.conftest import INVENTORY, Desk, desk, folder
from wsctl.context import SystemClock

__all__ = ["desk", "folder"]


@pytest.fixture(params=["redis", "cluster", "sentinel"])
def town(
    request: pytest.FixtureRequest, desk: Desk, own_redis: RedisServer, tmp_path: Path
) -> Iterator[tuple[Desk, list[RedisServer]]]:
    """alice and bob run, by this machine's clock; and the members of their Redis."""
    desk.clock = SystemClock()
    members = [own_redis]
    if request.param == "sentinel":
        with sentinel(own_redis, tmp_path) as url:
            yield placed(desk, url), members
        return
    url = own_redis.url
    if request.param == "cluster":
        members = request.getfixturevalue("redis_cluster")
        for member in members:
            member.command("flushall")
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
    yield placed(desk, url), members


def placed(desk: Desk, url: str) -> Desk:
    desk.inventory(f"{INVENTORY}coordination: {url}\n")
    desk.ok("place", "alice", "bob")
    return desk


def verdicts(desk: Desk, *more: str) -> dict[str, tuple[str, str]]:
    items = desk.ok("reap-idle", "--idle", "2s", "-o", "json", *more).items
    return {item["user"]: (item["verdict"], item["reason"]) for item in items}


def source(desk: Desk, user: str) -> str:
    ((found,),) = desk.sql("SELECT source FROM activity WHERE user = ?", user)
    return str(found)


def test_an_emptied_redis_stops_nobody(town: tuple[Desk, list[RedisServer]]) -> None:
    desk, members = town
    assert {reason for _, reason in verdicts(desk, "--idle", "0s").values()} == {
        "it isn't known since when activity is recorded"
    }, "that begins with the first run"
    desk.ok("touch", "alice")
    assert source(desk, "alice") == "start", "it is in Redis alone"
    assert desk.ok("show", "alice", "-o", "json").json["active_by"] == "touch"
    time.sleep(2.1)
    assert {verdict for verdict, _ in verdicts(desk, "-n").values()} == {"would-stop"}
    for member in members:
        member.command("flushall")
    why = ("unknown", "it isn't known since when activity is recorded")
    assert verdicts(desk, "-n") == {"alice": why, "bob": why}, "a rehearsal doesn't begin anything"
    assert verdicts(desk) == {"alice": why, "bob": why}
    time.sleep(0.5)
    found = verdicts(desk)
    assert {verdict for verdict, _ in found.values()} == {"unknown"}
    assert found["bob"][1].startswith("activity is recorded for ")
    assert found["bob"][1].endswith("s only, limit 2 s")
    time.sleep(1.6)
    desk.ok("touch", "alice")
    assert {user: verdict for user, (verdict, _) in verdicts(desk).items()} == {"alice": "kept", "bob": "stopped"}
    assert source(desk, "alice") == "touch", "the reaper flushes"


def test_what_was_flushed_is_there_after_redis_is_gone(town: tuple[Desk, list[RedisServer]]) -> None:
    desk, members = town
    desk.ok("touch", "alice")
    assert desk.ok("activity", "flush", "-n", "-o", "json").json == {
        "schema_version": 1, "users": 1, "action": "would-flush",
    }  # fmt: skip
    assert source(desk, "alice") == "start"
    assert [desk.ok("activity", "flush", "-o", "json").json["users"] for _ in range(2)] == [1, 1]
    before = desk.ok("show", "alice", "-o", "json").json["last_active_at"]
    for member in members:
        member.command("flushall")
    shown = desk.ok("show", "alice", "-o", "json").json
    assert (shown["last_active_at"], shown["active_by"]) == (before, "touch")


def test_a_redis_that_is_down_stops_nobody_and_touches_go_on(desk: Desk) -> None:
    server = make_redis()
    try:
        desk.clock = SystemClock()
        placed(desk, server.url)
        verdicts(desk, "--idle", "0s")
        time.sleep(2.1)
        server.stop()
        assert desk.ok("touch", "alice").code == 0
        assert source(desk, "alice") == "touch"
        result = desk("reap-idle", "--idle", "1s", "-o", "json")
        assert result.code == 9
        assert {item["verdict"] for item in result.items} <= {"unknown", "kept"}
        assert "activity in Redis can't be read" in result.items[1]["reason"]
        assert "activity in Redis can't be read, so" in result.error["message"]
        assert desk("activity", "flush").code == 10
        assert not [call for calls in desk.effects().values() for call in calls if call[0] == "stop"]
    finally:
        server.stop()
