"""The gate of archives: what passes comes out as it went in, what is hostile doesn't come out at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsctl import archive
from wsctl.errors import BackupDamaged
from wsctl.transport import folders

BIG = 2**40
ME = (os.getuid(), os.getgid())


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.uid, info.gid = kind, len(data), *ME
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def framed(*members: tuple[tarfile.TarInfo, bytes], end: dict[str, object] | None = None) -> bytes:
    """An archive of these members as somebody who knows the form would make it."""
    out = io.BytesIO()

    def put(info: tarfile.TarInfo, data: bytes) -> None:
        out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        out.write(data + b"\0" * (-len(data) % 512))

    put(*member(archive.HEAD, data=json.dumps({"wsctl": "workspace", "format": 1, "user": "alice"}).encode()))
    for info, data in members:
        put(info, data)
    body = out.getvalue()
    if end is None:
        end = {"members": 0, "bytes": 0, "sha256": ""}
        gate = archive.Gate(BIG, strict=True)
        try:
            for info, contents in archive.members(io.BytesIO(body + b"\0" * 1024)):
                if info.name != archive.HEAD and gate.admit(info, archive.member_path(info.name, archive.ROOT)):
                    for part in contents():
                        gate.feed(part)
            found = gate.end()
            end = {"members": found.members, "bytes": found.size, "sha256": found.sha256}
        except BackupDamaged:
            pass
    put(*member(archive.END, data=json.dumps(end).encode()))
    return out.getvalue() + b"\0" * 1024


ROOT = member("files", tarfile.DIRTYPE)
SUB = member("files/sub", tarfile.DIRTYPE)


def passed(data: bytes, limit: int = BIG) -> bytes:
    out = io.BytesIO()
    archive.read(io.BytesIO(data), out.write, limit)
    return out.getvalue()


def unpacked(data: bytes, folder: Path) -> None:
    """As a node does it."""
    options = (
        folders._UNPACK.rpartition("exec tar ")[2].replace("\\\n", " ").replace("$same", "").replace("'", "").split()
    )
    done = subprocess.run(["tar", *options, "-C", str(folder)], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------- what is fine


def seen(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything of a tree that an archive carries."""
    found: dict[bytes, tuple[object, ...]] = {}
    for where, names, files in os.walk(os.fsencode(folder)):
        for name in [b".", *names, *files]:
            path = os.path.join(where, name)
            facts = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else b""
            content = Path(os.fsdecode(path)).read_bytes() if os.path.isfile(path) and not link else b""
            attributes = (
                {} if link else {key: os.getxattr(path, key) for key in os.listxattr(path) if key[:5] == "user."}
            )
            key = os.path.relpath(path, os.fsencode(folder))
            found[key] = (
                facts.st_mode, facts.st_uid, facts.st_gid, facts.st_mtime_ns, facts.st_nlink, link, content,
                tuple(attributes.items()),
            )  # fmt: skip
    return found


def packed(folder: Path) -> bytes:
    """As a node does it."""
    options = folders._PACK.rpartition("exec tar ")[2].replace("\\\n", " ").replace("'", "").split()
    return subprocess.run(["tar", *options], cwd=folder, capture_output=True, check=True).stdout


