"""Leases in virtual time: a Redis in memory, and the renewing that production code leaves to a thread.

Responsible for: `SimRedis`, a `LeaseBackend`; `SimRenewer`, which renews by the agenda instead of a thread, and not
while its process is paused or dead. Not responsible for: the leases themselves, which are production code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.sim_kernel import Kernel, Killed, Process
from wsctl.coordination.held import Held, NothingHeld
from wsctl.model import LeaseInfo

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class _Entry:
    token: str
    holder: str
    command: str
    since: float
    until: float


class SimRedis:
    """A `LeaseBackend` that keeps its own time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._entries: dict[str, _Entry] = {}

    def take(self, names: Sequence[str], *, token: str, holder: str, command: str, ttl_s: float) -> list[LeaseInfo]:
        held = self._live()
        if in_the_way := [self._info(name) for name in names if name in held and held[name].token != token]:
            return in_the_way
        now = self._kernel.now
        for name in names:
            self._entries[name] = _Entry(token, holder, command, now, now + ttl_s)
        return []

    def renew(self, names: Sequence[str], token: str, ttl_s: float) -> set[str]:
        mine = self.held(names, token)
        for name in names:
            if name in mine:
                self._entries[name].until = self._kernel.now + ttl_s
        return mine

    def held(self, names: Sequence[str], token: str) -> set[str]:
        held = self._live()
        return {name for name in names if name in held and held[name].token == token}

    def give_back(self, names: Sequence[str], token: str) -> None:
        for name in sorted(self.held(names, token)):
            del self._entries[name]

    def ls(self) -> list[LeaseInfo]:
        return [self._info(name) for name in sorted(self._live())]

    def break_lease(self, name: str) -> bool:
        return self._entries.pop(name, None) is not None

    def close(self) -> None: ...

    def _live(self) -> dict[str, _Entry]:
        self._entries = {name: entry for name, entry in self._entries.items() if entry.until > self._kernel.now}
        return self._entries

    def _info(self, name: str) -> LeaseInfo:
        entry = self._entries[name]
        since, until = (_EPOCH + timedelta(seconds=at) for at in (entry.since, entry.until))
        return LeaseInfo(name, entry.holder, entry.command, since, until)


class SimRenewer:
    """`held.Renewer` on the agenda of the kernel."""

    def __init__(self, kernel: Kernel, process: Process) -> None:
        self._kernel = kernel
        self._process = process
        self._held: list[Held] = []

    def add(self, held: Held) -> None:
        self._held.append(held)
        self._wait(held, held.renew_at)

    def remove(self, held: Held) -> None:
        if held in self._held:
            self._held.remove(held)

    def close(self) -> list[Held]:
        left, self._held = self._held, []
        return left

    def _wait(self, held: Held, until: float) -> None:
        delay_s = max(0.0, until - self._kernel.now) + self._kernel.rng.random() * 0.2
        self._kernel.later(delay_s, lambda: self._renew(held))

    def _renew(self, held: Held) -> None:
        if self._process.dead or held not in self._held or held.is_lost:
            return
        if self._process.paused_until > self._kernel.now:
            self._wait(held, self._process.paused_until)
            return
        try:
            held.renew()
        except Killed:
            return
        self._wait(held, held.renew_at)


class LeaseWire:
    """A process's way to the leases; each of its methods is a contact. `carry(name, call)` makes it one."""

    def __init__(self, backend: Any, carry: Any) -> None:
        self._backend = backend
        self._carry = carry

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if name == "close":
            return lambda: None
        return lambda *args, **kwargs: self._carry(name, lambda: value(*args, **kwargs))


class NoLeases:
    """`ports.Leases` of a cluster whose Redis forgets everything at once."""

    def ls(self) -> list[LeaseInfo]:
        """Nobody is known to be at work."""
        return []

    def acquire(self, names: Collection[str], *, command: str, wait_s: float = 0.0) -> NothingHeld:
        return NothingHeld()

    def close(self) -> None: ...
