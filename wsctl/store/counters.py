"""What a change of a placement takes from its node, or gives back.

Responsible for: the counters of `node_usage` as values, and the SQL of adding to them within a capacity. Not
responsible for: running it (`placements`).
"""

from __future__ import annotations

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


# Never below zero: a count that is wrong already (somebody edited rows by hand) mustn't make a release impossible.
COUNTERS = ("workspaces", "active", "memory_bytes", "cpus_milli")
SET_COUNTERS = ", ".join(f"{name} = CASE WHEN {name} + ? < 0 THEN 0 ELSE {name} + ? END" for name in COUNTERS)


def room(shift: Shift, capacity: Capacity | None) -> tuple[str, list[int]]:
    """The condition under which what `shift` takes more of fits into `capacity`, and its parameters."""
    if capacity is None:
        return "", []
    asked = (
        ("workspaces", shift.workspaces, capacity.workspaces),
        ("memory_bytes", shift.memory_bytes, capacity.memory_bytes),
        ("cpus_milli", shift.cpus_milli, capacity.cpus_milli),
    )
    taking = [(name, more, limit) for name, more, limit in asked if more > 0]
    where = "".join(f" AND {name} + ? <= ?" for name, _, _ in taking)
    return where, [value for _, more, limit in taking for value in (more, limit)]
