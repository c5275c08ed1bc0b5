"""Deciding how a user moves to another node, and what is done about the copies that moves make and leave.

Responsible for the steps of a move from whatever is observed, also after a crash anywhere: before the swap the user
belongs to the source and the move begins anew, after it they belong to the target and what is left is finished. Not
responsible for: choosing among nodes (`scheduler`), how files are copied (`transport.files`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wsctl.errors import NotFound, Refused, Unschedulable, WsctlError
from wsctl.model import (
    ClusterView,
    NodeState,
    NodeView,
    Placement,
    PlacementState,
    WorkspaceSpec,
)
from wsctl.model import Strategy as StrategyName
from wsctl.moving import CopyState, KeptCopy
from wsctl.plan import (
    BeginMove,
    CheckCopy,
    Claim,
    CopyPass,
    DiscardCopy,
    DropCopy,
    InstallCopy,
    KeepSource,
    PrepareTarget,
    PullImage,
    Settle,
    Step,
    StopContainer,
    SwapPlacement,
    VerifyCopy,
    Work,
)
from wsctl.planner.decision import Decision, Located, locate, set_aside
from wsctl.planner.place import bring_up, create, plan_start
from wsctl.planner.relocation import request_of, without_move
from wsctl.scheduler import Placed, choose, explain

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class How:
    """How a move goes about it: `keep_s` seconds the source's files are kept, `bwlimit` bytes a second."""

    keep_s: float = DAY_S
    verify_full: bool = False
    bwlimit: int | None = None
    compress: bool = False


def plan_migrate(
    user: str,
    spec: WorkspaceSpec,
    view: ClusterView,
    target: str | None,
    strategy: StrategyName,
    how: How = How(),
) -> Decision:
    """Move the user to `target` (None: the best other node). A move that was cut off after its swap is finished
    instead, unless another target is asked for."""
    located = locate(user, view)
    if isinstance(located, WsctlError):
        return Decision(user, error=located)
    placement, move = located.placement, view.moves.get(user)
    left = leaving(user, view, how.keep_s)
    if target in (None, placement.node) and any(_is_leaving(copy, user, placement.node) for copy in view.kept):
        return _finish(spec, located, view, left)
    goal = target or (move.target if move is not None else None)
    if goal == placement.node:
        return Decision(user, Work(user, "unchanged", (), placement.generation))
    refusal = _not_now(placement)
    if refusal is not None:
        return Decision(user, error=refusal)
    return _move(located, spec, view, goal, strategy, how, left)


def _not_now(placement: Placement) -> Refused | None:
    user = placement.user
    if placement.state is PlacementState.RESERVED:
        hint = f"wsctl place {user}   # finishes it; or wsctl rm {user}"
        return Refused(f"{user} is only being placed: there is nothing to move yet", hint=hint)
    if placement.state is PlacementState.STOPPING:
        return Refused(f"{user} is being stopped", hint=f"wsctl stop {user}   # finishes it, then repeat the command")
    return None


def _move(
    located: Located,
    spec: WorkspaceSpec,
    view: ClusterView,
    goal: str | None,
    strategy: StrategyName,
    how: How,
    left: tuple[Step, ...],
) -> Decision:
    user, placement = located.placement.user, located.placement
    stays_stopped = placement.state is PlacementState.STOPPED
    found = _choose(placement, spec, view, goal, strategy)
    if isinstance(found, WsctlError):
        return Decision(user, error=found)
    reasons = explain(found.candidates)
    target, source = view.nodes[found.node], view.nodes[placement.node]
    # One that may not be pulled: the scheduler passes over such nodes.
    absent = target.image_present.get(spec.image) is False
    copies = not (source.node.storage == target.node.storage == "shared")
    begin = BeginMove(
        user,
        found.node,
        "asked" if goal is not None else f"{strategy}: best of {sum(c.feasible for c in found.candidates)} that fit",
        source=placement.node,
        address=target.address or target.node.publish_address or "",
        port=found.port,
        resources=spec.resources,
        capacity=target.node.capacity,
        generation=placement.generation,
        state=PlacementState.STOPPED if stays_stopped else PlacementState.MIGRATING,
    )
    steps = [*left, *([CheckCopy(user, found.node, "", placement.node)] if copies else []), begin]
    steps += _there(
        begin, located, target, how, pull=spec.image if absent and not stays_stopped else None, copies=copies
    )
    if not stays_stopped:
        steps += [*create(user, spec, found.node, None, ""), *bring_up(user, spec, found.node)]
    steps += _source_aside(located, placement.node, how, copies=copies)
    return Decision(user, Work(user, "migrated", tuple(steps), placement.generation), explain=reasons)


def _there(
    begin: BeginMove, located: Located, target: NodeView, how: How, *, pull: str | None, copies: bool
) -> list[Step]:
    """From the beginning to the swap. What takes long is done while the user still works."""
    user, node, source = begin.user, begin.node, begin.source
    steps: list[Step] = []
    in_the_way = target.container_of(user)
    if in_the_way is not None:
        steps.append(set_aside(user, node, "left over", in_the_way))
    if pull is not None:
        steps.append(PullImage(user, node, "not on the node", pull))
    if copies:
        steps.append(PrepareTarget(user, node, "", source))
    if located.is_running:
        if copies:
            steps.append(CopyPass(user, node, "", source, False, how.bwlimit, how.compress))
        steps.append(StopContainer(user, source, "for the last pass" if copies else ""))
    if copies:
        steps.append(CopyPass(user, node, "", source, True, how.bwlimit, how.compress))
        steps.append(VerifyCopy(user, node, "", source, how.verify_full))
        steps.append(InstallCopy(user, node, "", source))
    end = PlacementState.STOPPED if begin.state is PlacementState.STOPPED else PlacementState.STARTING
    return [*steps, SwapPlacement(user, node, "", source, end, copies)]


