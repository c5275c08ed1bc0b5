"""What the core asks of coordination: leases, slots for starting, and who was active when.

Responsible for: these contracts, as `ports` for everything else. Not responsible for: any implementation
(`coordination`, and rows in `store`). None of it is what correctness rests on: see `ports.Store`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from wsctl.model import Activity, LeaseInfo


class Slots(Protocol):
    """How many containers may be starting on a node at once, over all control hosts. Politeness, as leases are: who
    loses a slot goes on. A slot that isn't given back is free again after its `ttl_s`."""

    def take(self, node: str, limit: int, token: str, ttl_s: float) -> bool:
        """Take one of the node's `limit` slots for `token`; False if none is free. Taking again with the same token
        renews. Raises `BackendError` when the backend can't be asked."""

    def give_back(self, node: str, token: str) -> None:
        """Free the token's slot; never raises, never frees somebody else's."""

    def taken(self, node: str) -> int:
        """How many slots of the node are taken now."""

    def close(self) -> None:
        """Give up the connection."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded of users: their newest activity, and since when all of it is there (None: that isn't known).
    `doubt` says why some of it can't be read now."""

    activity: Mapping[str, Activity]
    since: datetime | None
    doubt: str | None = None


class ActivityLog(Protocol):
    """Who was active when: in Redis with a flush to the database, or in the database. A time never goes backwards, and
    whatever was lost, `recorded` says so. Safe to use from several threads."""

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        """Record when users were active. Raises `BackendError` only if it could be recorded nowhere."""

    def begin(self, at: datetime) -> None:
        """From `at` on it is known since when there are data, unless that is known already. Raises `BackendError`."""

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        """What is recorded of the users (None: all): nothing that was recorded before the call is missing, or `since`
        or `doubt` tells of it. Raises `BackendError` if the database can't be asked."""

    def held(self) -> int | None:
        """Of how many users something is in Redis; None if there is no Redis. Raises `BackendError`."""

    def flush(self, now: datetime) -> int | None:
        """Bring what is only in Redis to the database: of how many users; None if there is no Redis. Repeating it, also
        from several hosts at once, does no harm. Raises `BackendError`; then nothing is lost."""

    def close(self) -> None:
        """Give up the connection."""


class HeldLeases(Protocol):
    """Leases being held and renewed in the background until the block ends."""

    def check(self) -> None:
        """Raise `LeaseLost` if any of them ran out or was broken. Call before every effect."""

    def release(self) -> None:
        """Give them back; never raises, never deletes somebody else's lease."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Leases(Protocol):
    """Politeness between controllers. Correctness never rests on it: see `Store`."""

    def acquire(self, names: Collection[str], *, command: str, wait_s: float = 0.0) -> HeldLeases:
        """Take all the leases or none, waiting up to `wait_s` for others. Raises `LeaseHeld` naming the holder,
        `BackendError` when the backend can't be asked."""

    def ls(self) -> list[LeaseInfo]:
        """Leases that are held now, sorted by name."""

    def break_lease(self, name: str) -> bool:
        """Take the lease away from its holder, who will notice at the next check. False if nobody held it."""

    def close(self) -> None:
        """Give up the connection."""
