"""`wsctl watch` on real nodes: who is dead is found, who is not is left alone; a request wakes who is stopped.

`WSCTL_FAULTS=all` also lets each fault of the list last, alone, as long as the issue asks.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.impair import impaired
from tests.integration.edges import free_port, here
from tests.integration.labsite import Site, eventually
from wsctl.routes import GatewaySettings
from wsctl.snippet import render_snippet

ALL = os.environ.get("WSCTL_FAULTS") == "all"
slow = pytest.mark.skipif(not ALL, reason="WSCTL_FAULTS=all runs each fault of the list alone and for long")


@dataclass
class Watching:
    """A running `wsctl watch`."""

    process: subprocess.Popen[str]
    log: Path
    began: float

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for line in self.log.read_text().splitlines():
            found += [json.loads(line)] if line.endswith("}") else []
        return found

    def said(self, event: str, node: str | None = None) -> bool:
        return any(one["event"] == event and (node is None or one["node"] == node) for one in self.events())


@contextmanager
def watching(site: Site, name: str = "w1", *more: str) -> Iterator[Watching]:
    """While the block runs, somebody watches; afterwards they are told to end, and do so without complaint."""
    log = site.folder / f"{name}.log"
    with log.open("w") as out, (site.folder / f"{name}.err").open("w") as err:
        process = subprocess.Popen(
            site.command("watch", "--name", name, "-o", "json", *more),
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True, cwd=site.folder,
        )  # fmt: skip
        try:
            eventually(lambda: all(item["last_seen_at"] for item in site.json("node", "ls", "--no-probe")["items"]), 20)
            yield Watching(process, log, time.monotonic())
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            code = process.wait(15)
    assert code in (0, -signal.SIGKILL), (site.folder / f"{name}.err").read_text()


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on MariaDB and Redis, its nodes as new."""
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    fault_lab.sql(f"CREATE DATABASE {database}")
    state = fault_lab.mysql_url.rpartition("/")[0] + f"/{database}"
    made = Site(fault_lab, tmp_path, state=state, coordination=fault_lab.redis_url)
    made.run("db", "upgrade")
    try:
        yield made
    finally:
        fault_lab.repair()
        made.sweep()


def states(site: Site) -> dict[str, str]:
    return {item["name"]: item["state"] for item in site.json("node", "ls", "--no-probe")["items"]}


def test_a_killed_node_is_found_by_whoever_is_left(site: Site) -> None:
    with watching(site, "w1") as one, watching(site, "w2") as other:
        killed = datetime.now(UTC)
        site.lab.kill("n1")
        time.sleep(2)
        one.process.kill()
        eventually(lambda: other.said("suspect", "n1"), 15)
        eventually(lambda: states(site)["n1"] == "suspect", 5)
        users = [site.user(f"u{n}") for n in range(4)]
        asked = time.monotonic()
        assert {item["node"] for item in site.run("place", *users, "-o", "json").items} == {"n2", "n3"}
        assert time.monotonic() - asked < 10, "nobody waits for a suspect node"
        eventually(lambda: other.said("down", "n1"), 15)
        took = next(e for e in other.events() if e["event"] == "down")
        assert (datetime.fromisoformat(took["at"]) - killed).total_seconds() <= 15, took
        assert took["silent_s"] <= 15
        assert {event["node"] for event in other.events()} <= {"n1", None}
        site.lab.start("n1")
        eventually(lambda: states(site)["n1"] == "ready", 15)


def test_who_is_slow_is_not_dead(site: Site) -> None:
    """At once: n1 behind a bad cable, n2 with a frozen engine, and a pause of the watcher."""
    with watching(site) as watch, impaired(site.lab.nodes["n1"], loss=0.3, jitter_s=0.2):
        site.lab.freeze("n2")
        eventually(lambda: watch.said("suspect", "n2"), 12)
        site.lab.thaw("n2")
        watch.process.send_signal(signal.SIGSTOP)
        time.sleep(4.5)
        watch.process.send_signal(signal.SIGCONT)
        eventually(lambda: watch.said("paused"), 5)
        eventually(lambda: states(site)["n2"] == "ready", 10)
        assert not watch.said("down")
        assert not watch.said("alarm")


# ------------------------------------------------------------------------------------------ each fault, alone, for long


@contextmanager
def loss(site: Site, *nodes: str) -> Iterator[None]:
    with ExitStack() as stack:
        for number, name in enumerate(nodes):
            stack.enter_context(impaired(site.lab.nodes[name], loss=0.3, jitter_s=0.2, seed=number))
        yield


@contextmanager
def our_path_cut(site: Site, *nodes: str) -> Iterator[None]:
    """This machine reaches the nodes no more; they reach each other."""
    rules = [["OUTPUT", "-d", site.lab.nodes[name].address, "-j", "DROP"] for name in nodes]
    for rule in rules:
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)


@contextmanager
def engine_frozen(site: Site, node: str) -> Iterator[None]:
    site.lab.nodes[node].signal_daemon("engine", signal.SIGSTOP)
    try:
        yield
    finally:
        site.lab.nodes[node].signal_daemon("engine", signal.SIGCONT)


@contextmanager
def service_down(site: Site, name: str) -> Iterator[None]:
    site.lab.stop_service(name, kill=True)
    try:
        yield
    finally:
        site.lab.start_service(name)


