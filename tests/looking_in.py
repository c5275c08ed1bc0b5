"""A double of `insideports.Inside`: containers whose output is scripted and in which a few commands exist."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.fakes import FakeContainer, FakeEngine
from wsctl.errors import EngineError
from wsctl.insideports import Load


class FakeInside:
    """Commands: `cat` (stdin to stdout), `fail N` (a word on stderr, exit code N), `size` (of its terminal)."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def _held(self, container: str) -> FakeContainer:
        found = self.engine._find(container)
        if found is None:
            raise EngineError(self.engine.name, f"No such container: {container}", details={"status": 404})
        return found

    def logs(self, container: str, *, tail: int | None, follow: bool) -> Iterator[tuple[int, bytes]]:
        lines = self._held(container).output.splitlines(keepends=True)
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            yield (2 if line.startswith("!") else 1), line.encode()

    @contextmanager
    def run(self, container: str, argv: Sequence[str], *, tty: bool) -> Iterator[FakeExec]:
        one = self._held(container)
        one.execs += 1
        try:
            yield FakeExec(list(argv), tty)
        finally:
            one.execs -= 1

    def load(self, container: str) -> Load:
        self.engine._do("load", container, lambda: None)
        self._held(container)
        return Load(0.25, 100 << 20, 2 << 30, 10, 20, 3)

    def processes(self, container: str) -> tuple[list[str], list[list[str]]]:
        self._held(container)
        return ["PID", "%CPU", "CMD"], [["7", "0.1", "sh -c \x1b[31mred"]]


class FakeExec:
    """One command."""

    def __init__(self, argv: list[str], tty: bool) -> None:
        self.argv, self.tty = argv, tty
        self.given, self.ended = b"", threading.Event()
        self.said: list[tuple[int, bytes]] | None = None

    def read(self) -> tuple[int, bytes]:
        if self.said is None:
            self.said = [(2, b"no\n")] if self.argv[0] == "fail" else [(1, f"tty {self.tty}\n".encode())]
            if self.argv[0] == "cat":
                assert self.ended.wait(5)
                self.said = [(1, self.given)]
        return self.said.pop(0) if self.said else (1, b"")

    def write(self, data: bytes) -> None:
        self.given += data

    def end_input(self) -> None:
        self.ended.set()

    def resize(self, columns: int, lines: int) -> None: ...

    def exit_code(self) -> int:
        return int(self.argv[1]) if self.argv[0] == "fail" else 0
