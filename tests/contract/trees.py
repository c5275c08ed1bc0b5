"""Trees of files as users make them, hostile ones among them: made by Hypothesis, laid out on a disk, and read back.

Responsible for: these. Not responsible for: what is done with them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

NAMES = st.one_of(
    st.sampled_from(
        [
            b"a", b"b", b"c", b"-rf", b"--delete", b" ", b"*", b"$(reboot)", b"`id`", b"'", b'"', b"\\", b"a b", b"|",
            b"new\nline", b"latin-\xe9", b"\xff\xfe", b".wsctl-kept", b"..a", b"wsctl-target:x", b"x" * 200,
        ]
    ),
    st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")),
)  # fmt: skip
TARGETS = st.sampled_from([b"/etc/passwd", b"..", b"../../..", b"a", b".", b"/", b"missing", b"a/../../../etc"])
TIMES = st.integers(0, 4_000_000_000_999_999_999)
MODES = st.sampled_from([0o644, 0o600, 0o444, 0o000, 0o755, 0o4755, 0o2750, 0o1777])


@dataclass(frozen=True)
class Entry:
    """One name: `kind` is file, sparse, folder, link, hard (another name of an earlier file), pipe or socket."""

    kind: str
    name: bytes
    parent: int
    content: bytes
    target: bytes
    mode: int
    owner: int
    mtime_ns: int
    attribute: bytes


ENTRIES = st.builds(
    Entry,
    st.sampled_from(["file", "file", "file", "folder", "folder", "link", "hard", "sparse", "pipe"]),
    NAMES,
    st.integers(0, 40),
    st.binary(max_size=200),
    TARGETS,
    MODES,
    st.sampled_from([0, 1000, 4_000_000_000]),
    TIMES,
    st.binary(max_size=20),
)
TREES = st.lists(ENTRIES, max_size=25)


def lay_out(root: Path, entries: list[Entry]) -> None:
    """Make the tree at `root`, which isn't there yet; names that can't be are left out."""
    root.mkdir()
    folders, files = [os.fsencode(root)], list[bytes]()
    made: list[tuple[bytes, Entry]] = []
    for entry in entries:
        path = os.path.join(folders[entry.parent % len(folders)], entry.name)
        if os.path.lexists(path) or len(path) > 3000:
            continue
        if entry.kind == "folder":
            os.mkdir(path)
            folders.append(path)
        elif entry.kind == "link":
            os.symlink(entry.target, path)
        elif entry.kind == "hard" and files:
            os.link(files[entry.parent % len(files)], path)
            continue
        elif entry.kind == "pipe":
            os.mkfifo(path)
        else:
            with open(path, "wb") as file:
                if entry.kind == "sparse":
                    file.truncate(1 << 20)
                file.write(entry.content)
            files.append(path)
        made.append((path, entry))
    for path, entry in reversed(made):
        os.chown(path, entry.owner, entry.owner, follow_symlinks=False)
        if entry.kind not in ("link", "pipe"):
            if entry.attribute:
                os.setxattr(path, "user.note", entry.attribute)
            os.chmod(path, entry.mode | (0o700 if entry.kind == "folder" else 0))
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def manifest(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree that a move must keep, by name; pipes and sockets aren't part of it."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    for folder, names, files in os.walk(top):
        names.sort()
        for name in [b".", *names, *sorted(files)] if folder == top else [*names, *sorted(files)]:
            path = os.path.join(folder, name)
            at = os.lstat(path)
            kind = stat.S_IFMT(at.st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                continue
            short = os.path.relpath(path, top)
            about: tuple[object, ...] = (oct(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns)
            if kind == stat.S_IFLNK:
                about += (os.readlink(path),)
            else:
                keys = os.listxattr(path)
                about += (tuple((key, os.getxattr(path, key)) for key in sorted(keys)),)
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    about += (file.read(), inodes.setdefault(at.st_ino, short))
            found[short] = about
    return found
