"""What all tests share: how Hypothesis searches.

The examples are the same in every run, however slow the machine is: a run that fails is to fail again. With
`WSCTL_FAULTS=all` they are new ones each time, for finding what nobody has met yet.
"""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("searching" if os.environ.get("WSCTL_FAULTS") == "all" else "repeatable")


def pytest_collection_finish() -> None:
    """What was loaded for the tests stays, and garbage is looked for less often: it took a tenth of their time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
