"""The lab's own cgroups: which processes belong to which part of it, and how to end them all.

Everything a lab starts is born in one of its cgroups, and so are all its descendants, whatever they do: that
membership, kept by the kernel, is the only record of processes the lab has. There are no pid files to go stale, and
a lab that crashed half-way is cleaned up like any other. Works with v2 alone, and with v1 with or without v2 beside it.
Not here: what the processes are.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from lab.shell import LabError

BASE = "wsctl-lab"


def hierarchies() -> list[Path]:
    """Where every cgroup hierarchy of this machine is mounted, v2 first."""
    found: list[tuple[bool, Path]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind in ("cgroup", "cgroup2") and "ro" not in options.split(","):
            found.append((kind == "cgroup", Path(where)))
    return [path for _, path in sorted(found)]


def tracking() -> Path:
    """The hierarchy whose membership counts: v2 if there is one, else any of v1's."""
    return hierarchies()[0] / BASE


def create(group: str) -> Path:
    """Make a cgroup, named like `lab/n1/engine`, and return its folder."""
    path = tracking() / group
    for _ in range(100):
        with suppress(FileNotFoundError):  # another lab's `down` may have taken the empty base away meanwhile
            path.mkdir(parents=True, exist_ok=True)
            return path
    raise LabError(f"the cgroup {path} can't be made")


def members(group: str) -> list[int]:
    """The living processes in a cgroup and below it; zombies don't count."""
    pids: list[int] = []
    for file in _procs_files(tracking() / group):
        with suppress(OSError):
            pids += [int(word) for word in file.read_text().split()]
    return [pid for pid in dict.fromkeys(pids) if state(pid) not in ("Z", "X", "")]


def _procs_files(path: Path) -> list[Path]:
    return [Path(folder) / "cgroup.procs" for folder, _, _ in os.walk(path)]


def state(pid: int) -> str:
    """One letter as in ps, or nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def parent(pid: int) -> int:
    """The parent's process id, or 0."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def command(pid: int) -> str:
    """What the process says it is, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def send_one(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def send(group: str, number: signal.Signals) -> list[int]:
    """Signal every process in a cgroup; returns whom."""
    pids = members(group)
    for pid in pids:
        send_one(pid, number)
    return pids


def kill(group: str, timeout: float = 10) -> None:
    """SIGKILL everything in a cgroup and below, until nothing lives there."""
    deadline = time.monotonic() + timeout
    while True:
        switch = tracking() / group / "cgroup.kill"
        with suppress(OSError):  # absent before Linux 5.14 and in v1
            switch.write_text("1")
        # Again each round: without the switch, a process may have forked while we went through the list.
        left = send(group, signal.SIGKILL)
        if not left:
            return
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} of {group} can't be killed: does the kernel wait for a disk?")
        time.sleep(0.01)


def remove(group: str) -> None:
    """Remove a cgroup and all below it in every hierarchy; what still has processes stays."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / BASE / group, topdown=False):
            _rmdir(Path(folder))


def remove_base() -> None:
    """Remove what all labs have in common, unless another lab is using it."""
    for hierarchy in hierarchies():
        with suppress(OSError):
            (hierarchy / BASE).rmdir()


def _rmdir(path: Path) -> None:
    for _ in range(100):  # a cgroup is busy for a moment after its last process died
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
