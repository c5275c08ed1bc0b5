"""Deciding what is done on a node that failed and is back, before anybody is placed there or sent there again.

Responsible for: telling what on it is stale, the steps that put it aside, and what is told of files that are newer than
what their users went on with. Nothing here deletes but files that nothing speaks for, after their time. Not
responsible for: the mark of the node (`fencing`), nor for users who still live there.
"""

from __future__ import annotations

from wsctl.errors import Refused
from wsctl.failsteps import DropLeft, Fenced, KeepLeft
from wsctl.model import ClusterView, Container
from wsctl.plan import Step, Work
from wsctl.planner.claims import all_claims, is_set_aside
from wsctl.planner.decision import Decision, set_aside
from wsctl.planner.difference import Difference, Kind
from wsctl.standbys import LeftFiles, LeftState
from wsctl.text import human_bytes

HARMFUL = (LeftState.BEHIND, LeftState.NOTHING)
"""What must be dealt with before the node may be used again."""


def users_to_fence(node: str, view: ClusterView) -> tuple[str, ...]:
    """Whose containers on the node are stale, or whose files there aren't theirs any more; sorted."""
    claims = all_claims(view)
    stale = {user for user, copies in claims.items() for one in copies if _is_stale(user, node, one, view)}
    left = {left.user for left in view.left if left.node == node and left.state in HARMFUL}
    return tuple(sorted(stale | left))


def plan_fence(user: str, node: str, view: ClusterView) -> Decision:
    """Put aside what the node has of the user that isn't the truth any more."""
    steps: list[Step] = []
    placement = view.placements.get(user)
    for copy in all_claims(view).get(user, []):
        if not _is_stale(user, node, copy, view):
            continue
        if placement is not None and (copy.container.generation or 0) > placement.generation:
            said = f"{copy.container.name} on {node} is newer than what is recorded of {user}"
            hint = f"was the state database restored from a backup? wsctl reconcile --user {user}   # puts it aside"
            return Decision(user, error=Refused(said, hint=hint, details={"user": user, "node": node}))
        steps.append(set_aside(user, node, "from before its node failed", copy.container))
    steps += [step for left in view.left if left.node == node for step in steps_about(left, user, view)]
    generation = placement.generation if placement is not None else 0
    return Decision(user, Work(user, "fenced" if steps else "unchanged", tuple(steps), generation))


def steps_about(left: LeftFiles, user: str, view: ClusterView) -> tuple[Step, ...]:
    """What is done now about files of the user on a node that failed; their containers there are another matter."""
    node, placement = view.nodes.get(left.node), view.placements.get(user)
    if left.user != user or node is None or not node.reachable:
        return ()
    if left.state in HARMFUL and placement is not None and placement.node == left.node:
        return (Fenced(user, left.node, "they live there again", left.generation),)
    if left.state is LeftState.NOTHING:
        return (Fenced(user, left.node, "its files are on shared storage", left.generation),)
    if left.state is LeftState.BEHIND:
        return (KeepLeft(user, left.node, "they went on elsewhere", left.generation),)
    if left.state is LeftState.KEPT and left.expired:
        return (DropLeft(user, left.node, "its time is over", left.generation),)
    return ()


def conflicts(user: str, view: ClusterView) -> tuple[Difference, ...]:
    """What only an operator can decide: files on the old node that are newer than those the user went on with."""
    return tuple(
        Difference(
            Kind.CONFLICT, user, left.node, _told(left), f"{_look(left, view)}; then wsctl standby settle {user}", False
        )
        for left in view.left
        if left.user == user and left.state is LeftState.CONFLICT
    )


def _told(left: LeftFiles) -> str:
    count = f"{left.newer_files} file{'s' if left.newer_files != 1 else ''}"
    many = f"{count} ({human_bytes(left.newer_bytes or 0)}) of {left.user}"
    if left.seen_at == 0:
        return f"{left.node} failed, and has {many}, who went on without them; all are kept"
    newer = "that are newer" if left.newer_files != 1 else "that is newer"
    return f"{left.node} failed, and has {many} {newer} than the copy they went on with; all are kept"


def _look(left: LeftFiles, view: ClusterView) -> str:
    node = view.nodes.get(left.node)
    root = node.node.host_root.rstrip("/") if node is not None else "host_root"
    return f"look at {root}/.wsctl-kept/{left.name} on {left.node}, and copy what is missed"


def _is_stale(user: str, node: str, copy: tuple[str, Container], view: ClusterView) -> bool:
    """Whether the container is one of ours on the node that isn't the authoritative one of its user."""
    name, container = copy
    if name != node or container.cluster != view.cluster or is_set_aside(container) or user in view.damaged:
        return False
    placement = view.placements.get(user)
    if placement is None or placement.node != node:
        return True
    return container.name == placement.container and container.generation != placement.container_generation
