"""Telling all control hosts that a node refused, so that it is set aside for a short while.

Responsible for: what is reported, and for not setting aside the fleet because of one bad image or class. Not
responsible for: what a report keeps a node from (`feasibility`), nor for this run, which remembers by itself
(`knowledge`).
"""

from __future__ import annotations

import contextlib

from wsctl.errors import BackendError, EngineError, ImageMissing, NameTaken
from wsctl.model import ClusterView, WorkspaceSpec
from wsctl.ports import Store
from wsctl.reports import IMAGE, REFUSAL, may_set_aside, set_aside


def report_refusal(
    store: Store, error: EngineError, spec: WorkspaceSpec | None, view: ClusterView, keep_s: float
) -> None:
    """Report the refusal of a workspace of `spec`. An image that can't be had counts at once, for users of that image;
    other refusals count from the third on. Never raises for a database that can't take it: it is a courtesy."""
    if isinstance(error, NameTaken) or spec is None:
        return  # the fault of one name, not of the node
    is_image = isinstance(error, ImageMissing)
    others = [node for name, node in view.nodes.items() if name != error.node]
    aside = sum(set_aside(node.reports, spec.image) is not None for node in others)
    if error.node not in view.nodes or not may_set_aside(aside, len(view.nodes)):
        return
    with contextlib.suppress(BackendError):
        store.report_node(error.node, f"{IMAGE}{spec.image}" if is_image else REFUSAL, error.reason, keep_s)
