"""What must hold, in one place, for a simulated site and a real one.

Responsible for: `Truth`, everything about a site as values, and `broken`, which says in what way they contradict each
other. Not responsible for: where the values come from (`tests.worlds`, the simulator; the lab's tests fill it from
`ports.Store` and `ports.Engine`), nor for what must hold at every single step (`sim_oracle`).

`broken(truth)` is for any moment; with `settled` also for a site at rest: healed, repaired, nobody at work.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from wsctl.model import (
    Capacity,
    Container,
    LeaseInfo,
    Placement,
    PlacementState,
    Usage,
    container_name,
    quarantine_name,
    upstream,
)
from wsctl.moving import Move
from wsctl.records import AuditKind, AuditRow

_ROUTE = re.compile(r'^ *"u:([a-z0-9_-]+)" (\S+);$', re.MULTILINE)


@dataclass(frozen=True)
class Truth:
    """A site as it is. None, or an empty mapping, where something isn't known: its checks are left out.

    `containers` are (node, container) of our cluster; `files` the users whose directory is on a node; `written` those
    who ever had a running container there and weren't purged since; `purged` those whose files were deleted and
    `may_purge` those whose may be; `route_map` the text for the gateway; `effects` the users whose containers were
    changed, `audit` the audit rows and `audit_problems` what the store says is wrong with them.
    """

    placements: Sequence[Placement]
    usage: Mapping[str, Usage]
    containers: Sequence[tuple[str, Container]]
    capacity: Mapping[str, Capacity] = field(default_factory=dict)
    files: Mapping[str, Collection[str]] | None = None
    written: Mapping[str, Collection[str]] = field(default_factory=dict)
    purged: Collection[str] = ()
    may_purge: Collection[str] = ()
    homes: Mapping[str, str] = field(default_factory=dict)
    leases: Sequence[LeaseInfo] = ()
    route_map: str | None = None
    effects: Collection[str] = ()
    audit: Sequence[AuditRow] | None = None
    audit_problems: Sequence[tuple[str, int, str]] = ()
    moves: Sequence[Move] = ()


def broken(truth: Truth, *, settled: bool = True) -> list[str]:
    """Every invariant that doesn't hold, in words; `settled` adds those of a site at rest."""
    found = [
        *counted(truth.placements, truth.usage, truth.moves),
        *ports(truth.placements),
        *room(truth.usage, truth.capacity),
    ]
    found += [*purges(truth), *runs_once(truth), *audited(truth)]
    if settled:
        found += [*at_rest(truth), *files_kept(truth), *mapped(truth)]
        found += [f"the move of {move.user} to {move.target} was left" for move in truth.moves]
        found += [f"the lease {lease.name} was left by {lease.holder}" for lease in truth.leases]
    return found


# ------------------------------------------------------------------------------------------------ at every moment


def counted(placements: Sequence[Placement], usage: Mapping[str, Usage], moves: Sequence[Move] = ()) -> list[str]:
    """used = counted: what is recorded as taken is what the placements and the moves under way add up to."""
    sums: dict[str, Usage] = {}
    for p in placements:
        was, takes = sums.get(p.node, Usage()), int(p.state.holds_resources)
        sums[p.node] = Usage(
            was.workspaces + 1,
            was.active + takes,
            was.memory_bytes + takes * p.resources.memory_bytes,
            was.cpus_milli + takes * p.resources.cpus_milli,
        )
    for m in moves:
        was, takes = sums.get(m.target, Usage()), int(m.active)
        sums[m.target] = Usage(
            was.workspaces + 1,
            was.active + takes,
            was.memory_bytes + takes * m.memory_bytes,
            was.cpus_milli + takes * m.cpus_milli,
        )
    used = {name: taken for name, taken in usage.items() if taken != Usage()}
    return [] if used == sums else [f"used is not what can be counted: {used} is recorded, {sums} counted"]


def ports(placements: Sequence[Placement]) -> list[str]:
    """No port of a node belongs to two users, no user to two nodes."""
    given = Counter((p.node, p.host_port) for p in placements)
    users = Counter(p.user for p in placements)
    return [f"port {port} of {node} was given out {n} times" for (node, port), n in given.items() if n > 1] + [
        f"{user} is placed {n} times" for user, n in users.items() if n > 1
    ]


def room(usage: Mapping[str, Usage], capacity: Mapping[str, Capacity]) -> list[str]:
    """No node is oversold."""
    return [
        f"{node} is oversold: {taken} of {limit}"
        for node, limit in capacity.items()
        if (taken := usage.get(node, Usage())).workspaces > limit.workspaces
        or taken.memory_bytes > limit.memory_bytes
        or taken.cpus_milli > limit.cpus_milli
    ]


