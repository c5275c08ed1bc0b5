"""Export and import of one user's files: the order of looking, freezing, copying, replacing and recording.

Responsible for: what has to be true before a user's files are read or replaced, freezing a workspace for no longer than
its copy takes, and the audit entries. Not responsible for: the archive (`archive`), the node's side
(`folders.Folders`), questions to the operator (`commands`).

An import goes into a new folder beside, and takes the user's place in one step when it is complete. Killed anywhere
before, it changed nothing that counts; what it replaces is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from wsctl import archive
from wsctl.audit import Auditor
from wsctl.errors import NodeError, NotFound, Refused, StaleGeneration
from wsctl.folders import FolderFacts, Folders
from wsctl.model import Placement, PlacementState, container_name
from wsctl.newfile import replacing
from wsctl.plan import Work
from wsctl.ports import Conflict, Engine
from wsctl.workflow import World

INODE_BYTES = 4096
"""What a file takes on a disk besides its contents, at most, as far as planning for room goes."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a user's files are: the node, and the placement if there is one."""

    node: str
    placement: Placement | None


@dataclass(frozen=True, slots=True)
class Exported:
    """An archive that was written. `changed`: files changed while they were read (only with `live`)."""

    node: str
    summary: archive.Summary
    size: int
    live: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """Files that were put in place; `kept` is where what was there is now."""

    node: str
    summary: archive.Summary
    kept: str | None


@dataclass(frozen=True, slots=True)
class Filling:
    """What takes the place of a user's files: `fill(token)` makes the upload of that name, of `members` files with
    `size` bytes in all. `action` and `work` are what the audit table says."""

    action: str
    work: str
    size: int
    members: int
    fill: Callable[[str], None]


