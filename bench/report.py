"""What is printed: one row per figure, as Markdown for the README, and the facts of the machine below it.

Responsible for: gates, rounding and layout. Not responsible for: measuring.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Series, quartiles

HEADINGS = ("what", "wsctl", "floor", "", "gate", "")


@dataclass(frozen=True)
class Gate:
    """A bound on the figure of a row: `at_most`, or at least."""

    bound: float
    unit: str
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g} {self.unit}"


@dataclass(frozen=True)
class Row:
    """One figure. `met` is None for a row that only informs; `spread` has the quartiles."""

    what: str
    ours: str
    floor: str
    result: str
    gate: str
    met: bool | None
    spread: str

    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.met is None else "ok" if self.met else "MISSED"
        return self.what, self.ours, self.floor, self.result, self.gate, verdict


def row(
    what: str,
    series: Series,
    ours: str,
    floor: str,
    *,
    how: Callable[[float, float], float] = lambda a, b: a / b,
    show: Callable[[float], str] | None = None,
    figure: Callable[[float], str] | None = None,
    gate: Gate | None = None,
    floor_name: str = "",
) -> Row:
    """The row that compares two sides: medians of each, and the median over the rounds of `how(ours, floor)`."""
    show = show or duration
    figure = figure or (lambda value: f"{value:.2f} ×")
    values = series.paired(ours, floor, how)
    value = median(values)
    low, high = quartiles(values)
    spans = [
        f"{name} {' to '.join(map(show, quartiles(series.seconds[side])))}"
        for name, side in (("wsctl", ours), ("floor", floor))
    ]
    return Row(
        what=what,
        ours=show(series.median(ours)),
        floor=f"{show(series.median(floor))}{' ' + floor_name if floor_name else ''}",
        result=figure(value),
        gate="" if gate is None else str(gate),
        met=None if gate is None else gate.met(value),
        spread=f"{what}: {'; '.join(spans)}; {figure(low)} to {figure(high)}; {series.rounds} rounds",
    )


def duration(seconds: float) -> str:
    """Milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table that is also readable as text."""
    cells = [HEADINGS, *(one.cells() for one in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]

    def line(words: Sequence[str]) -> str:
        return "| " + " | ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def machine(engine: str | None) -> str:
    """What all of it was measured on; `engine` is the version on the nodes."""
    cores = len(os.sched_getaffinity(0))
    facts = [
        f"{cores} core{'' if cores == 1 else 's'}",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"Docker CLI {version_of(['docker', '--version'])}",
        f"OpenSSH {version_of(['ssh', '-V'])}",
    ]
    if engine:
        facts.insert(4, f"Docker Engine {engine}")
    return ", ".join(facts)


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def version_of(argv: list[str]) -> str:
    """The first thing in a program's words that looks like a version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "(absent)"
    found = re.search(r"\d+\.\d+(\.\d+)?(p\d+)?", done.stdout + done.stderr)
    return found.group() if found else "(unknown)"
