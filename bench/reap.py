"""`reap`: deciding who of very many users on many nodes is idle.

Responsible for: what is measured, and its gates. Not responsible for: the engines (`engines`), nor the users' rows
(`settled`).
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import engines
from bench.engines import container_id, user_name
from bench.measure import BenchError, Series, alternate, quartiles, timed, timed_output
from bench.report import Gate, Row, duration
from bench.rig import CLUSTER, Rig
from bench.settled import settle_crowd
from wsctl.signals import NetworkSample
from wsctl.store import open_store

ROUNDS = 5
NODES = 50
USERS = 200
GATE = Gate(2, "s")
CALLS = Gate(8, "requests a node")
BOUNDED = Gate(80, "requests a node")

# What a node's shell says: every container is as idle as when it was last looked at.
SHELL = """#!/bin/sh
shift 3
echo "==look 1"
for id; do echo "$id 1000 5000000 1"; done
echo "==end"
"""
NO_SHELL = "#!/bin/sh\necho 'This account is currently not available.'\nexit 1\n"


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl reap-idle --dry-run`, the whole process, of 10,000 running users on 50 nodes who are all idle: the most
    there is to look at. The engines are one process that answers on 50 sockets as Docker does; the nodes' shells are a
    script that answers for each container. Once without shells: then the engines are asked about some in each run.

    The floor is a loop that gets and parses the 50 lists. Gates are absolute: seconds, and requests to engines a node.
    """
    folder = rig.folder / "reap"
    folder.mkdir()
    inventory = _fill(folder)
    env = {}
    for name, script in (("shell", SHELL), ("none", NO_SHELL)):
        path = folder / name
        path.mkdir()
        (path / "sh").write_text(script)
        (path / "sh").chmod(0o755)
        env[name] = {**rig.env, "PATH": f"{path}:{rig.env['PATH']}"}
    words: list[str | Path] = [rig.wsctl, "reap-idle", "--dry-run", "-i", inventory]
    asked: dict[str, int] = {}
    with _engines(rig, folder):

        def decide(name: str) -> float:
            before = _asked(folder)
            spent = timed(words, env[name])
            asked[name] = _asked(folder) - before - 1
            return spent

        verdicts = json.loads(timed_output([*words, "-o", "json"], env["shell"])[1])["items"]
        if [item["verdict"] for item in verdicts] != ["would-stop"] * NODES * USERS:
            raise BenchError(f"not everybody is idle: {verdicts[0]}")
        sides = {
            "shell": lambda _: decide("shell"),
            "none": lambda _: decide("none"),
            "floor": lambda _: timed([rig.python, "-c", FLOOR, folder, str(NODES)], rig.env),
        }
        series = alternate("reap", sides, rounds or ROUNDS)
    what = f"decide who of {NODES * USERS:,} users on {NODES} nodes is idle"
    return [
        _row(what, series, "shell", GATE),
        _count("… requests to engines", asked["shell"], CALLS),
        _row("… without shells on the nodes", series, "none", None),
        _count("… requests to engines", asked["none"], BOUNDED),
    ]


FLOOR = """
import http.client, json, socket, sys
for number in range(int(sys.argv[2])):
    wire = http.client.HTTPConnection("localhost")
    wire.sock = socket.socket(socket.AF_UNIX)
    wire.sock.connect(f"{sys.argv[1]}/{number}.sock")
    wire.request("GET", "/v1.41/containers/json?all=1")
    json.load(wire.getresponse())
"""


def _fill(folder: Path) -> Path:
    path = folder / "inventory.yaml"
    nodes = "".join(f"  n{n}: {{address: local, docker_socket: {folder}/{n}.sock}}\n" for n in range(NODES))
    path.write_text(f"""\
version: 1
cluster: {CLUSTER}
state: sqlite:///wsctl.db
defaults: {{bind_address: 127.0.0.1, capacity: {{workspaces: {USERS}, memory: 4096g, cpus: 4096}}}}
workspace: {{image: "bench:1"}}
nodes:
{nodes}""")
    store = open_store("sqlite:///wsctl.db", cluster=CLUSTER, base=folder)
    homes = {f"n{node}": [user_name(node, n) for n in range(USERS)] for node in range(NODES)}
    then = datetime.now(UTC) - timedelta(hours=2)
    try:
        settle_crowd(store, homes, dict.fromkeys(homes, "127.0.0.1"))
        store.touch([user for users in homes.values() for user in users], then, "touch")
        store.database.apply("UPDATE activity SET last_active_at = ?", (store.database.dialect.encode_time(then),))
        store.save_samples(
            [
                NetworkSample(user_name(node, n), container_id(node, n), 1000, then, 5_000_000)
                for node in range(NODES)
                for n in range(USERS)
            ]
        )
    finally:
        store.close()
    return path


@contextmanager
def _engines(rig: Rig, folder: Path) -> Iterator[None]:
    words = [rig.python, "-m", engines.__name__, str(folder), str(NODES), str(USERS), CLUSTER]
    env = {**rig.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise BenchError("the emulated engines didn't start")
            yield
        finally:
            process.kill()


def _asked(folder: Path) -> int:
    """How many requests the engines have had, this kind of question included."""
    wire = http.client.HTTPConnection("localhost")
    wire.sock = socket.socket(socket.AF_UNIX)
    wire.sock.connect(str(folder / "0.sock"))
    wire.request("GET", "/bench/counts")
    counts: dict[str, int] = json.load(wire.getresponse())
    wire.close()
    return sum(counts.values())


def _row(what: str, series: Series, side: str, gate: Gate | None) -> Row:
    low, high = map(duration, quartiles(series.seconds[side]))
    value, floor = series.median(side), series.median("floor")
    return Row(
        what=what,
        ours=duration(value),
        floor=f"{duration(floor)} (a loop that lists)",
        result=f"{value / floor:.1f} ×",
        gate="" if gate is None else str(gate),
        met=None if gate is None else gate.met(value),
        spread=f"{what}: {low} to {high}; {series.rounds} rounds",
    )


def _count(what: str, requests: int, gate: Gate) -> Row:
    each = requests / NODES
    return Row(what, f"{requests:,}", "", f"{each:.0f} a node", str(gate), gate.met(each), f"{what}: {requests:,}")
