"""Backups of workspaces: the order of copying, pausing, recording and forgetting; of choosing, restoring and comparing.

Responsible for: what has to be true before a user's files are copied or replaced, keeping the pause short, and which
nodes are asked for what. Not responsible for: the repository (`snapshots.Repository`), which snapshots stay
(`snapshots.doomed`), putting files in a user's place (`exchange`), questions to the operator (`commands`).

A running workspace is copied twice: first while the user works, and then, paused, what has changed since. The first
pass is forgotten when there is something newer. Killed at any point, what is in the repository is whole, and
`reconcile` lets a paused workspace go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from wsctl.audit import Auditor, Trail, recorded_together
from wsctl.errors import NodeError, NotFound, Refused, RepositoryLocked
from wsctl.exchange import Exchange, Filling, Found, frozen, room_for
from wsctl.folders import Folders
from wsctl.model import container_name
from wsctl.plan import Work
from wsctl.snapshots import Extent, Keep, Kind, Repository, RepositoryOf, Snapshot, Taken, by_user, doomed
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import World

LOCK_TRIES = 5
LOCK_WAIT_S = 2.0
"""Another control host forgets its own snapshots at the same moment, for about a second."""

LIST_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Copied:
    """A user's snapshot that was taken, how long the workspace stood still for it (seconds), and how it was taken."""

    node: str
    taken: Taken
    kind: Kind
    paused_s: float


@dataclass(frozen=True, slots=True)
class Listing:
    """The snapshots of the cluster, oldest first; `where` says from which node each can be reached, `failed` who didn't
    answer. In a directory of their own, nodes may each see different ones."""

    snapshots: tuple[Snapshot, ...]
    where: Mapping[str, str]
    failed: Mapping[str, NodeError]


def fetch(repository: Repository, folders: Folders, node: str, user: str, snapshot: str, now: datetime) -> str | None:
    """Put a snapshot in the place of a user's files on `node`, where nobody uses them; where what was there is now.

    For who holds the user's lease already, as failing over does. Raises `NodeError`, `Refused` if there is no room.
    """
    token, extent = uuid4().hex[:12], repository.extent(snapshot)
    room_for(folders.facts(user), node, extent.content_bytes, extent.members)
    try:
        repository.restore(snapshot, user, token)
        return folders.swap(user, token, f"{user}.{now:%Y%m%dT%H%M%SZ}.{token}")
    except BaseException:
        with contextlib.suppress(NodeError):
            folders.discard(user, token)
        raise


