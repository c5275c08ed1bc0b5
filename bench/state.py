"""`state`: what it costs to make a placement durable, on the lab's MariaDB with every commit on disk.

Responsible for: what is compared, and its gate. Not responsible for: the rig, nor the emulated engines
(`tests.faults.storm`).
"""

from __future__ import annotations

import gc
import itertools
import json
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.measure import alternate
from bench.report import Gate, Row, row
from bench.rig import Rig
from tests.builders import CLUSTER, RESOURCES, capacity, node
from tests.faults.storm import SPEC, Emulated
from wsctl.context import SystemClock
from wsctl.coordination import open_leases
from wsctl.model import Strategy
from wsctl.planner.place import plan_place
from wsctl.records import Actor
from wsctl.store import lease_rows, open_store
from wsctl.store.store import SqlStore
from wsctl.workflow import Operation, Workflow, World

ROUNDS = 7
COUNT = 400
PARALLEL = 64
"""As `wsctl place --from FILE --parallel 64`. With the verbs' default of 8 fewer writes find each other: a row of its
own says how much that costs."""

DEFAULT_PARALLEL = 8
GATE = Gate(0.6, "× the rate", at_most=False)
FEW, MANY = 500.0, 1000.0
"""Placements per second that must be reached where the bare loop exceeds MANY."""


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """One batch of 400 new placements through the production workflow, engines emulated, against a bare loop on the
    same server.

    wsctl's side is everything but engines: leases, planning, capacity and ports, the fence before each effect, the
    audit's two rows with their digests, state, activity and counters; fsync on. Its threads' writes go together: some
    five to twenty users a transaction, in multi-row statements.

    The bare loop is what a placement is without any of that: for each user one INSERT of the placement's row, one
    multi-row INSERT of its two audit rows, and a COMMIT, on one connection, by the same driver. Every placement is
    durable before the next, as each of wsctl's is before it is reported. A second floor, without a gate, commits the
    rows of 16 users at a time in multi-row INSERTs, which is how wsctl writes when all goes well: the distance to it
    is what deciding, fencing and chaining cost in Python, and grows with the speed of the disk.
    """
    lab = rig.lab
    database = f"wsctl_bench_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
    password = lab.mysql_password_file.read_text().strip()
    gc.disable()  # for both sides, as wsctl does in its own process
    try:
        return _rows(url, password, rounds or ROUNDS)
    finally:
        gc.enable()
        lab.sql(f"DROP DATABASE {database}")


def _rows(url: str, password: str, rounds: int) -> list[Row]:
    batches = itertools.count()

    def wsctl(parallel: int) -> float:
        # A cluster of its own each time: an empty one.
        cluster = f"{CLUSTER}{next(batches)}"
        with closing(open_store(url, cluster=cluster, base=Path(), password=password)) as store:
            return _placements(store, cluster, parallel)

    def bare(together: int) -> float:
        with closing(open_store(url, cluster=CLUSTER, base=Path(), password=password)) as store:
            return _bare(store, f"bare{next(batches)}", together)

    sides = {
        "wsctl": lambda _: wsctl(PARALLEL),
        "bare": lambda _: bare(1),
        "default": lambda _: wsctl(DEFAULT_PARALLEL),
        "sixteen": lambda _: bare(16),
    }
    series = alternate("state", sides, rounds)

    def compared(what: str, ours: str, floor: str, gate: Gate | None = None) -> Row:
        return row(what, series, ours, floor, how=lambda a, b: b / a, show=_rate, gate=gate)

    what = f"{COUNT} durable placements in one batch, `--parallel {PARALLEL}`, engines emulated"
    first = compared(f"{what} / a bare loop of their INSERTs and COMMITs", "wsctl", "bare", GATE)
    if COUNT / series.median("bare") > MANY and COUNT / series.median("wsctl") < FEW:
        first = replace(first, met=False)
    return [
        first,
        compared(f"… `--parallel {DEFAULT_PARALLEL}`, the default", "default", "bare"),
        compared("… / the loop, 16 placements in each COMMIT", "wsctl", "sixteen"),
    ]


def _rate(seconds: float) -> str:
    return f"{COUNT / seconds:.0f} /s"


def _placements(store: SqlStore, cluster: str, parallel: int) -> float:
    nodes = {f"n{n}": node(f"n{n}", address=f"10.0.0.{n}", capacity=capacity(COUNT, 1 << 50, 10**9)) for n in (1, 2, 3)}
    engines: dict[str, Any] = {name: Emulated(name, store) for name in nodes}
    leases = open_leases(None, cluster=cluster, rows=lambda: lease_rows(store), holder="bench@here:1")
    world = World(
        cluster=cluster,
        nodes=nodes,
        classes={"default": SPEC},
        store=store,
        leases=leases,
        engines=engines.__getitem__,
        clock=SystemClock(),
        actor=Actor("bench", process="here:1"),
        parallel=parallel,
    )
    operation = Operation(
        "place",
        tuple(f"user{n}" for n in range(COUNT)),
        lambda user, view: plan_place(user, SPEC, view, Strategy.SPREAD),
        lambda user, view: SPEC,
        places=True,
    )
    try:
        began = time.monotonic()
        outcomes = Workflow(world).run(operation)
        spent = time.monotonic() - began
    finally:
        leases.close()
    if any(outcome.action != "created" for outcome in outcomes):
        raise AssertionError([outcome.error for outcome in outcomes if outcome.error][:3])
    return spent


def _bare(store: SqlStore, cluster: str, together: int) -> float:
    """The rows that placements leave, those of `together` users in each transaction, on one connection."""
    placement = f"(?, ?, 'n1', '10.0.0.1', ?, 'running', 1, 1, ?, ?, ?, 'default', {_NOW}, {_NOW})"
    audit = f"(?, ?, ?, {_NOW}, 'intent', 'place', 'created', 'bench', 'here:1', ?, ?, ?, '', ?)"
    insert = (
        "INSERT INTO placements (cluster, user, node, address, host_port, state, generation, container_generation, "
        f"memory_bytes, cpus_milli, pids, workspace_class, created_at, updated_at) VALUES {_times(placement, together)}"
    )
    insert_audit = (
        "INSERT INTO audit (cluster, target, sequence, at, kind, verb, action, os_user, process, operation, plan, "
        f"after_state, detail, digest) VALUES {_times(audit, 2 * together)}"
    )
    takes = (RESOURCES.memory_bytes, RESOURCES.cpus_milli, RESOURCES.pids)
    plan, state, digest = "x" * 200, json.dumps({"x": "y" * 200}), "0" * 64
    began = time.monotonic()
    for start in range(0, COUNT, together):
        numbers = range(start, start + together)

        def work(session: Any, numbers: range = numbers) -> None:
            users = [f"user{number}" for number in numbers]
            placements = [(cluster, f"user{number}", 20000 + number, *takes) for number in numbers]
            rows = [(cluster, user, n, user, plan, state, digest) for user in users for n in (1, 2)]
            session.execute(insert, [value for one in placements for value in one])
            session.execute(insert_audit, [value for one in rows for value in one])

        store.database.write(work)
    return time.monotonic() - began


_NOW = "UTC_TIMESTAMP(6)"


def _times(row: str, count: int) -> str:
    return ", ".join([row] * count)