def test_a_tree_goes_and_comes_unchanged(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(mode=0o750)
    target.mkdir()
    (source / "a").write_bytes(os.urandom(700_001))
    os.link(source / "a", source / "hard")
    (source / "empty").touch(mode=0o600)
    (source / "out").symlink_to("/etc/passwd")
    (source / "nowhere").symlink_to("../../" + "x" * 300)
    (source / "shared").mkdir(mode=0o777)
    (source / "shared").chmod(0o3777)
    deep = source / ("ü" * 100) / ("n" * 255) / ("m" * 200)
    deep.mkdir(parents=True)
    (deep / "file\nwith a line").write_text("deep")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe")).write_bytes(b"not UTF-8")
    os.utime(source / "empty", ns=(1, 1_234_567_890_123_456_789))
    with contextlib.suppress(OSError):  # not every disk has them
        os.setxattr(source / "a", "user.note", b"\xff\x00binary")
    out = io.BytesIO()
    summary = archive.write(io.BytesIO(packed(source)), out.write, {"user": "alice"})
    assert archive.read_head(io.BytesIO(out.getvalue()))["user"] == "alice"
    assert (summary.members, summary.left_out) == (
        len(seen(source)) - len({k for k in seen(source) if k.endswith(b".")}),
        [],
    )
    unpacked(passed(out.getvalue()), target)
    assert seen(target) == seen(source)


def test_special_files_are_left_out_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    out = io.BytesIO()
    summary = archive.write(io.BytesIO(packed(tmp_path)), out.write, {})
    assert (summary.members, summary.left_out, summary.left_out_count) == (1, [("pipe", "a device or named pipe")], 1)
    assert b"pipe" not in passed(out.getvalue())


# ------------------------------------------------------------------------------------------------- what is hostile

L, H, D = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "..": ([ROOT, member("files/../evil")], "leads elsewhere"),
    ".. at the end": ([ROOT, member("files/..", D)], "leads elsewhere"),
    "absolute": ([ROOT, member("/etc/cron.d/evil")], "isn't below"),
    "absolute in the middle": ([ROOT, member("files//etc")], "leads elsewhere"),
    "a dot": ([ROOT, member("files/./x")], "leads elsewhere"),
    "beside": ([ROOT, member("filesystem")], "isn't below"),
    "through a link": ([ROOT, member("files/l", L, linkname="/etc"), member("files/l/evil")], "isn't in a folder"),
    "a folder becomes a link": (
        [ROOT, SUB, member("files/sub", L, linkname="/etc"), member("files/sub/evil")],
        "comes twice",
    ),
    "a link becomes a file": ([ROOT, member("files/l", L, linkname="/etc/passwd"), member("files/l")], "comes twice"),
    "below a file": ([ROOT, member("files/f"), member("files/f/x")], "isn't in a folder"),
    "before its folder": ([ROOT, member("files/sub/x"), SUB], "isn't in a folder"),
    "a hard link out": ([ROOT, member("files/h", H, linkname="/etc/passwd")], "isn't below"),
    "a hard link up": ([ROOT, member("files/h", H, linkname="files/../../x")], "which is no file"),
    "a hard link to a link": (
        [ROOT, member("files/l", L, linkname="/etc/passwd"), member("files/h", H, linkname="files/l")],
        "which is no file",
    ),
    "a hard link to itself": ([ROOT, member("files/h", H, linkname="files/h")], "which is no file"),
    "a device": ([ROOT, member("files/d", tarfile.BLKTYPE, devmajor=8)], "special file"),
    "a character device": ([ROOT, member("files/d", tarfile.CHRTYPE, devmajor=1)], "special file"),
    "a pipe": ([ROOT, member("files/p", tarfile.FIFOTYPE)], "special file"),
    "an unknown type": ([ROOT, member("files/u", b"Z")], "special file"),
    "sparse": (
        [ROOT, member("files/s", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 15})],
        "special",
    ),
    "two folders": ([ROOT, ROOT], "comes twice"),
    "no folder": ([], "no folder"),
    "a link as the folder": ([member("files", L, linkname="/etc")], "isn't one"),
    "a name too long": ([ROOT, member("files/" + "n" * 256)], "too long"),
    "a path too long": ([ROOT, member("files/" + "n/" * 2100)], "too long"),
    "a link too long": ([ROOT, member("files/l", L, linkname="n" * 5000)], "impossible link"),
    "an owner": ([ROOT, member("files/f", uid=2**33)], "impossible owner"),
    "a time": ([ROOT, member("files/f", pax_headers={"mtime": "9" * 30})], "refused"),
    "a path by pax": ([ROOT, member("files/f", pax_headers={"path": "../../evil"})], "isn't below"),
    "a link by pax": ([ROOT, member("files/h", H, pax_headers={"linkpath": "/etc/passwd"})], "isn't below"),
    "a size by pax": ([ROOT, member("files/f", pax_headers={"size": "-512"})], "refused"),
    "too much": ([ROOT, member("files/f", data=b"x" * 100_000)], "--max-size"),
    "a name of a megabyte": ([ROOT, member("files/f", pax_headers={"comment": "x" * (2 << 20)})], "impossible size"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_refused(what: str) -> None:
    members, said = HOSTILE[what]
    data = framed(*members)
    with pytest.raises(BackupDamaged, match="the archive is refused") as caught:
        passed(data, limit=99_999)
    assert said in caught.value.message


def test_privileges_dont_come_along() -> None:
    capability = {"SCHILY.xattr.security.capability": "\x01", "SCHILY.xattr.user.fine": "v", "uname": "root"}
    data = framed(ROOT, member("files/f", mode=0o6755, pax_headers=capability), member("files/d", D, mode=0o7777))
    with tarfile.open(fileobj=io.BytesIO(passed(data))) as tar:
        assert [info.mode for info in tar] == [0o755, 0o755, 0o3777]
        assert set(tar.getmembers()[1].pax_headers) == {"mtime", "SCHILY.xattr.user.fine"}


GOOD = framed(ROOT, SUB, member("files/sub/f", data=b"hello" * 1000), member("files/l", L, linkname="/etc/passwd"))
BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "noise": lambda data: os.urandom(5000),
    "zeros": lambda data: b"\0" * 10240,
    "half": lambda data: data[: len(data) // 2],
    "cut at a member": lambda data: data[:1536],
    "without its end": lambda data: data.rpartition(archive.END.encode())[0],
    "another content": lambda data: data.replace(b"hello", b"olleh", 1),
    "another tar behind it": lambda data: data + data,
    "noise behind it": lambda data: data + os.urandom(512),
    "not ours": lambda data: ROOT[0].tobuf() + b"\0" * 1024,
    "newer": lambda data: data.replace(b'"format": 1', b'"format": 2', 1),
    "other counts": lambda data: framed(ROOT, SUB, end={"members": 7, "bytes": 0, "sha256": "x"}),
    "headers that nest": lambda data: _nested(3000),
}


def _nested(count: int) -> bytes:
    """Extended headers that belong to extended headers."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    return info.tobuf() * count


@pytest.mark.parametrize("what", BAD)
def test_an_archive_that_isnt_whole_is_refused(what: str) -> None:
    assert passed(GOOD)
    with pytest.raises(BackupDamaged):
        passed(BAD[what](GOOD))


@pytest.mark.parametrize("cut", range(0, len(GOOD) - 1024, 777))
def test_cut_anywhere_it_is_refused(cut: int) -> None:
    with pytest.raises(BackupDamaged):
        passed(GOOD[:cut])


# ------------------------------------------------------------------------------------------------- whatever comes

PARTS = st.sampled_from(["a", "b", "..", ".", "", "files", "outside", "\udcff", "x y"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
PATHS = st.one_of(NAMES.map(lambda name: f"files/{name}"), NAMES, NAMES.map(lambda name: f"/{name}"))
TARGETS = st.one_of(PATHS, st.sampled_from(["../outside", "../../outside", "/", "../outside/victim", "files/a"]))
KINDS = st.sampled_from(
    [tarfile.REGTYPE, D, D, L, L, H, H, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE]
)
MEMBERS = st.builds(
    lambda name, kind, target, data, mode: member(
        name, kind, data if kind == tarfile.REGTYPE else b"", linkname=target, mode=mode
    ),
    PATHS, KINDS, TARGETS, st.binary(max_size=20), st.integers(0, 0o7777).map(lambda mode: mode | 0o700),
)  # fmt: skip


def walk(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() and not path.is_symlink() else b""


@settings(max_examples=300, deadline=None)
@given(st.lists(MEMBERS, max_size=8))
def test_nothing_is_written_outside_whatever_the_members(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    data = framed(ROOT, member("files/a", D), *members)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "outside").mkdir()
        (base / "outside" / "victim").write_text("untouched")
        (base / "in").mkdir()
        before = list(walk(base / "outside"))
        try:
            good = passed(data)
        except BackupDamaged:
            return
        unpacked(good, base / "in")
        assert list(walk(base / "outside")) == before
        assert sorted(path.name for path in base.iterdir()) == ["in", "outside"]
        for path in (base / "in").rglob("*"):
            facts = path.lstat()
            assert not path.is_mount()
            assert path.is_symlink() or path.is_file() or path.is_dir()
            assert path.is_symlink() or path.is_dir() or not facts.st_mode & 0o6000


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_never_passes_unseen(at: int, by: int) -> None:
    """Either it is refused, or what comes out is what came out before (padding, say, was changed)."""
    changed = bytearray(GOOD)
    changed[at] = (changed[at] + by) % 256
    with contextlib.suppress(BackupDamaged):
        assert passed(bytes(changed)) == passed(GOOD)
