"""`ports.NodeFiles` on fake nodes and on real folders, by rsync and by tar: what each method promises.

The real adapter works on this machine here, as root; from node to node it is tried in tests/integration.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from trees import TREES, Entry, lay_out, manifest

from lab import packages
from tests.builders import node
from tests.fakes import FakeClock, FakeFleet
from tests.filing import FakeFiles
from wsctl.errors import FilesError
from wsctl.moveports import NodeFiles, Size, Way
from wsctl.moving import RoadKind
from wsctl.transport.files import ShellFiles
from wsctl.transport.hosts import Host

USER = "alice"


class Place(Protocol):
    """Two nodes with folders; what is in them can be written and read."""

    files: NodeFiles
    way: Way

    def write(self, where: str, name: str, text: str) -> None: ...

    def read(self, where: str) -> dict[str, str] | None:
        """Names to contents of `live:NODE`, `incoming:NODE` or `kept:NODE:NAME`; None if it isn't there."""


@dataclass
class RealPlace:
    """Two folders of this machine as two nodes."""

    root: Path

    def __post_init__(self) -> None:
        hosts = {}
        for name in ("n1", "n2"):
            (self.root / name).mkdir()
            local = replace(node(name), address="local", host_root=str(self.root / name))
            hosts[name] = Host(local, _no_session)
        self.files: NodeFiles = ShellFiles("contract", hosts.__getitem__)
        self.way = Way(USER, "n1", "n2", str(self.root / "n1"), str(self.root / "n2"))

    def write(self, where: str, name: str, text: str) -> None:
        folder = self._folder(where)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def read(self, where: str) -> dict[str, str] | None:
        folder = self._folder(where)
        return {one.name: one.read_text() for one in folder.iterdir()} if folder.is_dir() else None

    def _folder(self, where: str) -> Path:
        kind, name, *kept = where.split(":")
        place = {"live": USER, "incoming": f".wsctl-incoming/{USER}", "kept": f".wsctl-kept/{''.join(kept)}"}[kind]
        return self.root / name / place


def _no_session() -> object:
    raise AssertionError("nobody is reached by SSH here")


class FakePlace:
    """The same in memory."""

    def __init__(self) -> None:
        self.fleet = FakeFleet(("n1", "n2"))
        self.fake = FakeFiles(self.fleet, FakeClock())
        self.files: NodeFiles = self.fake
        self.way = Way(USER, "n1", "n2", "/srv/workspaces", "/srv/workspaces")

    def write(self, where: str, name: str, text: str) -> None:
        kind, at = where.split(":")
        trees = self.fake.live if kind == "live" else self.fake.incoming
        trees.setdefault((at, USER), {})[name] = text
        if kind == "live":
            self.fleet.engines[at].data.add(USER)

    def read(self, where: str) -> dict[str, str] | None:
        kind, at, *kept = where.split(":")
        if kind == "live":
            return self.fake.live.get((at, USER)) if USER in self.fleet.engines[at].data else None
        return self.fake.incoming.get((at, USER)) if kind == "incoming" else self.fake.kept.get((at, "".join(kept)))


