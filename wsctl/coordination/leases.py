"""Taking leases: all or none, with a bounded wait, and with the holder's name in the refusal.

Responsible for: `ports.Leases` on any `LeaseBackend`. Not responsible for: where leases are kept (`backend`), or what
happens while they are held (`held`).
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from wsctl.coordination.backend import LeaseBackend
from wsctl.coordination.held import CHECK_EVERY_S, Held, NothingHeld, Renewer
from wsctl.errors import LeaseHeld, WsctlError
from wsctl.model import LeaseInfo
from wsctl.ports import HeldLeases
from wsctl.sharedclock import boot_clock

_POLL_S = (0.05, 0.2)


class BackendLeases:
    """`ports.Leases`. `connect` is called when a lease is first asked for, so that a rehearsal needs no backend."""

    def __init__(
        self,
        connect: Callable[[], LeaseBackend],
        *,
        holder: str,
        ttl_s: float,
        proof_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        if ttl_s <= 0:
            raise ValueError("a lease must live longer than no time at all")
        self._connect = connect
        self._holder = holder
        self._ttl_s = ttl_s
        self._proof_s = proof_s
        self._clock = clock
        self._opening = threading.Lock()
        self._backend: LeaseBackend | None = None
        self._renewer: Renewer[Held] = Renewer(clock)

    def acquire(self, names: Collection[str], *, command: str, wait_s: float = 0.0) -> HeldLeases:
        """See `ports.Leases`. Everybody takes several names in the same order."""
        wanted = tuple(sorted(set(names)))
        if not wanted:
            return NothingHeld()
        token = secrets.token_hex(16)
        sent = self._take(wanted, token, command, wait_s)
        held = Held(
            self._open(),
            wanted,
            token,
            ttl_s=self._ttl_s,
            since=sent,
            on_release=self._renewer.remove,
            proof_s=self._proof_s,
            clock=self._clock,
        )
        self._renewer.add(held)
        return held

    def ls(self) -> list[LeaseInfo]:
        return sorted(self._open().ls(), key=lambda lease: lease.name)

    def break_lease(self, name: str) -> bool:
        return self._open().break_lease(name)

    def close(self) -> None:
        """Give back what is still held, then the connection."""
        for held in self._renewer.close():
            held.release()
        if self._backend is not None:
            self._backend.close()

    def _open(self) -> LeaseBackend:
        with self._opening:
            if self._backend is None:
                self._backend = self._connect()
            return self._backend

    def _take(self, names: Sequence[str], token: str, command: str, wait_s: float) -> float:
        """Take all; when the request that succeeded was sent."""
        backend = self._open()
        give_up = self._clock() + wait_s
        try:
            while True:
                sent = self._clock()
                in_the_way = backend.take(names, token=token, holder=self._holder, command=command, ttl_s=self._ttl_s)
                if not in_the_way:
                    return sent
                left = give_up - self._clock()
                if left <= 0:
                    break
                time.sleep(min(left, random.uniform(*_POLL_S)))  # noqa: S311 - jitter, not a secret
        except WsctlError:
            raise
        except BaseException:
            # Interrupted with the answer on its way: what it said yes to must not stay taken.
            with contextlib.suppress(Exception):
                backend.give_back(names, token)
            raise
        raise _busy(in_the_way)


def _busy(in_the_way: Sequence[LeaseInfo]) -> LeaseHeld:
    lease = in_the_way[0]
    left_s = max(0.0, (lease.expires_at - datetime.now(UTC)).total_seconds())
    more = f" (and {len(in_the_way) - 1} more leases are held)" if len(in_the_way) > 1 else ""
    return LeaseHeld(
        f"{lease.name} is held by {lease.holder} ({lease.command}) since "
        f"{lease.acquired_at:%Y-%m-%d %H:%M:%S} UTC, {left_s:.0f} s left unless renewed{more}",
        hint=f"wait for it or see all with `wsctl lease ls`; if its holder is gone: wsctl lease break {lease.name}",
        details={
            "name": lease.name,
            "holder": lease.holder,
            "command": lease.command,
            "since": lease.acquired_at.isoformat(),
            "seconds_left": round(left_s, 1),
            "leases": [other.name for other in in_the_way],
        },
    )
