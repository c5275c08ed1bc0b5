"""kill -9 and lost replies at every effect of every writer, on real nodes; each followed by `reconcile` and everything.

The effects are found by running each command once. `make test` strikes every second effect of each, in one of the two
ways, turn by turn; `WSCTL_FAULTS=all` strikes all of them in all ways, and around the other contacts too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.conftest import lab as lab
from tests.integration.labsite import Site
from tests.worlds import EFFECTS

ALL = os.environ.get("WSCTL_FAULTS") == "all"

WRITERS: dict[str, tuple[list[list[str]], list[str]]] = {
    "place": ([], ["place", "USER"]),
    "start": ([["place", "USER"], ["stop", "USER", "--grace", "0s"]], ["start", "USER"]),
    "stop": ([["place", "USER"]], ["stop", "USER", "--grace", "0s"]),
    "restart": ([["place", "USER"]], ["restart", "USER", "--recreate"]),
    "rm": ([["place", "USER"]], ["rm", "USER", "--yes"]),
    "purge": ([["place", "USER"]], ["rm", "USER", "--purge-data", "--confirm", "USER"]),
    "reap-idle": ([["place", "USER"]], ["reap-idle", "--idle", "0", "--user", "USER"]),
    "cordon": ([], ["node", "cordon", "n1"]),
}
"""What must be before, and the command itself."""


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        made.sweep()


def words(argv: list[str], user: str) -> list[str]:
    return [user if word == "USER" else word for word in argv]


def strike(site: Site, argv: list[str], at: int, how: str) -> tuple[int, list[str]]:
    """Run the command, struck at a contact: its exit code and the contacts it had."""
    counts = site.folder / "counts"
    counts.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.faults.struck", str(counts), str(at), how, *argv, "-i", str(site.path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False, cwd=os.getcwd()
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, counts.read_text().splitlines()


def _kind(contact: str) -> str:
    """The operation, on whichever node."""
    return contact.rpartition(".")[2]


def is_effect(contact: str) -> bool:
    return _kind(contact) in EFFECTS


@pytest.mark.parametrize("writer", WRITERS)
def test_struck_at_every_effect(site: Site, writer: str, record_property: Callable[[str, object], None]) -> None:
    before, argv = WRITERS[writer]
    turn = list(WRITERS).index(writer)

    def prepare(user: str) -> None:
        for command in before:
            site.run(*words(command, user))

    def clear(user: str) -> None:
        if writer == "cordon":
            site.run("node", "uncordon", "n1")
        else:
            site.run("rm", user, "--yes", code=None)

    whole = site.user("whole")
    prepare(whole)
    code, contacts = strike(site, words(argv, whole), -1, "-")
    assert code == 0
    clear(whole)
    effects = [number for number, contact in enumerate(contacts) if ALL or is_effect(contact)]
    assert len(effects) >= (1 if writer == "cordon" else 3), contacts
    struck = 0
    for place, at in enumerate(effects if ALL else effects[turn % 2 :: 2]):
        hows = ("killed-after", "lost-after", "killed-before", "lost-before")
        chosen = hows if ALL else (hows[(place + turn) % 2],)
        for how in chosen:
            user = site.user(f"u{at}{how[0]}{how[-1]}")
            prepare(user)
            code, seen = strike(site, words(argv, user), at, how)
            assert _kind(seen[at]) == _kind(contacts[at]), f"{writer}: the contacts are not the same each time"
            assert code == -9 if how.startswith("killed") else code in (0, 8, 9, 10), (code, how, contacts[at])
            settle(site, purged=(user,) if writer == "purge" else ())
            struck += 1
            clear(user)
    record_property("boundaries", struck)
