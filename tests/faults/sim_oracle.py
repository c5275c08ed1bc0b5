"""What must hold at every single step of a simulated schedule.

Responsible for: looking at the state after each transaction and at each effect on a node, and saying what broke.
Not responsible for: what must hold of a site at rest (`invariants`), nor for making things break.

An effect is sent *blindly* when the placement had moved on before its sender last heard from anybody outside: it could
have known. Between that last look and the effect there is a gap which nobody can close without the engine's help; what
goes wrong in it must be found and mended afterwards, and is counted in `gaps`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults import invariants
from tests.faults.sim_kernel import Kernel, Process, Task
from tests.worlds import Site
from wsctl.model import LABEL_GENERATION, LABEL_USER, QUARANTINE_PREFIX, Placement, PlacementState, container_name

FENCED = ("create", "start", "stop", "remove", "purge_data")


class Oracle:
    """Watches one site. `violate` is told what broke; `gaps` counts what can't be
    prevented, only mended."""

    def __init__(self, site: Site, kernel: Kernel, violate: Callable[[str], None]) -> None:
        self.site = site
        self.kernel = kernel
        self.violate = violate
        self.capacity = {name: node.capacity for name, node in site.nodes.items()}
        self.placements: dict[str, Placement] = {}
        self.births: Counter[str] = Counter()
        self.made: dict[tuple[str, str], int | None] = {}
        self.moved_at: dict[str, float] = defaultdict(float)
        self.written: dict[str, set[str]] = {name: set() for name in site.nodes}
        self.purged: set[str] = set()
        self.may_purge: set[str] = set()
        self.effects: set[str] = set()
        self.users: dict[tuple[str, str], str] = {}
        self.gaps: Counter[str] = Counter()

    # ---- the state database

    def after_write(self, process: Process, ops: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """A transaction of the placements was committed, asked for by `process`; `ops` are what it was made of."""
        now = {p.user: p for p in self.site.store.placements()}
        was, self.placements = self.placements, now
        usage = self.site.store.usage()
        listed = list(now.values())
        for problem in (
            *invariants.counted(listed, usage),
            *invariants.ports(listed),
            *invariants.room(usage, self.capacity),
        ):
            self.violate(problem)
        for user in sorted({*was, *now}):
            old, new = was.get(user), now.get(user)
            if (old and old.generation) != (new and new.generation):
                self.moved_at[user] = self.kernel.now
            if old != new:
                self._moved(user, old, new)
            for name, args in ops:
                if old is not None and old != new and args[0] == user:
                    self._by_right(process, old, name, args[1])

    def _moved(self, user: str, old: Placement | None, new: Placement | None) -> None:
        if new is not None and old is not None:
            if new.generation < old.generation:
                self.violate(f"the generation of {user} fell from {old.generation} to {new.generation}")
            if new.node != old.node:
                self.violate(f"{user} moved from {old.node} to {new.node} without a move")
        if old is None:
            self.births[user] += 1
        if new is not None and new.state is PlacementState.RUNNING:
            # Now the user can come, so from now on there may be something of theirs in the files.
            self.written[new.node].add(user)

    def _by_right(self, process: Process, old: Placement, name: str, generation: int) -> None:
        """The write was made by somebody who knew the placement that it changed."""
        if generation != old.generation:
            self.violate(f"{name} of {old.user} with generation {generation} changed a placement of {old.generation}")
        known = process.births.get(old.user)
        if known is not None and known != self.births[old.user]:
            self.violate(
                f"{name} of {old.user} by {process.name} changed another placement than it was decided on: "
                f"the user was removed and placed anew since, and {generation} is a generation of both"
            )

    # ---- the nodes

    def before_effect(self, process: Process, task: Task, node: str, name: str, about: str) -> None:
        """`process` has sent a request that changes a container or files."""
        user = about.removeprefix("ws-u-")
        if name not in FENCED or (name != "purge_data" and not about.startswith("ws-u-")):
            return
        placement = self.placements.get(user)
        ours, now = task.claimed.get(user, 0), placement.generation if placement is not None else 0
        if name == "stop" and not self._is_authoritative(node, about, placement):
            return  # a copy is put aside: nothing of the placement is touched, so nothing of it need be claimed
        if ours == 0 and name != "purge_data":
            self.violate(f"{name} of {user} on {node} by {process.name}, who never claimed the placement")
        if ours != now:
            if self.moved_at[user] < task.looked_at:
                self.violate(
                    f"{name} of {user} on {node} was sent blindly by {process.name}, who holds generation {ours}, "
                    f"and {now} is current since {task.looked_at - self.moved_at[user]:.3f} s before the last look"
                )
            self.gaps[name] += 1
        elif ours == 0 and process.homes.get(user, 0) != self.births[user] and self.moved_at[user] < task.looked_at:
            self.violate(
                f"{name} of {user} on {node} by {process.name} was decided on the files of an earlier placement than "
                "the one that was there since"
            )

    def _is_authoritative(self, node: str, about: str, placement: Placement | None) -> bool:
        one = self.site.fleet[node]._find(about)
        if one is None or placement is None or placement.node != node:
            return False
        return one.spec.labels.get(LABEL_GENERATION) == str(placement.container_generation)

    def after_effect(self, process: Process, node: str, name: str, about: str) -> None:
        """A request of `process` was carried out by the node's engine."""
        one = self.site.fleet[node]._find(about)
        bare = (
            about.removeprefix(QUARANTINE_PREFIX).rpartition("-")[0] if about.startswith(QUARANTINE_PREFIX) else about
        )
        user = self.users.get((node, about), bare.removeprefix("ws-u-"))
        if one is not None:
            user = one.spec.labels.get(LABEL_USER, user)
            self.users[node, one.id] = self.users[node, one.spec.name] = user
        if name == "purge_data":
            self._purged(node, user)
        if name in FENCED:
            self.effects.add(user)
        held = self.site.fleet[node]._held.get(container_name(user))
        if name == "create" and held is not None:
            self.made[node, held.id] = process.births.get(user)
        if name == "start" and held is not None and held.state == "running":
            self._runs_once(user)

    def _purged(self, node: str, user: str) -> None:
        self.purged.add(user)
        self.written[node].discard(user)
        if user not in self.may_purge:
            self.violate(f"the files of {user} on {node} were deleted, and nobody asked for it")
        if any(one.state == "running" for where, one in self.site.of(user) if where == node):
            self.gaps["purged under a running workspace"] += 1

    def look_for_revenants(self) -> None:
        """Containers of an earlier placement of a user that are taken for those of the present one."""
        for node, one in self.site.ours():
            user, generation = one.spec.labels[LABEL_USER], one.spec.labels[LABEL_GENERATION]
            placement = self.placements.get(user)
            if placement is None or generation != str(placement.container_generation):
                continue
            if self.made.get((node, one.id), self.births[user]) not in (None, self.births[user]):
                self.violate(
                    f"the container of {user} on {node} is of an earlier placement than the present one, "
                    f"and generation {generation} is of both"
                )

    def _runs_once(self, user: str) -> None:
        placement = self.placements.get(user)
        if placement is None:
            return
        wanted = str(placement.container_generation)
        running = [
            (node, self.made.get((node, one.id)))
            for node, one in self.site.ours()
            if one.state == "running"
            and one.spec.labels[LABEL_USER] == user
            and one.spec.labels[LABEL_GENERATION] == wanted
        ]
        if len(running) > 1:
            self.violate(
                f"{user} runs with the authoritative generation {wanted} on {' and '.join(node for node, _ in running)}"
            )
