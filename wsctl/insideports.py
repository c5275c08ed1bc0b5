"""What looking into a running container asks of a node: its output, its processes, a command in it.

Responsible for: the contract between the verbs and the adapter (`transport.inside`). Not responsible for: which
container, nor for terminals (`terminal`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Load:
    """What a container takes at the moment; None: the engine has no figure. `cores` is an average over a second."""

    cores: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    received_bytes: int | None
    sent_bytes: int | None
    processes: int | None


class ExecSession(Protocol):
    """A command that runs in a container. Reading and writing may go on in two threads."""

    def read(self) -> tuple[int, bytes]:
        """Some output, with 1 for stdout (and terminals) or 2 for stderr; empty at the end. Raises `NodeError`."""

    def write(self, data: bytes) -> None:
        """Input for the command; nothing happens if it has ended."""

    def end_input(self) -> None:
        """There is no more input."""

    def resize(self, columns: int, lines: int) -> None:
        """The terminal has another size now; never raises."""

    def exit_code(self) -> int:
        """The exit code, once `read` was empty. Raises `NodeError`."""


class Inside(Protocol):
    """One node's containers, from inside. Raises `NodeUnreachable`, `EngineError`; absence is an `EngineError`."""

    def logs(self, container: str, *, tail: int | None, follow: bool) -> Iterator[tuple[int, bytes]]:
        """The last lines of the output (None: all of it), as in `ExecSession.read`; `follow`: until it ends."""

    def run(self, container: str, argv: Sequence[str], *, tty: bool) -> AbstractContextManager[ExecSession]:
        """Start a command; the connection is closed at the end of the block."""

    def load(self, container: str) -> Load:
        """What it takes; about two seconds."""

    def processes(self, container: str) -> tuple[list[str], list[list[str]]]:
        """Titles and rows of its processes, as the node's `ps` has them: untrusted text."""
