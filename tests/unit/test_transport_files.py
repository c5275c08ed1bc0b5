"""How long what waits for a whole disk to be written may take."""

from __future__ import annotations

from typing import Any

from wsctl.moveports import Way
from wsctl.transport.files import LONG_S, ShellFiles
from wsctl.transport.shell import Done
from wsctl.transport.standby_files import ShellStandbys


class Node:
    """Answers everything, and notes how much time it was given."""

    is_local = True

    def __init__(self) -> None:
        self.given: list[tuple[str, float]] = []

    def run(self, script: str, *words: str, data: bytes, timeout_s: float, rise: bool = True) -> Done:
        self.given.append((script, timeout_s))
        return Done(0, b"", b"")


def test_what_syncs_a_whole_file_system_isnt_taken_for_dead() -> None:
    node: Any = Node()
    way = Way("alice", "n1", "/srv", "n2", "/srv")
    ShellFiles("demo", lambda name: node).install(way)
    ShellStandbys("demo", lambda name: node).promote("n2", "/srv", "alice")
    syncing = [timeout_s for script, timeout_s in node.given if "sync -f" in script]
    assert syncing == [LONG_S, LONG_S]