def _source_aside(located: Located, node: str, how: How, *, copies: bool) -> list[Step]:
    user, container = located.placement.user, located.container
    steps: list[Step] = []
    if container is not None:
        steps.append(set_aside(user, node, "moved away", container))
    if copies:
        steps.append(KeepSource(user, node, "moved away", how.keep_s))
    return steps


def _choose(
    placement: Placement,
    spec: WorkspaceSpec,
    view: ClusterView,
    goal: str | None,
    strategy: StrategyName,
) -> Placed | WsctlError:
    user, source = placement.user, placement.node
    if goal is not None and goal not in view.nodes:
        return NotFound(f"no node {goal} in the inventory", hint="wsctl node ls")
    move = view.moves.get(user)
    nodes = {}
    for name, node in view.nodes.items():
        seen = without_move(node, move) if move is not None and move.target == name else node
        if name == source:
            seen = replace(seen, excluded=f"{user} is there")
        elif goal is not None and name != goal:
            seen = replace(seen, excluded=seen.excluded or "not the one asked for")
        nodes[name] = seen
    found = choose(request_of(placement, spec), replace(view, nodes=nodes), strategy)
    if isinstance(found, Placed):
        return found
    reasons = explain(found.candidates)
    where = goal or "another node"
    return Unschedulable(
        f"{user} can't move to {where}: {found.summary()}",
        hint=f"wsctl migrate-user {user} --dry-run   # without --to, the scheduler chooses"
        if goal
        else "wsctl node ls",
        details={"user": user, "nodes": reasons},
    )


def _finish(spec: WorkspaceSpec, located: Located, view: ClusterView, left: tuple[Step, ...]) -> Decision:
    """After the swap: bring the user to run on their new node, then put aside what is on the old one."""
    placement, user = located.placement, located.placement.user
    steps: tuple[Step, ...] = ()
    if placement.state is not PlacementState.STOPPED:
        started = plan_start(user, spec, view)
        if started.work is None:
            return started
        steps = started.work.steps
    action = "migrated" if steps or left else "unchanged"
    return Decision(user, Work(user, action, (*steps, *left), placement.generation, _silent(user, view)))


def _silent(user: str, view: ClusterView) -> tuple[str, ...]:
    return tuple(
        f"{copy.node} doesn't answer: the old files of {user} there are put aside by a later run"
        for copy in view.kept
        if copy.user == user and copy.state is CopyState.LEAVING and not _answers(copy.node, view)
    )


def _is_leaving(copy: KeptCopy, user: str, lives_on: str | None) -> bool:
    return copy.state is CopyState.LEAVING and copy.user == user and copy.node != lives_on


def _answers(node: str, view: ClusterView) -> bool:
    """Whether to act on the node: one that wasn't asked yet will be, because of these steps."""
    known = view.nodes.get(node)
    return known is not None and known.reachable is not False and known.mark.state is not NodeState.DOWN


def leaving(user: str, view: ClusterView, keep_s: float) -> tuple[Step, ...]:
    """Put aside what earlier moves left of the user, container and files."""
    placement = view.placements.get(user)
    lives_on = placement.node if placement is not None else view.homes.get(user)
    steps: list[Step] = []
    for copy in view.kept:
        if not _is_leaving(copy, user, lives_on) or not _answers(copy.node, view):
            continue
        container = view.nodes[copy.node].container_of(user)
        if container is not None and container.cluster == view.cluster:
            steps.append(set_aside(user, copy.node, "moved away", container))
        steps.append(KeepSource(user, copy.node, "moved away", keep_s))
    return tuple(steps)


def clean_up(user: str, view: ClusterView) -> tuple[Step, ...]:
    """Delete copies that a move didn't finish, with its key, and those whose time is over. Nobody may be moving the
    user."""
    placement = view.placements.get(user)
    steps: list[Step] = []
    for copy in view.kept:
        if copy.user != user or not _answers(copy.node, view):
            continue
        if copy.state is CopyState.INCOMING:
            # Where the user lives there can be no copy of them that was installed and isn't theirs.
            installed = placement is None or placement.node != copy.node
            steps.append(DiscardCopy(user, copy.node, "its move was cut off", copy.number, installed))
        elif copy.state is CopyState.SENDING:
            steps.append(DiscardCopy(user, copy.node, "its move was cut off", copy.number, False, sent=True))
        elif copy.state is CopyState.KEPT and copy.expired:
            steps.append(DropCopy(user, copy.node, "its time is over", copy.number))
    return tuple(steps)


def end_move(user: str, view: ClusterView) -> tuple[Step, ...]:
    """End the move of a stopped user that was cut off: they stay where they are. (Who was running is brought to run
    again, which ends a move too.)"""
    placement = view.placements.get(user)
    if placement is None or user not in view.moves or placement.state is not PlacementState.STOPPED:
        return ()
    state, cause = PlacementState.STOPPED, "its move was cut off"
    claim = Claim(user, placement.node, cause, generation=placement.generation, state=state)
    return claim, Settle(user, placement.node, "", state)


def plan_unmove(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
    """Undo a move that failed before its swap: the user runs where they were, and nothing is left of it."""
    placement = view.placements.get(user)
    if placement is None or user not in view.moves:
        return Decision(user, Work(user, "unchanged"))
    steps: tuple[Step, ...] = end_move(user, view)
    if not steps:
        started = plan_start(user, spec, view)
        if started.work is None:
            return started
        steps = started.work.steps
    return Decision(user, Work(user, "undone", (*steps, *clean_up(user, view)), placement.generation))
