"""One real wsctl command, struck at one contact with the outside: `python -m tests.faults.struck COUNTS AT HOW ARGS…`.

The production program over real SSH, Docker and databases. Only between it and its adapters every call is counted, and
at number AT (or the first of the name AT)
this process is killed with SIGKILL (`killed-before`, `killed-after`), or the call ends as if its request
or its reply had been lost (`lost-before`, `lost-after`). The names of all contacts go to the file COUNTS as they come:
run it once with AT = -1 to learn how many there are; nobody keeps a list by hand.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wsctl.context
import wsctl.store
from tests.worlds import CALLS, FILES, STANDBYS, WRITES, Proxy, Wire
from wsctl.cli import main
from wsctl.context import Wiring
from wsctl.errors import BackendError, NodeUnreachable
from wsctl.model import Node
from wsctl.transport import Connections

WAITS_S = 120.0
HOWS = ("killed-before", "killed-after", "lost-before", "lost-after")


class Line(Wire):
    """A wire whose faults are real: the process is gone at once, without a word and without tidying up."""

    def __init__(self, counts: Path, at: str, how: str) -> None:
        super().__init__(at=int(at) if at.lstrip("-").isdecimal() else -1)
        self.name = at
        self.how = how
        self.counts = counts.open("a", encoding="utf-8", buffering=1)
        self.counting = threading.Lock()
        self.go_on = counts.with_suffix(".go")

    def carry(self, who: str, name: str, call: Callable[[], Any], *, counts: bool) -> Any:
        if not counts:
            return call()
        with self.counting:
            number = len(self.passed)
            self.passed.append(f"{who}.{name}")
            self.counts.write(f"{who}.{name}\n")
        if number != self.at and f"{who}.{name}" != self.name:
            return call()
        if self.how == "killed-before":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "lost-before":
            raise self._lost(who)
        if self.how == "waits-before":
            self._wait()
        result = call()
        if self.how == "killed-after":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "lost-after":
            raise self._lost(who)
        return result

    def _wait(self) -> None:
        deadline = time.monotonic() + WAITS_S
        while not self.go_on.exists():
            if time.monotonic() > deadline:
                raise AssertionError("nobody said to go on")
            time.sleep(0.02)

    @staticmethod
    def _lost(who: str) -> Exception:
        if who == "store":
            return BackendError("the state database went away in the middle of a write; its outcome is unknown")
        return NodeUnreachable(who, "the connection broke in the middle of a request")


class StruckFleet:
    """`context.Fleet`: the real connections, with every engine behind the line."""

    def __init__(self, nodes: Mapping[str, Node], cluster: str, line: Wire) -> None:
        self.real, self.line = Connections(nodes, cluster=cluster), line

    def engine(self, name: str) -> Any:
        return Proxy(name, self.real.engine(name), self.line, CALLS)

    @property
    def files(self) -> Any:
        return Proxy("files", self.real.files, self.line, FILES)

    @property
    def standbys(self) -> Any:
        return Proxy("standbys", self.real.standbys, self.line, STANDBYS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def run(counts: str, at: str, how: str, *argv: str) -> int:
    """Run the command; its exit code, if it lives to have one."""
    line = Line(Path(counts), at, how)
    opened = wsctl.store.open_store

    def open_store(*args: Any, **kwargs: Any) -> Any:
        return Proxy("store", opened(*args, **kwargs), line, WRITES)

    wsctl.store.open_store = open_store
    return main(list(argv), Wiring(fleet=lambda nodes, cluster: StruckFleet(nodes, cluster, line)))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
