"""Control hosts: places to run a program that thinks it is on a machine of its own, with its own name and clock.

They share this machine's network and disk: what tells control hosts apart is their name, their processes and their
clocks. Not here: what is run there.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab.shell import LabError, write_atomically

_PATCH = Path(__file__).with_name("clock")
_RENAMED = 'hostname "$1" && shift && exec "$@"'


class ControlHost:
    """A host by its name; `folder` is where its clock is kept."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._clock = folder / f"clock-{name}"

    def command(self, argv: list[str]) -> list[str]:
        """`argv`, as it is run there."""
        prefix = ["unshare", "--uts", "sh", "-c", _RENAMED, "sh", self.name]
        return [*prefix, *(self._with_clock() if self._clock.exists() else []), *argv]

    def set_clock(self, offset_s: float) -> None:
        """Let its wall clock be this many seconds off, at once, also for programs that run there and were started with
        a clock of their own (any offset, for instance 0). Their monotonic clocks go on evenly, as in a real step."""
        write_atomically(self._clock, f"{offset_s:+f}\n")

    def _with_clock(self) -> list[str]:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            raise LabError("there is no libfaketime: `python -m lab up` installs it")
        settings = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join([str(_PATCH), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items())]
