"""`wsctl activity …`: the gateway's access log as activity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands.conftest import Desk
from wsctl.accesslog import LONGEST_LINE


@pytest.fixture
def team(desk: Desk) -> Desk:
    desk.ok("place", "alice", "bob", "carol")
    desk.clock.advance(3600)  # type: ignore[union-attr]
    return desk


def line(user: str, minute: int, path: str = "/", status: int = 200, who: str = "-") -> str:
    """A line of Nginx's `combined` log, some minutes after 12:00."""
    at = f"01/Jan/2026:14:{minute:02d}:00 +0200"
    return f'10.9.9.9 - {who} [{at}] "GET /ws/{user}{path} HTTP/1.1" {status} 512 "-" "x"\n'


def active(desk: Desk) -> dict[str, str]:
    """Who was active when, by the gateway's log."""
    rows = desk.sql("SELECT user, last_active_at FROM activity WHERE source = 'gateway' ORDER BY user")
    return {user: at[11:16] for user, at in rows}


def ingest(desk: Desk, *more: str, stdin: str | bytes = b"") -> dict[str, object]:
    found: dict[str, object] = desk.ok("activity", "ingest", *more, "-o", "json", stdin=stdin).json
    return found


def test_requests_are_activity_at_their_time(team: Desk) -> None:
    text = line("alice", 30) + line("alice", 20) + line("bob", 5, "?token=1") + line("zoe", 9)
    found = ingest(team, "--from", "-", stdin=text)
    assert active(team) == {"alice": "12:30", "bob": "12:05"}
    assert (found["lines"], found["counted"], found["unknown_users"], found["users"]) == (4, 3, 1, 2)


def test_what_does_not_count(team: Desk) -> None:
    text = (
        line("alice", 30, "/api/ping?x=1")
        + line("bob", 30, "/deep/down/heartbeat")
        + line("carol", 30, "/", 502)
        + line("carol", 31, "/", 404)
        + '1.2.3.4 - - [01/Jan/2026:14:30:00 +0200] "GET /other/alice/ HTTP/1.1" 200 1 "-" "-"\n'
    )
    found = ingest(team, "--from", "-", "--ignore", "/api/ping", "--ignore", "*/heartbeat", stdin=text)
    assert active(team) == {}
    assert (found["ignored"], found["counted"]) == (5, 0)
    assert ingest(team, "--from", "-", "--ignore", "/api/ping", stdin=line("alice", 30, "/api/pings"))["counted"] == 1


def test_no_line_is_trusted(team: Desk) -> None:
    hostile = [
        b"\x00\xff\xfe garbage \x1b[2J\n",
        b'1.2.3.4 - - [99/Jan/2026:14:30:00 +0200] "GET /ws/alice/ HTTP/1.1" 200 1\n',
        b'1.2.3.4 - - [01/Jux/2026:14:30:00 +0200] "GET /ws/alice/ HTTP/1.1" 200 1\n',
        b'1.2.3.4 - - [01/Jan/2026:14:30:00 +0200] "\\x16\\x03\\x01" 400 1\n',
        b'1.2.3.4 - [01/Jan/2026:14:30:00 +0200] \\x22GET /ws/bob/ HTTP/1.1\\x22 200 1 [x] "GET / HTTP/1.1" 200 1\n',
        line("%2e%2e%2fetc", 30).encode(),
        line("ALICE", 30).encode(),
        line("alice%0a", 30).encode(),
        b"x" * (3 * LONGEST_LINE) + line("bob", 30).encode(),
        b"\n",
        line("carol", 40).encode(),
    ]
    found = ingest(team, "--from", "-", stdin=b"".join(hostile))
    assert active(team) == {"carol": "12:40"}
    assert found["lines"] == len(hostile)


def test_the_future_counts_as_now(team: Desk) -> None:
    ahead = line("alice", 30).replace("/2026:", "/2126:")
    ingest(team, "--from", "-", stdin=ahead)
    assert active(team) == {"alice": "13:00"}


