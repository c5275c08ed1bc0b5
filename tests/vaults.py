"""A repository of backups in memory, which keeps whole copies of real folders.

Responsible for: behaving as `snapshots.Repository` promises (tests/contract runs the same cases on restic). Not
responsible for: encryption or sharing contents.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from wsctl.errors import NodeError, RepositoryLocked, RepositoryMissing
from wsctl.snapshots import Extent, Kind, Snapshot, Taken


@dataclass
class FakeVault:
    """What all nodes share: the snapshots, and where their copies are. `locked` counts how often it refuses."""

    folder: Path
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    exists: bool = False
    locked: int = 0
    unread: str = ""
    held: dict[str, Snapshot] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    count: int = 0

    def at(self, node: str, root: Path) -> FakeRepository:
        """The repository as that node reaches it."""
        return FakeRepository(self, node, root)


@dataclass
class FakeRepository:
    """See `snapshots.Repository`."""

    vault: FakeVault
    node: str
    root: Path

    def create(self) -> bool:
        made, self.vault.exists = not self.vault.exists, True
        self.vault.folder.mkdir(parents=True, exist_ok=True)
        return made

    def snapshots(self) -> list[Snapshot]:
        self._there()
        return sorted(self.vault.held.values(), key=lambda one: (one.at, one.id))

    def take(self, user: str, parent: str | None, kind: Kind) -> Taken:
        self._there()
        source = self.root / user
        if not source.is_dir():
            raise NodeError(self.node, f"{source} isn't there")
        if parent is not None and not any(id_.startswith(parent) for id_ in self.vault.held):
            raise NodeError(self.node, f"no matching ID found for prefix {parent}")
        self.vault.count += 1
        id_ = sha256(str(self.vault.count).encode()).hexdigest()
        self.vault.calls.append(("take", user, kind.value, "" if parent is None else parent))
        _copy(source, self.vault.folder / id_)
        unread = self.vault.unread
        at = self.vault.now() + timedelta(microseconds=self.vault.count)
        self.vault.held[id_] = Snapshot(id_, user, self.node, at, kind, not unread or kind is Kind.FIRST_PASS)
        files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in files)
        return Taken(id_[:8], len(files), size, size if parent is None else 0, unread)

    def forget(self, ids: Sequence[str]) -> None:
        self._there()
        if self.vault.locked:
            self.vault.locked -= 1
            raise RepositoryLocked(self.node, "the repository is already locked")
        self.vault.calls.append(("forget", *ids))
        for id_ in ids:
            if self.vault.held.pop(id_, None) is not None:
                shutil.rmtree(self.vault.folder / id_)

    def unlock(self) -> None:
        self._there()
        self.vault.calls.append(("unlock", self.node))

    def prune(self) -> None:
        self._there()
        self.vault.calls.append(("prune",))

    def extent(self, snapshot: str) -> Extent:
        folder = self._folder(snapshot)
        files = [path for path in folder.rglob("*") if not path.is_symlink()]
        return Extent(sum(path.stat().st_size for path in files if path.is_file()), len(list(folder.rglob("*"))))

    def restore(self, snapshot: str, user: str, token: str) -> None:
        incoming = self.root / ".wsctl-incoming"
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy(self._folder(snapshot), incoming / f"{user}.{token}")

    def compare(self, snapshot: str, user: str, token: str) -> list[str]:
        there = self.root / ".wsctl-incoming" / f"{user}.{token}"
        one, other = _listing(self._folder(snapshot)), _listing(there)
        return sorted(str(entry) for entry in one ^ other)

    def _folder(self, snapshot: str) -> Path:
        self._there()
        found = [id_ for id_ in self.vault.held if id_.startswith(snapshot)]
        if len(found) != 1 or not (self.vault.folder / found[0]).is_dir():
            raise NodeError(self.node, f"no snapshot {snapshot}, or it is damaged")
        return self.vault.folder / found[0]

    def _there(self) -> None:
        if not self.vault.exists:
            raise RepositoryMissing(self.node, "there is no repository", hint="wsctl backup init")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)


def _listing(folder: Path) -> set[tuple[object, ...]]:
    found = set[tuple[object, ...]]()
    for path in folder.rglob("*"):
        facts = os.lstat(path)
        size = facts.st_size if path.is_file() else 0
        found.add((str(path.relative_to(folder)), facts.st_mode, facts.st_uid, facts.st_gid, size, facts.st_mtime_ns))
    return found
