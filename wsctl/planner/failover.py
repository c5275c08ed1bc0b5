"""Deciding where the users of a dead node go on, and with which files.

Responsible for the steps from whatever is observed, also after a crash anywhere: until the take-over a user belongs to
the dead node, from then on to the other, in one transaction. Nobody goes on without their files unless the rules accept
that. Not responsible for: whether the node is dead (its mark says so, or the operator), nor for what is done when it
returns (`fence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from wsctl.errors import NoCopy, NotFound, Unschedulable, WsctlError
from wsctl.failsteps import PromoteStandby, RestoreBackup, TakeOver
from wsctl.feasibility import request_for
from wsctl.model import ClusterView, NodeView, Placement, PlacementState, Resources, WorkspaceSpec
from wsctl.model import Strategy as StrategyName
from wsctl.plan import Step, Work
from wsctl.planner.decision import Decision, damaged_row, set_aside
from wsctl.planner.place import bring_up, create, plan_start
from wsctl.planner.standby import is_exact
from wsctl.scheduler import Placed, choose, explain
from wsctl.standbys import Backup, DataLoss, FailoverRules, Standby
from wsctl.text import human_duration

ACTION = "failed-over"
RESTS = (PlacementState.STOPPED, PlacementState.STOPPING)
BEGUN = (PlacementState.STARTING, PlacementState.FAILED)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a user goes on with: a standby copy, a backup, or (neither) what every node has of them. `seen_at` as in
    `Standby`."""

    copy: Standby | None
    cause: str
    seen_at: int = 0
    leaves_files: bool = True
    warning: str = ""
    backup: Backup | None = None


def users_of(failed: str, view: ClusterView) -> tuple[str, ...]:
    """Whom a failover of the node concerns: who is placed there, and who was taken over and doesn't run yet. Those who
    were running come first."""
    there = {user for user, p in view.placements.items() if p.node == failed}
    begun = {
        left.user
        for left in view.left
        if left.node == failed and left.user in view.placements and view.placements[left.user].state in BEGUN
    }
    return tuple(sorted(there | begun, key=lambda user: (view.placements[user].state in RESTS, user)))


def stranger(failed: str, users: Iterable[str], view: ClusterView) -> WsctlError | None:
    """Why a failover of the node can't be about one of these users: they don't live there, nor did when it failed."""
    went = {left.user for left in view.left if left.node == failed}
    for user in users:
        placement = view.placements.get(user)
        if user in view.damaged:
            return damaged_row(user, view)
        if placement is None or (placement.node != failed and user not in went):
            where = "has no placement" if placement is None else f"lives on {placement.node}, not on {failed}"
            return NotFound(
                f"user {user} {where}; nothing was changed",
                hint=f"wsctl ls --node {failed}",
                details={"user": user, "node": failed},
            )
    return None


def plan_failover(
    user: str, spec: WorkspaceSpec, view: ClusterView, failed: str, strategy: StrategyName, rules: FailoverRules
) -> Decision:
    """Let the user of the dead node `failed` go on elsewhere: with shared storage on the best other node, else on the
    node of their standby copy, else (if the rules accept the loss) without files."""
    if user in view.damaged:
        return Decision(user, error=damaged_row(user, view))
    placement = view.placements.get(user)
    if placement is None:
        return Decision(user, error=NotFound(f"user {user} has no placement", hint=f"wsctl place {user}"))
    if placement.node != failed:
        return _began(placement, spec, view)
    origins = _origins(placement, view, rules)
    if isinstance(origins, WsctlError):
        return Decision(user, error=origins)
    decision = Decision(user, error=NotFound(f"no other node for {user}"))
    for origin in origins:
        decision = _go_on(placement, spec, view, strategy, origin)
        if decision.work is not None:
            return decision
    return decision


def _began(placement: Placement, spec: WorkspaceSpec, view: ClusterView) -> Decision:
    """Who belongs to another node already is only brought to run there, if that was begun."""
    user = placement.user
    if placement.state not in BEGUN:
        return Decision(user, Work(user, "unchanged", (), placement.generation))
    decision = plan_start(user, spec, view)
    return decision if decision.work is None else replace(decision, work=replace(decision.work, action=ACTION))


def _origins(placement: Placement, view: ClusterView, rules: FailoverRules) -> Sequence[_Origin] | NoCopy:
    """What the user could go on with, the best first."""
    user, failed = placement.user, placement.node
    if view.nodes[failed].node.storage == "shared":
        return [_Origin(None, f"{failed} is down; every node has the files", leaves_files=False)]
    copies = _copies_of(placement, view)
    accepts = rules.loss is DataLoss.ACCEPT
    most_s = rules.max_age_s or float("inf")
    fresh = [one for one in copies if accepts or is_exact(one[1], placement) or _age_s(one[0], rules) <= most_s]
    if fresh:
        return [_from_copy(failed, at, copy) for at, copy in fresh]
    backup = rules.backups.newest.get(user)
    if accepts and backup is not None:
        return [_from_backup(user, failed, backup)]
    if accepts and rules.backups.unknown is not None:
        return NoCopy(
            f"{user} stays down: their files are on {failed}, and whether there is a backup isn't known: "
            f"{rules.backups.unknown}",
            hint="wsctl backup ls   # then repeat the command",
            details={"user": user, "node": failed},
        )
    if accepts:
        cause, warning = f"{failed} is down; no copy of the files", f"{user} starts empty: their files are on {failed}"
        return [_Origin(None, cause, warning=warning)]
    why = (
        f"the newest copy is {human_duration(_age_s(copies[0][0], rules))} old" if copies else "there is no other copy"
    )
    return NoCopy(
        f"{user} stays down: their files are on {failed}, and {why}",
        hint=f"bring {failed} back; or wsctl node fail {failed} --user {user} --accept-data-loss",
        details={"user": user, "node": failed},
    )


