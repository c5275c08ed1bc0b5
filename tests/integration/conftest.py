"""The lab as fixtures: real nodes for every test that asks for `lab` or `fault_lab`.

By default a lab is built for the run and removed after it; what can't be had of it fails the tests. In the environment:

- `WSCTL_TEST_LAB=NAME` uses a lab that is already up (`python -m lab --name NAME up`) and leaves it there: for speed;
- `WSCTL_SKIP_LAB=1` skips every test that needs a lab, where there is no root.
"""

from __future__ import annotations

import atexit
import os
import re
import string
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the lab isn't in the wheel, hence not installed

from lab import Lab, LabError
from lab.view import DEFAULT_ROOT

_OF_A_RUN = re.compile(r"test-([0-9]+)(-[a-z])?")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="WSCTL_SKIP_LAB is set")
    for item in items:
        if {"lab", "fault_lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.lab)
        if os.environ.get("WSCTL_SKIP_LAB") == "1" and item.get_closest_marker("lab"):
            item.add_marker(skip)


def _name(suffix: str = "") -> str:
    """A name for a lab of this run, by which a later run recognises leftovers; a Unix socket's path is short."""
    return f"test-{os.getpid()}{suffix}"


def _remove_leftovers() -> None:
    """Labs of test runs that were killed: named by a process that is no more."""
    for folder in Path(os.environ.get("WSCTL_LAB_ROOT") or DEFAULT_ROOT).glob("test-*"):
        match = _OF_A_RUN.fullmatch(folder.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            Lab(folder.name).down()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three nodes with MariaDB, Redis and Nginx, shared by the run: undo what you do, or ask for `fault_lab`."""
    existing = os.environ.get("WSCTL_TEST_LAB")
    if existing:
        yield Lab(existing)
        return
    _remove_leftovers()
    fresh = Lab(_name())
    atexit.register(_down_quietly, fresh)
    try:
        fresh.up(3)
        yield fresh
    finally:
        fresh.down()


def _down_quietly(lab: Lab) -> None:
    with suppress(LabError):
        lab.down()


@pytest.fixture
def fault_lab(lab: Lab) -> Iterator[Lab]:
    """The same lab, for tests that break it: every fault is undone afterwards."""
    try:
        yield lab
    finally:
        lab.repair()


@pytest.fixture
def new_lab() -> Iterator[Callable[[], Lab]]:
    """Names labs for a test of its own: they aren't up yet, and are removed at the end in whatever state they are."""
    made: list[Lab] = []

    def name_one() -> Lab:
        made.append(Lab(_name(f"-{string.ascii_lowercase[len(made)]}")))
        atexit.register(_down_quietly, made[-1])
        return made[-1]

    try:
        yield name_one
    finally:
        for lab in made:
            lab.down()
