"""The search for faults: random commands of several controllers on a small site where everything may go wrong.

    python -m tests.faults.simulator --seeds 10000 [--from N] [--jobs 2]
    python -m tests.faults.simulator --seed N --trace

Responsible for: schedules, running them, and the table of what was tried. Each is made from its seed alone, so a seed
is all it takes to see a failure again. Not responsible for: what must hold (`invariants`, `sim_oracle`).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.invariants import Truth, broken
from tests.faults.sim_faults import Kind
from tests.faults.sim_kernel import Killed, Process, Task
from tests.faults.sim_process import Simulated
from tests.faults.sim_repair import Repair, repair
from tests.faults.sim_world import Sim
from tests.worlds import Commands, truth
from wsctl.errors import LeaseHeld, WsctlError
from wsctl.plan import Plan
from wsctl.store.store import SqlStore
from wsctl.workflow import Outcome

USERS = ("alice", "bob", "carol")

_VERBS = {
    "place": 7,
    "place two": 1.5,
    "place three": 1.0,
    "stop": 3,
    "start": 2,
    "restart": 1.5,
    "recreate": 2,
    "rm": 2.5,
    "purge": 1.5,
    "stop two": 0.7,
    "start three": 0.5,
    "reap": 1.5,
    "cordon": 0.4,
    "reconcile": 0.8,
}


@dataclass
class Result:
    """What became of one schedule."""

    seed: int
    violations: list[str]
    controllers: int
    commands: int
    contacts: int
    faults: Counter[Kind]
    gaps: Counter[str]
    outcomes: Counter[str]
    groups: Counter[int]
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Command:
    """What an operator types. `thinks_s`: asked to confirm, they take so long (None: `--yes`)."""

    verb: str
    users: tuple[str, ...]
    thinks_s: float | None


@dataclass
class Operator:
    """One controller: commands one after the other, each in a process of its own, and again when it failed."""

    name: str
    script: list[Command]
    tries: int = 0


class Schedule:
    """One seed, played once. `settle` brings the site to rest afterwards, `store` is what processes keep their
    placements in, `verbs` are the only ones that are used (none: any)."""

    def __init__(
        self,
        seed: int,
        *,
        trace: bool = False,
        settle: Repair = repair,
        store: type[SqlStore] = SqlStore,
        verbs: Collection[str] = (),
    ) -> None:
        self.seed = seed
        self.sim = Sim(seed, trace=trace, store=store)
        self.simulated = Simulated(self.sim)
        self.settle = settle
        self.verbs = verbs
        self.commands = 0
        self.outcomes: Counter[str] = Counter()
        self.tasks: list[Task] = []

    def play(self) -> Result:
        """Run everything, heal, repair, and look at what is left."""
        sim, rng = self.sim, self.sim.rng
        crowd = rng.choice((1, 1, 2, 3))
        # Some verbs often, some never: another mixture in each schedule finds more than the same one in all.
        taste = {verb: weight * rng.choice((0, 1, 1, 4)) for verb, weight in _VERBS.items()} | {
            "place": _VERBS["place"]
        }
        if self.verbs:
            taste = {verb: 1.0 for verb in self.verbs}
        operators = [Operator(f"c{number}", list(self._script(crowd, taste))) for number in range(rng.randint(2, 4))]
        with self.simulated.in_place():
            self._before()
            for operator in operators:
                self._next(operator, rng.uniform(0.0, 0.5))
            sim.kernel.run()
            self._all_ended()
            if not sim.kernel.aborted:
                sim.heal()
                sim.note("healed")
                self._check(self.truth(), settled=False)
                if left := sim.site.leases.ls():
                    sim.violate(f"leases outlive their TTL: {left}")
            sim.oracle.look_for_revenants()
            if not sim.kernel.aborted:
                self.settle(self.simulated)
                self._check(self.truth(), settled=True)
        sim.site.store.close()
        return Result(
            self.seed,
            sim.violations,
            len(operators),
            self.commands,
            sim.contacts,
            sim.faults.counts,
            sim.oracle.gaps,
            self.outcomes,
            sim.groups,
            sim.trace or [],
        )

    def _before(self) -> None:
        """Somebody is there already, placed while nothing went wrong."""
        users = [user for user in USERS[:2] if self.sim.rng.random() < 0.5]
        if not users:
            return
        on, self.sim.faults.on = self.sim.faults.on, False
        process = Process("before")

        def place() -> None:
            with self.simulated.process(process) as commands:
                for user in users:
                    commands.place(user, strategy=self.sim.strategy)
                    if self.sim.rng.random() < 0.4:
                        commands.stop(user)

        self.sim.kernel.spawn("before", process, place)
        self.sim.kernel.run()
        self.sim.faults.on = on

    def _script(self, crowd: int, taste: Mapping[str, float]) -> Iterator[Command]:
        rng = self.sim.rng
        users = USERS[:crowd]
        for _ in range(rng.randint(1, 4)):
            (verb,) = rng.choices(list(taste), weights=list(taste.values()))
            many = {"two": USERS[:2], "three": USERS}.get(verb.rpartition(" ")[2])
            chosen = tuple(rng.sample(many, len(many))) if many else (rng.choice(users),)
            thinks_s = rng.choice((0.2, 5.0, 60.0)) if rng.random() < 0.2 else None
            yield Command(verb, chosen, thinks_s)

    # ---- operators

    def _next(self, operator: Operator, delay_s: float) -> None:
        """The operator's next command, after a while."""
        if not operator.script:
            return
        command = operator.script[0]
        self.commands += 1
        process = Process(f"{operator.name}.{self.commands}")
        task = self.sim.kernel.spawn(
            process.name, process, lambda: self._run(process, command), delay_s + self.sim.rng.uniform(0.0, 0.3)
        )
        task.on_end = lambda: self._ended(operator, task)
        self.tasks.append(task)

    def _ended(self, operator: Operator, task: Task) -> None:
        """What operators do: look at what came out, and type the same again or go on."""
        rng = self.sim.rng
        failed = task.error is not None or any(outcome.error is not None for outcome in task.result or ())
        self._judge(task)
        if failed and operator.tries < 2 and rng.random() < 0.6:
            operator.tries += 1
        else:
            operator.tries = 0
            operator.script.pop(0)
        self._next(operator, rng.choice((0.0, 0.0, 0.0, 1.0, 35.0)))

    def _judge(self, task: Task) -> None:
        error = task.error
        said = [error] if error is not None else [outcome.error for outcome in task.result or ()]
        for one in said:
            self.outcomes[type(one).__name__ if one is not None else "done"] += 1
            if one is not None and not isinstance(one, (WsctlError, Killed, KeyboardInterrupt)):
                self.sim.violate(f"{task.name}: a bug: {type(one).__name__}: {one}")
            # Without the text of who holds a lease: how long still is in real time.
            text = "" if one is None or isinstance(one, LeaseHeld) else f": {one}"
            self.sim.note(f"ended {task.name}: {type(one).__name__ if one else 'done'}{text}")

    def _run(self, process: Process, command: Command) -> list[Outcome]:
        sim = self.sim
        sim.note(f"wsctl {command.verb} {' '.join(command.users)} by {process.name}")
        options: dict[str, Any] = {}
        if command.thinks_s is not None:
            options["confirm"] = partial(self._confirm, process, command.thinks_s)
        if command.verb == "purge":
            sim.oracle.may_purge.update(command.users)
        with self.simulated.process(process) as commands:
            return _type(command, commands, {"strategy": sim.strategy, **options})

    def _confirm(self, process: Process, thinks_s: float, plan: Plan) -> None:
        self.sim.kernel.sleep(thinks_s)
        if process.dead or self.sim.kernel.aborted:
            raise Killed

    def _all_ended(self) -> None:
        for task in self.tasks:
            if not task.done:
                self.sim.violate(f"{task.name} hangs")

    # ---- the truth

    def truth(self) -> Truth:
        """The site as it is now."""
        oracle = self.sim.oracle
        return truth(
            self.sim.site,
            written=oracle.written,
            purged=oracle.purged,
            may_purge=oracle.may_purge,
            effects=oracle.effects,
        )

    def _check(self, truth: Truth, *, settled: bool) -> None:
        for problem in broken(truth, settled=settled):
            self.sim.violate(problem)