def _from_copy(failed: str, at: datetime, copy: Standby) -> _Origin:
    # Only the clock of the node that failed can be compared with the times of its files.
    seen_at = copy.seen_at if copy.source == failed else 0
    return _Origin(copy, f"{failed} is down; files as of {at:%Y-%m-%d %H:%M:%S} UTC", seen_at)


def _from_backup(user: str, failed: str, backup: Backup) -> _Origin:
    when = f"{backup.at:%Y-%m-%d %H:%M:%S} UTC"
    return _Origin(
        None,
        f"{failed} is down; files as of {when}, from the backup",
        seen_at=int(backup.at.timestamp() * 1_000_000) if backup.node == failed else 0,
        warning=f"{user} has the files of the backup of {when}: what is newer is on {failed}",
        backup=backup,
    )


def _copies_of(placement: Placement, view: ClusterView) -> list[tuple[datetime, Standby]]:
    """The user's copies that are complete, elsewhere, and of this placement (not of one that was removed before), with
    their times; the newest first."""
    found = [
        (copy.as_of, copy)
        for copy in view.standbys.get(placement.user, ())
        if copy.node != placement.node and copy.as_of is not None
    ]
    since = placement.created_at
    found = [one for one in found if since is None or one[0] >= since]
    return sorted(found, key=lambda one: (one[0], one[1].node), reverse=True)


def _age_s(as_of: datetime, rules: FailoverRules) -> float:
    return max(0.0, (rules.now - as_of).total_seconds())


def _go_on(
    placement: Placement, spec: WorkspaceSpec, view: ClusterView, strategy: StrategyName, origin: _Origin
) -> Decision:
    user, failed = placement.user, placement.node
    rests = placement.state in RESTS
    request = request_for(user, spec, Resources(0, 0, 0) if rests else None)
    found = choose(request, replace(view, nodes=_candidates(user, failed, view, origin)), strategy)
    reasons = explain(found.candidates)
    if not isinstance(found, Placed):
        return Decision(user, error=_nowhere(placement, view, origin, found.summary(), reasons), explain=reasons)
    target = view.nodes[found.node]
    steps: list[Step] = _out_of_the_way(user, view, failed, found.node)
    if origin.copy is not None:
        steps.append(PromoteStandby(user, found.node, "", origin.copy.as_of))
    if origin.backup is not None:
        steps.append(RestoreBackup(user, found.node, "", origin.backup.snapshot, origin.backup.at))
    steps.append(
        TakeOver(
            user,
            found.node,
            origin.cause,
            source=failed,
            address=target.address or target.node.publish_address or "",
            port=found.port,
            resources=spec.resources,
            capacity=target.node.capacity,
            generation=placement.generation,
            state=PlacementState.STOPPED if rests else PlacementState.STARTING,
            leaves_files=origin.leaves_files,
            seen_at=origin.seen_at,
        )
    )
    if not rests:
        steps += create(user, spec, found.node, target.image_present.get(spec.image), "")
        steps += bring_up(user, spec, found.node)
    warnings = (origin.warning,) if origin.warning else ()
    return Decision(user, Work(user, ACTION, tuple(steps), placement.generation, warnings), explain=reasons)


def _candidates(user: str, failed: str, view: ClusterView, origin: _Origin) -> dict[str, NodeView]:
    """The nodes, with those out of the question that haven't the files."""
    nodes = {}
    for name, node in view.nodes.items():
        why = node.excluded
        if name == failed:
            why = "it is the one that failed"
        elif origin.copy is not None and name != origin.copy.node:
            why = why or f"the copy of {user} is on {origin.copy.node}"
        elif not origin.leaves_files and node.node.storage != "shared":
            why = why or "it doesn't see the shared files"
        nodes[name] = replace(node, excluded=why)
    return nodes


def _nowhere(
    placement: Placement, view: ClusterView, origin: _Origin, summary: str, reasons: dict[str, dict[str, object]]
) -> Unschedulable:
    user, copy = placement.user, origin.copy
    if copy is None:
        said, hint = f"no node for {user}: {summary}", "wsctl node ls"
    else:
        why = reasons.get(copy.node, {}).get("reasons")
        said = f"{user} can't go on where their standby copy is, on {copy.node}"
        said += f": {', '.join(map(str, why))}" if isinstance(why, list) else ", which is not in the inventory"
        hint = f"wsctl node show {copy.node}   # make room there, then repeat the command"
    return Unschedulable(said, hint=hint, details={"user": user, "nodes": reasons})


def _out_of_the_way(user: str, view: ClusterView, failed: str, target: str) -> list[Step]:
    """Put aside what bears the user's name on the target, and on the failed node if that answers after all."""
    steps: list[Step] = []
    for name, cause in ((failed, "its node is given up"), (target, "left over")):
        container = view.nodes[name].container_of(user)
        if container is not None and container.cluster == view.cluster:
            steps.append(set_aside(user, name, cause, container))
    return steps
