"""Users' files on nodes: `ports.NodeFiles`, by rsync from node to node, through this machine, or by tar.

Responsible for: what a node is asked about files, which way a copy takes, and whether copy and source are the same. Not
responsible for: the scripts (`file_scripts`), a pass of copying (`copying`), the key that it takes (`movekeys`).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wsctl.errors import FilesError, NodeError
from wsctl.moveports import Progress, Size, Way
from wsctl.moving import Pass, Road, RoadKind
from wsctl.transport import copy_scripts, manifests
from wsctl.transport import file_scripts as scripts
from wsctl.transport.copying import Copier, Copy, Unreached, failed
from wsctl.transport.hosts import Host
from wsctl.transport.manifests import Manifest
from wsctl.transport.movekeys import SHORT_S, MoveKeys, login, said
from wsctl.transport.shell import Done

LONG_S = 6 * 3600.0
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]*")


class ShellFiles:
    """See `ports.NodeFiles`. `hosts` gives a node; none is connected before it is used."""

    def __init__(self, cluster: str, hosts: Callable[[str], Host]) -> None:
        self._hosts = hosts
        self._keys = MoveKeys(cluster, hosts)
        self._copier = Copier(hosts, self._keys)
        self._roads: dict[tuple[str, str], Road] = {}
        self._tools: dict[str, frozenset[str]] = {}
        self._copied: set[Way] = set()
        self._lock = threading.Lock()

    def check(self, way: Way) -> Road:
        for node, root in ((way.source, way.source_root), (way.target, way.target_root)):
            if not _PLAIN.fullmatch(root):
                why = f"host_root {root!r} has characters that a move can't allow in a key's command"
                raise FilesError(node, why, hint="use letters, digits and . _ - / only")
        pair = (way.source, way.target)
        with self._lock:
            tools = dict(self._tools)
            known = self._roads.get(pair)
        is_new = not tools.keys() >= set(pair)
        script = scripts.TOOLS + scripts.SAME if is_new else scripts.SAME
        folders = []
        for node, done in zip(pair, self._on_both(way, script, "move files"), strict=True):
            first, _, folder = done.out.decode("utf-8", "replace").partition("\n")
            folders.append(folder.strip())
            if is_new:
                tools[node] = frozenset(first.split())
        if folders[0] and folders[0] == folders[1]:
            why = f"{way.source} and {way.target} have the very same folder of {way.user}"
            raise FilesError(way.target, why, hint="say so in the inventory: storage: shared, on both")
        road = known if known is not None else self._find_road(way, tools[way.source], tools[way.target])
        with self._lock:
            self._roads[pair] = road
            self._tools.update(tools)
        return road

    def size(self, node: str, root: str, user: str) -> Size:
        return _size(self._do(node, root, user, scripts.SIZE, "measure files", timeout_s=LONG_S))

    def prepare(self, way: Way) -> str | None:
        self._do(way.source, way.source_root, way.user, _DISARM, "end old copying")
        done = self._do(way.target, way.target_root, way.user, scripts.PREPARE, "make room for files")
        return done.out.decode("utf-8", "replace") or None

    def copy(self, way: Way, *, final: bool, bwlimit: int | None, compress: bool, progress: Progress) -> Pass:
        copy, began = Copy(final, bwlimit, compress, progress), time.monotonic()
        road = self._road(way)
        try:
            size = self._pass(way, road, copy)
        except Unreached as error:
            # One that has been copied before is reached; the next pass may find it again.
            if road.kind is not RoadKind.DIRECT or way in self._copied:
                raise
            road = Road(RoadKind.RELAY, error.reason)
            with self._lock:
                self._roads[(way.source, way.target)] = road
            size = self._pass(way, road, copy)
        with self._lock:
            self._copied.add(way)
        return Pass(size, time.monotonic() - began, road)

    def sync(self, way: Way, *, wait: bool) -> None:
        self._copier.sync(way, wait=wait)

    def verify(self, way: Way, *, full: bool) -> list[str]:
        road = self._road(way)
        tools = self._tools[way.source] & self._tools[way.target]
        # The one that every node has is slow where the processor must do without help: 145 MB/s here, not 1,150.
        reader = "b2sum" if "b2sum" in tools else "sha256sum"
        which = "full" if full else str(secrets.randbelow(1 << 20))
        words = (which, reader, "attributes" if "getfattr" in tools else "")
        here, there = self._manifests(way, *words, "")
        if here.digest != there.digest:
            found = manifests.differences(*(one.lines for one in self._manifests(way, *words, "list")))
            return found or ["something changed while it was compared"]
        linked = manifests.differences(here.linked, there.linked)
        if linked or not full or road.kind is not RoadKind.DIRECT:
            return linked
        return self._copier.differences(way)

    def install(self, way: Way) -> None:
        # No permission outlives the copying, whatever happens from here on. What lies on the source goes when its files
        # are put aside: now somebody waits.
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(self._keys.revoke, way.target, way.user) if self._keys.forget(way) else None
            self._do(way.target, way.target_root, way.user, scripts.INSTALL, "install files", timeout_s=LONG_S)
            if closing is not None:
                closing.result()

    def discard(self, node: str, root: str, user: str, *, installed: bool) -> None:
        which = "installed" if installed else "incoming"
        self._do(node, root, user, scripts.DISCARD, "delete an unfinished copy", which, timeout_s=LONG_S)
        self._keys.revoke(node, user)

    def disarm(self, node: str, root: str, user: str) -> None:
        self._do(node, root, user, _DISARM, "delete a key")

    def keep(self, node: str, root: str, user: str, name: str) -> Size:
        return _size(self._do(node, root, user, scripts.KEEP, "put files aside", name, timeout_s=LONG_S))

    def drop(self, node: str, root: str, user: str, name: str) -> None:
        self._do(node, root, user, scripts.DROP, "delete a kept copy", name, timeout_s=LONG_S)

    def finish(self, way: Way) -> None:
        if not self._keys.forget(way):
            return
        with contextlib.suppress(NodeError):
            self._keys.revoke(way.target, way.user)
        with contextlib.suppress(NodeError):
            self.disarm(way.source, way.source_root, way.user)

    def script(
        self, node: str, root: str, user: str, script: str, doing: str, timeout_s: float = SHORT_S, *more: str
    ) -> str:
        """Run a script behind `FENCE`, with `root`, `user` and the key's folder as `$1` to `$3`: what it said. Raises
        `FilesError` with `doing` in it."""
        done = self._do(node, root, user, script, doing, *more, timeout_s=timeout_s)
        return done.out.decode("utf-8", "replace").strip()

    # -- how

    def _road(self, way: Way) -> Road:
        with self._lock:
            road = self._roads.get((way.source, way.target))
        return road if road is not None else self.check(way)

    def _find_road(self, way: Way, here: frozenset[str], there: frozenset[str]) -> Road:
        """The best way that there is from the source to the target."""
        source, target = self._hosts(way.source), self._hosts(way.target)
        for node, tools in ((way.source, here), (way.target, there)):
            if "rsync" not in tools:
                lacking = [name for name, has in ((way.source, here), (way.target, there)) if "tar" not in has]
                if lacking:
                    hint = f"apt-get install rsync   # on {node}"
                    raise FilesError(node, f"it has no rsync, and {lacking[0]} no GNU tar either", hint=hint)
                return Road(RoadKind.TAR, f"{node} has no rsync")
        if target.is_local:
            return Road(RoadKind.RELAY, f"{way.target} is this machine, reached without SSH")
        if not {"ssh", "ssh-keygen", "awk"} <= here:
            return Road(RoadKind.RELAY, f"{way.source} has no ssh client")
        where, known = login(target)
        words = (way.source_root, way.user, self._keys.folder(way.user), *where)
        done = source.run(scripts.FENCE + copy_scripts.PROBE, *words, data=known, timeout_s=SHORT_S)
        words_said = said(done.err, done.code)
        if "Host key verification failed" in words_said or "REMOTE HOST IDENTIFICATION" in words_said:
            raise failed(way, Done(255, b"", b"Host key verification failed"))
        if done.code == 0 or "Permission denied" in words_said:
            return Road(RoadKind.DIRECT)
        return Road(RoadKind.RELAY, f"{way.source} doesn't reach {way.target} by SSH: {words_said}")

    def _pass(self, way: Way, road: Road, copy: Copy) -> int:
        if road.kind is RoadKind.DIRECT:
            return self._copier.direct(way, copy)
        return self._copier.relay(way, copy) if road.kind is RoadKind.RELAY else self._copier.tar(way, copy)

    def _manifests(self, way: Way, *words: str) -> tuple[Manifest, Manifest]:
        incoming = f"{way.target_root}/.wsctl-incoming/{way.user}"
        here, there = self._on_both(
            way, scripts.MANIFEST, "list files", *words, first=(f"{way.source_root}/{way.user}", incoming)
        )
        return Manifest.of(here.out), Manifest.of(there.out)

    def _on_both(
        self, way: Way, script: str, doing: str, *more: str, first: tuple[str, str] | None = None
    ) -> tuple[Done, Done]:
        """Run a script on source and target at once; the first of its own words is another on each."""
        own = ((), ()) if first is None else ((first[0],), (first[1],))
        with ThreadPoolExecutor(1) as pool:
            there = pool.submit(
                self._do, way.target, way.target_root, way.user, script, doing, *own[1], *more, timeout_s=LONG_S
            )
            here = self._do(way.source, way.source_root, way.user, script, doing, *own[0], *more, timeout_s=LONG_S)
            return here, there.result()

    def _do(
        self, node: str, root: str, user: str, script: str, doing: str, *more: str, timeout_s: float = SHORT_S
    ) -> Done:
        words = (root, user, self._keys.folder(user), *more)
        done = self._hosts(node).run(scripts.FENCE + script, *words, data=b"", timeout_s=timeout_s)
        if done.code != 0:
            raise FilesError(node, f"cannot {doing}: {said(done.err, done.code)}", hint=f"look at {root} on {node}")
        return done


def _size(done: Done) -> Size:
    """What `file_scripts` has measured; nothing, if it hasn't."""
    first, _, names = done.out.partition(b"\n")
    if not first:
        return Size(0, 0)
    size, files, odd = (int(word) for word in first.split())
    shown = [name.decode("utf-8", "backslashreplace") for name in names.split(b"\0") if name]
    return Size(size, files, tuple(shown), odd)


_DISARM = 'fence "$3/"; rm -rf -- "$3"'
