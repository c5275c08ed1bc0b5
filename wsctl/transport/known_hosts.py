"""Files of known host keys, as OpenSSH keeps them.

Responsible for: finding a host's keys (plain, hashed, wildcard and `[host]:port` entries, `@revoked`), judging a
presented key, adding one. Not responsible for: `@cert-authority` lines, which are passed over, because host
certificates aren't supported. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wsctl.errors import NodeError
from wsctl.transport.host_keys import SSH_PORT, HostKey, KeyStatus, describe, host_name


class Entry(NamedTuple):
    """One line of a known_hosts file."""

    patterns: str
    type: str
    blob: bytes
    revoked: bool = False

    def matches(self, name: str) -> bool:
        """Whether the entry is about the host called `name`."""
        if self.patterns.startswith("|1|"):
            return _matches_hash(self.patterns, name)
        found = False
        for pattern in self.patterns.lower().split(","):
            wanted = not pattern.startswith("!")
            # fnmatch would read the brackets of [host]:port as a set of characters.
            if fnmatch.fnmatchcase(name, pattern.lstrip("!").replace("[", "[[]")):
                if not wanted:
                    return False
                found = True
        return found


def _matches_hash(pattern: str, name: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        wanted = base64.b64decode(digest, validate=True)
        found = hmac.new(base64.b64decode(salt, validate=True), name.encode(), hashlib.sha1).digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(wanted, found)


def parse_line(line: str) -> Entry | None:
    """One line, or None for comments, damage and markers that aren't supported (as OpenSSH skips them)."""
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except (ValueError, binascii.Error):
        return None
    return Entry(fields[0], fields[1], blob, revoked=marker == "@revoked")


class KnownHosts(NamedTuple):
    """The entries of the files that one host is checked against."""

    files: tuple[str, ...]
    entries: tuple[Entry, ...]

    @classmethod
    def load(cls, files: Iterable[str]) -> KnownHosts:
        """Read the files; one that isn't there or can't be read knows nothing, which refuses, never accepts."""
        names = tuple(files)
        entries: list[Entry] = []
        for name in names:
            try:
                text = Path(name).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            entries.extend(entry for entry in map(parse_line, text.splitlines()) if entry is not None)
        return cls(names, tuple(entries))

    def keys(self, host: str, port: int) -> list[Entry]:
        """The host's keys. Like OpenSSH, an entry without a port counts if there is none with it."""
        found = [entry for entry in self.entries if entry.matches(host_name(host, port))]
        if not found and port != SSH_PORT:
            found = [entry for entry in self.entries if entry.matches(host.lower())]
        return found

    def judge(self, host: str, port: int, key_type: str, blob: bytes) -> HostKey:
        """The presented key with what is known about it."""
        known = self.keys(host, port)
        good = [entry for entry in known if not entry.revoked]
        if any(entry.revoked and entry.blob == blob for entry in known):
            status = KeyStatus.REVOKED
        elif any(entry.blob == blob for entry in good):
            status = KeyStatus.TRUSTED
        else:
            status = KeyStatus.CHANGED if good else KeyStatus.NEW
        return HostKey(
            host=host_name(host, port),
            type=key_type,
            blob=blob,
            status=status,
            file=self.files[0] if self.files else "",
            known=tuple(dict.fromkeys(describe(entry.type, entry.blob) for entry in good)),
        )


def trust(node: str, key: HostKey) -> None:
    """Write the key to its file, atomically. Lines of the same host and type that say otherwise become comments, so
    that nothing is lost. Raises `NodeError` when the file can't be written."""
    if key.status is KeyStatus.REVOKED:
        raise NodeError(node, f"the key {key.fingerprint} is revoked in known_hosts; the machine needs a new one")
    path = Path(key.file)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A link stays a link: many keep known_hosts in a repository of dot files.
        path = path.resolve()
        old = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.exists() else []
        lines = [_replaced(line, key) for line in old]
        if key.line not in lines:
            lines.append(key.line)
        _write(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise NodeError(node, f"can't write {key.file}: {error.strerror or error}") from error


def _replaced(line: str, key: HostKey) -> str:
    """The line without the host's old key: commented out, or without the host if it is about others too. Wildcard
    lines speak of hosts that aren't meant here and stay."""
    entry = parse_line(line)
    if entry is None or entry.revoked or entry.type != key.type or entry.blob == key.blob:
        return line
    if not entry.matches(key.host):
        return line
    patterns = entry.patterns.split(",")
    if len(patterns) == 1 and not set("*?") & set(entry.patterns):
        return f"# replaced by wsctl node trust: {line}"
    others = [pattern for pattern in patterns if pattern.lower() != key.host]
    return line.replace(entry.patterns, ",".join(others), 1) if others else line


def _write(path: Path, text: str) -> None:
    mode = (path.stat().st_mode & 0o777) if path.exists() else 0o600
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
