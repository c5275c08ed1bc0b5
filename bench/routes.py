"""`routes`: rendering the route map of very many users.

Responsible for: what is measured, and its gates. Not responsible for: the measured program (`render`).
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from bench import render
from bench.measure import Series, alternate, quartiles, timed_output
from bench.report import Gate, Row, duration
from bench.rig import Rig

ROUNDS = 5
GATES = {100_000: Gate(0.5, "s"), 1_000_000: Gate(6, "s")}
MEMORY = Gate(1, "GiB")


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`render_map` of 100,000 and of 1,000,000 routes in a process of its own, the routes being there already, against
    a loop that formats and sorts the same lines without checking anything. The gates are absolute; the last row is the
    largest resident set of the whole process, routes included."""
    env = {**rig.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    peaks: list[float] = []

    def measure(kind: str, count: int) -> float:
        said = json.loads(timed_output([rig.python, "-m", render.__name__, kind, str(count)], env)[1])
        if kind == "wsctl" and count == max(GATES):
            peaks.append(said["peak_bytes"] / 2**30)
        return float(said["seconds"])

    rows = []
    for count, gate in GATES.items():
        sides = {kind: lambda _, kind=kind, count=count: measure(kind, count) for kind in ("wsctl", "loop")}
        rows.append(_row(f"render a map of {count:,} routes", alternate("routes", sides, rounds or ROUNDS), gate))
    peak = max(peaks)
    return [
        *rows,
        Row(
            what=f"… memory of {max(GATES):,}",
            ours=f"{peak:.2f} GiB",
            floor="",
            result="",
            gate=str(MEMORY),
            met=MEMORY.met(peak),
            spread=f"memory: at most {peak:.2f} GiB",
        ),
    ]


def _row(what: str, series: Series, gate: Gate) -> Row:
    low, high = map(duration, quartiles(series.seconds["wsctl"]))
    times = median(series.paired("wsctl", "loop", lambda a, b: a / b))
    value = series.median("wsctl")
    return Row(
        what=what,
        ours=duration(value),
        floor=f"{duration(series.median('loop'))} an unchecked loop",
        result=f"{times:.2f} ×",
        gate=str(gate),
        met=gate.met(value),
        spread=f"{what}: wsctl {low} to {high}; {series.rounds} rounds",
    )
