"""Reapers against users who come back: nobody is stopped who was told that they run."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.faults.races import play
from wsctl.reaper import Reaper

RACES = 10_000 if os.environ.get("WSCTL_FAULTS") == "all" else 200


@pytest.mark.parametrize("activity", ["rows", "redis"])
@pytest.mark.timeout(1200)
def test_no_active_user_is_stopped(activity: str) -> None:
    ended: Counter[str] = Counter()
    for seed in range(RACES):
        race = play(seed, activity)
        assert not race.victims + race.violations, f"seed {seed}: {race.victims} {race.violations}"
        ended += race.counts
    assert ended["not touched, then stopped"] > RACES / 10, "the reapers did reap"
    assert ended["running, then running"] > RACES / 10
    assert ended["stopping, then running"] + ended["stopping, then stopped"] > 0, "some races were as close as can be"


class Blind(Reaper):
    """Doesn't look a last time."""

    def _last_look(self, user: str) -> None: ...


@pytest.mark.parametrize("activity", ["rows", "redis"])
def test_without_the_last_look_somebody_would_be(activity: str) -> None:
    assert any(play(seed, activity, Blind).victims for seed in range(1000))
