"""What a change of a placement takes from its node, or gives back.

Responsible for: the counters of `node_usage` as values, and the SQL of adding to them within a capacity. Not
responsible for: running it (`usage`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wsctl.model import Capacity, Placement, PlacementState, Resources


@dataclass(frozen=True, slots=True)
class Shift:
    """What a write changes in its node's row. `port` is remembered as the newest, `placed` marks the newest node."""

    workspaces: int = 0
    active: int = 0
    memory_bytes: int = 0
    cpus_milli: int = 0
    routes: int = 0
    port: int | None = None
    placed: bool = False

    def __bool__(self) -> bool:
        return self != Shift()

    def __add__(self, other: Shift) -> Shift:
        """Both, `other` behind this one."""
        return Shift(
            self.workspaces + other.workspaces,
            self.active + other.active,
            self.memory_bytes + other.memory_bytes,
            self.cpus_milli + other.cpus_milli,
            self.routes + other.routes,
            self.port if other.port is None else other.port,
            self.placed or other.placed,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A placement as it was read, and what it is to become."""

    old: Placement
    state: PlacementState
    generation: int
    container_generation: int
    port: int
    resources: Resources

    def shift(self) -> Shift:
        """What that changes in the node's row."""
        old = self.old
        was_active, was_memory, was_cpus = taken(old.resources, int(old.state.holds_resources))
        is_active, is_memory, is_cpus = taken(self.resources, int(self.state.holds_resources))
        active, memory, cpus = is_active - was_active, is_memory - was_memory, is_cpus - was_cpus
        was, will, moved = old.state.is_routed, self.state.is_routed, self.port != old.host_port
        routes = was != will or (was and moved)
        return Shift(0, active, memory, cpus, routes=int(routes), port=self.port if moved else None)


def settled(old: Placement, state: PlacementState) -> Change:
    """The end of an operation: another state and nothing else."""
    return Change(old, state, old.generation, old.container_generation, old.host_port, old.resources)


def taken(resources: Resources, sign: int) -> tuple[int, int, int]:
    """(active, memory, cpus) that a placement takes (+1), gives back (-1), or doesn't hold (0)."""
    return sign, sign * resources.memory_bytes, sign * resources.cpus_milli


COUNTERS = ("workspaces", "active", "memory_bytes", "cpus_milli")
LIMITED = ("workspaces", "memory_bytes", "cpus_milli")
"""Those for which a node has a `Capacity`, under the same names."""

TOGETHER = 8
"""Nodes a statement: up to 70 parameters each, and old SQLite allows 999."""


def adding(shifts: Mapping[str, Shift], now: str) -> tuple[str, list[object]]:
    """The SET of an UPDATE that adds to the row of each node its shift, with the parameters; `now` is the SQL of the
    current time."""
    sets, params = list[str](), list[object]()

    def by_node(values: Mapping[str, object]) -> str:
        params.extend(value for pair in values.items() for value in pair)
        return f"CASE node{' WHEN ? THEN ?' * len(values)} ELSE NULL END"

    for name in (*COUNTERS, "routes"):
        more = {node: value for node, shift in shifts.items() if (value := getattr(shift, name))}
        column = "route_changes" if name == "routes" else name
        if not more:
            continue
        if min(more.values()) > 0:
            sets.append(f"{column} = {column} + COALESCE({by_node(more)}, 0)")
            continue
        # Never below zero: a count that is wrong already (somebody edited rows by hand) mustn't make a release
        # impossible. The sum is spelled twice, for neither database knows the other's word for the greater of two.
        sums = [f"{column} + COALESCE({by_node(more)}, 0)" for _ in range(2)]
        sets.append(f"{column} = CASE WHEN {sums[0]} < 0 THEN 0 ELSE {sums[1]} END")
    ports = {node: shift.port for node, shift in shifts.items() if shift.port is not None}
    if ports:
        sets.append(f"last_port = COALESCE({by_node(ports)}, last_port)")
    placed = {node: 1 for node, shift in shifts.items() if shift.placed}
    if placed:
        sets.append(f"placed_at = CASE WHEN {by_node(placed)} = 1 THEN {now} ELSE placed_at END")
    return ", ".join(sets) or "workspaces = workspaces", params


def room(asks: Mapping[str, Shift], limits: Mapping[str, Capacity], nodes: Iterable[str]) -> tuple[str, list[object]]:
    """The condition that a row is one of `nodes`, and has room within its limit for what is asked for there; its
    parameters."""
    each, params = list[str](), list[object]()
    for node in nodes:
        capacity, shift = limits.get(node), asks.get(node, Shift())
        fits = ["node = ?"]
        params.append(node)
        for name in LIMITED if capacity is not None else ():
            if (more := getattr(shift, name)) > 0:
                fits.append(f"{name} + ? <= ?")
                params += (more, getattr(capacity, name))
        each.append(" AND ".join(fits))
    return f"({' OR '.join(f'({one})' for one in each)})", params
