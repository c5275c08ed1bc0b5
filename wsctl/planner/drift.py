"""Every difference of a cluster: of users, nodes, counters and rows.

Responsible for: going through everybody and everything once. Not responsible for: what is wrong with one user
(`reconcile`), nor for the published map, which is not in a view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from wsctl.model import ClusterView, NodeState, Usage, WorkspaceSpec
from wsctl.planner.claims import all_claims, nobodys
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.reconcile import Rules, examine


def differences(
    view: ClusterView,
    spec: Callable[[str, ClusterView], WorkspaceSpec],
    rules: Rules,
    *,
    users: Collection[str] | None = None,
    leave_out: Collection[str] = (),
) -> list[Difference]:
    """What is wrong: users first, sorted, then rows and nodes. `users` limits it (counters are everybody's, and left
    out then, and so is letting a node back in: it is only told); nothing is said of the users in `leave_out`.
    """
    claims = all_claims(view, rules.adopt)
    left = {*(c.user for c in view.kept), *view.standbys, *(c.user for c in view.left)}
    chosen = sorted({*view.placements, *claims, *left} if users is None else users)
    found = [
        difference
        for user in chosen
        if user not in leave_out
        for difference in examine(user, spec(user, view), view, claims.get(user, ()), rules).differences
    ]
    found += damaged_rows(view, users)
    found += unreachable(view, users)
    if users is None:
        found += _nobodys(view) + wrong_counts(view)
    return found


def damaged_rows(view: ClusterView, users: Collection[str] | None = None) -> list[Difference]:
    """Users whose row of the state database can't be read."""
    return [
        Difference(
            Kind.DAMAGED_ROW,
            row.user,
            row.node,
            row.problem,
            "correct that row by hand, or restore a backup; until then nothing is done about this user",
            safe=False,
        )
        for row in sorted(view.damaged.values(), key=lambda row: row.user)
        if users is None or row.user in users
    ]


def unreachable(view: ClusterView, users: Collection[str] | None = None) -> list[Difference]:
    """Nodes of which nothing is known: nobody on them was compared."""
    found = []
    for name, node in view.nodes.items():
        if node.mark.state is NodeState.DOWN and node.reachable:
            found.append(returned(name, safe=users is None))
            continue
        if node.mark.state is NodeState.DOWN:
            why = f"marked down{f': {node.mark.reason}' if node.mark.reason else ''}"
            fix = f"wsctl node uncordon {name}   # once it is back"
        elif not node.reachable:
            why, fix = node.error or "was not asked", f"wsctl node check {name}"
        else:
            continue
        found.append(Difference(Kind.UNREACHABLE, None, name, f"skipped, {why}", fix, safe=False))
    return found


def returned(name: str, *, safe: bool) -> Difference:
    """A node that is marked down and answers again. Letting it in concerns all who were on it, so it is `safe` only
    for who was asked about everybody."""
    fix = f"wsctl node uncordon {name}"
    if safe:
        fix = f"what is stale there is put aside, then it is cordoned: {fix}   # lets new users on it"
    return Difference(Kind.RETURNED, None, name, "was given up as dead, and answers again", fix, safe)


def wrong_counts(view: ClusterView) -> list[Difference]:
    """Nodes whose counters aren't what their placements add up to; one with a damaged row can't be added up."""
    if any(row.node is None for row in view.damaged.values()):
        return []
    uncertain = {row.node for row in view.damaged.values()}
    counted = dict.fromkeys(view.nodes, Usage())
    for p in view.placements.values():
        was, takes = counted.get(p.node, Usage()), int(p.state.holds_resources)
        counted[p.node] = Usage(
            was.workspaces + 1,
            was.active + takes,
            was.memory_bytes + takes * p.resources.memory_bytes,
            was.cpus_milli + takes * p.resources.cpus_milli,
        )
    for move in view.moves.values():
        was, takes = counted.get(move.target, Usage()), int(move.active)
        counted[move.target] = Usage(
            was.workspaces + 1,
            was.active + takes,
            was.memory_bytes + takes * move.memory_bytes,
            was.cpus_milli + takes * move.cpus_milli,
        )
    return [
        Difference(
            Kind.WRONG_COUNT,
            None,
            name,
            f"counts {_words(node.usage)}; its placements add up to {_words(counted[name])}",
            "counted again",
        )
        for name, node in view.nodes.items()
        if node.usage != counted[name] and name not in uncertain
    ]


def _words(usage: Usage) -> str:
    return (
        f"{usage.workspaces} workspaces, {usage.active} active, {usage.memory_bytes} bytes, "
        f"{usage.cpus_milli / 1000:g} CPUs"
    )


def _nobodys(view: ClusterView) -> list[Difference]:
    return [
        Difference(
            Kind.ORPHAN,
            None,
            copy.node,
            f"{copy.container.name} has the cluster's label, but names no user",
            f"look at it on {copy.node}, and remove or relabel it",
            safe=False,
        )
        for copy in nobodys(view)
    ]
