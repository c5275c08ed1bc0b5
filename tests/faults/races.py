"""Races between reapers and users who come back, in virtual time: is anybody stopped who was told that they run?

    python -m tests.faults.races --races 10000 [--activity rows|redis] [--jobs 2]

Responsible for: one race for each seed, and the table of how they ended. Whoever touches acts as `wsctl touch` does:
record, then read the state. A user is *stopped while active* if their touch answered `running` and they don't run when
all is over. Not responsible for: faults of the outside (`simulator`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from tests.builders import capacity, resources
from tests.faults.sim_kernel import Process
from tests.faults.sim_process import Simulated, StoreWire
from tests.faults.sim_world import Contact, Sim, SimClock
from wsctl.coordination.activity import QuickThenRows
from wsctl.model import Activity, PlacementState, PortRange
from wsctl.ports import ActivityLog, Recorded
from wsctl.reaper import Reaper, ReapOptions
from wsctl.recording import RowActivity, record_touch

USERS = ("alice", "bob")
IDLE_S = 1800.0


class SimQuick:
    """A Redis' activity: what `redis_activity` keeps there, one moment for each call."""

    def __init__(self) -> None:
        self.held: dict[str, Activity] = {}
        self.since: datetime | None = None

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        for user, at in times.items():
            if user not in self.held or self.held[user].last_active_at < at:
                self.held[user] = Activity(user, at, source)

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        return Recorded({u: a for u, a in self.held.items() if users is None or u in users}, self.since)

    def forget(self, seen: Iterable[Activity]) -> None:
        for one in seen:
            if self.held.get(one.user) == one:
                del self.held[one.user]


class QuickWire:
    """One process's way to it: each call takes time."""

    def __init__(self, sim: Sim, process: Process, real: SimQuick) -> None:
        self._sim, self._process, self._real = sim, process, real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        contact = partial(Contact, self._process, "lease", "activity", name)
        return lambda *args: self._sim.contact(contact(lambda: value(*args)))


@dataclass
class Race:
    """How one race ended: what each touch answered and what became of each user, who was stopped while active, and
    what broke besides (`sim_oracle`)."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    victims: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def play(seed: int, activity: str = "rows", reaper: type[Reaper] = Reaper) -> Race:
    """One race: two idle users, one or two reapers, and touches at some moment of their runs."""
    sim = Sim(seed)
    sim.faults.on = False
    simulated, quick = Simulated(sim), SimQuick()
    race = Race(seed)
    with simulated.in_place():
        _idle_users(sim, simulated, quick)
        answers: dict[str, str] = {}

        def log_of(process: Process, store: Any) -> ActivityLog:
            if activity == "rows":
                return RowActivity(lambda: store)
            wire: Any = QuickWire(sim, process, quick)
            return QuickThenRows(lambda: wire, lambda: store, lambda: sim.kernel.now)

        def reap(process: Process) -> None:
            with simulated.process(process) as commands:
                log = log_of(process, commands.world.store)
                with simulated.process(process, activity=log) as wired:
                    reaper(wired.world, ReapOptions()).run()

        def touch(process: Process, user: str) -> None:
            store: Any = StoreWire(sim, process)
            now = SimClock(sim.kernel, process).now()
            others = record_touch(store, log_of(process, store), [user], now)
            answers[user] = others.get(user, PlacementState.RUNNING)

        span_s = sim.rng.choice((0.3, 1.0, 3.0, 9.0))
        for number in range(sim.rng.choice((1, 1, 2))):
            process = Process(f"reaper{number}")
            sim.kernel.spawn(process.name, process, partial(reap, process), sim.rng.uniform(0, 0.1))
        for user in USERS[: sim.rng.choice((1, 2))]:
            process = Process(f"touch-{user}")
            sim.kernel.spawn(process.name, process, partial(touch, process, user), sim.rng.uniform(0, span_s))
        sim.kernel.run()
    for user in USERS:
        placement = sim.site.store.placement(user)
        ((_, container),) = sim.site.of(user)
        runs = placement is not None and placement.state is PlacementState.RUNNING and container.state == "running"
        told = answers.get(user, "not touched")
        race.counts[f"{told}, then {'running' if runs else 'stopped'}"] += 1
        if told == PlacementState.RUNNING and not runs:
            race.victims.append(user)
    race.violations += sim.violations
    sim.site.store.close()
    return race


def _idle_users(sim: Sim, simulated: Simulated, quick: SimQuick) -> None:
    """Placed an hour ago, and never seen since."""
    process = Process("before")

    def place() -> None:
        with simulated.process(process) as commands:
            commands.place(*USERS, strategy=sim.strategy)

    takes = resources()
    for name, node in sim.site.nodes.items():
        sim.site.fleet[name].busy_ports.clear()
        sim.site.fleet[name].images |= sim.site.fleet[name].registry
        room = capacity(9, 9 * takes.memory_bytes, 9 * takes.cpus_milli)
        sim.site.nodes[name] = replace(node, capacity=room, ports=PortRange(20000, 20009))
        sim.oracle.capacity[name] = room
    sim.kernel.spawn("before", process, place)
    sim.kernel.run()
    quick.since = SimClock(sim.kernel).now()
    sim.kernel.now += 2 * IDLE_S


def main(words: Sequence[str]) -> int:
    """Play races and print how they ended; 1 if an active user was stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.races", description=__doc__)
    parser.add_argument("--races", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--activity", choices=("rows", "redis"), default="rows", help="where activity is kept")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    chosen = parser.parse_args(words)
    began, total, victims = time.monotonic(), Counter[str](), list[Race]()
    seeds = range(chosen.first, chosen.first + chosen.races)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for race in pool.map(partial(play, activity=chosen.activity), seeds, chunksize=20):
            total += race.counts
            victims += [race] if race.victims or race.violations else []
    print("| touch answered, and in the end | users |\n|---|---|")
    print("\n".join(f"| {what} | {number:,} |" for what, number in sorted(total.items())))
    for race in victims[:5]:
        print(f"seed {race.seed}: {', '.join([*race.victims, *race.violations])}")
    print(
        f"{sum(len(race.victims) for race in victims)} active users stopped in {chosen.races:,} races "
        f"(activity in {chosen.activity}, {time.monotonic() - began:.0f} s)"
    )
    return 1 if victims else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
