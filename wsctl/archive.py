"""The archive of one user's files: its form, and the gate that every member passes on its way in and out.

Responsible for: reading a tar stream member by member with bounded memory, refusing what could write outside of its
place or isn't what it claims, and writing a new stream of what passed: nothing of a stranger's bytes but names, sizes,
times and contents reaches another program. Not responsible for: where streams come from and go to
(`transport.folders`), nor for users, nodes and leases (`exchange`).

An archive is a tar (pax) of `wsctl-archive.json`, the members `files` and `files/…`, and `wsctl-end.json` with counts
and a SHA-256 of all members: one that was cut short or edited is recognised.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wsctl.errors import BackupDamaged

FORMAT = 1
HEAD, END, ROOT = "wsctl-archive.json", "wsctl-end.json", "files"
BLOCK = 1 << 18
LONGEST_HEADER = 1 << 20
"""So many bytes may a header (a long name, extended attributes) or one of our own JSON members have."""
MOST_MEMBERS = 2_000_000
PATH_LIMIT, NAME_LIMIT = 4096, 255
XATTR = "SCHILY.xattr.user."
_TIME = re.compile(r"-?[0-9]{1,11}(?:\.[0-9]{1,9})?")
_DAMAGE = (
    tarfile.TarError, ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError, EOFError,
)  # fmt: skip
"""What tarfile raises for bytes that aren't a tar."""


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


Sink = Callable[[bytes], object]


@dataclass(slots=True)
class Summary:
    """What went through: members (without the folder itself), bytes of contents, the digest of all, what was left out
    (path and why, at most 100), whose setuid bits were taken away, and the owners (`uid:gid`, at most two)."""

    members: int = 0
    size: int = 0
    sha256: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    left_out_count: int = 0
    setuid_cleared: int = 0
    owners: set[str] = field(default_factory=set)