@contextmanager
def service_paused(site: Site, name: str) -> Iterator[None]:
    site.lab.pause_service(name)
    try:
        yield
    finally:
        site.lab.resume_service(name)


LASTING: dict[str, tuple[Callable[[Site], Any], float]] = {
    "loss and jitter on one node": (lambda site: loss(site, "n1"), 150),
    "loss and jitter on all nodes": (lambda site: loss(site, "n1", "n2", "n3"), 150),
    "a frozen engine": (lambda site: engine_frozen(site, "n1"), 10),
    "an engine that stays frozen": (lambda site: engine_frozen(site, "n1"), 60),
    "Redis down": (lambda site: service_down(site, "redis"), 30),
    "Redis paused": (lambda site: service_paused(site, "redis"), 30),
    "database down": (lambda site: service_down(site, "mariadb"), 30),
    "database paused": (lambda site: service_paused(site, "mariadb"), 30),
    "one of two paths cut": (lambda site: our_path_cut(site, "n1"), 60),
    "two paths of three cut": (lambda site: our_path_cut(site, "n1", "n2"), 60),
    "all paths cut": (lambda site: our_path_cut(site, "n1", "n2", "n3"), 60),
}


@slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", LASTING)
def test_nobody_who_lives_is_given_up(site: Site, fault: str) -> None:
    made, lasts_s = LASTING[fault]
    with watching(site) as watch:
        with made(site):
            time.sleep(lasts_s)
        time.sleep(15)
        assert not watch.said("down"), watch.events()
        eventually(lambda: set(states(site).values()) == {"ready"}, 40)


@slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("service", ["redis", "mariadb"])
def test_without_its_notes_nobody_is_given_up_and_then_the_dead_are(site: Site, service: str) -> None:
    with watching(site) as watch:
        with service_down(site, service):
            time.sleep(3)
            site.lab.kill("n1")
            time.sleep(25)
            assert not watch.said("down"), watch.events()
            assert watch.said("blind")
        eventually(lambda: watch.said("down", "n1"), 30)


@slow
@pytest.mark.timeout(400)
def test_a_frozen_control_host_forgets(site: Site) -> None:
    with watching(site) as watch:
        watch.process.send_signal(signal.SIGSTOP)
        time.sleep(20)
        watch.process.send_signal(signal.SIGCONT)
        time.sleep(20)
        assert [(e["event"], e["node"]) for e in watch.events()] == [("paused", None)]
        watch.process.send_signal(signal.SIGSTOP)
        site.lab.kill("n1")
        time.sleep(20)
        watch.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        eventually(lambda: watch.said("down", "n1"), 20)
        assert time.monotonic() - began > 9, "it counts anew"


@slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("round", range(5))
def test_a_killed_node_is_found_in_time(site: Site, round: int) -> None:
    with watching(site) as watch:
        time.sleep(round * 0.45)
        began = time.monotonic()
        site.lab.kill("n2")
        eventually(lambda: watch.said("down", "n2"), 15)
        assert time.monotonic() - began <= 15


# --------------------------------------------------------------------------------------------------------------- waking


WAKE = """
location = /wake {{
    internal;
    proxy_pass http://127.0.0.1:{port}/wake;
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_set_header X-Ws-User $ws_user;
    proxy_set_header X-Original-URI $request_uri;
    proxy_read_timeout 60s;
}}
"""


def get(port: int, path: str) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers["Location"]
    connection.close()
    return found


def browse(port: int, path: str) -> tuple[int, str]:
    """What somebody sees in the end who follows redirections and waits as they are told."""
    for _ in range(10):
        status, text, location = get(port, path)
        if status == 307 and location is not None:
            path = location
        elif status == 503:
            time.sleep(1)
        else:
            return status, text
    raise AssertionError("it never comes to an end")


def test_a_request_for_a_stopped_user_ends_with_their_page(site: Site, tmp_path: Path) -> None:
    edge, port = here(tmp_path), free_port()
    edge.prepare()
    settings = GatewaySettings(wake="/wake")
    edge.write("snippet.conf", render_snippet(settings) + WAKE.format(port=port))
    site.edit("nodes:\n", f"gateway: {{wake: /wake, auto_apply: true, hosts: {{here: {edge.yaml()}}}}}\nnodes:\n")
    alice, ben = site.user("alice"), site.user("ben")
    site.run("render-gateway", "--apply", code=None)  # the map that Nginx needs to begin with
    edge.start()
    try:
        site.run("place", alice, ben)
        site.run("stop", alice)
        assert get(edge.port, f"/ws/{ben}/whoami")[0] == 200
        with watching(site, "w1", "--wake", f"127.0.0.1:{port}"):
            found: list[tuple[int, str]] = []
            threads = [
                threading.Thread(target=lambda: found.append(browse(edge.port, f"/ws/{alice}/whoami?a=1")))
                for _ in range(12)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert {status for status, _ in found} == {200}
            assert len(found) == 12
            rows = site.json("audit", alice)["items"]
            assert [row["action"] for row in rows if row["kind"] == "intent"].count("started") == 1
            assert get(edge.port, f"/ws/nobody-{site.tag}/")[0] == 404
            assert get(edge.port, "/wake")[0] == 404, "only for the gateway itself"
    finally:
        edge.stop()
