"""What all tests share: how Hypothesis searches, and how long a test may take.

The examples are the same in every run, however slow the machine is: a run that fails is to fail again. With
`WSCTL_FAULTS=all` they are new ones each time, for finding what nobody has met yet.
"""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

ALL = os.environ.get("WSCTL_FAULTS") == "all"
LONG_S = 3600
"""With everything, a test that is bounded otherwise goes through all of its cases, one after the other."""

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("searching" if ALL else "repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limits of the tests are those of `make test`."""
    for item in items if ALL else ():
        item.add_marker(pytest.mark.timeout(LONG_S), append=False)


def pytest_collection_finish() -> None:
    """What was loaded for the tests stays, and garbage is looked for less often: it took a tenth of their time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
