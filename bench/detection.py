"""`detection`: a node loses its power, and `wsctl watch` finds out.

Responsible for: the power cut, and the time until it is said that the node is suspect, and that it is down. Not
responsible for: what is done then (`failover`), nor for the rig.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.measure import BenchError, say
from bench.report import Gate, Row
from bench.rig import Rig

ROUNDS = 5
DEAD = "n1"
GATE = Gate(15, "s")
PATIENCE_S = 60.0
STEP_S = 0.43
"""Each round begins at another moment of the interval between two looks."""


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """One watcher with the usual settings looks at three nodes; one of them dies at once, with its cable out. The time
    is taken from then on until the watcher prints `suspect`, and `down`: its own processes, connections and second
    opinions included."""
    inventory = rig.inventory("detection")
    suspect: list[float] = []
    down: list[float] = []
    for number in range(rounds or ROUNDS):
        say(f"detection: round {number + 1}")
        times = _round(rig, inventory, number * STEP_S)
        suspect.append(times["suspect"])
        down.append(times["down"])
    shown = ", ".join(f"{seconds:.1f} s" for seconds in down)
    return [
        Row(
            what="a node that died, until `wsctl watch` says that it is down, the slowest",
            ours=f"{max(down):.1f} s",
            floor="",
            result=f"half {median(down):.1f} s; suspect after {median(suspect):.1f} s",
            gate=str(GATE),
            met=GATE.met(max(down)),
            spread=f"detection, each round: {shown}",
        )
    ]


def _round(rig: Rig, inventory: Path, wait_s: float) -> dict[str, float]:
    with _watching(rig, inventory) as seen:
        time.sleep(3 + wait_s)
        began = time.monotonic()
        rig.lab.kill(DEAD)
        try:
            while "down" not in seen and time.monotonic() - began < PATIENCE_S:
                time.sleep(0.01)
        finally:
            rig.lab.start(DEAD)
    if "down" not in seen:
        raise BenchError(f"nobody noticed within {PATIENCE_S:g} s that {DEAD} is dead")
    return {event: at - began for event, at in seen.items()}


@contextmanager
def _watching(rig: Rig, inventory: Path) -> Iterator[dict[str, float]]:
    """A watcher while the block runs; when it first said what of the node that will die."""
    seen: dict[str, float] = {}
    process = subprocess.Popen(
        [rig.wsctl, "watch", "-i", str(inventory), "-o", "json"], env=rig.env, stdout=subprocess.PIPE, text=True
    )

    def read() -> None:
        for line in process.stdout or ():
            event = json.loads(line)
            if event["node"] == DEAD:
                seen.setdefault(event["event"], time.monotonic())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        process.wait(30)
        reader.join(5)
