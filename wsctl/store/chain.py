"""The audit table's chains: what a row's digest covers, and which rows were changed or removed.

Responsible for: the stored form of an entry, the digest of a row, and judging the rows of a target against their head.
Not responsible for: any statement (`audit_append`, `audit`). Pure.

A row's digest covers the row and the digest of the row before it; the head repeats the last one. So whoever changes or
removes a row must write all rows after it and the head anew. Who can do that, and does, isn't found here, but by
comparing `heads_digest` with one that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from wsctl.records import AuditEntry
from wsctl.store.database import Row, clean, utc

FIELDS = (
    "kind", "verb", "action", "os_user", "sudo_user", "ssh_origin", "process", "operation", "request_id", "plan",
    "before_state", "after_state", "detail",
)  # fmt: skip
"""The columns that an entry fills, in the order of `stored`."""

COLUMNS = ", ".join(("target", "sequence", "at", *FIELDS, "digest"))
GENESIS = ""
"""What stands for the digest before the first row."""

NAME_LIMIT = 200
TEXT_LIMIT = 64_000


def stored(entry: AuditEntry) -> tuple[str | None, ...]:
    """The entry as `FIELDS`: text that any database can store and gives back unchanged. What is too long is cut."""
    actor = entry.actor
    names = (
        entry.kind.value, entry.verb, entry.action, actor.os_user, actor.sudo_user, actor.ssh_origin, actor.process,
        entry.operation, entry.request_id,
    )  # fmt: skip
    return (
        *(None if name is None else _name(name) for name in names),
        _cut(entry.plan),
        _state(entry.before),
        _state(entry.after),
        _cut(entry.detail),
    )


@lru_cache(maxsize=1024)
def _name(text: str) -> str:
    """A batch has the same few in every row."""
    return clean(text, NAME_LIMIT)


def _cut(text: str) -> str:
    text = clean(text)
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]} … ({len(text) - TEXT_LIMIT} more characters were cut)"


def _state(state: Mapping[str, object] | None) -> str | None:
    if state is None:
        return None
    text = json.dumps(state, sort_keys=True, default=str)
    return text if len(text) <= TEXT_LIMIT else json.dumps({"cut": _cut(text)})


def row_digest(cluster: str, target: str, sequence: object, at: object, fields: Sequence[object], previous: str) -> str:
    """SHA-256 (hex) over all of the row, and `previous`, the digest of the row before it (`GENESIS` for none)."""
    moment = utc(at).isoformat(timespec="microseconds") if isinstance(at, datetime) and at.tzinfo else at
    whole = dict(zip(FIELDS, fields, strict=True))
    whole |= {"cluster": cluster, "target": target, "sequence": sequence, "at": moment, "previous": previous}
    # A value that nothing in wsctl writes (bytes, say) has a form too: one that gives another digest.
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def heads_digest(heads: Iterable[tuple[str, int, str]]) -> str:
    """SHA-256 (hex) over the heads (target, sequence, digest), whatever their order: one word for the whole table."""
    text = "".join(f"{json.dumps(list(head), default=repr)}\n" for head in sorted(heads, key=repr))
    return hashlib.sha256(text.encode()).hexdigest()


Problem = tuple[str, int, str]


@dataclass(slots=True)
class Check:
    """Judges the rows of a cluster, fed to it in the order (target, sequence); `problems` are what is wrong."""

    cluster: str
    problems: list[Problem] = field(default_factory=list)
    _target: str | None = None
    _sequence: int = 0
    _digest: str = GENESIS
    _head: tuple[object, object] = (None, None)

    def feed(self, row: Row, at: object, head: tuple[object, object]) -> None:
        """A row of `COLUMNS`, its time decoded (or as it is, if it can't be), and the (sequence, digest) of its
        target's head as they were when the row was read; (None, None) if there is no head."""
        target, sequence, digest = row[0], row[1], row[-1]
        if target != self._target:
            self.finish()
            self._target, self._sequence, self._digest = target, 0, GENESIS
        self._head = head
        if not isinstance(sequence, int):
            self._say(self._sequence + 1, f"its number was changed to {sequence!r}")
            return
        if sequence != self._sequence + 1:
            # What the row after a gap was chained to is gone: its own digest can't be judged.
            self._say(self._sequence + 1, _gone(self._sequence + 1, sequence - 1))
        elif digest != row_digest(self.cluster, target, sequence, at, row[3:-1], self._digest):
            self._say(sequence, "its digest isn't that of its fields and the row before it: one of them was changed")
        self._sequence, self._digest = sequence, digest

    def finish(self) -> None:
        """The rows fed so far are all of their targets."""
        if self._target is None:
            return
        sequence, digest = self._head
        if sequence is None:
            self._say(self._sequence, "its target has no head: that was removed")
        elif isinstance(sequence, int) and sequence > self._sequence:
            self._say(self._sequence + 1, _gone(self._sequence + 1, sequence))
        elif sequence != self._sequence:
            self._say(self._sequence, f"its target's head says that {sequence} is the last: the head was changed")
        elif digest != self._digest:
            self._say(self._sequence, "it isn't the row that its target's head names: one of them was changed")
        self._target = None

    def _say(self, sequence: int, what: str) -> None:
        self.problems.append((str(self._target), sequence, what))


def _gone(first: int, last: int) -> str:
    return "it was removed" if first == last else f"it and all up to {last} were removed"
