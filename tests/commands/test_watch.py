"""`wsctl watch` and what follows from it: node ls, placing, doctor; nodes that are set aside; the wake hook."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import INVENTORY, Desk
from wsctl.context import SystemClock
from wsctl.errors import EngineError, ImageMissing
from wsctl.reports import IMAGE, REFUSAL, SUSPECT

QUICK = "watch: {interval: 100ms, suspect_after: 200ms, down_after: 500ms, misses: 2}\n"


@pytest.fixture
def post(desk: Desk) -> Desk:
    """A desk whose watchers are quick."""
    desk.inventory(INVENTORY.replace("nodes:\n", QUICK + "nodes:\n"))
    return desk


def report(desk: Desk, node: str, kind: str, reason: str, times: int = 1) -> None:
    with closing(desk.store()) as store:
        for _ in range(times):
            store.report_node(node, kind, reason, 60.0)


def reports(desk: Desk) -> dict[tuple[str, str], int]:
    with closing(desk.store()) as store:
        return {(one.node, one.kind): one.count for one in store.node_reports()}


def node_ls(desk: Desk) -> dict[str, dict[str, Any]]:
    return {str(item["name"]): item for item in desk.ok("node", "ls", "-o", "json").items}


# ------------------------------------------------------------------------------------------------------------ watching


def test_a_line_for_each_change(post: Desk) -> None:
    post.watched.dead.add("n2")
    result = post("watch", "--for", "2s", "--name", "w1", "-o", "json")
    assert (result.code, result.err) == (0, "")
    events = [event for event in map(json.loads, result.out.splitlines()) if event["node"]]
    assert [(event["event"], event["node"]) for event in events] == [("suspect", "n2"), ("down", "n2")], events
    assert set(events[0]) == {"schema_version", "at", "event", "node", "reason", "silent_s"}
    assert "n1, n3 can't reach it either" in events[1]["reason"]
    items = node_ls(post)
    assert [items[name]["state"] for name in items] == ["ready", "suspect", "ready"]
    assert "no sign of life" in items["n2"]["reason"]
    assert items["n1"]["last_seen_at"] is not None
    assert items["n2"]["last_seen_at"] is None, "it was never seen well"


def test_with_the_automatic_policy_users_go_on_elsewhere(post: Desk) -> None:
    """And what is stale on the node when it is back is put aside."""
    text = INVENTORY.replace("nodes:\n", QUICK + "failover: {policy: automatic, accept_data_loss: accept}\nnodes:\n")
    post.inventory(text)
    post.ok("place", "alice")
    home = post.home("alice")
    post.watched.dead.add(home)
    post.fleet.cut(home)
    result = post("watch", "--for", "3s", "--name", "w1", "-o", "json")
    assert result.code == 0, result
    events = {event["event"]: event for event in map(json.loads, result.out.splitlines()) if event["node"]}
    assert events["done"]["reason"].startswith(f"1 users of {home} went on elsewhere")
    assert post.home("alice") != home
    assert node_ls(post)[home]["state"] == "down"
    post.watched.dead.clear()
    post.fleet.heal(home)
    result = post("watch", "--for", "2s", "--name", "w1", "-o", "json")
    events = {event["event"]: event for event in map(json.loads, result.out.splitlines()) if event["node"]}
    assert (events["returned"]["node"], "cordoned" in events["done"]["reason"]) == (home, True)
    assert node_ls(post)[home]["state"] == "cordoned"


def test_with_the_manual_policy_it_is_said_what_to_type(post: Desk) -> None:
    post.ok("place", "alice")
    home = post.home("alice")
    post.watched.dead.add(home)
    out = post("watch", "--for", "2s", "--name", "w1").out
    assert f"to give it up: wsctl node fail {home}" in out
    assert post.home("alice") == home


def test_in_words(post: Desk) -> None:
    post.watched.hung.add("n3")
    result = post("watch", "--for", "1500ms", "--name", "w1")
    assert result.code == 0
    assert result.err == "w1 watches 3 nodes\n"
    line = next(line for line in result.out.splitlines() if " n3 " in line)
    assert re.fullmatch(r"\S+Z n3 suspect: its machine answers, its engine doesn't: the engine doesn't answer", line)


def test_a_name_is_one_word(post: Desk) -> None:
    """In notes a space ends it: what a watcher saw itself isn't another's word for it."""
    result = post("watch", "--for", "500ms", "--name", " control  a")
    assert result.err == "control_a watches 3 nodes\n"
    assert " watches 3 nodes" in post("watch", "--for", "500ms", "--name", " ").err[3:]


def test_it_ends_when_told(post: Desk) -> None:
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    result = post("watch", "--name", "w1")
    timer.join()
    assert (result.code, result.out) == (0, "")
    assert result.err.endswith("ended\n")


def test_systemd_is_told(post: Desk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        where = str(folder / "notify")
        listening.bind(where)
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        assert post("watch", "--for", "1s").code == 0
        listening.setblocking(False)
        words = []
        while True:
            try:
                words.append(listening.recv(100))
            except BlockingIOError:
                break
    assert (words[0], words[-1]) == (b"READY=1", b"STOPPING=1")
    assert 1 <= words.count(b"WATCHDOG=1") <= 3


def test_impossible_rules_are_refused(desk: Desk) -> None:
    for rules, key in (
        ("{interval: 5s}", "watch.suspect_after"),
        ("{down_after: 7s}", "watch.down_after"),
        ("{alarm_least: 1}", "watch.alarm_least"),
        ("{wake: 0.0.0.0}", "watch.wake"),
    ):
        desk.inventory(INVENTORY.replace("nodes:\n", f"watch: {rules}\nnodes:\n"))
        result = desk("watch", "--for", "1s")
        assert result.code == 3
        assert key in result.err


def test_doctor_misses_a_watcher(post: Desk) -> None:
    def line() -> dict[str, Any]:
        return next(item for item in post("doctor", "-o", "json").items if item["check"] == "watch")

    post.ok("place", "alice")
    assert (line()["status"], line()["fix"]) == ("WARN", "wsctl systemd install watch   # or look: wsctl watch")
    post("watch", "--for", "500ms", "--name", "w1")
    assert (line()["status"], line()["detail"]) == ("OK", "w1")


# ------------------------------------------------------------------------------------------------- suspect, set aside


def test_a_suspect_node_gets_nobody_and_isnt_waited_for(desk: Desk) -> None:
    desk.ok("place", "zoe")
    home = desk.home("zoe")
    report(desk, home, SUSPECT, "no sign of life")
    desk.forget()
    desk.ok("place", *(f"u{number}" for number in range(6)))
    assert {desk.home(f"u{number}") for number in range(6)} == {"n1", "n2", "n3"} - {home}
    assert desk.fleet[home].calls == [], "it wasn't even asked"
    desk.ok("stop", "zoe")
    desk.ok("start", "zoe")
    explain = desk.ok("place", "yan", "--explain", "-o", "json").json["explain"]
    assert explain[home]["reasons"] == ["suspect: no sign of life"]


def test_uncordon_takes_everything_back(desk: Desk) -> None:
    desk.ok("place", "zoe")
    report(desk, "n1", REFUSAL, "no space", 3)
    report(desk, "n1", SUSPECT, "no sign of life")
    assert node_ls(desk)["n1"]["state"] == "suspect"
    assert "uncordoned" in desk.ok("node", "uncordon", "n1").out
    item = node_ls(desk)["n1"]
    assert (item["state"], item["reason"]) == ("ready", None)
    assert "unchanged" in desk.ok("node", "uncordon", "n1").out


def test_a_mark_is_shown_before_a_report(desk: Desk) -> None:
    desk.ok("node", "cordon", "n1", "--reason", "disk swap")
    report(desk, "n1", REFUSAL, "no space", 3)
    item = node_ls(desk)["n1"]
    assert (item["state"], item["reason"]) == ("cordoned", "disk swap; no space")


def test_a_node_that_keeps_refusing_is_set_aside_for_all(desk: Desk) -> None:
    desk.fleet["n1"].fail("create", EngineError("n1", "no space left on device"), times=99)
    for number in range(9):
        desk.ok("place", f"u{number}")
    assert reports(desk) == {("n1", REFUSAL): 3}, "then nobody is sent there"
    item = node_ls(desk)["n1"]
    assert (item["state"], item["reason"]) == ("aside", "no space left on device")
    desk.clock.sleep(61.0)
    assert node_ls(desk)["n1"]["state"] == "ready", "for a short while"


def test_a_missing_image_concerns_its_users(desk: Desk) -> None:
    classes = "  classes: {gpu: {image: gpu:1}}\nnodes:\n"
    desk.inventory(INVENTORY.replace("nodes:\n", classes))
    for name in ("n2", "n3"):
        desk.fleet[name].registry.add("gpu:1")
    desk.fleet["n1"].fail("pull", ImageMissing("n1", "can't pull gpu:1: no such image"), times=99)
    for number in range(6):
        desk.ok("place", f"g{number}", "--class", "gpu")
    assert reports(desk) == {("n1", f"{IMAGE}gpu:1"): 1}
    desk.ok("place", *(f"u{number}" for number in range(6)))
    assert "n1" in {desk.home(f"u{number}") for number in range(6)}


def test_an_image_that_nobody_has_sets_nobody_aside(desk: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        desk.fleet[name].images.clear()
    assert desk("place", "alice").code != 0
    assert len(reports(desk)) == 1, "one of three, and that for this image only"
    for name in ("n1", "n2", "n3"):
        desk.fleet[name].registry.add("studio/workspace:1")
    desk.ok("place", "alice")


# --------------------------------------------------------------------------------------------------------------- waking


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        found: int = sock.getsockname()[1]
        return found


def ask(port: int, user: str, path: str | None = None, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path or f"/wake?user={user}", headers={"X-Original-URI": f"/ws/{user}/x?y", **named})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


@pytest.fixture
def waking(post: Desk, port: int) -> Iterator[Callable[[], Desk]]:
    """`wsctl watch --wake` in the background; the desk's own commands run beside it in this process."""
    post.clock = SystemClock()
    ended = threading.Event()
    made: list[threading.Thread] = []

    def begin() -> Desk:
        from tests.commands.conftest import Stream
        from wsctl.commands.waking import answering
        from wsctl.context import App, Wiring
        from wsctl.output import Output
        from wsctl.sharedclock import boot_clock as now

        def run() -> None:
            wiring = Wiring(fleet=post.reached, gateways=post.edges, clock=post.clock)
            app = App(Output(stdout=Stream(), stderr=Stream()), None, wiring)
            with closing(app), answering(app, f"127.0.0.1:{port}", lambda user, why: None, now) as waker:
                ended.wait()
                waker.check()

        made.append(threading.Thread(target=run))
        made[0].start()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with closing(socket.socket()) as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return post
            time.sleep(0.02)
        raise AssertionError("nobody listens")

    yield begin
    ended.set()
    for thread in made:
        thread.join(10)


