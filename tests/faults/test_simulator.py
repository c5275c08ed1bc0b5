"""Thousands of random schedules, none of which may break anything; and the seeds that once did.

A failure names its seed; `python -m tests.faults.simulator --seed N --trace` shows every contact of it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.simulator import first_violation, main, play
from tests.worlds import Site, make_site
from wsctl.model import PlacementState

ROOT = Path(__file__).parents[2]
CHUNKS, SEEDS_EACH = 12, 200

ONCE_BROKEN = {
    "place rm": (16, 999, 1274, 1298),
    "place purge": (16, 999, 1298),
    "place stop rm": (22, 125, 999),
    "": (44, 68, 449, 897, 938, 1379, 1439, 1602, 1856, 1997, 2752, 3476, 4516, 9548),
}
"""Seeds that found something when they were first played. Schedules change with the code, so they guard less as time
goes by; what they found has a test of its own each."""


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Thousands of warnings that the leases can't be reached help nobody."""
    logging.getLogger("wsctl.coordination").setLevel(logging.ERROR)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_breaks(chunk: int) -> None:
    broken = first_violation(range(chunk * SEEDS_EACH, (chunk + 1) * SEEDS_EACH))
    assert broken is None, f"seed {broken.seed}: {broken.violations}"


@pytest.mark.parametrize(("verbs", "seed"), [(verbs, seed) for verbs, seeds in ONCE_BROKEN.items() for seed in seeds])
def test_what_once_broke(verbs: str, seed: int) -> None:
    assert play(seed, verbs=verbs.split()).violations == []


def test_nothing_breaks_where_writes_go_together() -> None:
    """Commands on several users only: most of their writes share a transaction with somebody else's."""
    results = [play(seed, verbs=["place two", "place three", "stop two", "start three", "rm"]) for seed in range(250)]
    assert [(result.seed, result.violations) for result in results if result.violations] == []
    assert sum(sum(n for size, n in result.groups.items() if size > 1) for result in results) > 100


def test_a_schedule_does_something() -> None:
    """What the others rest on: commands do succeed, faults do strike, controllers do meet."""
    results = [play(seed) for seed in range(100)]
    assert sum(result.outcomes["done"] for result in results) > 200
    assert sum(result.faults.total() for result in results) > 100
    assert sum(result.outcomes["StaleGeneration"] + result.outcomes["LeaseHeld"] for result in results) > 20
    assert sum(result.contacts for result in results) > 10_000


def trace_in_another_process(seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.faults.simulator", "--seed", str(seed), "--trace"]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("seed", [3, 17, 449])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    one, other = (trace_in_another_process(seed, hash_seed) for hash_seed in ("1", "2"))
    assert one == other
    assert len(one.splitlines()) > 50


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "40", "--jobs", "1", "--from", "7"]) == 0
    said = capsys.readouterr().out
    assert "| schedules | 40 |" in said
    assert "| violations | 0 |" in said


# ------------------------------------------------------------------------------------------------ what is known


def test_a_generation_is_never_used_twice() -> None:
    """Who holds generation 1 of a placement that was removed must not be taken for the holder of the next one's."""
    site: Site = make_site()
    try:
        site.run("place", "alice")
        mine = site.store.placement("alice")
        assert mine is not None
        site.run("rm", "alice")
        site.run("place", "alice")
        assert not site.store.settle("alice", mine.generation, PlacementState.FAILED)
    finally:
        site.close()