@pytest.fixture(params=["fake", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "fake":
        return FakePlace()
    need_root()
    return RealPlace(tmp_path)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to their owners takes root")


def copied(place: Place) -> None:
    place.files.prepare(place.way)
    place.files.copy(place.way, final=True, bwlimit=None, compress=False, progress=lambda size, share: None)


def test_a_copy_is_what_the_source_is(place: Place) -> None:
    place.write("live:n1", "work", "one")
    place.files.check(place.way)
    copied(place)
    assert place.read("incoming:n2") == {"work": "one"}
    assert place.files.verify(place.way, full=False) == []
    assert place.files.verify(place.way, full=True) == []
    place.write("live:n1", "work", "two")
    assert place.files.verify(place.way, full=True) != []
    copied(place)
    assert place.files.verify(place.way, full=True) == []
    place.files.install(place.way)
    place.files.install(place.way) if isinstance(place, RealPlace) else None
    assert place.read("live:n2") == {"work": "two"}
    assert place.read("incoming:n2") is None
    assert place.read("live:n1") == {"work": "two"}


def test_only_what_differs_is_counted(place: Place) -> None:
    place.write("live:n1", "a", "1234")
    place.write("live:n1", "b", "12")
    place.files.prepare(place.way)
    sizes = []
    for text in ("1234", "1234", "123456"):
        if place.read("live:n1") != {"a": text, "b": "12"}:
            place.write("live:n1", "a", text)
        sizes.append(
            place.files.copy(
                place.way, final=False, bwlimit=10**9, compress=False, progress=lambda size, share: None
            ).bytes
        )
    assert sizes == [6, 0, 6]


def test_a_strangers_files_are_put_aside(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    place.write("live:n2", "work", "theirs")
    name = place.files.prepare(place.way)
    assert name is not None
    assert place.read(f"kept:n2:{name}") == {"work": "theirs"}
    assert place.read("live:n2") is None


def test_install_refuses_what_is_there(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    copied(place)
    place.write("live:n2", "work", "theirs")
    with pytest.raises(FilesError, match="exists"):
        place.files.install(place.way)
    assert place.read("live:n2") == {"work": "theirs"}


def test_what_was_installed_can_be_taken_back(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    copied(place)
    place.files.install(place.way)
    for _ in range(2):
        place.files.discard("n2", place.way.target_root, USER, installed=True)
        assert place.read("live:n2") is None
    assert place.read("live:n1") == {"work": "mine"}


def test_where_a_user_lives_nothing_is_taken_back(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    copied(place)
    place.files.install(place.way)
    for _ in range(2):
        place.files.discard("n2", place.way.target_root, USER, installed=False)
        assert place.read("live:n2") == {"work": "mine"}


def test_what_others_put_there_is_never_discarded(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    place.write("live:n2", "work", "theirs")
    place.files.discard("n2", place.way.target_root, USER, installed=True)
    assert place.read("live:n2") == {"work": "theirs"}


def test_kept_and_dropped(place: Place) -> None:
    place.write("live:n1", "work", "mine")
    root = place.way.source_root
    for _ in range(2):
        place.files.keep("n1", root, USER, "alice-1")
    assert place.read("live:n1") is None
    assert place.read("kept:n1:alice-1") == {"work": "mine"}
    place.write("live:n1", "work", "new")
    place.files.keep("n1", root, USER, "alice-1")
    assert place.read("live:n1") == {"work": "new"}
    for _ in range(2):
        place.files.drop("n1", root, USER, "alice-1")
    assert place.read("kept:n1:alice-1") is None


def test_sizes(place: Place) -> None:
    assert place.files.size("n1", place.way.source_root, USER).files == 0
    place.write("live:n1", "a", "1234")
    found = place.files.size("n1", place.way.source_root, USER)
    assert (found.bytes, found.files, found.odd_count) == (4, 1, 0)


def test_ends_are_safe_without_beginnings(place: Place) -> None:
    place.files.finish(place.way)
    place.files.disarm("n1", place.way.source_root, USER)
    place.files.drop("n1", place.way.source_root, USER, "alice-9")


# ------------------------------------------------------------------------------------------ the real one, on real trees


@pytest.fixture(params=[RoadKind.RELAY, RoadKind.TAR], ids=str)
def road(request: pytest.FixtureRequest) -> RoadKind:
    kind: RoadKind = request.param
    return kind


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    need_root()
    numbers = iter(range(10**6))

    def fresh() -> Path:
        room = tmp_path / str(next(numbers))
        room.mkdir()
        return room

    yield fresh
    subprocess.run(["rm", "-rf", "--", str(tmp_path)], check=True)


@settings(
    max_examples=200 if os.environ.get("WSCTL_FAULTS") == "all" else 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=TREES, second=TREES)
def test_any_tree_arrives(road: RoadKind, rooms: Callable[[], Path], first: list[Entry], second: list[Entry]) -> None:
    """What is there of an earlier pass makes no difference, whatever became of it since."""
    room = rooms()
    place = RealPlace(room)
    if road is RoadKind.TAR:
        without_rsync(place)
    source, incoming = room / "n1" / USER, room / "n2" / ".wsctl-incoming" / USER
    lay_out(source, first)
    assert place.files.check(place.way).kind is road
    copied(place)
    assert manifest(incoming) == manifest(source)
    source.rename(room / "n1" / "before")
    lay_out(source, second)
    done = place.files.copy(place.way, final=True, bwlimit=None, compress=True, progress=lambda size, share: None)
    assert done.road.kind is road
    wanted = manifest(source)
    assert manifest(incoming) == wanted
    assert place.files.verify(place.way, full=True) == []
    place.files.install(place.way)
    assert manifest(room / "n2" / USER) == wanted


def without_rsync(place: RealPlace) -> None:
    """As if the node had none: the way is found from what `check` hears."""
    files = place.files
    assert isinstance(files, ShellFiles)
    run = Host.run

    class Bare(Host):
        def run(self, script, *words, **more):  # type: ignore[no-untyped-def]
            done = run(self, script, *words, **more)
            return done._replace(out=done.out.replace(b"rsync ", b""))

    hosts = {name: Bare(files._hosts(name).node, _no_session) for name in ("n1", "n2")}  # type: ignore[arg-type]
    place.files = ShellFiles("contract", hosts.__getitem__)


CHANGES: dict[str, Callable[[Path], None]] = {
    "content of the same length and time": lambda root: _rewrite(root / "a"),
    "mode": lambda root: (root / "a").chmod(0o640),
    "owner": lambda root: os.chown(root / "a", 7, 7),
    "time": lambda root: os.utime(root / "a", ns=(5, 5)),
    "one file more": lambda root: (root / "more").touch(),
    "one file less": lambda root: (root / "a").unlink(),
    "a link elsewhere": lambda root: _relink(root / "link"),
    "two files that were one": lambda root: _part(root / "b"),
    "a folder's mode": lambda root: (root / "folder").chmod(0o700),
    "an attribute": lambda root: os.setxattr(root / "a", "user.note", b"other \xff"),
    "one attribute less": lambda root: os.removexattr(root / "a", "user.note"),
    "a folder's access list": lambda root: os.setxattr(root / "folder", ACCESS, _access_list(4)),
}
SMALL_CHANGES = tuple(change for change in CHANGES if change not in ("content of the same length and time",))
"""What is found whichever files are read."""

ACCESS = "system.posix_acl_access"


def _access_list(rights: int) -> bytes:
    """rwx for the owner, `rights` for user 7, r-x for the rest, as the kernel keeps it (linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = [(1, 7, nobody), (2, rights, 7), (4, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.mark.parametrize(
    ("change", "full"), [*((change, True) for change in CHANGES), *((change, False) for change in SMALL_CHANGES)]
)
def test_verify_finds(change: str, full: bool, rooms: Callable[[], Path]) -> None:
    packages.ensure_some(("attr",), print)
    place = RealPlace(rooms())
    source, incoming = place.root / "n1" / USER, place.root / "n2" / ".wsctl-incoming" / USER
    (source / "folder").mkdir(parents=True)
    (source / "a").write_text("hello")
    os.setxattr(source / "a", "user.note", b"kept \xff")
    os.setxattr(source / "folder", ACCESS, _access_list(6))
    os.link(source / "a", source / "b")
    (source / "link").symlink_to("/etc/passwd")
    copied(place)
    assert place.files.verify(place.way, full=full) == []
    stamp = os.stat(incoming).st_mtime_ns
    CHANGES[change](incoming)
    os.utime(incoming, ns=(stamp, stamp))
    assert place.files.verify(place.way, full=full) != []


def _rewrite(path: Path) -> None:
    at = os.stat(path).st_mtime_ns
    path.write_text("HELLO")
    os.utime(path, ns=(at, at))


def _relink(path: Path) -> None:
    at = os.lstat(path).st_mtime_ns
    path.unlink()
    path.symlink_to("/etc/shadow")
    os.utime(path, ns=(at, at), follow_symlinks=False)


def _part(path: Path) -> None:
    at, text = os.stat(path).st_mtime_ns, path.read_text()
    path.unlink()
    path.write_text(text)
    os.utime(path, ns=(at, at))


def test_what_is_not_copied_is_named(rooms: Callable[[], Path]) -> None:
    place = RealPlace(rooms())
    place.write("live:n1", "a", "1")
    folder = place.root / "n1" / USER
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    os.mknod(folder / "device", 0o20600, os.makedev(1, 3))
    for number in range(30):
        os.mkfifo(folder / f"pipe-{number}\n")
    found = place.files.size("n1", place.way.source_root, USER)
    assert (found.files, found.odd_count, len(found.odd)) == (1, 33, 20)
    copied(place)
    assert place.read("incoming:n2") == {"a": "1"}
    assert place.files.verify(place.way, full=True) == []


def test_holes_stay_holes(rooms: Callable[[], Path]) -> None:
    place = RealPlace(rooms())
    place.write("live:n1", "a", "1")
    with open(place.root / "n1" / USER / "holes", "wb") as file:
        file.truncate(8 << 20)
        file.write(b"one block of it")
    copied(place)
    assert os.stat(place.root / "n2" / ".wsctl-incoming" / USER / "holes").st_blocks < 64


def test_where_nothing_has_holes_zeros_stay_zeros(rooms: Callable[[], Path]) -> None:
    """Looking for holes would make rsync write a kilobyte at a time."""
    place = RealPlace(rooms())
    place.write("live:n1", "-strange --sparse name", "\0" * (1 << 20))
    copied(place)
    (found,) = (place.root / "n2" / ".wsctl-incoming" / USER).iterdir()
    assert (found.read_text(), found.stat().st_blocks * 512) == ("\0" * (1 << 20), 1 << 20)


def test_what_is_put_aside_is_measured(place: Place) -> None:
    place.write("live:n1", "a", "1")
    place.write("live:n1", "b", "23")
    found = place.files.keep("n1", place.way.source_root, USER, "kept-1")
    assert (found.bytes, found.files, found.odd_count) == (3, 2, 0)
    assert place.read("kept:n1:kept-1") == {"a": "1", "b": "23"}
    assert place.files.keep("n1", place.way.source_root, USER, "kept-1") == Size(0, 0)
