"""`failover`: a node with thirty users dies, and they answer again through the gateway.

Responsible for: the users, their standby copies, the Nginx before them, the power cut, and what is timed. Not
responsible for: finding out that a node is dead, which is the watch loop's.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.measure import BenchError, say
from bench.report import Gate, Row
from bench.rig import USERS, Rig
from wsctl.nginx import SEARCHED
from wsctl.routes import GatewaySettings, render_map
from wsctl.snippet import render_snippet

ROUNDS = 2
COUNT = 30
DEAD = "n1"
GATE = Gate(30, "s")
PATIENCE_S = 120.0
PROBERS = 4


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """Thirty users run on one of three nodes (local storage), each with a file and a standby copy on another node; the
    node is switched off, `wsctl node fail` is typed, and for each user the time is taken from then on until the file
    comes back through a real Nginx that had their old route. Nothing is prepared but the copies: the containers are
    made and started, and the map is put live, within that time."""
    worst: list[float] = []
    halves: list[float] = []
    for number in range(rounds or ROUNDS):
        say(f"failover: round {number + 1}")
        times = _round(rig, f"failover-{number}", f"{USERS}f{number}-")
        worst.append(_percentile(times, 99))
        halves.append(median(times))
    shown = ", ".join(f"{seconds:.1f} s" for seconds in worst)
    return [
        Row(
            what=f"{COUNT} users of a node that is dead, from `wsctl node fail` to answering through Nginx, p99",
            ours=f"{max(worst):.1f} s",
            floor="",
            result=f"half of them {max(halves):.1f} s",
            gate=str(GATE),
            met=GATE.met(max(worst)),
            spread=f"failover, p99 of each round: {shown}",
        )
    ]


def _round(rig: Rig, name: str, prefix: str) -> list[float]:
    users = [f"{prefix}{number}" for number in range(COUNT)]
    inventory = rig.inventory(name, ready="{http: /, timeout: 30s}")
    with _gateway(inventory.parent / "nginx") as edge:
        inventory.write_text(
            inventory.read_text().replace("workspace: {", "workspace: {standby: 1, ")
            + f"gateway:\n  auto_apply: true\n  hosts:\n    edge: {edge.entry}\n"
        )
        i = ("-i", str(inventory))
        for other in ("n2", "n3"):
            rig.run("node", "cordon", other, *i)
        rig.run("place", *users, "--parallel", "8", *i)
        for other in ("n2", "n3"):
            rig.run("node", "uncordon", other, *i)
        for user in users:
            (rig.lab.nodes[DEAD].workspaces / user / "word.txt").write_text(user)
        rig.run("standby", "sync", "--parallel", "4", *i)
        rig.run("render-gateway", "--apply", *i)
        try:
            return _fail(rig, inventory, edge, users)
        finally:
            rig.lab.start(DEAD)
            rig.clean()


def _fail(rig: Rig, inventory: Path, edge: _Edge, users: list[str]) -> list[float]:
    """Seconds until each user answers, in any order."""
    rig.lab.kill(DEAD)
    watch = _Watch(edge.port, list(users))
    began = time.monotonic()
    threads = [threading.Thread(target=watch.work, args=(began,), daemon=True) for _ in range(PROBERS)]
    for thread in threads:
        thread.start()
    argv = [rig.wsctl, "node", "fail", DEAD, "--yes", "-i", str(inventory)]
    done = subprocess.run(argv, env=rig.env, capture_output=True, text=True, check=False)
    for thread in threads:
        thread.join()
    if done.returncode != 0 or len(watch.seconds) < len(users):
        raise BenchError(
            f"{len(watch.seconds)} of {len(users)} answer; node fail: {done.returncode} {done.stderr[-400:]}"
        )
    return list(watch.seconds.values())


@dataclass
class _Watch:
    """Asks for each user's file, round and round, until all came back. Few connections: the machine has work to do."""

    port: int
    waiting: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, began: float) -> None:
        while time.monotonic() - began < PATIENCE_S:
            with self.lock:
                if not self.waiting:
                    return
                user = self.waiting.pop(0)
            if self._answers(user):
                self.seconds[user] = time.monotonic() - began
                continue
            with self.lock:
                self.waiting.append(user)
            time.sleep(0.05)

    def _answers(self, user: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", f"/ws/{user}/word.txt")
            answer = connection.getresponse()
            return answer.status == 200 and answer.read() == user.encode()
        except OSError:
            return False
        finally:
            connection.close()


@dataclass(frozen=True)
class _Edge:
    """The Nginx: its port, and its entry in the inventory."""

    port: int
    entry: str


@contextmanager
def _gateway(folder: Path) -> Iterator[_Edge]:
    binary = shutil.which("nginx", path=SEARCHED)
    if binary is None:
        raise BenchError("nginx isn't installed: apt-get install nginx-light")
    port = _free_port()
    (folder / "conf.d").mkdir(parents=True)
    (folder / "snippet.conf").write_text(render_snippet(GatewaySettings(connect_timeout_s=1)))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; pid {folder}/pid; events {{ worker_connections 512; }}\n"
        f"http {{ access_log off; {temp} include {folder}/conf.d/*.conf;\n"
        f"server {{ listen 127.0.0.1:{port}; include {folder}/snippet.conf; }} }}\n"
    )
    map_file = folder / "conf.d" / "00-map.conf"
    map_file.write_text(render_map([], 0, GatewaySettings()))
    words = [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    listed = ", ".join(words)
    entry = (
        f"{{address: local, map_file: {map_file}, status_url: 'http://127.0.0.1:{port}', "
        f"test: [{listed}, -t], reload: [{listed}, -s, reload]}}"
    )
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield _Edge(port, entry)
    finally:
        subprocess.run([*words, "-s", "quit"], check=False, capture_output=True)


def _percentile(values: list[float], share: int) -> float:
    """The smallest value that so many percent of all don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * share // 100) - 1)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