def runs_once(truth: Truth) -> list[str]:
    """At most one container of a user that runs is the authoritative one."""
    now = {p.user: p.container_generation for p in truth.placements}
    running = Counter(
        c.user for _, c in truth.containers if c.is_running and c.user in now and c.generation == now[c.user]
    )
    return [f"{user} runs {n} times with the authoritative generation" for user, n in running.items() if n > 1]


def purges(truth: Truth) -> list[str]:
    """Files are deleted only where that was asked for and confirmed."""
    return [f"the files of {user} were deleted" for user in sorted(set(truth.purged) - set(truth.may_purge))]


def audited(truth: Truth) -> list[str]:
    """Every effect has its audit rows: an intent before it, and no end without a beginning."""
    if truth.audit is None:
        return []
    begun = {row.entry.operation for row in truth.audit if row.entry.kind is AuditKind.INTENT}
    known = {row.entry.target for row in truth.audit if row.entry.kind is AuditKind.INTENT}
    found = [f"containers of {user} were changed, and no audit row says so" for user in sorted(set(truth.effects))]
    found = [text for text, user in zip(found, sorted(set(truth.effects)), strict=True) if user not in known]
    ends = (row.entry for row in truth.audit if row.entry.kind is not AuditKind.INTENT and row.entry.target in known)
    found += [f"audit: {e.target} has an end without an intent" for e in ends if e.operation not in begun]
    return found + [f"audit row {number} of {target}: {what}" for target, number, what in truth.audit_problems]


# ------------------------------------------------------------------------------------------------ of a site at rest


def at_rest(truth: Truth) -> list[str]:
    """One container per placement at most, where it belongs and in the state that is recorded; no others."""
    placed = {p.user: p for p in truth.placements}
    found = [
        f"{c.name} on {node} is in no placement"
        for node, c in truth.containers
        if (c.user not in placed or placed[c.user].node != node) and not _is_aside(c)
    ]
    running = Counter(c.user for _, c in truth.containers if c.is_running)
    found += [f"{user} runs {n} times" for user, n in running.items() if n > 1]
    for user, p in placed.items():
        if p.state not in (PlacementState.RUNNING, PlacementState.STOPPED):
            found.append(f"{user} was left {p.state}")
        elif p.state is PlacementState.STOPPED and running[user]:
            found.append(f"{user} is stopped, and runs")
        elif p.state is PlacementState.RUNNING:
            found += _as_recorded(p, truth)
    return found


def _is_aside(container: Container) -> bool:
    """Put aside by wsctl: stopped, and under the name that says so."""
    user = container.user or ""
    return container.name == quarantine_name(user, container.id) and not container.is_running


def _as_recorded(p: Placement, truth: Truth) -> list[str]:
    mine = [c for node, c in truth.containers if node == p.node and c.user == p.user and c.is_running]
    if not mine:
        return [f"{p.user} is running, and doesn't run"]
    found = []
    if mine[0].generation != p.container_generation:
        found.append(f"{p.user} runs with generation {mine[0].generation}, {p.container_generation} is recorded")
    if mine[0].host_port != p.host_port:
        found.append(f"{p.user} is published on {mine[0].host_port}, {p.host_port} is recorded")
    return found


def files_kept(truth: Truth) -> list[str]:
    """Whoever ever ran still has their files, and it is known where."""
    if truth.files is None:
        return []
    found = [
        f"the files of {p.user} are not on {p.node}, where they run"
        for p in truth.placements
        if p.state is PlacementState.RUNNING and p.user not in truth.files.get(p.node, ())
    ]
    where = {**truth.homes, **{p.user: p.node for p in truth.placements}}
    for node, users in truth.written.items():
        for user in sorted(users):
            if user not in truth.files.get(node, ()):
                found.append(f"the files of {user} on {node} are gone")
            elif where.get(user) != node:
                found.append(f"the files of {user} are on {node}, and wsctl believes: {where.get(user)}")
    return found


def mapped(truth: Truth) -> list[str]:
    """map = placements: the gateway sends each running user to their own container, and nobody else."""
    if truth.route_map is None:
        return []
    routes = dict(_ROUTE.findall(truth.route_map))
    wanted = {p.user: upstream(p.address, p.host_port) for p in truth.placements if p.state.is_routed}
    if routes != wanted:
        return [f"the map is not the placements: {routes} is rendered, {wanted} is true"]
    found = []
    for p in truth.placements:
        if not p.state.is_routed:
            continue
        there = [c for node, c in truth.containers if node == p.node and c.is_running and c.host_port == p.host_port]
        found += [f"{c.name} answers on the route of {p.user}" for c in there if c.name != container_name(p.user)]
    return found
