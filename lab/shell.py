"""Running programs: to their end, or detached as a daemon, and waiting until something is true.

Not here: what is run. Nothing in this module knows about nodes or services.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CLEAN_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

# Set when the operator presses Ctrl-C: threads that wait for a daemon stop waiting.
interrupted = threading.Event()


class LabError(Exception):
    """Something the lab's user can read and act on; the CLI prints it without a traceback."""


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    timeout: float = 60,
    input: str | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in its own process group, so that a timeout ends all of it."""
    words = [str(word) for word in argv]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if check and process.returncode != 0:
        detail = (err.strip() or out.strip())[-2000:]
        raise LabError(f"{' '.join(words)} failed with status {process.returncode}: {detail}")
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def spawn(argv: Sequence[str | Path], cgroup: Path, log: Path) -> None:
    """Start a daemon that outlives us: own session, output to a file, born inside `cgroup`.

    The shell enters the cgroup before it becomes the program, so there is no moment at which the
    program runs and the lab can't find it; and it forks, so that the daemon isn't our child. Not by `&`,
    which would make the daemon ignore SIGINT.
    """
    script = 'echo 0 >"$1/cgroup.procs" && shift && exec setsid --fork "$@" </dev/null >>"$LOG" 2>&1'
    run(["sh", "-c", script, "sh", cgroup, *argv], env={**CLEAN_ENV, "LOG": str(log)})


def wait_until(probe: Callable[[], bool], timeout: float, what: str, log: Path | None = None) -> None:
    """Poll until `probe` is true; else raise with the tail of the daemon's log."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not probe():
        if interrupted.is_set():
            raise LabError(f"interrupted while waiting for {what}")
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not come up within {timeout:g} s{tail(log)}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def tail(log: Path | None, lines: int = 15) -> str:
    """The end of a log, introduced by its name, for an error message."""
    if log is None:
        return ""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return f"; its log {log} can't be read"
    return "\n".join([f"; the end of {log}:", *(f"    {line}" for line in text)])


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    fresh.replace(path)
