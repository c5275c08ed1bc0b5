"""`python -m bench [NAME…]`: measure, print the table, exit 1 if a gate is missed.

Exit codes: 0 all gates met, 1 one missed, 2 nothing could be measured, 130 interrupted. Responsible for: the command
line and the order of things. Not responsible for: any measurement.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench import (
    cli,
    detection,
    drain,
    failover,
    gateway,
    gets,
    migrate,
    place_many,
    place_one,
    publish,
    reap,
    reconcile,
    report,
    routes,
    state,
    touch,
)
from bench.measure import BenchError
from bench.report import Row
from bench.rig import Rig, rig
from lab import LabError


class Benchmark(NamedTuple):
    """`run` takes the rig and the number of rounds (None: its own); `services`: it needs MariaDB or Redis."""

    run: Callable[[Rig, int | None], list[Row]]
    rounds: int
    needs_lab: bool = True
    by_default: bool = True
    services: bool = False


BENCHMARKS = {
    "place-one": Benchmark(place_one.run, place_one.ROUNDS),
    "place-60": Benchmark(place_many.run, place_many.ROUNDS),
    "gets": Benchmark(gets.run, gets.ROUNDS),
    # Minutes, and nodes that die: only by name.
    "detection": Benchmark(detection.run, detection.ROUNDS, by_default=False),
    # Minutes, and gigabytes on disk: only by name.
    "drain-30": Benchmark(drain.run, drain.ROUNDS, by_default=False),
    "state": Benchmark(state.run, state.ROUNDS, services=True),
    # It writes 1 GiB a dozen times: only by name.
    "migrate": Benchmark(migrate.run, migrate.ROUNDS, by_default=False),
    "reconcile": Benchmark(reconcile.run, reconcile.ROUNDS, services=True),
    "cli": Benchmark(cli.run, cli.ROUNDS, needs_lab=False),
    "gateway": Benchmark(gateway.run, gateway.ROUNDS, needs_lab=False),
    # Five minutes, mostly of waiting: at most one reload a second.
    "publish": Benchmark(publish.run, publish.ROUNDS, needs_lab=False, by_default=False),
    "reap": Benchmark(reap.run, reap.ROUNDS, needs_lab=False),
    "touch": Benchmark(touch.run, touch.ROUNDS, services=True),
    # It switches a node of the lab off: only by name.
    "failover": Benchmark(failover.run, failover.ROUNDS, by_default=False),
    "routes": Benchmark(routes.run, routes.ROUNDS, needs_lab=False),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is named, or everything."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        missed = _run(arguments.names or [name for name, one in BENCHMARKS.items() if one.by_default], arguments)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except (BenchError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="The published figures of wsctl, against their gates."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=_name, help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds of each (default: each one's own)")
    parser.add_argument(
        "--lab",
        metavar="NAME",
        default=os.environ.get("WSCTL_TEST_LAB"),
        help="use this lab and leave it up (default: $WSCTL_TEST_LAB, else one of its own)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the quartiles of every row too")
    return parser


def _name(text: str) -> str:
    if text not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"there is no {text!r}, only {', '.join(BENCHMARKS)}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _run(names: Sequence[str], arguments: argparse.Namespace) -> list[Row]:
    """Measure and print; the rows that missed their gates."""
    began, load = time.monotonic(), report.load()
    rows: list[Row] = []
    wanted = [BENCHMARKS[name] for name in names]
    needs_lab, services = any(one.needs_lab for one in wanted), any(one.services for one in wanted)
    with rig(arguments.lab, needs_lab=needs_lab, services=services) as made:
        for name in names:
            rows += BENCHMARKS[name].run(made, arguments.rounds)
        engine = made.engine_version
    rounds = ", ".join(f"{name} {arguments.rounds or BENCHMARKS[name].rounds}" for name in names)
    print(report.table(rows))
    print(
        f"\nMedians of alternating runs, the figure compared within each round; rounds: {rounds}."
        f"\n{report.machine(engine)}; load average {load} before, {report.load()} after; "
        f"{time.monotonic() - began:.0f} s in all."
    )
    if arguments.verbose:
        print("\nQuartiles:\n" + "\n".join(f"- {one.spread}" for one in rows))
    return [one for one in rows if one.met is False]


if __name__ == "__main__":
    sys.exit(main())
