"""One pass of copying, in each of the ways there are: rsync from node to node, rsync or tar through this machine.

Responsible for: rsync's options, the streams, and what the outcome of a pass means. Not responsible for: which way is
taken (`files`), nor for the key of a direct one (`movekeys`).

Directly no byte comes by here. Through this machine the bytes go from one connection to the other, as they come.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from wsctl.errors import FilesError, NodeUnreachable, WsctlError
from wsctl.moveports import Progress, Way
from wsctl.transport import copy_scripts as scripts
from wsctl.transport.file_scripts import FENCE
from wsctl.transport.hosts import Host
from wsctl.transport.movekeys import MoveKeys, said, served
from wsctl.transport.pipes import Pipe
from wsctl.transport.shell import Done

# Nanoseconds count: a file that was written twice in a second with the same length isn't the same file. What isn't
# copied is excluded by name: else a pipe would protect a file that had its name in an earlier pass.
OPTIONS = (
    "--archive", "--no-D", "--hard-links", "--xattrs", "--acls", "--numeric-ids", "--delete", "--partial",
    "--modify-window=-1", "--delete-excluded", "--exclude-from=-", "--from0", "--info=nonreg0", "--no-human-readable",
    "--timeout=300",
)  # fmt: skip
HOLES = "--sparse"
"""The scripts leave it out where there are none."""

TELL = ("--stats", "--info=progress2")
LOOK = ("--dry-run", "--itemize-changes", "--checksum")

SYNC_S = 60.0
PIECE = 1 << 17
FIRST_LINE = 4096
VANISHED = 24

_PROGRESS = re.compile(rb"([0-9]+)\s+([0-9]+)%")
_SIZE = re.compile(r"Total transferred file size: ([0-9,.]+)")
_UNREACHED = ("Permission denied", "Connection refused", "timed out", "No route to host", "unreachable", "resolve host")


@dataclass(frozen=True, slots=True)
class Copy:
    """What a pass is to do, beside from where to where. `bwlimit` is in bytes a second."""

    final: bool
    bwlimit: int | None
    compress: bool
    progress: Progress

    @property
    def options(self) -> tuple[str, ...]:
        """rsync's, beside those that are always there."""
        limit = (f"--bwlimit={max(1, self.bwlimit // 1024)}",) if self.bwlimit else ()
        return (*limit, *(("--compress",) if self.compress else ()))

    def heard(self, part: bytes) -> None:
        """Tell of the progress that rsync prints."""
        found = _PROGRESS.findall(part)
        if found:
            self.progress(int(found[-1][0]), int(found[-1][1]) / 100)


class Unreached(FilesError):
    """The source doesn't get as far as copying to the target. Nothing was copied."""


class Copier:
    """Makes passes. Safe to use from several threads, for different users."""

    def __init__(self, hosts: Callable[[str], Host], keys: MoveKeys) -> None:
        self._hosts = hosts
        self._keys = keys

    def direct(self, way: Way, copy: Copy) -> int:
        """Rsync from node to node by the move's key: the bytes of files that had changed. Raises `Unreached`."""
        words = (HOLES, *OPTIONS, *copy.options, *TELL)
        done = self._call(way, copy.options, words, copy.heard)
        if done.code not in ((0,) if copy.final else (0, VANISHED)):
            raise failed(way, done)
        return _size(done.out.decode("utf-8", "replace"))

    def differences(self, way: Way) -> list[str]:
        """All that rsync would change if it read every byte on both sides, one line each. By the last pass's key."""
        done = self._call(way, None, (*OPTIONS, *LOOK), lambda part: None)
        if done.code != 0:
            raise failed(way, done)
        return [line for line in done.out.decode("utf-8", "backslashreplace").splitlines() if line.strip()]

    def relay(self, way: Way, copy: Copy) -> int:
        """Rsync on both nodes, its stream through this machine: the bytes of files that had changed."""
        source, target = self._hosts(way.source), self._hosts(way.target)
        words = (_incoming(way), HOLES, *OPTIONS, *copy.options, *TELL)
        with source.start(FENCE + scripts.WIRE, *self._words(way, source=True), *words, heard=copy.heard) as reading:
            line, rest = _first_line(reading)
            if not line:
                raise failed(way, Done(*_ended(reading)))
            asked = served(way, line).split()
            with target.start(FENCE + scripts.SERVE, *self._words(way, source=False), *asked) as writing:
                couple(reading, writing, rest)
                there, here = _ended(writing), _ended(reading)
        good = (0,) if copy.final else (0, VANISHED)
        if here[0] not in good or there[0] not in good:
            raise failed(way, Done(here[0] or there[0], b"", there[2] + b" " + here[2]))
        return _size(here[2].decode("utf-8", "replace"))

    def tar(self, way: Way, copy: Copy) -> int:
        """The whole folder as one stream, nothing may change meanwhile: the bytes of the stream."""
        source, target = self._hosts(way.source), self._hosts(way.target)
        gzip = "--gzip" if copy.compress else ""
        with (
            source.start(FENCE + scripts.PACK, *self._words(way, source=True), gzip) as reading,
            target.start(FENCE + scripts.UNPACK, *self._words(way, source=False), gzip) as writing,
        ):
            sent = couple(reading, writing, b"", copy)
            there, here = _ended(writing), _ended(reading)
        if here[0] or there[0]:
            raise failed(way, Done(there[0] or here[0], b"", there[2] + b" " + here[2]), "tar")
        return sent

    def sync(self, way: Way, *, wait: bool) -> None:
        """Have the target write to its disk what was copied; it goes on with that when nobody waits any more."""
        words = (*self._words(way, source=False), "wait" if wait else "")
        self._hosts(way.target).run(FENCE + scripts.SYNC, *words, data=b"", timeout_s=SYNC_S)

    def _call(
        self, way: Way, options: tuple[str, ...] | None, words: tuple[str, ...], heard: Callable[[bytes], None]
    ) -> Done:
        calls = None
        if options is not None:
            copied = " ".join((*OPTIONS, *options, *TELL))
            calls = (copied, f"{HOLES} {copied}", " ".join((*OPTIONS, *LOOK)))
        key = self._keys.have(way, calls)
        argv = (
            "rsync", *words, "-e", f"sh {key}/ssh", "--", f"{way.source_root}/{way.user}/", _incoming(way),
        )  # fmt: skip
        script = FENCE + scripts.RUN
        return self._hosts(way.source).follow(script, *self._words(way, source=True), *argv, heard=heard)

    def _words(self, way: Way, *, source: bool) -> tuple[str, str, str]:
        return way.source_root if source else way.target_root, way.user, self._keys.folder(way.user)


