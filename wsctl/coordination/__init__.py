"""Leases, slots and activity shared by controllers: in Redis, or as rows of the state database.

Politeness, not correctness. Responsible for: opening the leases, slots and activity that a coordination URL names.
Redis is imported only when there is one and something is asked for. Not responsible for: what a lease protects, nor for
waiting for a slot (`gate`).
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wsctl.coordination.activity import QuickThenRows
from wsctl.coordination.leases import BackendLeases
from wsctl.coordination.slots import LazySlots
from wsctl.recording import RowActivity

if TYPE_CHECKING:
    from wsctl.coordination.activity import QuickActivity
    from wsctl.coordination.backend import LeaseBackend
    from wsctl.ports import ActivityLog, Slots, Store
    from wsctl.watchports import Presence

__all__ = ["PRESENCE_S", "open_activity", "open_leases", "open_presence", "open_slots"]

TTL_S = 30.0

PRESENCE_S = 60.0
"""How long it is remembered that a watcher was there, and what it saw."""


def open_leases(
    url: str | None,
    *,
    cluster: str,
    rows: Callable[[], LeaseBackend],
    password: str | None = None,
    base: Path | None = None,
    holder: str | None = None,
    ttl_s: float = TTL_S,
) -> BackendLeases:
    """The leases of `cluster` in the Redis that `url` names, or (None) in `rows`: `wsctl.store.lease_rows` of a store.

    `password` is Redis's, `base` the folder that a relative `?ca=` starts from, `holder` is shown to whoever finds a
    lease taken (default `user@host:pid`), `ttl_s` is how long a lease outlives a holder that died. Nothing is
    connected before a lease is asked for. Raises InventoryError for a bad URL, at once.
    """
    if url is None:
        connect = rows
    else:
        from wsctl.coordination.redis_url import parse_redis_url

        target = parse_redis_url(url, base or Path())

        def connect() -> LeaseBackend:
            from wsctl.coordination.redis_leases import open_redis_leases

            return open_redis_leases(target, cluster=cluster, password=password)

    return BackendLeases(connect, holder=holder or default_holder(), ttl_s=ttl_s)


def open_slots(
    url: str | None,
    *,
    cluster: str,
    rows: Callable[[], Slots],
    password: str | None = None,
    base: Path | None = None,
) -> LazySlots:
    """The slots of `cluster` in the Redis that `url` names, or (None) in `rows`: `wsctl.store.slot_rows` of a store.

    The rest as for `open_leases`. Nothing is connected before a slot is asked for. Raises InventoryError for a bad URL,
    at once.
    """
    if url is None:
        return LazySlots(rows)
    from wsctl.coordination.redis_url import parse_redis_url

    target = parse_redis_url(url, base or Path())

    def connect() -> Slots:
        from wsctl.coordination.redis_slots import open_redis_slots

        return open_redis_slots(target, cluster=cluster, password=password)

    return LazySlots(connect)


def open_activity(
    url: str | None,
    *,
    cluster: str,
    store: Callable[[], Store],
    password: str | None = None,
    base: Path | None = None,
) -> ActivityLog:
    """The activity of `cluster` in the Redis that `url` names and in `store` behind it, or (None) in `store` alone.

    The rest as for `open_leases`. Nothing is connected before it is needed. Raises InventoryError for a bad URL, at
    once.
    """
    if url is None:
        return RowActivity(store)
    from wsctl.coordination.redis_url import parse_redis_url

    target = parse_redis_url(url, base or Path())

    def connect() -> QuickActivity:
        from wsctl.coordination.redis_activity import open_redis_activity

        return open_redis_activity(target, cluster=cluster, password=password)

    return QuickThenRows(connect, store)


def open_presence(
    url: str | None,
    *,
    cluster: str,
    rows: Callable[[], Presence],
    password: str | None = None,
    base: Path | None = None,
) -> Presence:
    """What watchers saw, in the Redis that `url` names, or (None) in `rows`: `wsctl.store.presence_rows` of a store.

    The rest as for `open_leases`. A standalone Redis is connected when it is first asked. Raises InventoryError for a
    bad URL, BackendError for a Redis Cluster that can't be reached.
    """
    if url is None:
        return rows()
    from wsctl.coordination.redis_presence import open_redis_presence
    from wsctl.coordination.redis_url import parse_redis_url

    target = parse_redis_url(url, base or Path())
    return open_redis_presence(target, cluster=cluster, password=password, keep_s=PRESENCE_S)


def default_holder() -> str:
    """`user@host:pid` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a passwd entry, as in minimal containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"