class _Forward:
    """A stream that tarfile may only walk forwards, in small steps: whatever a header claims, neither memory nor a loop
    can come of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0, /) -> int:
        if whence != 0 or position < self._at:
            raise tarfile.ReadError("a header that points backwards")
        while self._at < position:
            if not self.read(min(BLOCK, position - self._at)):
                break
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError("a header of impossible size")
        parts, missing = [], size
        while missing:
            part = self._source.read(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._at += len(data)
        return data


@dataclass(slots=True)
class Gate:
    """Judges the members of one archive, in their order. `limit` is how many bytes of contents may pass; `strict`
    refuses special files, which otherwise are left out.

    A member's parent must have come before it, as a folder; no path comes twice; a hard link's target must have come as
    a file. So whatever a symbolic link points to, nothing is ever written through one.
    """

    limit: int
    strict: bool
    summary: Summary = field(default_factory=Summary)
    _folders: set[str] = field(default_factory=set)
    _files: set[str] = field(default_factory=set)
    _others: set[str] = field(default_factory=set)
    _digest: Any = field(default_factory=hashlib.sha256)

    def admit(self, info: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        """The member `path` ("" is the folder itself) made anew; None if it is left out. Raises `BackupDamaged`."""
        self._place(info, path)
        if not (info.isreg() or info.isdir() or info.issym() or info.islnk()) or info.issparse():
            if self.strict:
                raise refused(f"{_shown(path)} is a special file (type {info.type!r})")
            self.summary.left_out_count += 1
            if len(self.summary.left_out) < 100:
                self.summary.left_out.append((_shown(path), "a device or named pipe"))
            self._others.add(path)
            return None
        made = self._made(info, path)
        (self._folders if info.isdir() else self._files if info.isreg() else self._others).add(path)
        self.summary.members += path != ""
        self.summary.size += made.size
        if self.summary.size > self.limit or self.summary.members > MOST_MEMBERS:
            raise refused(f"it has more than {self.limit} bytes or {MOST_MEMBERS} members: --max-size allows more")
        owner = f"{made.uid}:{made.gid}"
        if len(self.summary.owners) < 2:
            self.summary.owners.add(owner)
        words = (path, made.type.decode(), made.mode, owner, made.size, made.pax_headers["mtime"], made.linkname)
        self.feed(json.dumps([*words, made.pax_headers]).encode())
        return made

    def feed(self, data: bytes) -> None:
        """Contents of the member that was admitted last."""
        self._digest.update(data)

    def end(self) -> Summary:
        """All members came."""
        if "" not in self._folders:
            raise refused("it has no folder")
        self.summary.sha256 = self._digest.hexdigest()
        return self.summary

    def _place(self, info: tarfile.TarInfo, path: str) -> None:
        if path == "":
            if not info.isdir() or self._folders:
                raise refused("its folder isn't one, or comes twice")
            return
        _check_path(path)
        if path.rpartition("/")[0] not in self._folders:
            raise refused(f"{_shown(path)} isn't in a folder of the archive")
        if path in self._folders or path in self._files or path in self._others:
            raise refused(f"{_shown(path)} comes twice")

    def _made(self, info: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        made = tarfile.TarInfo(f"./{path}" if path else ".")
        made.type = tarfile.REGTYPE if info.isreg() else info.type
        if not 0 <= info.uid < 2**32 - 1 or not 0 <= info.gid < 2**32 - 1 or info.size < 0:
            raise refused(f"{_shown(path)} has an impossible owner or size")
        made.uid, made.gid, made.size = info.uid, info.gid, info.size if info.isreg() else 0
        made.mode = info.mode & (0o3777 if info.isdir() else 0o777)
        self.summary.setuid_cleared += info.mode & 0o7777 != made.mode
        made.pax_headers = {"mtime": _mtime(info, path), **_xattrs(info, path)}
        if info.issym():
            made.linkname = info.linkname
            if not 0 < len(_raw(info.linkname)) < PATH_LIMIT or "\0" in info.linkname:
                raise refused(f"{_shown(path)} is an impossible link")
        elif info.islnk():
            target = member_path(info.linkname, "." if not self.strict else ROOT)
            if target not in self._files:
                raise refused(f"{_shown(path)} is a hard link to {_shown(info.linkname)}, which is no file before it")
            made.linkname = f"./{target}"
        return made


def members(source: Source) -> Iterator[tuple[tarfile.TarInfo, Callable[[], Iterator[bytes]]]]:
    """The members of a tar stream, each with its contents, to be read before the next. Raises `BackupDamaged` for what
    isn't one, and when anything but padding follows its end."""
    stream = _Forward(source)
    try:
        tar = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # it would remember them all
            yield info, lambda info=info: _contents(tar, info)  # type: ignore[misc]
        while rest := stream.read(BLOCK):
            if rest.strip(b"\0"):
                raise refused("bytes that aren't a member follow its members")
    except _DAMAGE as error:
        raise refused(f"it isn't a tar as it should be: {error or type(error).__name__}") from error


