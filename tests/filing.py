"""Users' files on fake nodes: `ports.NodeFiles` in memory, with the trees that each node has.

A tree is a dict of names to contents. What a user works on is `live`; a user whose container ever ran on a node has one
there (the engine makes the folder, see `FakeEngine.data`). Faults are scripted as on `FakeEngine`:

    files.fail("copy", FilesError("n2", "no space left on device"))
    files.on_copy = f               f(user) goes on while files are copied
    files.writes["alice"] = 3      the user writes during the next three passes
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from tests.fakes import FakeClock, FakeEngine, FakeFleet
from wsctl.errors import FilesError, NodeUnreachable
from wsctl.model import Placement, container_name
from wsctl.moveports import Progress, Size, Way
from wsctl.moving import Pass, Road
from wsctl.standbyports import Newer, SourceMark
from wsctl.standbys import LeftFiles

Tree = dict[str, str]


class FakeFiles:
    """Trees by node: what users work on, what is incoming, what is kept (by name). `calls` as on an engine."""

    def __init__(self, fleet: FakeFleet, clock: FakeClock) -> None:
        self.fleet = fleet
        self.clock = clock
        self.live: dict[tuple[str, str], Tree] = {}
        self.incoming: dict[tuple[str, str], Tree] = {}
        self.installed: set[tuple[str, str]] = set()
        self.kept: dict[tuple[str, str], Tree] = {}
        self.newest: dict[str, str] = {}
        self.ways: set[Way] = set()
        self.writes: dict[str, int] = {}
        self.slow_s = 4.0
        self.on_copy: Callable[[str], None] = lambda user: None
        self.road = Road()
        self.calls: list[tuple[str, str]] = []
        self._faults: dict[str, list[Exception]] = defaultdict(list)

    def fail(self, operation: str, error: Exception, times: int = 1) -> None:
        """Let the next `times` calls of `operation` raise `error` and do nothing."""
        self._faults[operation] += [error] * times

    def write(self, user: str, value: str) -> None:
        """The user writes, where their container runs; the write is acknowledged, and must never be lost."""
        for name, engine in self.fleet.engines.items():
            one = engine._held.get(container_name(user))
            if one is not None and one.state == "running":
                self._live(name, user)["work"] = value
                self.newest[user] = value

    def check_truth(self, placements: Mapping[str, Placement]) -> None:
        """Whoever wrote has the newest of it where they live, at every moment."""
        for user, value in self.newest.items():
            if user in placements:
                tree = self.live.get((placements[user].node, user), {})
                assert tree.get("work") == value, f"{user} lost what they wrote: {tree} on {placements[user].node}"

    # -- ports.NodeFiles

    def check(self, way: Way) -> Road:
        self._contact("check", way.user, way.source, way.target)
        return self.road

    def size(self, node: str, root: str, user: str) -> Size:
        self._contact("size", user, node)
        tree = self.live.get((node, user), {})
        return Size(sum(map(len, tree.values())), len(tree))

    def prepare(self, way: Way) -> str | None:
        self._contact("prepare", way.user, way.source, way.target)
        key, aside = (way.target, way.user), None
        if key in self.installed:
            self.incoming[key] = self._take(key)
        elif way.user in self._engine(way.target).data:
            aside = f"{way.user}-found"
            self.kept[(way.target, aside)] = self._take(key)
        self.incoming.setdefault(key, {})
        return aside

    def copy(self, way: Way, *, final: bool, bwlimit: int | None, compress: bool, progress: Progress) -> Pass:
        self._contact("copy", way.user, way.source, way.target)
        self.on_copy(way.user)
        self.ways.add(way)
        source, target = self._live(way.source, way.user), self.incoming[(way.target, way.user)]
        changed = sum(len(value) for name, value in source.items() if target.get(name) != value)
        target.clear()
        target.update(source)
        progress(changed, 1.0)
        if self.writes.get(way.user, 0) > 0:
            self.writes[way.user] -= 1
            self.write(way.user, f"written during pass {len(self.calls)}")
        self.clock.advance(self.slow_s)
        return Pass(changed, self.slow_s, self.road)

    def sync(self, way: Way, *, wait: bool) -> None:
        self._contact("sync", way.user, way.target)

    def verify(self, way: Way, *, full: bool) -> list[str]:
        self._contact("verify", way.user, way.source, way.target)
        same = self._live(way.source, way.user) == self.incoming[(way.target, way.user)]
        return [] if same else [">f.st...... work"]

    def install(self, way: Way) -> None:
        self._contact("install", way.user, way.source, way.target)
        key = (way.target, way.user)
        if way.user in self._engine(way.target).data:
            raise FilesError(way.target, f"{way.target_root}/{way.user} exists")
        self.live[key] = self.incoming.pop(key)
        self._engine(way.target).data.add(way.user)
        self.installed.add(key)
        self.finish(way)

    def disarm(self, node: str, root: str, user: str) -> None:
        self._contact("disarm", user, node)
        self.ways = {way for way in self.ways if (way.source, way.user) != (node, user)}

    def discard(self, node: str, root: str, user: str, *, installed: bool) -> None:
        self._contact("discard", user, node)
        self.incoming.pop((node, user), None)
        if installed and (node, user) in self.installed:
            self._take((node, user))

    def keep(self, node: str, root: str, user: str, name: str) -> Size:
        self._contact("keep", user, node)
        if (node, name) in self.kept or user not in self._engine(node).data:
            return Size(0, 0)
        tree = self.kept[(node, name)] = self._take((node, user))
        return Size(sum(map(len, tree.values())), len(tree))

    def drop(self, node: str, root: str, user: str, name: str) -> None:
        self._contact("drop", user, node)
        self.kept.pop((node, name), None)

    def finish(self, way: Way) -> None:
        self.ways.discard(way)

    # -- inside

    def _contact(self, operation: str, user: str, *nodes: str) -> None:
        self.calls.append((operation, user))
        for name in nodes:
            if name in self.fleet.unreachable or self._engine(name).frozen:
                raise NodeUnreachable(name, "no answer")
        if self._faults[operation]:
            raise self._faults[operation].pop(0)

    def _engine(self, node: str) -> FakeEngine:
        return self.fleet.engines[node]

    def _live(self, node: str, user: str) -> Tree:
        return self.live.setdefault((node, user), {})

    def _take(self, key: tuple[str, str]) -> Tree:
        node, user = key
        self._engine(node).data.discard(user)
        self.installed.discard(key)
        return self.live.pop(key, {})


class FakeStandbys:
    """`ports.StandbyFiles` over the trees of a `FakeFiles`. `complete_on` has the standby copies, `beside` those being
    made, by (node, user); `newer` is what users wrote on a node since it was copied, which is counted by `keep_left`.
    """

    def __init__(self, files: FakeFiles) -> None:
        self.files = files
        self.complete_on: dict[tuple[str, str], Tree] = {}
        self.beside: dict[tuple[str, str], Tree] = {}
        self.promoted: set[tuple[str, str]] = set()
        self.replaced: set[str] = set()
        self.copied: dict[tuple[str, str], Tree] = {}

    def begin(self, way: Way) -> SourceMark:
        self.files._contact("standby-begin", way.user, way.source, way.target)
        key = (way.target, way.user)
        self.beside.setdefault(key, dict(self.complete_on.get(key, {})))
        return SourceMark(1, int(self.files.clock.now().timestamp() * 1_000_000))

    def bring(self, way: Way, *, bwlimit: int | None) -> Pass:
        self.files._contact("standby-bring", way.user, way.source, way.target)
        self.files.ways.add(way)
        source = self.files._live(way.source, way.user)
        self.beside[(way.target, way.user)] = dict(source)
        self.copied[(way.source, way.user)] = dict(source)
        return Pass(sum(map(len, source.values())), 0.1)

    def complete(self, way: Way, mark: SourceMark) -> int:
        self.files._contact("standby-complete", way.user, way.source, way.target)
        if way.user in self.replaced:
            raise FilesError(way.source, f"the files of {way.user} were moved away while they were copied")
        key = (way.target, way.user)
        if key in self.beside:
            self.complete_on[key] = self.beside.pop(key)
        return sum(map(len, self.complete_on[key].values()))

    def finish(self, way: Way) -> None:
        self.files.ways.discard(way)

    def promote(self, node: str, root: str, user: str) -> str | None:
        self.files._contact("promote", user, node)
        key, aside = (node, user), None
        if key in self.complete_on:
            if user in self.files._engine(node).data:
                aside = f"{user}-found"
                self.files.kept[(node, aside)] = self.files._take(key)
            self.files.live[key] = self.complete_on.pop(key)
            self.files._engine(node).data.add(user)
            self.promoted.add(key)
        elif key not in self.promoted:
            raise FilesError(node, f"there is no standby copy of {user}")
        self.beside.pop(key, None)
        return aside

    def drop(self, node: str, root: str, user: str) -> None:
        self.files._contact("standby-drop", user, node)
        for trees in (self.beside, self.complete_on):
            trees.pop((node, user), None)

    def keep_left(self, node: str, root: str, left: LeftFiles) -> Newer:
        self.files._contact("keep-left", left.user, node)
        if (node, left.name) not in self.files.kept:
            self.files.kept[(node, left.name)] = self.files._take((node, left.user))
        tree = self.files.kept[(node, left.name)]
        seen = self.copied.get((node, left.user), {}) if left.seen_at else {}
        newer = [value for name, value in tree.items() if seen.get(name) != value]
        return Newer(len(newer), sum(map(len, newer)))
