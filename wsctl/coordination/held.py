"""Leases while they are held: renewed in time, proved on request, given back once.

Responsible for: `ports.HeldLeases`, the same for every backend, and the one thread that renews. Not responsible for:
taking leases (`leases`) or keeping them (`backend`).

A lease counts as ours until `ttl_s` after the *sending* of the last request that was answered with yes, by a clock
that runs on while the machine sleeps: a laptop that was closed must not believe its leases. So we stop before anybody
else can start, whatever happens to the backend.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from wsctl.coordination.backend import LeaseBackend
from wsctl.errors import BackendError, LeaseLost
from wsctl.sharedclock import boot_clock

log = logging.getLogger(__name__)

CHECK_EVERY_S = 0.5
"""How old a proof may be for `check` to do without asking again."""


_CLOSE_WAIT_S = 1.0


class Held:
    """`ports.HeldLeases`: `names` under `token`, taken by a request sent at `since` (`boot_clock`).

    `check` asks the backend when the last proof is older than `proof_s` seconds.
    """

    def __init__(
        self,
        backend: LeaseBackend,
        names: tuple[str, ...],
        token: str,
        *,
        ttl_s: float,
        since: float,
        on_release: Callable[[Held], None],
        proof_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.names = names
        self._backend = backend
        self._token = token
        self._ttl_s = ttl_s
        self._proof_s = proof_s
        self._clock = clock
        self._proved_at = since
        self._deadline = since + ttl_s
        self._lost: str | None = None
        self._released = False
        self._backend_answers = True
        self._asking = threading.Lock()
        self._on_release = on_release
        self.renew_at = since + ttl_s / 3

    def check(self) -> None:
        """Raise `LeaseLost` if any of the leases ran out or was broken."""
        if self._released:
            raise self._error("it was given back")
        now = self._clock()
        # With a backend that doesn't answer, asking again at every effect would only make each of them wait; the
        # renewing thread goes on trying, and the deadline decides.
        if now < self._deadline and now - self._proved_at >= self._proof_s and self._backend_answers:
            self._ask()
        if self._lost is None and self._clock() >= self._deadline:
            self._lost = "it couldn't be renewed in time"
        if self._lost is not None:
            raise self._error(self._lost)

    def renew(self) -> None:
        """Extend the leases; never raises. Called by the renewing thread."""
        sent = self._clock()
        try:
            kept = self._backend.renew(self.names, self._token, self._ttl_s)
        except Exception as error:  # noqa: BLE001 - a thread that died of a bug would lose every lease without a word
            log.warning("can't renew the lease on %s: %s", self.names[0], error)
            self._backend_answers = False
            self.renew_at = self._clock() + min(1.0, self._ttl_s / 10)
            return
        self._backend_answers = True
        self.renew_at = sent + self._ttl_s / 3
        if sent >= self._deadline:
            # Everybody who checked meanwhile was told that it is lost; it stays lost.
            self._lost = self._lost or "it couldn't be renewed in time"
        elif self._judge(kept):
            self._proved_at, self._deadline = sent, sent + self._ttl_s

    @property
    def is_lost(self) -> bool:
        """Whether there is nothing left to renew."""
        return self._lost is not None or self._released

    def release(self) -> None:
        """Give the leases back. Never raises: what can't be given back runs out by itself."""
        if self._released:
            return
        self._released = True
        self._on_release(self)
        with contextlib.suppress(Exception):
            self._backend.give_back(self.names, self._token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _ask(self) -> None:
        if not self._asking.acquire(blocking=False):
            return  # another thread is asking for the same leases: its answer is ours
        try:
            sent = self._clock()
            if self._judge(self._backend.held(self.names, self._token)):
                self._proved_at = sent
        except BackendError as error:
            log.warning("can't check the lease on %s: %s", self.names[0], error.message)
            self._backend_answers = False
        finally:
            self._asking.release()

    def _judge(self, kept: set[str]) -> bool:
        gone = [name for name in self.names if name not in kept]
        if gone and not self._released:
            self._lost = f"{gone[0]} was broken or forgotten"
        return not gone

    def _error(self, why: str) -> LeaseLost:
        what = self.names[0] + (f" and {len(self.names) - 1} more" if len(self.names) > 1 else "")
        return LeaseLost(
            f"lost the lease on {what}: {why}",
            hint="nothing further was done; look who is acting with `wsctl lease ls`, then run the command again",
            details={"leases": list(self.names)},
        )


class NothingHeld:
    """`ports.HeldLeases` of no names: always held, nothing to give back."""

    def check(self) -> None:
        """Nothing can have been lost."""

    def release(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...


class Renewable(Protocol):
    """What has to be renewed again and again. `renew_at` is by the clock of its `Renewer`."""

    renew_at: float

    @property
    def is_lost(self) -> bool:
        """Whether there is nothing left to renew."""

    def renew(self) -> None:
        """Extend it, and set `renew_at` to the next time; never raises."""


_R = TypeVar("_R", bound=Renewable)


class Renewer(Generic[_R]):
    """One daemon thread that renews whatever is held, started with the first lease."""

    def __init__(self, clock: Callable[[], float] = boot_clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._held: set[_R] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, held: _R) -> None:
        """Renew `held` from now on."""
        with self._changed:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wsctl-leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, held: _R) -> None:
        """Don't renew `held` any more."""
        with self._changed:
            self._held.discard(held)

    def close(self) -> list[_R]:
        """End the thread, waiting a moment for a renewal that is on its way; what was still held."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            left = list(self._held)
        if self._thread is not None:
            self._thread.join(_CLOSE_WAIT_S)
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                live = [held for held in self._held if not held.is_lost]
                now = self._clock()
                due = [held for held in live if held.renew_at <= now]
                if not due:
                    self._changed.wait(min((held.renew_at - now for held in live), default=None))
                    continue
            for held in due:
                held.renew()