def _contents(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(info) if info.isreg() else None
    left = info.size if file is not None else 0
    while file is not None and left:
        try:
            data = file.read(min(BLOCK, left))
        except _DAMAGE as error:
            raise refused(f"it is cut short in {_shown(info.name)}") from error
        if not data:
            raise refused(f"it is cut short in {_shown(info.name)}")
        left -= len(data)
        yield data


def put(sink: Sink, info: tarfile.TarInfo, contents: Iterator[bytes], gate: Gate | None = None) -> None:
    """Write one member, telling the gate its contents."""
    sink(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    for data in contents:
        if gate is not None:
            gate.feed(data)
        sink(data)
    if info.size % 512:
        sink(b"\0" * (512 - info.size % 512))


def write(source: Source, sink: Sink, head: Mapping[str, object]) -> Summary:
    """Make an archive of the tar of a folder (`.`, `./…`), as a node's tar sends it. Raises `BackupDamaged`."""
    gate = Gate(2**63, strict=False)
    _put_json(sink, HEAD, {"wsctl": "workspace", "format": FORMAT, **head})
    for info, contents in members(source):
        path = member_path(info.name, ".")
        made = gate.admit(info, path)
        if made is not None:
            made.name = f"{ROOT}/{path}" if path else ROOT
            if made.islnk():
                made.linkname = f"{ROOT}/{made.linkname.removeprefix('./')}"
            put(sink, made, contents(), gate)
    summary = gate.end()
    _put_json(sink, END, {"members": summary.members, "bytes": summary.size, "sha256": summary.sha256})
    sink(b"\0" * 1024)
    return summary


def read_head(source: Source) -> dict[str, Any]:
    """What the archive says of itself. Raises `BackupDamaged` if it isn't one of ours, or is newer."""
    for info, contents in members(source):
        return _head(info, contents)
    raise refused("it is empty")


def read(source: Source, sink: Sink, limit: int) -> Summary:
    """Check an archive to its end, and write the tar of its folder (`.`, `./…`). What was written is good only if this
    returns: raises `BackupDamaged` at whatever is wrong."""
    gate, said = Gate(limit, strict=True), None
    for number, (info, contents) in enumerate(members(source)):
        if number == 0:
            _head(info, contents)
        elif said is not None:
            raise refused("members follow its end")
        elif info.name == END:
            said = _json(info, contents)
        else:
            made = gate.admit(info, member_path(info.name, ROOT))
            if made is not None:
                put(sink, made, contents(), gate)
    if said is None:
        raise refused("it is cut short: it has no end")
    found = gate.end()
    if (said.get("members"), said.get("bytes"), said.get("sha256")) != (found.members, found.size, found.sha256):
        raise refused("its members aren't those that were written: counts or checksum differ")
    sink(b"\0" * 1024)
    return found


def member_path(name: str, root: str) -> str:
    """The path below `root`, "" for itself. Raises `BackupDamaged` for a name that isn't below it."""
    if name == root:
        return ""
    if not name.startswith(f"{root}/"):
        raise refused(f"{_shown(name)} isn't below {root}")
    return name[len(root) + 1 :]


def refused(why: str) -> BackupDamaged:
    """The refusal of an archive."""
    return BackupDamaged(f"the archive is refused: {why}", hint="take another copy of it, or export again")


def _check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise refused(f"{_shown(path)} leads elsewhere")
    if len(_raw(path)) >= PATH_LIMIT or any(len(_raw(part)) > NAME_LIMIT for part in parts):
        raise refused(f"{_shown(path[:100])}… is too long")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(path: str) -> str:
    return _raw(path).decode("utf-8", "replace") or "the folder"


def _mtime(info: tarfile.TarInfo, path: str) -> str:
    text = str(info.pax_headers.get("mtime", int(info.mtime)))
    if not _TIME.fullmatch(text):
        raise refused(f"{_shown(path)} has an impossible time")
    return text


def _xattrs(info: tarfile.TarInfo, path: str) -> dict[str, str]:
    """The user's own extended attributes. Others (capabilities of files among them) are privileges."""
    found = {key: value for key, value in info.pax_headers.items() if key.startswith(XATTR)}
    for key, value in found.items():
        if "=" in key or "\0" in key or len(_raw(key)) > NAME_LIMIT + len(XATTR) or len(_raw(value)) > 1 << 16:
            raise refused(f"{_shown(path)} has an impossible attribute")
    return found


def _put_json(sink: Sink, name: str, value: Mapping[str, object]) -> None:
    data = json.dumps(value).encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    put(sink, info, iter([data]))


def _json(info: tarfile.TarInfo, contents: Callable[[], Iterator[bytes]]) -> dict[str, Any]:
    if not info.isreg() or info.size > LONGEST_HEADER:
        raise refused(f"{_shown(info.name)} isn't what it should be")
    try:
        value = json.loads(b"".join(contents()))
    except (ValueError, RecursionError) as error:
        raise refused(f"{_shown(info.name)} isn't JSON") from error
    if not isinstance(value, dict):
        raise refused(f"{_shown(info.name)} isn't a JSON object")
    return value


def _head(info: tarfile.TarInfo, contents: Callable[[], Iterator[bytes]]) -> dict[str, Any]:
    head = _json(info, contents) if info.name == HEAD else {}
    if head.get("wsctl") != "workspace":
        raise refused("it wasn't made by `wsctl backup export`")
    version = head.get("format")
    if type(version) is not int or version > FORMAT:
        raise refused(f"it has the format {version!r}; this wsctl knows {FORMAT}")
    return head
