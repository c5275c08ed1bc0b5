"""Who was active when: in the state database, and before it in Redis if there is one.

Responsible for: `ports.ActivityLog` on both, so that no reader sees less than what was recorded: Redis is read before
the database, and what is flushed is written there before it is dropped here. Not responsible for: Redis
(`redis_activity`), rows (`recording`, `wsctl.store`), or what activity means (`planner.idle`).

Redis holds what wasn't flushed yet; losing it loses no more than that, and is noticed: the records then begin anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from wsctl.errors import BackendError
from wsctl.model import Activity
from wsctl.ports import Recorded, Store
from wsctl.recording import RowActivity

T = TypeVar("T")

log = logging.getLogger(__name__)

SETTLED = timedelta(seconds=60)
"""How old a flushed time must be to be dropped from Redis: by then every member of a database cluster shows it."""

_SILENCE_S = 5.0
"""How long a Redis that failed isn't asked again: its timeout must not be added to every user."""


class QuickActivity(Protocol):
    """Activity in memory. Safe to use from several threads. Raises `BackendError` when it can't be asked."""

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        """Record times; an older one never replaces a newer one."""

    def begin(self) -> None:
        """From now on it is known since when there are data, unless it is known already."""

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        """What is known of the users (None: all)."""

    def forget(self, seen: Iterable[Activity]) -> None:
        """Drop those that are still as they were seen."""

    def close(self) -> None:
        """Give up the connection."""


class QuickThenRows:
    """`ports.ActivityLog` in Redis, flushed to the state database. `connect` is called when it is first needed.

    A Redis that can't be asked costs nobody anything: times are recorded in the database then.
    """

    def __init__(
        self,
        connect: Callable[[], QuickActivity],
        store: Callable[[], Store],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._store = store
        self._clock = clock
        self._rows = RowActivity(store)
        self._lock = threading.Lock()
        self._quick: QuickActivity | None = None
        self._failed: tuple[float, BackendError] | None = None

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        if not times:
            return
        try:
            self._ask(lambda quick: quick.touch(times, source))
        except BackendError as error:
            log.info("activity goes to the state database: %s", error.message)
            self._rows.touch(times, source)

    def begin(self, at: datetime) -> None:
        self._rows.begin(at)
        try:
            self._ask(lambda quick: quick.begin())
        except BackendError as error:
            log.info("it stays unknown since when Redis has activity: %s", error.message)

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        try:
            quick = self._ask(lambda quick: quick.recorded(users))
        except BackendError as error:
            return Recorded(self._rows.recorded(users).activity, None, error.message)
        rows = self._rows.recorded(users)  # after Redis: what is flushed in between is in both
        newest = dict(rows.activity)
        for user, one in quick.activity.items():
            if user not in newest or newest[user].last_active_at < one.last_active_at:
                newest[user] = one
        since = max(quick.since, rows.since) if quick.since is not None and rows.since is not None else None
        return Recorded(newest, since)

    def held(self) -> int | None:
        return len(self._ask(lambda quick: quick.recorded()).activity)

    def flush(self, now: datetime) -> int | None:
        held = self._ask(lambda quick: quick.recorded()).activity
        by_source: dict[str, dict[str, datetime]] = {}
        for one in held.values():
            by_source.setdefault(one.source, {})[one.user] = one.last_active_at
        for source, times in sorted(by_source.items()):
            self._rows.touch(times, source)
        settled = [one for one in held.values() if one.last_active_at <= now - SETTLED]
        self._ask(lambda quick: quick.forget(settled))
        return len(held)

    def close(self) -> None:
        if self._quick is not None:
            self._quick.close()

    def _ask(self, request: Callable[[QuickActivity], T]) -> T:
        """The answer of Redis. Raises `BackendError`, at once for a while after it did."""
        with self._lock:
            if self._failed is not None and self._clock() < self._failed[0]:
                raise self._failed[1]
        try:
            with self._lock:
                if self._quick is None:
                    self._quick = self._connect()
                quick = self._quick
            return request(quick)
        except BackendError as error:
            with self._lock:
                self._failed = (self._clock() + _SILENCE_S, error)
            raise
