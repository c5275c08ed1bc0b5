"""`reconcile`: what it costs to compare 1,000 placements with their containers, and to bring all of them back.

Responsible for: what is measured, and its gate. Not responsible for: the rig, nor the engines, which are the tests'
doubles: a real one lists a thousand containers in well under a second, and starts a few of them in that time.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from statistics import median

from bench.measure import BenchError, alternate, quartiles
from bench.report import Gate, Row, duration
from bench.rig import Rig
from tests.builders import CLUSTER, capacity, node
from tests.fakes import FakeFleet
from tests.worlds import SPEC, Commands
from wsctl.context import SystemClock
from wsctl.coordination import open_leases
from wsctl.reconciler import Reconciler, Repair
from wsctl.records import Actor
from wsctl.store import lease_rows, open_store
from wsctl.store.store import SqlStore
from wsctl.workflow import World

ROUNDS = 5
COUNT = 1000
PARALLEL = 8
GATE = Gate(5, "s")


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl reconcile` without its process, over 3 nodes and 1,000 running placements on the lab's MariaDB: once when
    nothing differs, and once when every node was rebooted, so that each user has to be started again, with lease,
    claim, fence, audit and state. The gate is absolute, and on the first: the second depends on how many are broken."""
    lab = rig.lab
    database = f"wsctl_bench_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
    store = open_store(url, cluster=CLUSTER, base=Path(), password=lab.mysql_password_file.read_text().strip())
    try:
        return _rows(store, rounds or ROUNDS)
    finally:
        store.close()
        lab.sql(f"DROP DATABASE {database}")


def _rows(store: SqlStore, rounds: int) -> list[Row]:
    names = ("n1", "n2", "n3")
    fleet = FakeFleet(names)
    leases = open_leases(None, cluster=CLUSTER, rows=lambda: lease_rows(store), holder="bench@here:1")
    room = capacity(COUNT, 1 << 50, 10**9)
    world = World(
        cluster=CLUSTER,
        nodes={name: node(name, address=fleet[name].address, capacity=room) for name in names},
        classes={"default": SPEC},
        store=store,
        leases=leases,
        engines=fleet,
        clock=SystemClock(),
        actor=Actor("bench", process="here:1"),
        parallel=PARALLEL,
    )

    def equal(number: str) -> float:
        return _timed(world, 0)

    def rebooted(number: str) -> float:
        for name in names:
            fleet[name].power_cycle()
        return _timed(world, COUNT)

    try:
        placed = Commands(world).place(*(f"user{number}" for number in range(COUNT)))
        if any(outcome.error is not None for outcome in placed):
            raise BenchError(f"not all could be placed: {[one.error for one in placed if one.error][:3]}")
        series = alternate("reconcile", {"equal": equal, "rebooted": rebooted}, rounds)
    finally:
        leases.close()
    what = f"`wsctl reconcile` of 3 nodes and {COUNT:,} placements, engines emulated"
    return [
        _row(f"{what}, nothing differs", series.seconds["equal"], GATE),
        _row("… all nodes rebooted: everybody is started again", series.seconds["rebooted"], None),
    ]


def _timed(world: World, wanted: int) -> float:
    """Seconds of one run, which must find and repair that many differences."""
    began = time.monotonic()
    run = Reconciler(world)
    picture = run.look()
    run.plan(picture)
    repairs: list[Repair] = run.repair(picture)
    spent = time.monotonic() - began
    if len(repairs) != wanted or not all(repair.repaired for repair in repairs):
        raise BenchError(f"{len(repairs)} differences instead of {wanted}: {repairs[:3]}")
    return spent


def _row(what: str, seconds: list[float], gate: Gate | None) -> Row:
    low, high = map(duration, quartiles(seconds))
    value = median(seconds)
    return Row(
        what=what,
        ours=duration(value),
        floor="",
        result="",
        gate="" if gate is None else str(gate),
        met=None if gate is None else gate.met(value),
        spread=f"{what}: {low} to {high}; {len(seconds)} rounds",
    )