def test_a_log_is_read_on_where_the_last_run_stopped(team: Desk, tmp_path: Path) -> None:
    log = tmp_path / "ws.log"
    log.write_text(line("alice", 10) + line("bob", 11)[:40])
    assert ingest(team, "--from", str(log))["lines"] == 1
    assert ingest(team, "--from", str(log))["lines"] == 0
    log.write_text(line("alice", 10) + line("bob", 11))
    assert ingest(team, "--from", str(log))["lines"] == 1, "the line that was half written"
    assert active(team) == {"alice": "12:10", "bob": "12:11"}


@pytest.mark.parametrize("how", ["renamed", "truncated", "gone"])
def test_a_rotated_log_loses_nothing(team: Desk, tmp_path: Path, how: str) -> None:
    log = tmp_path / "ws.log"
    log.write_text(line("alice", 10) * 3)
    ingest(team, "--from", str(log))
    with log.open("a") as file:
        file.write(line("bob", 20))
    if how == "truncated":
        ingest(team, "--from", str(log))
        log.write_text(line("carol", 30))
    else:
        os.rename(log, tmp_path / ("ws.log.1" if how == "renamed" else "elsewhere"))
        log.write_text(line("carol", 30))
    ingest(team, "--from", str(log))
    expected = {"alice": "12:10", "bob": "12:20", "carol": "12:30"}
    if how == "gone":
        del expected["bob"]
    assert active(team) == expected
    assert ingest(team, "--from", str(log))["lines"] == 0


def test_a_rehearsal_records_nothing(team: Desk, tmp_path: Path) -> None:
    log = tmp_path / "ws.log"
    log.write_text(line("alice", 10))
    assert ingest(team, "--from", str(log), "-n")["action"] == "would-record"
    assert active(team) == {}
    assert ingest(team, "--from", str(log))["lines"] == 1


def test_what_was_touched_since_is_not_set_back(team: Desk) -> None:
    team.ok("touch", "alice")
    ingest(team, "--from", "-", stdin=line("alice", 10))
    assert active(team) == {}


def test_a_log_that_falls_silent_keeps_everybody_until_it_is_forgotten(team: Desk, tmp_path: Path) -> None:
    log = tmp_path / "ws.log"
    log.write_text("")
    ingest(team, "--from", str(log))
    team.clock.advance(3600)  # type: ignore[union-attr]
    found = team.ok("reap-idle", "-o", "json").items
    assert {item["verdict"] for item in found} == {"unknown"}
    (item,) = team.ok("activity", "ls", "-o", "json").items
    assert str(item["log"]).endswith(f":{log}")
    assert item["log"] in found[0]["reason"]
    assert team.ok("activity", "forget", item["log"], "-n").code == 0
    assert team.ok("activity", "forget", item["log"], "-o", "json").json["action"] == "forgotten"
    assert team("activity", "forget", item["log"]).code == 4
    assert {item["verdict"] for item in team.ok("reap-idle", "-o", "json").items} == {"stopped"}


def test_a_log_that_cannot_be_read_is_2(team: Desk, tmp_path: Path) -> None:
    result = team("activity", "ingest", "--from", str(tmp_path / "none.log"))
    assert result.code == 2
    assert "none.log: No such file" in result.err


@pytest.mark.parametrize("name", ["caf\udce9.log", "x" * 255])
def test_a_log_is_read_on_whatever_it_is_called(team: Desk, tmp_path: Path, name: str) -> None:
    log = tmp_path / name
    log.write_text(line("alice", 10))
    found = ingest(team, "--from", str(log))
    assert found["lines"] == 1
    assert ingest(team, "--from", str(log))["lines"] == 0
    assert team.ok("activity", "forget", str(found["log"]), "-o", "json").json["action"] == "forgotten"
    assert ingest(team, "--from", str(log))["lines"] == 1