def _type(command: Command, commands: Commands, options: dict[str, Any]) -> list[Outcome]:
    verb, users = command.verb.partition(" ")[0], command.users
    if verb == "place":
        return commands.place(*users, **options)
    del options["strategy"]
    if verb == "reap":
        return commands.reap(idle_s=0.0)
    if verb == "reconcile":
        commands.reconcile()
        return []
    if verb == "cordon":
        return commands.cordon("n1", **options)
    if verb == "recreate":
        return commands.restart(*users, recreate=True, **options)
    if verb == "purge":
        return commands.rm(*users, purge=True, **options)
    outcomes: list[Outcome] = getattr(commands, verb)(*users, **options)
    return outcomes


def play(seed: int, **options: Any) -> Result:
    """The schedule of this seed; for the options see `Schedule`."""
    return Schedule(seed, **options).play()


def first_violation(seeds: Iterable[int], **options: Any) -> Result | None:
    """The first of the seeds that breaks something."""
    return next((result for seed in seeds if (result := play(seed, **options)).violations), None)


# ------------------------------------------------------------------------------------------------ the command line


def main(words: Sequence[str]) -> int:
    """Play seeds and print what was tried; 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print every contact")
    chosen = parser.parse_args(words)
    logging.getLogger("wsctl.coordination").setLevel(logging.ERROR)
    if chosen.seed is not None:
        return _one(chosen.seed, trace=chosen.trace)
    began = time.monotonic()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    total = _Total()
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for result in pool.map(play, seeds, chunksize=20):
            total.add(result)
    print("\n".join(total.table(time.monotonic() - began)))
    return 1 if total.broken else 0


def _one(seed: int, *, trace: bool) -> int:
    result = play(seed, trace=trace)
    print("\n".join(result.trace))
    print("\n".join(result.violations) or f"seed {seed}: nothing broke")
    return 1 if result.violations else 0


class _Total:
    """The sum of many results."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.faults: Counter[Kind] = Counter()
        self.gaps: Counter[str] = Counter()
        self.broken: list[Result] = []

    def add(self, result: Result) -> None:
        self.numbers["schedules"] += 1
        self.numbers["controllers"] += result.controllers
        self.numbers["commands"] += result.commands
        self.numbers["contacts with the outside"] += result.contacts
        self.faults += result.faults
        self.gaps += result.gaps
        self.numbers["transactions of several users' writes"] += sum(
            number for size, number in result.groups.items() if size > 1
        )
        if result.violations:
            self.broken.append(result)
            print(f"seed {result.seed}: {result.violations[0]}", file=sys.stderr)

    def table(self, took_s: float) -> list[str]:
        rows: list[tuple[str, Any]] = list(self.numbers.items())
        rows += [("faults", self.faults.total())]
        rows += [(f"- {kind.value}", self.faults[kind]) for kind in Kind]
        rows += [("effects in the gap behind the last look", sum(self.gaps.values()))]
        rows += [(f"- {name}", number) for name, number in sorted(self.gaps.items())]
        rows += [("violations", len(self.broken)), ("seconds", round(took_s))]
        return ["| what | how many |", "|---|---|", *(f"| {name} | {number:,} |" for name, number in rows)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
