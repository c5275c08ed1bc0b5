"""What `snapshots.Repository` promises, of the fake and of restic on this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from lab import packages
from tests.builders import CLUSTER
from tests.builders import node as node_of
from tests.vaults import FakeVault
from wsctl.errors import NodeError, RepositoryError, RepositoryMissing
from wsctl.snapshots import Kind, Repository
from wsctl.transport.pipes import LocalLauncher
from wsctl.transport.restic import ResticRepository


class Site(NamedTuple):
    """Repositories as two nodes reach the same one, and the nodes' folders of workspaces."""

    n1: Repository
    n2: Repository
    roots: tuple[Path, Path]


def restic(tmp_path: Path, name: str, password: str = "secret words") -> Repository:
    node = replace(node_of(name), host_root=str(tmp_path / name))
    environment = {
        "RESTIC_REPOSITORY": str(tmp_path / "repository"), "RESTIC_PASSWORD": password,
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    return ResticRepository(node, LocalLauncher(name, 60.0), CLUSTER, environment)


@pytest.fixture(params=["fake", "restic"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    roots = tmp_path / "n1", tmp_path / "n2"
    for root in roots:
        root.mkdir()
    if request.param == "fake":
        vault = FakeVault(tmp_path / "repository")
        return Site(vault.at("n1", roots[0]), vault.at("n2", roots[1]), roots)
    packages.ensure_some(("restic",), print)
    return Site(restic(tmp_path, "n1"), restic(tmp_path, "n2"), roots)


@pytest.fixture
def alice(site: Site) -> Site:
    """A repository, and alice's files on n1."""
    assert site.n1.create()
    folder = site.roots[0] / "alice"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("print('hi')\n")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "big").write_bytes(os.urandom(200_000))
    os.utime(folder / "big", ns=(1_234_567_890_123_456_789,) * 2)
    (folder / "src").chmod(0o2750)
    return site


def tree(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_repository_is_made_once(site: Site) -> None:
    with pytest.raises(RepositoryMissing) as caught:
        site.n1.snapshots()
    assert caught.value.hint == "wsctl backup init"
    assert site.n1.create() is True
    assert site.n2.create() is False
    assert site.n2.snapshots() == []


def test_a_snapshot_is_listed_for_all_nodes(alice: Site) -> None:
    taken = alice.n1.take("alice", None, Kind.FIRST_PASS)
    assert (taken.files, taken.unread) == (2, "")
    assert taken.content_bytes >= 200_000
    assert taken.added_bytes >= 200_000
    again = alice.n1.take("alice", taken.snapshot, Kind.CONSISTENT)
    assert again.added_bytes < 50_000
    first, second = alice.n2.snapshots()
    assert (first.user, first.node, first.kind, first.complete) == ("alice", "n1", Kind.FIRST_PASS, True)
    assert (second.kind, second.at > first.at) == (Kind.CONSISTENT, True)
    assert first.id.startswith(taken.snapshot)
    assert first.at.tzinfo is not None


def test_it_comes_back_on_another_node_as_it_was(alice: Site) -> None:
    taken = alice.n1.take("alice", None, Kind.CONSISTENT)
    extent = alice.n2.extent(taken.snapshot)
    assert extent.content_bytes >= 200_000
    assert 3 <= extent.members <= 6
    alice.n2.restore(taken.snapshot, "alice", "t1")
    new = alice.roots[1] / ".wsctl-incoming" / "alice.t1"
    old = alice.roots[0] / "alice"
    assert tree(new) == tree(old)
    assert (new / "big").stat().st_mtime_ns == (old / "big").stat().st_mtime_ns
    assert (new / "src").stat().st_mode == (old / "src").stat().st_mode
    assert alice.n2.compare(taken.snapshot, "alice", "t1") == []
    assert not (alice.roots[1] / "alice").exists(), "it only lies beside"


@pytest.mark.parametrize("how", ["content", "mode", "missing", "added"])
def test_what_differs_is_named(alice: Site, how: str) -> None:
    taken = alice.n1.take("alice", None, Kind.CONSISTENT)
    alice.n1.restore(taken.snapshot, "alice", "t1")
    big = alice.roots[0] / ".wsctl-incoming" / "alice.t1" / "big"
    if how == "content":
        big.write_bytes(b"other")
    elif how == "mode":
        big.chmod(0o600)
    elif how == "missing":
        big.unlink()
    else:
        big.with_name("more").write_text("x")
    found = alice.n1.compare(taken.snapshot, "alice", "t1")
    assert found
    assert all(("more" if how == "added" else "big") in line for line in found), found


def test_what_is_forgotten_is_gone_and_forgetting_again_is_no_failure(alice: Site) -> None:
    first = alice.n1.take("alice", None, Kind.CONSISTENT)
    second = alice.n1.take("alice", first.snapshot, Kind.CONSISTENT)
    ids = [one.id for one in alice.n1.snapshots()]
    alice.n2.forget(ids[:1])
    alice.n2.forget(ids[:1])
    alice.n2.forget([])
    alice.n1.prune()
    (left,) = alice.n1.snapshots()
    assert left.id.startswith(second.snapshot)
    alice.n2.restore(second.snapshot, "alice", "t2")
    assert tree(alice.roots[1] / ".wsctl-incoming" / "alice.t2") == tree(alice.roots[0] / "alice")


def test_who_isnt_there_cant_be_copied(alice: Site) -> None:
    with pytest.raises(NodeError, match="isn't there"):
        alice.n2.take("alice", None, Kind.CONSISTENT)
    with pytest.raises(NodeError):
        alice.n1.restore("0" * 64, "alice", "t1")
    assert alice.n1.snapshots() == []


def test_names_that_are_hostile_or_no_text_are_only_names(tmp_path: Path) -> None:
    """restic alone: the fake has no commands that could be fooled."""
    packages.ensure_some(("restic",), print)
    repository, folder = restic(tmp_path, "n1"), tmp_path / "n1" / "alice"
    folder.mkdir(parents=True)
    names = [b"$(touch owned)", b"; rm -rf ..", b"-rf", b"line\nbreak", b"\xff\xfe", b"\xe2\x82", b'"quoted" \\n']
    for name in names:
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_text("x")
    repository.create()
    taken = repository.take("alice", None, Kind.CONSISTENT)
    repository.restore(taken.snapshot, "alice", "t1")
    assert sorted(os.listdir(os.fsencode(folder.parent / ".wsctl-incoming" / "alice.t1"))) == sorted(names)
    assert repository.compare(taken.snapshot, "alice", "t1") == []


def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    packages.ensure_some(("restic",), print)
    (tmp_path / "n1").mkdir()
    restic(tmp_path, "n1").create()
    with pytest.raises(RepositoryError, match="wrong password") as caught:
        restic(tmp_path, "n1", "another").snapshots()
    assert "backup.password_file" in str(caught.value.hint)
    with pytest.raises(RepositoryError, match="wrong password"):
        restic(tmp_path, "n1", "another").create()


@pytest.mark.parametrize("how", ["content", "blob"] if os.environ.get("WSCTL_FAULTS") == "all" else ["content"])
def test_a_damaged_repository_restores_nothing_quietly(tmp_path: Path, how: str) -> None:
    packages.ensure_some(("restic",), print)
    repository, folder = restic(tmp_path, "n1"), tmp_path / "n1" / "alice"
    folder.mkdir(parents=True)
    (folder / "big").write_bytes(os.urandom(500_000))
    repository.create()
    taken = repository.take("alice", None, Kind.CONSISTENT)
    largest = max((tmp_path / "repository" / "data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.chmod(0o600)
    if how == "content":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(bytes(data))
    else:
        largest.unlink()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with pytest.raises(NodeError):
        repository.restore(taken.snapshot, "alice", "t1")
        assert repository.compare(taken.snapshot, "alice", "t1") == []
        raise AssertionError("it came back as if nothing were wrong")


# ---- restic alone: what the fake can't show


@pytest.fixture
def lacking(tmp_path: Path) -> Repository:
    """A repository, and alice's files on n1, one of which nobody can read: its path is too long for the kernel."""
    packages.ensure_some(("restic",), print)
    repository, folder = restic(tmp_path, "n1"), tmp_path / "n1" / "alice"
    folder.mkdir(parents=True)
    (folder / "notes").write_text("x")
    at = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    repository.create()
    return repository


def words(tmp_path: Path, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """restic as an operator runs it, beside us."""
    more = {"RESTIC_REPOSITORY": str(tmp_path / "repository"), "RESTIC_PASSWORD": "secret words"}
    return subprocess.Popen(["restic", *argv], stdin=stdin, stdout=subprocess.PIPE, env=os.environ | more)


def test_what_couldnt_be_read_is_known_of_a_snapshot_that_keeps_its_id(lacking: Repository, tmp_path: Path) -> None:
    first = lacking.take("alice", None, Kind.FIRST_PASS)
    other = words(tmp_path, "backup", "--stdin", stdin=subprocess.PIPE)  # another backup, whose lock is there
    while not list((tmp_path / "repository" / "locks").iterdir()):
        time.sleep(0.05)
    assert other.stdin is not None
    with other, other.stdin:
        second = lacking.take("alice", first.snapshot, Kind.CONSISTENT)
        third = lacking.take("alice", second.snapshot, Kind.LIVE)
        other.stdin.write(b"x")
    assert all(taken.unread for taken in (first, second, third))
    found = lacking.snapshots()
    assert [one.id.startswith(taken.snapshot) for one, taken in zip(found, (first, second, third), strict=True)]
    assert [(one.kind, one.complete) for one in found[1:]] == [(Kind.CONSISTENT, False), (Kind.LIVE, False)]


def test_a_mark_goes_with_what_it_marks(lacking: Repository, tmp_path: Path) -> None:
    lacking.take("alice", None, Kind.CONSISTENT)
    shutil.rmtree(tmp_path / "n1" / "alice" / ("d" * 250))
    lacking.take("alice", None, Kind.CONSISTENT)
    lacking.prune()
    first, whole = lacking.snapshots()
    assert (first.complete, whole.complete) == (False, True)
    lacking.forget([first.id])
    lacking.prune()
    left = json.loads(words(tmp_path, "snapshots", "--json").communicate()[0])
    assert [one["id"] for one in left] == [whole.id]


def test_only_old_uploads_are_swept_whatever_the_time_of_the_files(alice: Site) -> None:
    if not isinstance(alice.n1, ResticRepository):
        pytest.skip("the fake sweeps nothing")
    os.utime(alice.roots[0] / "alice", (1, 1))
    taken = alice.n1.take("alice", None, Kind.CONSISTENT)
    alice.n1.restore(taken.snapshot, "alice", "t1")
    incoming = alice.roots[0] / ".wsctl-incoming"
    assert (incoming / "alice.t1").stat().st_mtime == 1
    (incoming / "alice.inode").write_text("7\n")
    os.utime(incoming / "alice.inode", (1, 1))
    alice.n1.restore(taken.snapshot, "alice", "v2")
    assert {one.name for one in incoming.iterdir()} == {"alice.t1", "alice.inode", "alice.v2"}


def test_many_are_forgotten_in_commands_that_a_node_can_start(tmp_path: Path) -> None:
    class Counted(LocalLauncher):
        lengths: ClassVar[list[int]] = []

        def start(self, argv: Sequence[str], *more: Any) -> Any:
            self.lengths.append(len(shlex.join(argv)))
            return super().start(["true"], *more)

    node = replace(node_of("n1"), host_root=str(tmp_path))
    ResticRepository(node, Counted("n1", 60.0), CLUSTER, {}).forget([f"{number:064x}" for number in range(3000)])
    assert len(Counted.lengths) == 6
    assert max(Counted.lengths) < 1 << 17
