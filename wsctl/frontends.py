"""What the core asks of a gateway: the port, and the values that pass through it.

Responsible for: the contract between applying a map (`gateway`) and the machines that Nginx runs on (`transport`), as
`ports` is for everything else. Not responsible for: any implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LiveFile:
    """The map file on a gateway: its text (None: there is none), the seconds since it was written or last loaded, by
    the gateway's own clock (None: unknown), and whether an apply that replaced it didn't come to its end."""

    text: str | None
    age_s: float | None
    unfinished: bool


@dataclass(frozen=True, slots=True)
class Said:
    """How a command on a gateway ended, and all its words."""

    ok: bool
    words: str


class Gateway(Protocol):
    """One machine with an Nginx, and the map file there.

    The live file is at each moment wholly the old or wholly the new one, also when the connection or wsctl dies. Every
    call has a timeout. Raises `NodeUnreachable` when no answer came (the effect may have happened) and `GatewayError`
    when the machine refused (it did not happen).
    """

    @property
    def map_file(self) -> str:
        """The path of the live file."""

    def read(self) -> LiveFile:
        """The live file."""

    def upload(self, text: str) -> None:
        """Put the text beside the live file, whole and durable, under a name that no `include` of Nginx matches."""

    def swap(self) -> None:
        """Make the uploaded file the live one in one step. What was live is kept, unless something is kept already from
        a swap that was never finished: that is the last one known to be good."""

    def finish(self) -> None:
        """The live file is good: forget what was kept and uploaded."""

    def put_back(self, *, there_was_none: bool) -> bool:
        """Make what was kept live again; with `there_was_none`, remove the live file. False if nothing was kept."""

    def test(self) -> Said:
        """Have Nginx read its whole configuration with the live file in it."""

    def reload(self) -> Said:
        """Tell the running Nginx to load its configuration. Ok doesn't mean that it did. Resets the file's age."""

    def status(self) -> Said:
        """Over a new connection, what a worker's status location answers; if that is no answer of its, why."""
