"""Standby copies on nodes: `ports.StandbyFiles`, by the same rsync from node to node as a move's.

Responsible for: where they are, when one takes the place of the one before, and promoting one. Not responsible for: the
copying and its key (`files`), the scripts (`standby_scripts`).

`<root>/.wsctl-standby` is laid out as a root of its own: `<user>` is the complete copy, `.wsctl-incoming/<user>` the
one being made. So a move of the same user, whose folders and key have other names, is never in the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from wsctl.errors import FilesError
from wsctl.moveports import Way
from wsctl.moving import Pass
from wsctl.standbyports import Newer, SourceMark
from wsctl.standbys import LeftFiles
from wsctl.transport import standby_scripts as scripts
from wsctl.transport.files import LONG_S, ShellFiles
from wsctl.transport.hosts import Host

CLOCK_TICK_US = 20_000
"""A file's time of change is that of the kernel's last tick, at most 10 ms before: `CONFIG_HZ` is 100 or more."""


class ShellStandbys:
    """See `ports.StandbyFiles`. `hosts` gives a node; none is connected before it is used."""

    def __init__(self, cluster: str, hosts: Callable[[str], Host]) -> None:
        # Keys are found by this name: a move's and a standby's never replace each other.
        self._files = ShellFiles(f"{cluster}+standby", hosts)

    def begin(self, way: Way) -> SourceMark:
        self._files.check(way)
        mark = self._mark(way)
        beside = _beside(way)
        self._files.script(
            way.target, beside.target_root, way.user, scripts.SEED, "make room for a standby copy", LONG_S
        )
        return mark

    def bring(self, way: Way, *, bwlimit: int | None) -> Pass:
        return self._files.copy(
            _beside(way), final=False, bwlimit=bwlimit, compress=False, progress=lambda size, share: None
        )

    def complete(self, way: Way, mark: SourceMark) -> int:
        if self._mark(way).inode != mark.inode:
            raise FilesError(way.source, f"the files of {way.user} were moved away while they were copied")
        beside = _beside(way)
        said = self._files.script(
            way.target, beside.target_root, way.user, scripts.COMPLETE, "install a standby copy", LONG_S
        )
        return int(said or 0)

    def finish(self, way: Way) -> None:
        self._files.finish(_beside(way))

    def promote(self, node: str, root: str, user: str) -> str | None:
        return self._files.script(node, root, user, scripts.PROMOTE, "promote a standby copy", LONG_S) or None

    def drop(self, node: str, root: str, user: str) -> None:
        self._files.script(node, f"{root}/{scripts.FOLDER}", user, scripts.DROP, "delete a standby copy", LONG_S)

    def keep_left(self, node: str, root: str, left: LeftFiles) -> Newer:
        since = f"{max(0, left.seen_at - CLOCK_TICK_US) / 1_000_000:.6f}"
        said = self._files.script(node, root, left.user, scripts.KEEP_LEFT, "put files aside", LONG_S, left.name, since)
        files, size = said.split()
        return Newer(int(files), int(size))

    def _mark(self, way: Way) -> SourceMark:
        said = self._files.script(way.source, way.source_root, way.user, scripts.MARK, "find the files").split()
        return SourceMark(int(said[0]), int(said[1]))


def _beside(way: Way) -> Way:
    """The way into the folder of standby copies."""
    return replace(way, target_root=f"{way.target_root}/{scripts.FOLDER}")
