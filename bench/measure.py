"""Measuring: paired, alternating runs of several sides, and what is said of them.

Responsible for: the order of the runs, discarding the warm-up, timing a process, medians and quartiles. Not responsible
for: what is run (each benchmark's own module) or how the result is printed (`report`).
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

Side = Callable[[str], float]
"""Does the work once under a name nobody else uses, and returns the seconds that count."""

TIMEOUT_S = 180.0


class BenchError(Exception):
    """A measurement that means nothing: a command failed, or the sides did unequal work."""


class Series:
    """The seconds of every side, round by round; the n-th values of two sides were measured one after the other."""

    def __init__(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self.seconds = {name: list(values) for name, values in seconds.items()}

    @property
    def rounds(self) -> int:
        return len(next(iter(self.seconds.values())))

    def median(self, side: str) -> float:
        return median(self.seconds[side])

    def paired(self, one: str, other: str, how: Callable[[float, float], float]) -> list[float]:
        """One value per round. Comparing within a round cancels whatever else the machine was busy with."""
        return [how(a, b) for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; of fewer than two values, the value itself."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def alternate(
    title: str,
    sides: Mapping[str, Side],
    rounds: int,
    *,
    warm: Mapping[str, Side] | None = None,
    after: Callable[[], None] = lambda: None,
) -> Series:
    """Run A, B, then B, A, and so on. First a round of `warm` (default: the sides themselves) that isn't counted.

    `after` tidies up behind every single run, outside the timed part.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        counted = number > 0
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            say(f"{title}: {'round ' + str(number) + '/' + str(rounds) if counted else 'warm-up'}, {name}")
            try:
                spent = (sides if counted else warm or sides)[name](f"r{number}")
            finally:
                after()
            if counted:
                found[name].append(spent)
    say("")
    return Series(found)


def timed(argv: Sequence[str | Path], env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> float:
    """Seconds from the start of a process to its end, its output taken by a pipe. Raises `BenchError` if it fails."""
    return timed_output(argv, env, timeout_s)[0]


def timed_output(argv: Sequence[str | Path], env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> tuple[float, str]:
    """As `timed`, and what it wrote to stdout."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{_words(argv)}: {error}") from error
    spent = time.perf_counter() - began
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BenchError(f"{_words(argv)} ended with {done.returncode}: {said[-2000:]}")
    return spent, done.stdout.decode(errors="replace")


def timed_on_terminal(argv: Sequence[str | Path], env: Mapping[str, str]) -> float:
    """As `timed`, with a terminal of 120 columns as stdout that is read as fast as it is written to."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # Linux: everybody has closed the other end
            pass

    reader = threading.Thread(target=drain)
    try:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, env={**env, "TERM": "xterm", "COLUMNS": "120"}, stdin=subprocess.DEVNULL, stdout=theirs
        )
        os.close(theirs)
        reader.start()
        code = process.wait(TIMEOUT_S)
        spent = time.perf_counter() - began
        reader.join()
    finally:
        os.close(ours)
    if code != 0:
        raise BenchError(f"{_words(argv)} ended with {code}")
    return spent


def say(text: str) -> None:
    """What is going on, on stderr; one line that replaces itself on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
    elif text:
        print(text, file=sys.stderr, flush=True)


def _words(argv: Sequence[str | Path]) -> str:
    text = " ".join(map(str, argv))
    return text if len(text) <= 200 else f"{text[:200]}…"
