"""The time that all control hosts share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes import FakeClock
from wsctl.sharedclock import SharedClock

TRUE = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Hands:
    """A machine: its settable clock, and seconds since it was started."""

    def __init__(self, off_s: float) -> None:
        self.local = FakeClock(TRUE + timedelta(seconds=off_s))
        self.up_s = 1000.0
        self.asked = 0
        self.told: list[str] = []
        self.clock = SharedClock(self.ask, self.local, self.told.append, lambda: self.up_s)

    def ask(self) -> datetime:
        self.asked += 1
        return TRUE + timedelta(seconds=self.up_s - 1000)

    def pass_by(self, seconds: float) -> None:
        self.up_s += seconds
        self.local.advance(seconds)


@pytest.mark.parametrize(
    ("off_s", "says"),
    [
        (600, "this machine's clock is 10m ahead of the state database's"),
        (-600, "this machine's clock is 10m behind the state database's"),
        (-61, "1m 1s behind"),
        (59, None),
        (0, None),
    ],
)
def test_the_databases_time_counts_and_a_wrong_clock_is_said_once(off_s: float, says: str | None) -> None:
    hands = Hands(off_s)
    assert hands.clock.now() == TRUE
    hands.pass_by(90)
    assert hands.clock.now() == TRUE + timedelta(seconds=90)
    assert hands.asked == 1
    assert len(hands.told) == (says is not None)
    assert says is None or says in hands.told[0]


def test_a_step_in_the_middle_changes_nothing() -> None:
    hands = Hands(0)
    first = hands.clock.now()
    hands.local.advance(600)
    assert hands.clock.now() == first
    hands.pass_by(1)
    assert hands.clock.now() == first + timedelta(seconds=1)


def test_nobody_is_asked_before_it_is_looked_at_and_sleeping_is_the_machines() -> None:
    hands = Hands(0)
    hands.clock.sleep(5)
    assert (hands.asked, hands.local.slept) == (0, [5])
