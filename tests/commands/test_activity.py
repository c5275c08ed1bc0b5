"""`wsctl touch` and `wsctl reap-idle`."""

from __future__ import annotations

import http.server
import json
import threading

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
        {"user": "bob", "last_active_at": "2026-01-01T12:01:00Z", "state": "running", "action": "touched"},
        {"user": "alice", "last_active_at": "2026-01-01T12:01:00Z", "state": "running", "action": "touched"},
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
        assert set(item) == {"user", "node", "verdict", "reason", "last_active_at", "stops_at", "signals"}
    assert "idle for 1h" in found["alice"]["reason"]
    assert {signal["source"] for signal in found["alice"]["signals"]} == {"start", "network", "cpu", "connections"}
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


def test_an_operator_keeps_somebody_until_a_time(team: Desk) -> None:
    (item,) = team.ok("touch", "alice", "--until", "2h", "-o", "json").items
    assert item["keep_until"] == "2026-01-01T14:00:00Z"
    later(team, 3600)
    shown = team.ok("show", "alice", "-o", "json").json
    assert (shown["keep_until"], shown["idle"]) == ("2026-01-01T14:00:00+00:00", "kept")
    assert shown["idle_reason"] == "kept until 2026-01-01 14:00 UTC by an operator"
    assert shown["stops_at"] == "2026-01-01T14:00:00Z"
    found = {i["user"]: i["verdict"] for i in team.ok("reap-idle", "-o", "json").items}
    assert found == {"alice": "kept", "bob": "stopped", "carol": "stopped"}
    (item,) = team.ok("touch", "alice", "--until", "now", "-o", "json").items
    assert item["keep_until"] is None
    later(team, 3600)
    assert team.ok("show", "alice", "-o", "json").json["idle"] == "would-stop"
    assert team("touch", "alice", "--until", "25:00").code == 2


def test_until_a_time_of_day_is_the_next_one(team: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-2")
        time.tzset()
        (item,) = team.ok("touch", "alice", "--until", "18:30", "-o", "json").items
        assert item["keep_until"] == "2026-01-01T16:30:00Z"
        (item,) = team.ok("touch", "alice", "--until", "9:00", "-o", "json").items
        assert item["keep_until"] == "2026-01-02T07:00:00Z"
    time.tzset()


def test_the_verdict_is_explained_and_nobody_is_stopped(team: Desk) -> None:
    later(team, 3600)
    team.fleet[team.home("bob")].held("ws-u-bob").execs = 2
    (item,) = team.ok("reap-idle", "--explain", "alice", "-o", "json").items
    assert (item["verdict"], item["stops_at"]) == ("would-stop", "2026-01-01T13:00:00Z")
    (item,) = team.ok("reap-idle", "--explain", "bob", "-o", "json").items
    assert (item["verdict"], item["reason"]) == ("kept", "exec: 2 open sessions")
    text = team.ok("reap-idle", "--explain", "all").out
    assert "2 sessions" in text
    assert "STOPS AT" in text
    assert not team.effects()
    assert team("reap-idle", "--explain", "alice", "--user", "bob").code == 2


def test_show_says_of_a_stopped_user_nothing_about_idleness(team: Desk) -> None:
    team.ok("stop", "alice")
    assert "idle" not in team.ok("show", "alice", "-o", "json").json


def hooked(desk: Desk, keys: str) -> None:
    from tests.commands.conftest import INVENTORY

    desk.inventory(INVENTORY + f"reap: {{notice: 10m, {keys}}}\n")


def test_a_hook_is_told_with_json_on_its_stdin(team: Desk) -> None:
    script = team.folder / "hook"
    script.write_text('#!/bin/sh\ncat >> told\necho "$@" >> args\n')
    script.chmod(0o755)
    hooked(team, f'hook: ["{script}", "$(id)", "; rm x"]')
    later(team, 1800)
    assert {i["verdict"] for i in team.ok("reap-idle", "--user", "alice", "-o", "json").items} == {"kept"}
    told = json.loads((team.folder / "told").read_text())
    assert (told["event"], told["user"], told["stops_at"]) == ("idle-notice", "alice", "2026-01-01T12:40:00Z")
    assert (team.folder / "args").read_text() == "$(id) ; rm x\n"
    later(team, 600)
    assert {i["verdict"] for i in team.ok("reap-idle", "--user", "alice", "-o", "json").items} == {"stopped"}
    assert len((team.folder / "told").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("hook: [sh, -c, 'echo no; exit 3']", "failed with exit code 3: no"),
        ("hook: [/no/such/hook]", "cannot run the hook /no/such/hook: No such file"),
        ("hook: [sleep, '60'], timeout: 100ms", "didn't end within 0.1 s"),
        ("url: 'http://127.0.0.1:1/idle'", "can't be reached"),
    ],
)
def test_a_hook_that_fails_is_9_and_stops_nobody(team: Desk, hook: str, why: str) -> None:
    hooked(team, hook)
    later(team, 7200)
    for _ in range(2):
        result = team("reap-idle", "--user", "alice", "-o", "json")
        assert (result.code, result.items[0]["verdict"]) == (9, "kept")
        assert why in result.error["message"]
        assert list(result.error["details"]["unheard"]) == ["alice"]
        later(team, 600)


@pytest.mark.parametrize("status", [200, 302, 500])
def test_a_url_is_told(team: Desk, status: int) -> None:
    posts: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            hooked(team, f"url: 'http://127.0.0.1:{server.server_port}/idle?k=1'")
            later(team, 1800)
            result = team("reap-idle", "--user", "alice", "-o", "json")
        finally:
            server.shutdown()
            thread.join()
    assert result.code == (0 if status == 200 else 9)
    assert [post["user"] for post in posts] == ["alice"]


def test_hook_and_url_together_are_refused(team: Desk) -> None:
    hooked(team, "hook: [x], url: 'http://127.0.0.1/'")
    assert team("inventory", "check").code == 3
