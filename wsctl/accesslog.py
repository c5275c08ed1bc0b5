"""Activity from the gateway's access log, a line at a time.

Responsible for: what a line says, which requests count, and reading on where the last run stopped. Lines are written
by whoever sends requests: none is trusted, and none stops the rest. Not responsible for: recording (`store`).

The format is Nginx's own `combined`, or any that begins as it does: address, two words, the time in brackets, the
request in quotes, the status.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import BinaryIO
from urllib.parse import unquote

from wsctl.errors import UsageError
from wsctl.model import is_user_id

LONGEST_LINE = 16 * 1024
"""Bytes of a line that are looked at; the rest of a longer one is skipped."""

AHEAD_S = 60.0
"""How far in the future a line may be, for clocks that differ. One from further ahead counts as of now."""

_LINE = re.compile(
    rb"\S+ \S+ .{0,200}? ?\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    rb'"[A-Z]{1,20} (/[^" ]*)(?: HTTP/[0-9.]+)?" (\d{3}) '
)
_MONTHS = dict(Jan=1, Feb=2, Mar=3, Apr=4, May=5, Jun=6, Jul=7, Aug=8, Sep=9, Oct=10, Nov=11, Dec=12)


class Counter:
    """What the lines said. `newest` is the last time that each user was active.

    `ignore` are patterns of paths (behind `<prefix><user>`, without the query) that don't count; `users` are those who
    can be active at all; `now` is the latest that a line may mean.
    """

    def __init__(self, prefix: str, ignore: Collection[str], users: Collection[str], now: datetime) -> None:
        self._prefix = prefix
        self._ignore = tuple(ignore)
        self._users = users
        self._now = now
        self.newest: dict[str, datetime] = {}
        self.lines = self.counted = self.ignored = self.strangers = self.unreadable = 0

    def line(self, line: bytes) -> None:
        """Take one line into account."""
        self.lines += 1
        found = _LINE.match(line)
        at = _time(found[1]) if found is not None else None
        if found is None or at is None:
            self.unreadable += 1
            return
        path = unquote(found[2].decode("ascii", "replace").partition("?")[0], errors="replace")
        if not path.startswith(self._prefix):
            self.ignored += 1
            return
        user, slash, rest = path[len(self._prefix) :].partition("/")
        if not is_user_id(user) or user not in self._users:
            self.strangers += 1
            return
        if found[3] >= b"400" or any(fnmatchcase(f"{slash}{rest}", pattern) for pattern in self._ignore):
            self.ignored += 1
            return
        self.counted += 1
        at = self._now if at > self._now + timedelta(seconds=AHEAD_S) else at
        if user not in self.newest or at > self.newest[user]:
            self.newest[user] = at


def read_log(source: str, counter: Counter, position: str | None) -> str | None:
    """Read the log from where `position` says to its end; the position to go on from (None for stdin).

    A log that was rotated is read to its end under the name `<log>.1`, if it is there, then the new one from its
    beginning. A last line that isn't complete yet is left for the next run. Raises `UsageError` if it can't be read.
    """
    if source == "-":
        _read(sys.stdin.buffer, counter, whole=True)
        return None
    known = _parse(position)
    try:
        with open(source, "rb") as file:
            found = os.fstat(file.fileno())
            offset = 0
            if known is not None and known[0] == found.st_ino and known[1] <= found.st_size:
                offset = known[1]
            elif known is not None and known[0] != found.st_ino:
                _read_rest(f"{source}.1", known, counter)
            file.seek(offset)
            offset += _read(file, counter, whole=False)
    except OSError as error:
        raise UsageError(
            f"--from: cannot read {source}: {error.strerror}", hint="the user of cron must be able to read the log"
        ) from error
    return json.dumps({"inode": found.st_ino, "offset": offset})


def _read_rest(path: str, known: tuple[int, int], counter: Counter) -> None:
    """What was written to the rotated log after the last run."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_ino == known[0]:
            file.seek(known[1])
            _read(file, counter, whole=True)


def _read(file: BinaryIO, counter: Counter, *, whole: bool) -> int:
    """Count the lines from here on; how many bytes those were. `whole`: the last one needs no line end."""
    done, size, skipping = 0, 0, False
    while True:
        part = file.readline(LONGEST_LINE)
        if not part:
            return done
        size += len(part)
        ends = part.endswith(b"\n")
        if not skipping and (ends or whole or len(part) == LONGEST_LINE):
            counter.line(part)
        skipping = not ends
        if ends or whole:
            done += size
            size = 0


def _parse(position: str | None) -> tuple[int, int] | None:
    try:
        said = json.loads(position or "null")
        inode, offset = int(said["inode"]), int(said["offset"])
    except (ValueError, TypeError, KeyError):
        return None
    return (inode, offset) if offset >= 0 else None


@lru_cache(maxsize=4096)
def _time(text: bytes) -> datetime | None:
    """`01/May/2026:12:00:00 +0200` in UTC; None if there is no such time."""
    said = text.decode("ascii", "replace")
    sign = -1 if said[21] == "-" else 1
    try:
        at = datetime(
            int(said[7:11]), _MONTHS[said[3:6]], int(said[0:2]), int(said[12:14]), int(said[15:17]), int(said[18:20]),
            tzinfo=UTC,
        )  # fmt: skip
        return at - sign * timedelta(hours=int(said[22:24]), minutes=int(said[24:26]))
    except (ValueError, KeyError, OverflowError):
        return None