class Backups:
    """Backups on a world. `is_directory`: the repository is a path on each node, so each may have another one."""

    def __init__(
        self,
        world: World,
        repositories: RepositoryOf,
        folders: Callable[[str], Folders],
        auditor: Auditor,
        *,
        is_directory: bool,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._world = world
        self._repositories = repositories
        self._folders = folders
        self._auditor = auditor
        self._is_directory = is_directory
        self._sleep = sleep
        self.exchange = Exchange(world, folders, auditor)

    # ---- looking

    def listing(self, nodes: Sequence[str]) -> Listing:
        """What there is. Any node that answers will do, unless the repository is a directory on each of them.

        Raises `NodeError` of the first when none answered.
        """
        found: dict[str, Snapshot] = {}
        where: dict[str, str] = {}
        failed: dict[str, NodeError] = {}
        for group in [list(nodes)] if self._is_directory else [[name] for name in nodes]:
            answers = fan_out(group, lambda name: self._repositories(name).snapshots(), deadline_s=LIST_DEADLINE_S)
            for name, answer in answers.items():
                if isinstance(answer, NodeError):
                    failed[name] = answer
                elif isinstance(answer, Exception):
                    raise answer
                else:
                    found.update({one.id: one for one in answer})
                    where.update({one.id: where.get(one.id, name) for one in answer})
            if any(name not in failed for name in group):
                break
        if failed and len(failed) == len(nodes):
            raise next(iter(failed.values()))
        return Listing(tuple(sorted(found.values(), key=lambda one: (one.at, one.id))), where, failed)

    # ---- taking

    def create(self, node: str) -> bool:
        """Make the repository as the node reaches it; False if it is there."""
        return self._repositories(node).create()

    def copy(self, user: str, last: Snapshot | None, *, live: bool) -> Copied:
        """Take a snapshot of the user's files. A running workspace is paused for the second pass, unless `live`. `last`
        is the one before.

        Raises `NotFound`, `Refused`, `NodeError`, `LeaseHeld`. What couldn't be read doesn't raise: see `Taken.unread`.
        """
        world, before = self._world, self.find(user)
        repository = self._repositories(before.node)
        # In a directory of its own, a node doesn't have what was taken on another one.
        has_last = last is not None and (not self._is_directory or last.node == before.node)
        parent = last.id if last is not None and has_last else None
        if not live and self._runs(before, user):
            # Without the lease: this may take an hour, in which others may have to act on the user.
            parent = repository.take(user, parent, Kind.FIRST_PASS).snapshot
        with world.leases.acquire([f"user:{user}"], command=self._auditor.verb, wait_s=world.lease_wait_s) as held:
            found = self.find(user)
            if found.node != before.node:
                raise Refused(f"{user} moved to {found.node} while their files were copied", hint="repeat it")
            trail = self._auditor.trail(Work(user, "backed-up"), found.placement)
            work = f"the files of {user} on {found.node}" + (", live" if live else "")
            with trail.recorded(world.store.append_audit, plan=work, after=found.placement) as done:
                held.check()
                engine, pauses = world.engines(found.node), found.placement is not None and not live
                began = world.clock.now()
                with frozen(engine, user, wanted=pauses) as runs:
                    kind = Kind.LIVE if runs and not pauses else Kind.CONSISTENT
                    taken = repository.take(user, parent, kind)
                paused_s = (world.clock.now() - began).total_seconds() if pauses and runs else 0.0
                done.words.append(f"snapshot {taken.snapshot}, {taken.files} files, {taken.content_bytes} bytes")
        return Copied(found.node, taken, kind, paused_s)

    def retain(self, nodes: Iterable[str], keep: Keep, users: Iterable[str]) -> int:
        """Forget what the rule doesn't keep of the users; how many that were. Raises `NodeError`, `RepositoryLocked`
        after some tries: it is left to the next run then."""
        chosen, gone, names = set(users), set[str](), list(nodes)
        for node in names if self._is_directory else names[:1]:
            repository = self._repositories(node)
            found = [one for one in repository.snapshots() if one.user in chosen and one.id not in gone]
            unwanted = doomed(found, keep)
            ids = [one.id for one in unwanted]
            if ids:
                with recorded_together(self._trails(unwanted), self._world.store.append_audit):
                    self._patiently(names, lambda repository=repository, ids=ids: repository.forget(ids))  # type: ignore[misc]
                gone.update(ids)
        return len(gone)

    def _trails(self, unwanted: Iterable[Snapshot]) -> list[tuple[Trail, str]]:
        """What is recorded of forgetting these. A first pass isn't worth an entry: what replaced it has one."""
        lasting = by_user(one for one in unwanted if one.kind is not Kind.FIRST_PASS)
        return [
            (
                self._auditor.trail(Work(user, "forgotten"), None),
                "\n".join(f"snapshot {one.id} of {one.at:%Y-%m-%dT%H:%M:%SZ}, {one.kind}" for one in own),
            )
            for user, own in lasting.items()
        ]

    def prune(self, nodes: Sequence[str]) -> None:
        """Free what was forgotten: by the first of the nodes, or by each in its own directory."""
        for node in nodes if self._is_directory else nodes[:1]:
            self._patiently(nodes, self._repositories(node).prune)

    def _patiently(self, nodes: Sequence[str], do: Callable[[], None]) -> None:
        """Do what needs the repository for itself. A lock may be of a process that was killed: only its own node can
        tell, so each looks after its own."""
        for left in reversed(range(LOCK_TRIES)):
            try:
                do()
            except RepositoryLocked:
                if not left:
                    raise
                fan_out(nodes, lambda name: self._repositories(name).unlock(), deadline_s=LIST_DEADLINE_S)
                self._sleep(LOCK_WAIT_S)
            else:
                return

    # ---- using

    def extent(self, node: str, snapshot: Snapshot) -> Extent:
        """What a restore on the node will take."""
        return self._repositories(node).extent(snapshot.id)

    def restore(self, snapshot: Snapshot, node: str, *, over: bool) -> str | None:
        """Put the files of the snapshot in the user's place on `node`; where what was there is now (None: nothing was).

        `over`: the operator agreed to replace what is there. Raises as `Exchange.replace` does; nothing was replaced
        then.
        """
        repository, user = self._repositories(node), snapshot.user
        extent = repository.extent(snapshot.id)
        when = snapshot.at.isoformat(timespec="seconds")
        work = f"snapshot {snapshot.id} of {when}, taken on {snapshot.node}, to {node}"

        def fill(token: str) -> None:
            repository.restore(snapshot.id, user, token)

        filling = Filling("restored", work, extent.content_bytes, extent.members, fill)
        return self.exchange.replace(user, node, filling, over=over)

    def verify(self, snapshot: Snapshot, node: str) -> list[str]:
        """Restore the snapshot into a scratch folder on the node, compare it with what the backup lists, and remove it:
        the differences. Contents are compared with their checksums by the restore, which raises `NodeError` then."""
        repository, user = self._repositories(node), snapshot.user
        token, extent = f"v{self._auditor.new_id()[:11]}", repository.extent(snapshot.id)
        self.exchange.room(user, node, extent.content_bytes, extent.members)
        try:
            repository.restore(snapshot.id, user, token)
            return repository.compare(snapshot.id, user, token)
        finally:
            with contextlib.suppress(NodeError):
                self._folders(node).discard(user, token)

    def find(self, user: str) -> Found:
        """Where the user's files are, on a node that there is. Raises `NotFound`."""
        found = self.exchange.find(user)
        if found is None:
            raise NotFound(f"user {user} has neither a placement nor files", hint="wsctl ls")
        if found.node not in self._world.nodes:
            raise NotFound(f"the files of {user} are on {found.node}, which is not in the inventory")
        return found

    def _runs(self, found: Found, user: str) -> bool:
        container = self._world.engines(found.node).container(container_name(user))
        return found.placement is not None and container is not None and container.is_running
