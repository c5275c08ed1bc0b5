"""What can be wrong between the state database, the nodes and the published map, as values.

Responsible for: the names of the kinds of differences (part of the JSON contract), and what is said of one. Not
responsible for: finding them (`reconcile`) nor for showing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of differences. `missing` to `foreign-name` are about placed users, `orphan` and `unmanaged` about
    containers in no placement (the second were not made by wsctl), `left-copy` about files that a move made or
    left, `failed-node` and `conflict` about nodes that failed and what they have, `returned` about one that is back,
    `left-lease` and `left-request` about what dead callers left, the others about nodes, rows and the map."""

    HALF_DONE = "half-done"
    MISSING = "missing"
    NOT_RUNNING = "not-running"
    PAUSED = "paused"
    SHOULD_BE_STOPPED = "should-be-stopped"
    WRONG_PORT = "wrong-port"
    STALE_GENERATION = "stale-generation"
    DUPLICATE = "duplicate"
    WRONG_NODE = "wrong-node"
    FOREIGN_NAME = "foreign-name"
    LEFT_COPY = "left-copy"
    LEFT_LEASE = "left-lease"
    LEFT_REQUEST = "left-request"
    FAILED_NODE = "failed-node"
    CONFLICT = "conflict"
    RETURNED = "returned"
    ORPHAN = "orphan"
    UNMANAGED = "unmanaged"
    WRONG_COUNT = "wrong-count"
    STALE_ROUTE = "stale-route"
    UNKNOWN_NODE = "unknown-node"
    DAMAGED_ROW = "damaged-row"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: `detail` says what is, `fix` what is done about it if it is `safe`, else what an operator can do.

    `user` and `node` are None where there is none: a node's counters have no user, the map has neither.
    """

    kind: Kind
    user: str | None
    node: str | None
    detail: str
    fix: str
    safe: bool = True
