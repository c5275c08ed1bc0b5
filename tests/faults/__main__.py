"""The search for faults as one command, and its figures: what was tried, how often, and what broke.

    python -m tests.faults           bounded, as in `make test`: some minutes
    python -m tests.faults --all     everything: 10,000 schedules, every contact, every member; more than an hour
    python -m tests.faults --no-lab  only what needs no root and no real nodes

Responsible for: running the tests of this folder and the simulator, and counting. Not responsible for: any of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
Figures = tuple[str, int, int, float]
"""What was tried, how often, how much of it broke, and how many seconds that took."""

SCHEDULES = {False: 2400, True: 10_000}


@dataclass(frozen=True)
class Row:
    """A line of the table. `counts` is the property in which its tests say how many they tried (None: one each)."""

    what: str
    files: tuple[str, ...]
    counts: str | None = None
    needs_lab: bool = False


_BITES = "test_simulator_bites.py::test_a_missing_safeguard_is_found"
_STRUCK = "boundaries at which a writer was struck, on real nodes"
ROWS = (
    Row("seeds that once broke something", ("test_simulator.py::test_what_once_broke",)),
    Row("sabotages of wsctl that the simulator must find", (_BITES,)),
    Row(
        "boundaries at which a writer was cut off, on fakes",
        ("test_interruption.py", "test_reconcile_interrupted.py"),
        "boundaries",
    ),
    Row(_STRUCK, ("test_struck_lab.py",), "boundaries", needs_lab=True),
    Row("scenarios: real parts that break under a batch", ("test_lab_faults.py",), needs_lab=True),
    Row("scenarios: three control hosts on Galera and Redis Cluster", ("test_scale_out.py",), needs_lab=True),
    Row("racing calls for the last room", ("test_storm.py",), "calls", needs_lab=True),
)


def main(words: list[str]) -> int:
    """Run all, print the table; 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--all", action="store_true", help="everything, as with WSCTL_FAULTS=all")
    parser.add_argument("--schedules", type=int, help="how many, instead of 2,400 or 10,000")
    parser.add_argument("--no-lab", action="store_true", help="leave out what needs real nodes")
    chosen = parser.parse_args(words)
    environment = {**os.environ, **({"WSCTL_FAULTS": "all"} if chosen.all else {})}
    began, broken = time.monotonic(), 0
    print("| what | how many | violations | seconds |\n|---|---|---|---|", flush=True)
    schedules = chosen.schedules or SCHEDULES[chosen.all]
    for what, number, violations, took_s in _results(environment, schedules, lab=not chosen.no_lab):
        broken += violations
        print(f"| {what} | {number:,} | {violations} | {took_s:.0f} |", flush=True)
    print(f"| in all | | {broken} | {time.monotonic() - began:.0f} |")
    return 1 if broken else 0


def _results(environment: dict[str, str], schedules: int, *, lab: bool) -> Iterator[Figures]:
    yield _schedules(schedules, environment)
    for row in ROWS:
        if lab or not row.needs_lab:
            yield _tests(row, environment)


def _schedules(number: int, environment: dict[str, str]) -> Figures:
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.faults.simulator", "--seeds", str(number)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    said = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.count(" | ") == 1)
    violations = int(said.get("violations", "1").replace(",", ""))
    return "simulated schedules", int(said.get("schedules", "0").replace(",", "")), violations, time.monotonic() - began


def _tests(row: Row, environment: dict[str, str]) -> Figures:
    """Their figures, as pytest's report has them; an error is a violation too, and is shown."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        files = [f"tests/faults/{name}" for name in row.files]
        # The older form of the report is the one that has properties of single tests.
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report.name}"]
        command = [sys.executable, "-m", "pytest", *options, *files]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        cases = list(ElementTree.parse(report.name).iter("testcase")) if os.path.getsize(report.name) else []
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if done.returncode != 0:
        print(done.stdout[-4000:], file=sys.stderr)
    tried = [case for case in cases if case.find("skipped") is None]
    number = len(tried)
    if row.counts is not None:
        said = (one for case in tried for one in case.iter("property") if one.get("name") == row.counts)
        number = sum(int(one.get("value") or 0) for one in said)
    return row.what, number, max(len(bad), int(done.returncode != 0)), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
