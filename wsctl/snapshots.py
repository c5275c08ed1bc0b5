"""Snapshots of users' files in a backup repository: what is known of one, which are kept, and the port to their keeper.

Responsible for: these values, the rule of retention, and the contract that a repository's adapter keeps. Not
responsible for: any implementation (`transport.restic`), nor for when a snapshot is taken or used (`backups`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """How a snapshot was taken."""

    CONSISTENT = "consistent"
    """While the workspace was stopped or paused: the files are of one moment."""
    LIVE = "live"
    """While the user worked: files may be of different moments."""
    FIRST_PASS = "first-pass"  # noqa: S105 - no password
    """While the user worked, to make the pause short that follows. The next one replaces it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A user's files as they were `at` on `node`. Not `complete`: some of them couldn't be read."""

    id: str
    user: str
    node: str
    at: datetime
    kind: Kind
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was made: its files and their bytes, and how many bytes the repository grew by.

    `unread` is what the tool said of files that it couldn't read; empty if it read all.
    """

    snapshot: str
    files: int
    content_bytes: int
    added_bytes: int
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a snapshot takes when it is restored."""

    content_bytes: int
    members: int


@dataclass(frozen=True, slots=True)
class Keep:
    """How many snapshots of a user are kept: the newest `last`, and the newest of each of so many days, weeks and
    months (UTC, ISO weeks) that have one."""

    last: int = 3
    daily: int = 14
    weekly: int = 8
    monthly: int = 12


def doomed(snapshots: Iterable[Snapshot], keep: Keep) -> list[Snapshot]:
    """Those that the rule doesn't keep, oldest first; for many users at once, each by themselves.

    A user's newest snapshot is always kept, and so is their newest that is consistent and complete: the first is the
    latest there is, the second the latest to rely on. A first pass goes as soon as there is something newer.
    """
    gone = [one for own in by_user(snapshots).values() for one in _doomed_of(own, keep)]
    return sorted(gone, key=_age)


def by_user(snapshots: Iterable[Snapshot]) -> dict[str, list[Snapshot]]:
    """The snapshots of each user, newest first."""
    found: dict[str, list[Snapshot]] = {}
    for one in sorted(snapshots, key=_age, reverse=True):
        found.setdefault(one.user, []).append(one)
    return found


def _age(one: Snapshot) -> tuple[datetime, str]:
    return one.at, one.id


def _doomed_of(newest_first: Sequence[Snapshot], keep: Keep) -> list[Snapshot]:
    kept = {newest_first[0].id}
    kept |= {one.id for one in [s for s in newest_first if s.kind is Kind.CONSISTENT and s.complete][:1]}
    lasting = [one for one in newest_first if one.kind is not Kind.FIRST_PASS]
    kept |= {one.id for one in lasting[: keep.last]}
    for count, period in ((keep.daily, _day), (keep.weekly, _week), (keep.monthly, _month)):
        newest: dict[tuple[int, ...], str] = {}
        for one in lasting:
            newest.setdefault(period(one.at), one.id)
        kept |= set(list(newest.values())[:count])
    return [one for one in newest_first if one.id not in kept]


def _day(at: datetime) -> tuple[int, ...]:
    return at.year, at.month, at.day


def _week(at: datetime) -> tuple[int, ...]:
    return at.isocalendar()[:2]


def _month(at: datetime) -> tuple[int, ...]:
    return at.year, at.month


def choose(own: Sequence[Snapshot], at: datetime | None, id_: str | None) -> Snapshot | None:
    """Of one user's snapshots, newest first, the one that begins with `id_`, or else the newest that isn't younger than
    `at` (None: now).

    None if there is none. A first pass is only taken when nothing else is left; several that begin with `id_` are none.
    """
    if id_ is not None:
        found = [one for one in own if one.id.startswith(id_)]
        return found[0] if len(found) == 1 else None
    old_enough = [one for one in own if at is None or one.at <= at]
    return next((one for one in old_enough if one.kind is not Kind.FIRST_PASS), next(iter(old_enough), None))


class Repository(Protocol):
    """The repository of backups, as one node reaches it. It is encrypted and holds each content once.

    Raises `NodeUnreachable` when no answer came, or nothing moved for two minutes; `RepositoryError` when the
    repository isn't there, has another password, or is locked; `NodeError` for what else the node refused.
    """

    def create(self) -> bool:
        """Make it; False if it was there already."""

    def snapshots(self) -> list[Snapshot]:
        """All of this cluster, oldest first."""

    def take(self, user: str, parent: str | None, kind: Kind) -> Taken:
        """Copy the user's folder into it. `parent` is a snapshot of the same user: what has the same name, size and
        times as there isn't read again. If files couldn't be read, `Taken.unread` says so and the snapshot isn't
        `complete`, unless it is a first pass."""

    def forget(self, ids: Sequence[str]) -> None:
        """Remove snapshots; those that aren't there are no failure. Their space is freed by `prune`."""

    def unlock(self) -> None:
        """Remove locks whose holder is gone: a process that this node has no more, or any half an hour after."""

    def prune(self) -> None:
        """Free the space of what was forgotten."""

    def extent(self, snapshot: str) -> Extent:
        """What the snapshot takes when it is restored."""

    def restore(self, snapshot: str, user: str, token: str) -> None:
        """Make a new folder of the snapshot's files beside the user's, durable on return, every content compared with
        its checksum: the upload `token` of `folders.Folders`. Uploads for the user that are older than two
        days are removed."""

    def compare(self, snapshot: str, user: str, token: str) -> list[str]:
        """How the restored folder differs from what the snapshot lists: type, mode, owner, size, time of each path."""


RepositoryOf = Callable[[str], Repository]
"""The repository as the node of that name reaches it."""
