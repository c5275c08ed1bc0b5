"""Bringing a site to rest after a schedule.

Responsible for: `repair`, which is `wsctl reconcile` until it finds nothing. Not responsible for: saying whether that
helped.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.sim_kernel import Killed, Process
from tests.faults.sim_process import Simulated
from wsctl.model import LABEL_USER

ROUNDS = 4
"""A first round may make the room that the second needs, and a container that wasn't ready is tried again."""

Repair = Callable[[Simulated], None]


def repair(simulated: Simulated) -> None:
    """Reconcile until a run finds nothing; when no run of several does, that is a violation."""
    found: list[str] = []
    for number in range(ROUNDS):
        process = Process(f"repair{number}")
        found = []
        task = simulated.sim.kernel.spawn(process.name, process, lambda p=process, f=found: _reconcile(simulated, p, f))
        simulated.sim.kernel.run()
        if task.error is not None and not isinstance(task.error, Killed):
            raise task.error
        if not found:
            return
    simulated.sim.violate(f"reconcile finds something again and again: {found}")


def _reconcile(simulated: Simulated, process: Process, found: list[str]) -> None:
    site = simulated.sim.site
    users = {p.user for p in site.store.placements()} | {one.spec.labels[LABEL_USER] for _, one in site.ours()}
    with simulated.process(process) as commands:
        # By name: when no placement is left at all, running containers are only touched if their users are named.
        for repair in commands.reconcile(*sorted(users)) if users else ():
            found.append(f"{repair.difference.kind} {repair.difference.user}: {repair.difference.detail}")
