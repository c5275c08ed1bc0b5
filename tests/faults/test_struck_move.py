"""Something breaks at a step of a move, on real nodes; then it is healed, and the same command or `reconcile` ends it.

The steps are found by moving somebody once: every effect on files, engines and the state database. `make test` tries
a few faults at one of them each; `WSCTL_FAULTS=all` each at all, and SIGKILL at every contact.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.conftest import fault_lab as fault_lab
from tests.integration.conftest import lab as lab
from tests.integration.labsite import Site, eventually
from tests.integration.movesite import NASTY, home, manifest, mover, no_keys, sh
from tests.worlds import EFFECTS

ALL = os.environ.get("WSCTL_FAULTS") == "all"
Fault = Callable[["Move"], None]


class Move:
    """One move of a user with files of every kind."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.user = site.user()
        site.run("place", self.user)
        self.source = home(site, self.user)
        self.target = next(name for name in site.lab.nodes if name != self.source)
        sh(site, self.source, NASTY, f"/srv/workspaces/{self.user}")
        self.before = manifest(site, self.source, self.user)
        self.counts = site.folder / f"counts-{time.monotonic_ns()}"

    @property
    def argv(self) -> list[str]:
        return ["migrate-user", self.user, "--to", self.target, "--wait", "60s", "-i", str(self.site.path)]

    def start(self, at: int, how: str) -> subprocess.Popen[str]:
        """Begin, to be struck at a contact."""
        command = [sys.executable, "-m", "tests.faults.struck", str(self.counts), str(at), how, *self.argv]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def contacts(self) -> list[str]:
        return self.counts.read_text().splitlines() if self.counts.exists() else []

    def go_on(self) -> None:
        self.counts.with_suffix(".go").touch()

    def ended_well(self, *, repeat: bool) -> None:
        """After the healing: finished, or undone, by the same command or by `reconcile`; with all files, and no key."""
        site = self.site
        if repeat:
            again = ("migrate-user", self.user, "--to", self.target, "--wait", "60s")
            eventually(lambda: site.run(*again, code=None, timeout=120).code == 0, 120, 2.0)
            assert home(site, self.user) == self.target
        settle(site)
        where = home(site, self.user)
        assert manifest(site, where, self.user) == self.before
        assert site.containers() == [f"{where}/ws-u-{self.user}"]
        no_keys(site, self.user)
        for name in site.lab.nodes:
            assert not sh(site, name, "ls -d /srv/workspaces/.wsctl-incoming/$1 2>/dev/null || :", self.user)


def kill_sshd(which: str) -> Fault:
    def happen(move: Move) -> None:
        move.site.lab.nodes[getattr(move, which)].restart_sshd()

    return happen


def kill_engine(which: str) -> Fault:
    def happen(move: Move) -> None:
        node = move.site.lab.nodes[getattr(move, which)]
        node.stop_engine(kill=True)
        node.start_engine()

    return happen


def cut(which: str) -> Fault:
    def happen(move: Move) -> None:
        lab, name = move.site.lab, getattr(move, which)
        lab.cut(name)
        move.go_on()
        time.sleep(4)
        lab.heal(name)

    return happen


def fill_disk(move: Move) -> None:
    """No room for what comes in: its folder is a file system that is full."""
    script = "in=/srv/workspaces/.wsctl-incoming; mkdir -p $in; mount -t tmpfs -o size=64k none $in"
    sh(move.site, move.target, script)


def new_host_key(move: Move) -> None:
    move.site.lab.nodes[move.target].rotate_host_key()


def lose_lease(move: Move) -> None:
    for lease in move.site.json("lease", "ls")["items"]:
        move.site.run("lease", "break", lease["name"], "--yes")


FAULTS: dict[str, Fault] = {
    "the target's sshd is killed": kill_sshd("target"),
    "the source's sshd is killed": kill_sshd("source"),
    "the target's engine is killed": kill_engine("target"),
    "the source's engine is killed": kill_engine("source"),
    "the target is cut off": cut("target"),
    "the source is cut off": cut("source"),
    "the target's disk is full": fill_disk,
    "the target has another host key": new_host_key,
    "the lease is lost": lose_lease,
}


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    with mover(fault_lab, tmp_path) as made:
        yield made


@cache
def _steps(lab: Lab, folder: Path) -> tuple[list[str], list[int]]:
    """All contacts of a move, and the numbers of those that are effects."""
    with mover(lab, folder) as site:
        move = Move(site)
        process = move.start(-1, "-")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        move.ended_well(repeat=False)
        contacts = move.contacts
    effects = [number for number, name in enumerate(contacts) if name.rpartition(".")[2] in EFFECTS]
    assert len(effects) >= 14, contacts
    return contacts, effects


def steps(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[int]]:
    return _steps(site.lab, tmp_path_factory.getbasetemp())


def healed(move: Move) -> None:
    # What the full file system was put over was out of wsctl's sight: it goes with it.
    script = 'in=/srv/workspaces/.wsctl-incoming; ! umount $in 2>/dev/null || rm -rf -- "$in/$1" "$in/$1.inode"'
    sh(move.site, move.target, script, move.user)
    move.site.lab.repair()


@pytest.mark.parametrize("fault", list(FAULTS) if ALL else list(FAULTS)[::5])
def test_something_breaks_at_a_step(site: Site, fault: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    contacts, effects = steps(site, tmp_path_factory)
    turn = list(FAULTS).index(fault)
    chosen = effects if ALL else [effects[(3 + 5 * turn) % len(effects)]]
    for place, at in enumerate(chosen):
        move = Move(site)
        process = move.start(at, "waits-before")
        try:
            eventually(lambda move=move, at=at: len(move.contacts) > at, 60)
            FAULTS[fault](move)
            move.go_on()
            _, err = process.communicate(timeout=150)
        finally:
            process.kill()
            process.wait()
        where = f"{fault}, at {contacts[at]} ({at}): {err}"
        assert "Traceback" not in err, where
        assert process.returncode in (0, 5, 6, 7, 8, 9, 10), where
        healed(move)
        try:
            move.ended_well(repeat=(place + turn) % 2 == 0)
        except AssertionError as error:
            error.add_note(where)
            raise
        site.run("rm", move.user, "--purge-data", "--confirm", move.user)


def test_killed_at_a_step(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    contacts, effects = steps(site, tmp_path_factory)
    chosen = range(len(contacts)) if ALL else effects[4::12]
    for place, at in enumerate(chosen):
        for how in ("killed-after", "killed-before") if ALL else ("killed-after",):
            move = Move(site)
            process = move.start(at, how)
            _, err = process.communicate(timeout=120)
            assert process.returncode == -signal.SIGKILL, err
            try:
                move.ended_well(repeat=place % 2 == 0)
            except AssertionError as error:
                error.add_note(f"{how} {contacts[at]} ({at})")
                raise
            site.run("rm", move.user, "--purge-data", "--confirm", move.user)
