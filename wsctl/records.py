"""What is recorded about what is done: who acts, the rows of the audit table, request ids.

Responsible for: these values. Not responsible for: when an entry is made (`audit`, `executor`) or how it is kept
(`store`). Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the OS user, the one behind sudo if there is one, the address their SSH session came from if it is
    one, and the process as `host:pid`."""

    os_user: str
    sudo_user: str | None = None
    ssh_origin: str | None = None
    process: str = ""

    def __str__(self) -> str:
        return f"{self.sudo_user or self.os_user}@{self.process}"


class Conflict(StrEnum):
    """Why a store write didn't happen: somebody was faster, or there is no room. Nothing was changed."""

    USER_EXISTS = "user-exists"
    PORT_TAKEN = "port-taken"
    NODE_FULL = "node-full"
    STALE = "stale"
    NODE_MARKED = "node-marked"


class AuditKind(StrEnum):
    """What an audit row says: something is about to be done, was done, or failed."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What is to be written to the audit table about one target (a user, or a node).

    `operation` is shared by the rows of one operation on one target. `action` is the word of the JSON contract
    (`created`, `stopped`, …), `plan` the text of its steps, `before` and `after` the placement as JSON-able values,
    `detail` the error of a failure.
    """

    kind: AuditKind
    verb: str
    target: str
    actor: Actor
    operation: str
    action: str = ""
    plan: str = ""
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    detail: str = ""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An audit row as it is stored: number `sequence` (from 1) of its target, written `at`, chained by `digest`."""

    entry: AuditEntry
    sequence: int
    at: datetime
    digest: str


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request id as it is known. `answer` is the JSON of its first result (None: it has none yet); `is_new` says that
    this call recorded it."""

    request_id: str
    verb: str
    digest: str
    who: str
    began_at: datetime
    answer: str | None = None
    is_new: bool = False
