"""`publish`: from a change to the first right answer, and what a hundred changes do to those who are being served.

Responsible for: the gateway, its clients, and the gates. Not responsible for: the changes (`change`), nor Nginx
(`edge`).
"""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from bench import change
from bench.crowd import Crowd, WebSockets
from bench.edge import command, free_port, nginx
from bench.measure import BenchError, say
from bench.report import Gate, Row, duration
from bench.rig import Rig
from wsctl.inventory import load
from wsctl.routes import Mode
from wsctl.snippet import render_snippet

ROUNDS = 20
LATENCY = {10_000: Gate(0.25, "s"), 100_000: Gate(1, "s")}
APPLIES = 100
NONE = Gate(0, "")
GENERATIONS = Gate(3, "")
PER_NODE = 250
FLOOR_EVERY = 5
QUIET_S = 1.1
"""Between two changes: longer than reloads are apart, so that none waits for the one before."""


@dataclass
class Edge:
    """A gateway with an Nginx of two workers on this machine, its inventory, and what its upstreams answer."""

    folder: Path
    inventory: Path
    port: int
    upstream: int
    env: dict[str, str]
    python: str

    def change(self, first: int, count: int = 1) -> Iterator[dict[str, object]]:
        """Change and apply so many times, in a process of its own."""
        argv = [self.python, "-m", change.__name__, str(self.inventory), str(first), str(count), str(self.upstream)]
        with subprocess.Popen(argv, env=self.env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode != 0:
            raise BenchError(f"an apply failed: exit code {process.returncode}")

    def ask(self, user: str) -> tuple[int, str]:
        """Over a new connection; an upstream answers with its own address."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", f"/ws/{user}/")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """When each living worker was started, in clock ticks, sorted."""
        master = int((self.folder / "pid").read_text())
        found = []
        for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            try:
                found.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))
            except OSError:
                continue  # ended meanwhile
        return sorted(found)


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """With 10,000 and 100,000 placements in SQLite: a user is placed, and the map put live as `place` does with
    `gateway.auto_apply`, in a new process; from the commit to the first answer of that user's own workspace, asked for
    every 3 ms over new connections. The floor is to swap a map that is ready made and `nginx -s reload`. Then 100 such
    changes in a row, while 500 requests a second come over new connections and 20 WebSockets are open."""
    rows = []
    for mode in (Mode.MAP, Mode.DYNAMIC):
        for count, gate in LATENCY.items():
            with _edge(rig, mode, count) as edge:
                rows.append(_latency(edge, mode, count, gate, rounds or ROUNDS))
        with _edge(rig, mode, min(LATENCY)) as edge:
            rows += _under_load(edge, mode)
    return rows


def _latency(edge: Edge, mode: Mode, count: int, gate: Gate, rounds: int) -> Row:
    found: list[float] = []
    floor: list[float] = []
    for number in range(rounds + 1):
        say(f"publish: {mode.value}, {count:,} users, round {number}/{rounds}")
        time.sleep(QUIET_S if mode is Mode.MAP else 0.0)
        spent = _first_answer(edge, number)
        if number:
            found.append(spent)
        if number % FLOOR_EVERY == 0:
            time.sleep(QUIET_S)
            floor.append(_bare_reload(edge, number))
    say("")
    late = _p95(found)
    return Row(
        what=f"commit → first right answer by `{mode.value}`, {count:,} users, p95",
        ours=duration(late),
        floor=f"{duration(_p95(floor))} a bare reload",
        result=f"{duration(median(found))} median",
        gate=str(gate),
        met=gate.met(late),
        spread=f"{mode.value}, {count:,} users: {duration(min(found))} to {duration(max(found))}; {rounds} rounds",
    )


def _first_answer(edge: Edge, number: int) -> float:
    """Seconds from the commit to the first answer of the new user's own upstream."""
    user = f"new-{number:06}"
    seen: list[tuple[float, str]] = []
    process = edge.change(number)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            status, body = edge.ask(user)
            if status == 200:
                seen.append((time.monotonic(), body))
                return
            time.sleep(0.003)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        (said,) = process
        looking.join(30)
    finally:
        done.set()
        looking.join()
    if not seen or seen[0][1] != said["address"]:
        raise BenchError(f"{user} is not served by {said['address']}: {seen}")
    return seen[0][0] - float(str(said["committed"]))


def _bare_reload(edge: Edge, number: int) -> float:
    """The same with a map that is there already, only swapped and reloaded: a user is in it whom the live one hasn't.
    Afterwards the live map is as it was."""
    live = edge.folder / "map.conf"
    text = live.read_text()
    user, address = f"bare-{number:06}", "127.201.0.1"
    other = re.sub(r"^(    |#   )\"u:new-000000\" \S+;$", rf'\1"u:{user}" {address}:{edge.upstream};', text, flags=re.M)
    (edge.folder / "ready").write_text(other)
    began = time.monotonic()
    (edge.folder / "ready").rename(live)
    subprocess.run([*command(edge.folder), "-s", "reload"], check=True)
    while edge.ask(user) != (200, address):
        if time.monotonic() - began > 30:
            raise BenchError(f"a reload does not serve {user}")
        time.sleep(0.003)
    spent = time.monotonic() - began
    live.write_text(text)
    subprocess.run([*command(edge.folder), "-s", "reload"], check=True)
    return spent


def _under_load(edge: Edge, mode: Mode) -> list[Row]:
    ages: set[int] = set()
    alive = 0
    reloads = (edge.folder / "error.log").read_text().count(", reconfiguring")
    with Crowd(lambda: edge.ask("user-000000"), (200, "127.1.0.1")) as crowd, WebSockets(edge.port, "ws") as sockets:
        for number, _ in enumerate(edge.change(0, APPLIES)):
            say(f"publish: {mode.value}, under load, apply {number + 1}/{APPLIES}")
            started = edge.workers()
            # Workers of one generation are started within a moment, generations a second apart.
            alive = max(alive, 1 + sum(later - one > 30 for one, later in pairwise(started)))
            ages.update(started)
        dropped = sockets.dropped()
    say("")
    reloads = (edge.folder / "error.log").read_text().count(", reconfiguring") - reloads
    what = f"{APPLIES} applies in a row by `{mode.value}` at {crowd.rate:.0f} requests/s"
    rows = [
        _count(f"{what}: requests that failed", len(crowd.failed), f"of {crowd.count:,}", NONE),
        _count("… WebSockets that were dropped", dropped, f"of {len(sockets)}; {reloads} reloads", NONE),
        _count("… generations of workers alive at once", alive, "", GENERATIONS),
    ]
    if crowd.failed:
        say(f"failed: {crowd.failed[:3]}")
    return rows


def _count(what: str, value: int, of: str, gate: Gate) -> Row:
    return Row(what, f"{value}", "", of, str(gate).strip(), gate.met(value), f"{what}: {value} {of}")


@contextmanager
def _edge(rig: Rig, mode: Mode, count: int) -> Iterator[Edge]:
    """A gateway with `count` users whose workspaces answer with their address, and `ws`, whose echoes WebSockets."""
    from tests.integration.nginxes import upstreams_of

    folder = rig.folder / f"publish-{mode.value}-{count}-{time.monotonic_ns()}"
    folder.mkdir()
    upstream, port = free_port(), free_port()
    path = folder / "inventory.yaml"
    words = ", ".join(command(folder))
    path.write_text(f"""\
version: 1
cluster: bench
workspace: {{image: a}}
gateway:
  mode: {mode.value}
  auto_apply: true
  hosts:
    here:
      address: local
      map_file: {folder}/map.conf
      status_url: http://127.0.0.1:{port}
      test: [{words}, -t]
      reload: [{words}, -s, reload]
nodes: {{here: {{address: local}}}}
""")
    rig.run("db", "upgrade", "-i", str(path))
    with upstreams_of("ws") as made:
        _fill(folder / "wsctl.db", count, upstream, made["ws"].server_port)
        rig.run("render-gateway", "-i", str(path), "--out", str(folder / "map.conf"))
        (folder / "snippet.conf").write_text(render_snippet(load(path).gateway))
        answer = f"server {{ listen {upstream}; keepalive_requests 1000000; return 200 $server_addr; }}"
        front = f"server {{ listen {port}; include {folder}/snippet.conf; }}"
        # As the guide says.
        main = "user root; worker_processes 2; worker_shutdown_timeout 1h; error_log error.log notice;"
        with (
            nginx(folder / "upstream", answer),
            nginx(folder, front, f"include {folder}/map.conf;", lua=mode is Mode.DYNAMIC, main=main),
        ):
            yield Edge(
                folder, path, port, upstream, {**rig.env, "PYTHONPATH": str(Path(__file__).parents[1])}, rig.python
            )


def _fill(database: Path, count: int, upstream: int, echo: int) -> None:
    """So many running users, and `ws`. The first one's workspace is at `upstream`, that of `ws` at `echo`."""
    now = "2026-01-01 00:00:00.000000+00:00"
    hosts = [(n // PER_NODE, f"127.1.{n // PER_NODE // 250}.{n // PER_NODE % 250 + 1}") for n in range(count)]
    rows = [(f"user-{n:06}", f"n{node}", at, 20_000 + n % PER_NODE) for n, (node, at) in enumerate(hosts)]
    rows[0] = (*rows[0][:3], upstream)  # the only one who is asked for
    rows.append(("ws", "ws", "127.0.0.1", echo))
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "INSERT INTO placements (cluster, user, node, address, host_port, state, generation, container_generation, "
            "memory_bytes, cpus_milli, pids, workspace_class, created_at, updated_at) "
            f"VALUES ('bench', ?, ?, ?, ?, 'running', 1, 1, 0, 0, 0, 'default', '{now}', '{now}')",
            rows,
        )
    connection.close()


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
