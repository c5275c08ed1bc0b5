"""What leases ask of the place where they are kept.

Responsible for: that one protocol. Its implementations are `redis_leases` and, structurally, `wsctl.store.leases`,
which this package doesn't import. Not responsible for: waiting, renewing, or noticing a loss (`leases`, `held`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wsctl.model import LeaseInfo


class LeaseBackend(Protocol):
    """Named, time-limited entries, each with the token of whoever took it. Safe to use from several threads.

    Every method answers at once (no waiting for a lease) and raises `BackendError` when it can't know the answer.
    """

    def take(self, names: Sequence[str], *, token: str, holder: str, command: str, ttl_s: float) -> list[LeaseInfo]:
        """Take all of `names` for `ttl_s` seconds or none. Empty if taken, else the leases that are in the way."""

    def renew(self, names: Sequence[str], token: str, ttl_s: float) -> set[str]:
        """Let those of `names` that `token` still holds run for another `ttl_s` seconds; which those are."""

    def held(self, names: Sequence[str], token: str) -> set[str]:
        """Those of `names` that `token` holds now."""

    def give_back(self, names: Sequence[str], token: str) -> None:
        """Delete those of `names` that `token` holds, and no others."""

    def ls(self) -> list[LeaseInfo]:
        """All leases that are held now, in any order."""

    def break_lease(self, name: str) -> bool:
        """Delete the lease whoever holds it; False if nobody did."""

    def close(self) -> None:
        """Give up the connection."""
