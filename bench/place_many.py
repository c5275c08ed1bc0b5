"""`place-60`: sixty new users in one command on three nodes.

Responsible for: what is compared, and its gate. Not responsible for: the rig, the floor's program (`floor_threads`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import floor_threads
from bench.measure import alternate, timed
from bench.report import Gate, Row, row
from bench.rig import FLOOR_PORTS, USERS, Rig

ROUNDS = 5
COUNT = 60
PARALLEL = 6
THREADS = 6
"""The floor's best on two cores: of 2, 3, 4, 6, 8 and 12 threads (single runs), 4 to 8 are level, the others slower."""

GATE = Gate(0.9, "× the rate", at_most=False)


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """One `wsctl place --from FILE` of 60 new users against docker-py in threads on the nodes' local sockets.

    Both are whole processes that make and start 60 equal containers (compared afterwards), 20 on each node, and don't
    wait for the programs in them. The floor has no SSH, no database and no decisions to make: two requests for each
    container, ready-made bodies, its best number of threads, and docker-py without the paramiko that it would import
    for nothing. wsctl goes through SSH with host keys checked, asks the nodes first, commits each step of each
    placement to SQLite on disk, and holds leases. Before each run the nodes are empty and so is the database.
    """
    shape = rig.shape
    names = itertools.count()

    def users(count: int) -> list[str]:
        batch = next(names)
        return [f"{USERS}{batch}-{number}" for number in range(count)]

    def wsctl(number: str, count: int = COUNT) -> float:
        inventory = rig.inventory(f"many-{next(names)}")
        listed = inventory.with_name("users")
        batch = users(count)
        listed.write_text("\n".join(batch))
        words: list[str | Path] = [rig.wsctl, "place", "-i", inventory, "--from", listed, "--parallel", str(PARALLEL)]
        spent = timed(words, rig.env)
        rig.shape_of(f"ws-u-{batch[-1]}").must_equal(shape)
        return spent

    def threads(number: str, count: int = COUNT) -> float:
        job: dict[str, Any] = {"threads": THREADS, "sockets": _text(rig.sockets), "containers": []}
        nodes = itertools.cycle(rig.addresses.items())
        batch = users(count)
        for user, port in zip(batch, FLOOR_PORTS, strict=False):
            node, address = next(nodes)
            body = shape.body(f"ws-u-{user}", address, port, rig.source(user))
            job["containers"].append({"node": node, "name": f"ws-u-{user}", "body": body})
        path = rig.folder / f"job-{next(names)}.json"
        path.write_text(json.dumps(job))
        spent = timed([rig.python, floor_threads.__file__, path], rig.env)
        rig.shape_of(f"ws-u-{batch[-1]}").must_equal(shape)
        return spent

    few = {"wsctl": lambda n: wsctl(n, 6), "docker-py": lambda n: threads(n, 6)}
    series = alternate("place-60", {"wsctl": wsctl, "docker-py": threads}, rounds or ROUNDS, warm=few, after=rig.clean)
    return [
        row(
            f"`wsctl place --from` of {COUNT} users on 3 nodes, `--parallel {PARALLEL}` / "
            f"docker-py, {THREADS} threads on local sockets",
            series,
            "wsctl",
            "docker-py",
            how=lambda ours, floor: floor / ours,
            show=lambda seconds: f"{COUNT / seconds:.1f} /s",
            gate=GATE,
        )
    ]


def _text(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}