def test_a_request_starts_who_is_stopped(waking: Callable[[], Desk], port: int, post: Desk) -> None:
    text = INVENTORY.replace("nodes:\n", "gateway: {auto_apply: true, hosts: {e1: {address: local}}}\nnodes:\n")
    post.inventory(text)
    post.ok("place", "alice")
    post.ok("stop", "alice")
    post.forget()
    waking()
    answers: list[http.client.HTTPResponse] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(port, "alice"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {307, 503}
    sent_on = [answer for answer in answers if answer.status == 307]
    assert sent_on
    assert {answer.headers["Location"] for answer in sent_on} == {"/ws/alice/x?y"}
    starts = [call for engine in post.fleet.engines.values() for call, _ in engine.calls if call == "start"]
    assert starts == ["start"], "one for all of them"
    again = ask(port, "alice")
    assert (again.status, again.headers["Retry-After"]) == (503, "1"), "not in a circle"


def test_without_auto_apply_nobody_is_sent_on(waking: Callable[[], Desk], port: int, post: Desk) -> None:
    post.ok("place", "alice")
    post.ok("stop", "alice")
    waking()
    answer = ask(port, "alice", Accept="text/html")
    assert (answer.status, answer.headers["Retry-After"], answer.headers["Location"]) == (503, "5", None)
    assert answer.headers["Content-Type"].startswith("text/html")


def test_who_isnt_to_be_woken(waking: Callable[[], Desk], port: int, post: Desk) -> None:
    post.ok("place", "alice")
    post.ok("stop", "alice")
    post.forget()
    waking()
    for path in (
        "/", "/wake", "/wake?user=", "/wake?user=../x", "/wake?user=Alice", "/wake/?user=alice", "/wake?user=a&user=b",
        "/wake?user=alice%0d%0aX", "/wake?user=nobody", "*",
    ):  # fmt: skip
        assert ask(port, "alice", path).status == 404, path
    assert ask(port, "alice", X_Ws_User="eve").status == 404, "two users in one question"
    for headers in ({"Sec_Fetch_Mode": "cors"}, {"Sec_Fetch_Mode": "websocket"}, {"Upgrade": "websocket"}):
        assert ask(port, "alice", **headers).status == 503
    assert not [call for engine in post.fleet.engines.values() for call, _ in engine.calls if call == "start"]
    assert ask(port, "alice", X_Ws_User="alice", Sec_Fetch_Mode="navigate").status == 503
    assert [call for engine in post.fleet.engines.values() for call, _ in engine.calls if call == "start"] == ["start"]


def test_a_start_that_fails_isnt_tried_by_each_reload(waking: Callable[[], Desk], port: int, post: Desk) -> None:
    post.ok("place", "alice")
    post.ok("stop", "alice")
    home = post.home("alice")
    post.fleet[home].fail("start", EngineError(home, "no space left on device"), times=99)
    post.forget()
    waking()
    for _ in range(3):
        answer = ask(port, "alice")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert [call for call, _ in post.fleet[home].calls if call == "start"] == ["start"]


def test_a_taken_port_is_said(post: Desk, port: int) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        result = post("watch", "--for", "1s", "--wake", f"127.0.0.1:{port}")
        assert result.code == 3
        assert f"cannot listen on 127.0.0.1:{port}" in result.err
    assert post("watch", "--for", "1s", "--wake", "localhost:80").code == 2
