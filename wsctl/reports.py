"""What is reported against nodes for a short while, as values.

Responsible for: the kinds of reports and which of them keep a node from getting users. Not responsible for: who reports
(`watcher`, `workflow`), for rows (`store.reports`), nor for marks, which are operators' words and stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

SUSPECT = "suspect"
"""No watcher sees the node well."""

REFUSAL = "refusal"
"""Its engine said no to a start."""

IMAGE = "image:"
"""What follows is an image that can't be had there."""

REFUSALS = 3
"""So many in a row set a node aside: a single one may be the workspace's fault."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Something against a node since `reported_at`, until `expires_at`; `count` is how often it was said since then,
    `seen_at` when a suspect node was last seen well."""

    node: str
    kind: str
    count: int
    reason: str
    reported_at: datetime
    expires_at: datetime
    seen_at: datetime | None = None


def suspicion(reports: Iterable[NodeReport]) -> NodeReport | None:
    """The report that the node is suspect, if there is one."""
    return next((one for one in reports if one.kind == SUSPECT), None)


def set_aside(reports: Iterable[NodeReport], image: str | None = None) -> NodeReport | None:
    """The report for which the node gets nobody new for a while: its engine keeps refusing, or (for users of `image`,
    None: of any) hasn't got the image."""
    for one in reports:
        if one.kind == REFUSAL and one.count >= REFUSALS:
            return one
        if one.kind.startswith(IMAGE) and image in (None, one.kind.removeprefix(IMAGE)):
            return one
    return None


def may_set_aside(aside: int, nodes: int) -> bool:
    """Whether one more of the nodes may be set aside. When more than a third of them refuse, it isn't the nodes, and
    others' users must not pay for it."""
    return nodes > 1 and aside < max(1, nodes // 3)
