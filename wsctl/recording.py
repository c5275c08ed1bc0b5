"""Recording who was active: in the state database, and what a touch answers.

Responsible for: `ports.ActivityLog` on a store alone, and for the order of recording and answering. Not responsible
for: Redis (`coordination.activity`), nor for what activity means (`planner.idle`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from wsctl.model import PlacementState
from wsctl.ports import ActivityLog, Recorded, Store


class RowActivity:
    """`ports.ActivityLog` in the state database alone."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        self._store().touch_at(times, source)

    def begin(self, at: datetime) -> None:
        self._store().touch((), at, "")

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        store = self._store()
        since = store.activity_since()
        return Recorded(store.activity(users), since)

    def held(self) -> int | None:
        return None

    def flush(self, now: datetime) -> int | None:
        return None

    def close(self) -> None:
        """The store is somebody else's."""


def record_touch(store: Store, activity: ActivityLog, users: Collection[str], now: datetime) -> Mapping[str, str]:
    """Record that the users are active; the states of those who don't run after that.

    The order is what makes the answer good: a reaper first lets it be read that somebody is being stopped, and then
    looks a last time at when they were active (`Reaper`). So who isn't in this answer was seen, or will be.
    """
    activity.touch(dict.fromkeys(users, now), "touch")
    return store.states(other_than=PlacementState.RUNNING)
