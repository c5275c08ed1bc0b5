"""`state`: what it costs to make a placement durable, on the lab's MariaDB with every commit on disk.

Responsible for: what is compared, and its gate. Not responsible for: the rig, nor the emulated engines
(`tests.faults.storm`).
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
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
from wsctl.planner import plan_place
from wsctl.records import Actor
from wsctl.store import lease_rows, open_store
from wsctl.store.store import SqlStore
from wsctl.workflow import Operation, Workflow, World

ROUNDS = 5
COUNT = 400
PARALLEL = 8
GATE = Gate(0.6, "× the rate", at_most=False)


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """One batch of 400 new placements through the production workflow (leases, capacity, port, audit, state), engines
    emulated, against a bare loop on the same server that INSERTs the same rows of each placement and COMMITs.
    """
    lab = rig.lab
    database = f"wsctl_bench_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
    password = lab.mysql_password_file.read_text().strip()
    batches = itertools.count()
    try:
        return [_row(url, password, rounds or ROUNDS, batches)]
    finally:
        lab.sql(f"DROP DATABASE {database}")


def _row(url: str, password: str, rounds: int, batches: itertools.count[int]) -> Row:
    def wsctl(number: str) -> float:
        # A cluster of its own each time: an empty one.
        cluster = f"{CLUSTER}{next(batches)}"
        store = open_store(url, cluster=cluster, base=Path(), password=password)
        try:
            return _placements(store, cluster)
        finally:
            store.close()

    def bare(number: str) -> float:
        store = open_store(url, cluster=CLUSTER, base=Path(), password=password)
        try:
            return _bare(store, f"bare{next(batches)}")
        finally:
            store.close()

    series = alternate("state", {"wsctl": wsctl, "bare": bare}, rounds)
    return row(
        f"{COUNT} durable placements in one batch, engines emulated / a bare loop of the same INSERTs and COMMIT",
        series,
        "wsctl",
        "bare",
        how=lambda ours, floor: floor / ours,
        show=lambda seconds: f"{COUNT / seconds:.0f} /s",
        gate=GATE,
    )


def _placements(store: SqlStore, cluster: str) -> float:
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
        parallel=PARALLEL,
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


def _bare(store: SqlStore, cluster: str) -> float:
    """The rows that a placement leaves, each placement's in one transaction, on one connection."""
    database = store.database
    audit = (
        "INSERT INTO audit (cluster, target, sequence, at, kind, verb, action, os_user, process, operation, plan, "
        "after_state, detail, digest) "
        "VALUES (?, ?, ?, UTC_TIMESTAMP(6), 'intent', 'place', 'created', 'bench', 'here:1', ?, ?, ?, '', ?)"
    )
    plan, state, digest = "x" * 200, json.dumps({"x": "y" * 200}), "0" * 64
    began = time.monotonic()
    for number in range(COUNT):
        user = f"user{number}"

        def work(session: Any, user: str = user, number: int = number) -> None:
            session.execute(
                "INSERT INTO placements (cluster, user, node, address, host_port, state, generation, "
                "container_generation, memory_bytes, cpus_milli, pids, workspace_class, created_at, updated_at) "
                "VALUES (?, ?, 'n1', '10.0.0.1', ?, 'running', 1, 1, ?, ?, ?, 'default', UTC_TIMESTAMP(6), "
                "UTC_TIMESTAMP(6))",
                (cluster, user, 20000 + number, RESOURCES.memory_bytes, RESOURCES.cpus_milli, RESOURCES.pids),
            )
            for sequence in (1, 2):
                session.execute(audit, (cluster, user, sequence, user, plan, state, digest))

        database.write(work)
    return time.monotonic() - began