def couple(reading: Pipe, writing: Pipe, first: bytes, copy: Copy | None = None) -> int:
    """Carry bytes from one command to the other, and back, until the first has no more: how many. With `copy` at most
    as many a second as that says. Raises `NodeUnreachable` when one of them is silent for too long."""
    broken: list[WsctlError] = []

    def back() -> None:
        try:
            while data := writing.read(PIECE):
                if not reading.write(data):
                    return
            reading.shut()
        except NodeUnreachable as error:
            broken.append(error)

    thread = threading.Thread(target=back, name="couple", daemon=True)
    thread.start()
    sent, began, data = 0, time.monotonic(), first
    while data or (data := reading.read(PIECE)):
        if not writing.write(data):
            break
        sent += len(data)
        if copy is not None:
            copy.progress(sent, 0.0)
            if copy.bwlimit:
                time.sleep(max(0.0, began + sent / copy.bwlimit - time.monotonic()))
        data = b""
    # The way back ends with the command; nobody may read from it any more when its pipes are closed.
    writing.shut()
    thread.join()
    if broken:
        raise broken[0]
    return sent


def failed(way: Way, done: Done, tool: str = "rsync") -> FilesError:
    """What a pass that ended badly means."""
    words = said(done.err, done.code)
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return FilesError(way.target, f"no space left for the files of {way.user}", hint="choose another node: --to")
    if "Host key verification failed" in words:
        hint = "somebody may be in between; or the two reach different machines by that address"
        return FilesError(way.target, f"{way.source} sees another host key than wsctl does", hint=hint)
    if done.code == 255 or any(one in words for one in _UNREACHED):
        hint = f"{way.source} must reach {way.target} by SSH as wsctl does"
        return Unreached(way.target, f"{way.source} can't copy to it: {words}", hint=hint)
    return FilesError(way.source, f"{tool} of the files of {way.user} ended with code {done.code}: {words}")


def _first_line(reading: Pipe) -> tuple[str, bytes]:
    """The line that a stream begins with, and what follows it; no line if it ends before."""
    data = b""
    while b"\n" not in data and len(data) < FIRST_LINE:
        part = reading.read(FIRST_LINE)
        if not part:
            return "", b""
        data += part
    line, _, rest = data.partition(b"\n")
    return line.decode("utf-8", "replace"), rest


def _ended(pipe: Pipe) -> tuple[int, bytes, bytes]:
    code, words = pipe.end()
    return code, b"", words.encode()


def _size(words: str) -> int:
    found = _SIZE.findall(words)
    return int(re.sub(r"[^0-9]", "", found[-1])) if found else 0


def _incoming(way: Way) -> str:
    return f"wsctl-target:{way.target_root}/.wsctl-incoming/{way.user}/"
