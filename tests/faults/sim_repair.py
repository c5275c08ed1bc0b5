"""Bringing a site to rest after a schedule.

Responsible for: `repair`, what an operator would do by hand and `wsctl reconcile` does by itself: the verb of each
half-done placement again, then what is left over on the nodes. Not responsible for: saying whether that helped.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.sim_kernel import Killed, Process
from tests.faults.sim_process import Simulated
from tests.faults.sim_world import Sim
from tests.worlds import Commands
from wsctl.model import LABEL_USER, PlacementState

Repair = Callable[[Simulated], None]


def repair(simulated: Simulated) -> None:
    """Repeat what was cut off, twice over (a first round may make the room that the second needs)."""
    _left_over(simulated.sim)
    for number in range(2):
        process = Process(f"repair{number}")
        task = simulated.sim.kernel.spawn(process.name, process, lambda p=process: _again(simulated, p))
        simulated.sim.kernel.run()
        if task.error is not None and not isinstance(task.error, Killed):
            raise task.error


def _again(simulated: Simulated, process: Process) -> None:
    with simulated.process(process) as commands:
        for placement in simulated.sim.site.store.placements():
            _finish(commands, placement.user, placement.state)


def _finish(commands: Commands, user: str, state: PlacementState) -> None:
    if state in (PlacementState.STOPPING, PlacementState.STOPPED):
        commands.stop(user)
    else:
        commands.place(user)


def _left_over(sim: Sim) -> None:
    """Remove copies on nodes that aren't their user's, or that nobody is placed on."""
    placed = {p.user: p for p in sim.site.store.placements()}
    for node, one in sim.site.ours():
        placement = placed.get(one.spec.labels[LABEL_USER])
        if placement is None or placement.node != node:
            sim.site.fleet[node].remove(one.id)