class Exchange:
    """Exports and imports on a world. `folders` gives a node's folders; `auditor` names verb, actor and request."""

    def __init__(self, world: World, folders: Callable[[str], Folders], auditor: Auditor) -> None:
        self._world = world
        self._folders = folders
        self._auditor = auditor

    def find(self, user: str) -> Found | None:
        """Where the user's files are; None if nobody knows of any."""
        placement = self._world.store.placement(user)
        if placement is not None:
            return Found(placement.node, placement)
        home = self._world.store.home(user)
        return Found(home.node, None) if home is not None else None

    # ---- export

    def export(self, user: str, path: Path, *, live: bool) -> Exported:
        """Write the archive of the user's files to `path`, in one step, mode 0600. A running workspace is paused while
        it is read, unless `live`. Raises `NotFound`, `Refused`, `NodeError`, `LeaseHeld`."""
        world = self._world
        with world.leases.acquire([f"user:{user}"], command=self._auditor.verb, wait_s=world.lease_wait_s) as held:
            found = self.find(user)
            if found is None:
                raise NotFound(f"user {user} has neither a placement nor files", hint="wsctl ls")
            folders, engine = self._folders(found.node), world.engines(found.node)
            trail = self._auditor.trail(Work(user, "exported"), found.placement)
            work = f"the files of {user} on {found.node} to {path}" + (", live" if live else "")
            with trail.recorded(self._world.store.append_audit, plan=work, after=found.placement) as done:
                held.check()
                with frozen(engine, user, wanted=found.placement is not None and not live) as was_running:
                    head = self._head(user, found, live=live and was_running)
                    exported = self._write(folders, user, path, head, live=live)
                done.words.append(
                    f"{exported.summary.members} files, {exported.summary.size} bytes, {exported.size} in all"
                )
            return replace(exported, node=found.node)

    def _head(self, user: str, found: Found, *, live: bool) -> dict[str, Any]:
        placement = found.placement
        return {
            "cluster": self._world.cluster, "user": user, "node": found.node, "live": live,
            "made_at": self._world.clock.now().isoformat(timespec="seconds"), "made_by": str(self._auditor.actor),
            "class": placement.workspace_class if placement else None,
            "generation": placement.generation if placement else None,
        }  # fmt: skip

    @staticmethod
    def _write(folders: Folders, user: str, path: Path, head: dict[str, Any], *, live: bool) -> Exported:
        summaries: list[archive.Summary] = []
        with replacing(path) as file:
            code = folders.pack(
                user, lambda stream: summaries.append(archive.write(stream, file.write, head)), live=live
            )
            size = file.tell()
        return Exported("", summaries[0], size, bool(head["live"]), code != 0)

    # ---- import

    def room(self, user: str, node: str, size: int, members: int) -> bool:
        """Whether the user has files on the node. Raises `Refused` if so many bytes in so many files don't fit there
        beside them."""
        facts = self._folders(node).facts(user)
        room_for(facts, node, size, members)
        return facts.exists

    def import_(self, user: str, source: IO[bytes], node: str, summary: archive.Summary, *, over: bool) -> Imported:
        """Put the files of the archive, which was checked as `summary`, in the user's place on `node`.

        `over`: the operator agreed to replace what is there. Raises `Refused` if the workspace runs, if there is
        something and `over` is False, or if the user's files are elsewhere; `BackupDamaged` if the archive isn't the
        one that was checked. Nothing was replaced then.
        """
        work = f"{summary.members} files, {summary.size} bytes to {node}, sha256 {summary.sha256}"

        def fill(token: str) -> None:
            self._upload(self._folders(node), user, token, source, summary)

        kept = self.replace(user, node, Filling("imported", work, summary.size, summary.members, fill), over=over)
        return Imported(node, summary, kept)

    def replace(self, user: str, node: str, filling: Filling, *, over: bool) -> str | None:
        """Put new files in the user's place on `node`; where what was there is now. Raises as `import_` does."""
        world = self._world
        with world.leases.acquire([f"user:{user}"], command=self._auditor.verb, wait_s=world.lease_wait_s) as held:
            found = self.find(user)
            placement = found.placement if found is not None else None
            if found is not None and found.node != node:
                raise Refused(f"the files of {user} are on {found.node} by now, not on {node}")
            self._must_not_run(user, placement, node)
            folders = self._folders(node)
            if self.room(user, node, filling.size, filling.members) and not over:
                raise Refused(f"{user} has files on {node} by now")
            trail = self._auditor.trail(Work(user, filling.action), placement)
            token = trail.operation[:12]
            with (
                trail.recorded(world.store.append_audit, plan=filling.work, after=placement) as done,
                self._discarded(folders, user, token),
            ):
                filling.fill(token)
                held.check()
                done.after = claimed = self._claim(user, placement, node)
                self._must_not_run(user, claimed, node)
                kept = folders.swap(user, token, f"{user}.{world.clock.now():%Y%m%dT%H%M%SZ}.{token}")
                if claimed is not None:
                    # A standby copy that was made since the claim may have the files from before.
                    world.store.settle(user, claimed.generation, claimed.state)
                done.words.append(f"what was there: {kept}" if kept else "nothing was there")
            return kept

    def _must_not_run(self, user: str, placement: Placement | None, node: str) -> None:
        container = self._world.engines(node).container(container_name(user))
        stopped = placement is None or placement.state is PlacementState.STOPPED
        if not stopped or (container is not None and container.is_running):
            raise Refused(
                f"the workspace of {user} isn't stopped: its files are in use",
                hint=f"wsctl stop {user}   # then repeat",
            )

    @staticmethod
    def _upload(folders: Folders, user: str, token: str, source: IO[bytes], summary: archive.Summary) -> None:
        def produce(send: Callable[[bytes], None]) -> int:
            source.seek(0)
            sent = archive.read(source, send, summary.size)
            if sent.sha256 != summary.sha256:
                raise archive.refused("it changed while it was read")
            return sent.members

        owner = next(iter(summary.owners)) if len(summary.owners) == 1 else "many"
        folders.unpack(user, token, owner, produce)

    def _claim(self, user: str, placement: Placement | None, node: str) -> Placement | None:
        """Before the effect, what makes it findable; and who changed the placement meanwhile wins. Its generation
        rises: copies of the files from before aren't what the user has any more."""
        store = self._world.store
        if placement is None:
            # `place` goes there from now on, and a folder that isn't there yet is no harm.
            if not store.remember_home(user, node):
                raise StaleGeneration(f"{user} was placed while their files were brought", hint=f"wsctl show {user}")
            return None
        stopped = PlacementState.STOPPED
        claimed = store.claim(user, placement.generation, stopped, was=stopped)
        if isinstance(claimed, Conflict):
            raise StaleGeneration(f"the placement of {user} moved while their files were brought")
        return claimed

    @staticmethod
    @contextlib.contextmanager
    def _discarded(folders: Folders, user: str, token: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # The error that led here is the one to tell; what stays behind is removed by the next import.
            with contextlib.suppress(NodeError):
                folders.discard(user, token)
            raise


def room_for(facts: FolderFacts, node: str, size: int, members: int) -> None:
    """Raise `Refused` if so many bytes in so many files don't fit on the node beside what is there."""
    needed = size + (members + 1) * INODE_BYTES
    if needed > facts.free_bytes or members >= facts.free_inodes:
        raise Refused(
            f"{node} has no room for it: {facts.free_bytes} bytes and {facts.free_inodes} inodes are free, "
            f"{needed} and {members} are needed",
            hint="make room, or name another node with --to",
        )


@contextlib.contextmanager
def frozen(engine: Engine, user: str, *, wanted: bool) -> Iterator[bool]:
    """Pause the user's container if it runs, and let it go on whatever happens; whether it ran. Else only look.

    One that is paused already was left so by somebody who was killed: it goes on afterwards, too.
    """
    name = container_name(user)
    container = engine.container(name)
    runs = container is not None and container.is_running
    if not (wanted and runs):
        yield runs
        return
    try:
        engine.pause(name)
        yield True
    finally:
        try:
            engine.unpause(name)
        except NodeError:
            engine.unpause(name)  # once more: a workspace that stays frozen is worse than a late error
