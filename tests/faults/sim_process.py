"""One run of wsctl inside the simulation: production code, with everything it reaches the outside by replaced.

Responsible for: the `World` of a simulated process, its fan-out in virtual time, and putting both in place. Not
responsible for: what happens on the way (`sim_world`).

Production code begins threads in two places: the renewer of leases (`sim_leases`) and `transport.fanout.run`, here
replaced by tasks of the kernel. It waits in two more: for its turn in a group of writes, and, rolling dice, for leases.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from tests.builders import CLUSTER
from tests.faults.sim_kernel import Kernel, Killed, Process, Task
from tests.faults.sim_leases import LeaseWire, NoLeases, SimRenewer
from tests.faults.sim_world import TTL_S, Contact, Sim, SimClock
from tests.worlds import EFFECTS, Commands
from wsctl.coordination import leases as leases_module
from wsctl.coordination.leases import BackendLeases
from wsctl.errors import NodeUnreachable
from wsctl.model import Placement
from wsctl.records import Actor
from wsctl.store import together
from wsctl.store.leases import LeaseRows
from wsctl.transport import fanout
from wsctl.workflow import World

_MOVING = ("reserve", "claim", "settle", "release")


class SimDatabase:
    """`store.Database` as one process sees it: each transaction is one contact, and one moment."""

    def __init__(self, sim: Sim, process: Process, kind: str) -> None:
        self._sim = sim
        self._process = process
        self._kind = kind
        self._real = sim.site.store.database
        self.dialect = self._real.dialect

    def read(self, work: Callable[..., Any]) -> Any:
        name = self._sim.kernel.current.op[0]

        def effect() -> Any:
            if name in ("placements", "placements_and_damage"):
                # What is decided from now on is about these.
                self._process.births = dict(self._sim.oracle.births)
            if name == "known_homes":
                self._process.homes = dict(self._sim.oracle.births)
            return self._real.read(work)

        return self._carry("state read", effect)

    def write(self, work: Callable[..., Any]) -> Any:
        task = self._sim.kernel.current
        ops = list(task.group) or [task.op]

        def effect() -> Any:
            result = self._real.write(work)
            if any(op[0] in _MOVING for op in ops):
                self._sim.oracle.after_write(self._process, ops)
            return result

        return self._carry("state write", effect)

    def apply(self, sql: str, params: Sequence[object] = ()) -> int:
        done: int = self._carry("state apply", lambda: self._real.apply(sql, params))
        return done

    def _carry(self, where: str, effect: Callable[[], Any]) -> Any:
        name, args = self._sim.kernel.current.op
        about = " ".join(str(arg)[:40] for arg in args[:3]) if self._sim.trace is not None else ""
        where = where if self._kind == "state" else "lease"
        return self._sim.contact(Contact(self._process, where, self._kind, name, effect, about))


class StoreWire:
    """The store of one process: says which operation it is in, and remembers the generations that it was given."""

    def __init__(self, sim: Sim, process: Process) -> None:
        self._sim = sim
        self._process = process
        database: Any = SimDatabase(sim, process, "state")
        self._real = sim.store_type(database, CLUSTER, sim.site.store.schema_version())
        for calls in (self._real._writes, self._real._reads):
            calls._lead = self._dawdle(calls._lead)
        self._real._writes._carry = self._say_who(self._real._writes._carry)

    def _dawdle(self, lead: Callable[..., Any]) -> Callable[..., Any]:
        """A thread may be held up before it looks who else is there: so others come in time to go with it."""
        kernel = self._sim.kernel

        def late(call: Any) -> Any:
            if kernel.rng.random() < 0.5:
                kernel.sleep(kernel.rng.uniform(0.0, 0.04))
            return lead(call)

        return late

    def _say_who(self, carry: Callable[..., Any]) -> Callable[..., Any]:
        """Let the oracle know whose writes a transaction is about: those of one task, or of several."""

        def told(calls: Sequence[Any]) -> Any:
            task = self._sim.kernel.current
            self._sim.groups[len(calls)] += 1
            if len(calls) > 1:
                task.group = [
                    ("settle", (call.user, call.generation)) if hasattr(call, "generation") else ("reserve", (call,))
                    for call in calls
                ]
            try:
                return carry(calls)
            finally:
                task.group = []

        return told

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            task = self._sim.kernel.current
            task.op = (name, args)
            result = value(*args, **kwargs)
            if name in ("reserve", "claim") and isinstance(result, Placement):
                task.claimed[result.user] = result.generation
                if name == "reserve":
                    self._process.births[result.user] = self._sim.oracle.births[result.user]
            if name in ("placements", "placements_and_damage"):
                # Whoever looks anew and finds no placement acts as one who has none.
                found = result if name == "placements" else result[0]
                there = {placement.user for placement in found}
                task.claimed = {user: generation for user, generation in task.claimed.items() if user in there}
            if name == "release" and result:
                task.claimed.pop(args[0], None)
            return result

        return call


class SimTurn:
    """`store.together.Turn` by the agenda. Who waited has heard from outside what its leader heard."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._task: Task | None = None
        self._come = False

    def wait(self) -> None:
        self._task = self._kernel.current
        while not self._come:
            self._kernel.block()

    def come(self) -> None:
        self._come = True
        if self._task is not None:
            self._task.looked_at = self._kernel.current.looked_at
            self._kernel.wake(self._task)


class EngineWire:
    """A node's engine as one process reaches it."""

    def __init__(self, sim: Sim, process: Process, name: str) -> None:
        self._sim = sim
        self._process = process
        self._name = name
        self._real = sim.site.fleet[name]

    @property
    def address(self) -> str:
        return self._real.address

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        where = "node purge" if name == "purge_data" else "node effect" if name in EFFECTS else "node read"

        def call(*args: Any, **kwargs: Any) -> Any:
            def effect() -> Any:
                result = value(*args, **kwargs)
                if name == "create" and self._sim.faults.never_ready():
                    self._real.held(result).ready = False
                return result

            about = self._about(name, args)
            return self._sim.contact(Contact(self._process, where, self._name, name, effect, about))

        return call

    def _about(self, name: str, args: tuple[Any, ...]) -> str:
        """The container's name, also of one that is called by its id."""
        if not args:
            return ""
        if name == "create":
            return str(args[0].name)
        if name == "purge_data":
            return str(args[1])
        found = self._real._find(args[0])
        return found.spec.name if found is not None else str(args[0])


class Simulated:
    """Processes of one `Sim`."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.known: dict[str, Process] = {}

    def is_gone(self, who: str) -> bool:
        """All of them are on one host: a dead one's leases may be broken before they run out."""
        return who in self.known and self.known[who].dead

    @contextmanager
    def process(self, process: Process, **world: Any) -> Iterator[Commands]:
        """A run of wsctl by `process`, in the task that calls this."""
        sim = self.sim
        engines = {name: EngineWire(sim, process, name) for name in sim.site.nodes}
        store: Any = StoreWire(sim, process)
        # Politeness, not correctness: what must hold, holds without any leases at all.
        leases: Any = NoLeases() if sim.leases_in == "nothing" else self._leases(process)
        fields: dict[str, Any] = {
            "cluster": CLUSTER,
            "nodes": sim.site.nodes,
            "classes": sim.site.classes,
            "store": store,
            "leases": leases,
            "engines": engines.__getitem__,
            "clock": SimClock(sim.kernel, process),
            "actor": Actor("tests", process=process.name),
            "lease_wait_s": sim.rng.choice((0.0, 10.0)),
        }
        try:
            self.known[process.name] = process
            yield Commands(World(**{**fields, **world}), self.is_gone)
        finally:
            leases.close()

    def _leases(self, process: Process) -> BackendLeases:
        sim = self.sim
        if sim.leases_in == "redis":

            def carry(name: str, call: Callable[[], Any]) -> Any:
                return sim.contact(Contact(process, "lease", "lease", name, call))

            backend: Any = LeaseWire(sim.redis, carry)
        else:
            database: Any = SimDatabase(sim, process, "lease")
            backend = LeaseRows(database, CLUSTER, owned=False)
        leases = BackendLeases(lambda: backend, holder=process.name, ttl_s=TTL_S, clock=lambda: sim.kernel.now)
        renewer: Any = SimRenewer(sim.kernel, process)
        leases._renewer = renewer
        return leases

    def fan_out(
        self,
        items: Iterable[Any],
        fn: Callable[[Any], Any],
        *,
        parallel: int = 16,
        deadline_s: float = 30.0,
        jitter_s: float = 0.0,
    ) -> dict[Any, Any]:
        """`transport.fanout.run` with tasks for threads. All begin at once: nobody here has more than a few items."""
        kernel, order = self.sim.kernel, list(dict.fromkeys(items))
        parent, results = kernel.current, dict[Any, Any]()
        late = False

        def ended() -> None:
            if not late:
                kernel.wake(parent)

        tasks = {}
        for item in order:
            work = lambda item=item: fn(item)  # noqa: E731
            tasks[item] = kernel.spawn(f"{parent.name}/{item}", parent.process, work, leads=False)
            tasks[item].on_end = ended
        give_up = kernel.now + deadline_s
        kernel.later(deadline_s, ended)
        while not all(task.done for task in tasks.values()) and kernel.now < give_up:
            kernel.block()
        late = True
        for item, task in tasks.items():
            if isinstance(task.error, Killed) or parent.process.dead or kernel.aborted:
                raise Killed
            if not task.done:
                results[item] = NodeUnreachable(str(item), f"gave no answer within {deadline_s:g} s")
            elif isinstance(task.error, Exception):
                results[item] = task.error
            elif task.error is not None:
                raise task.error
            else:
                results[item] = task.result
        return results

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace what production code would begin threads, wait and roll dice with."""
        kernel = self.sim.kernel
        tokens = iter(range(1, sys.maxsize))
        swaps: list[tuple[Any, str, Any]] = [
            (leases_module, "time", SimpleNamespace(sleep=kernel.sleep)),
            (leases_module, "random", SimpleNamespace(uniform=kernel.rng.uniform)),
            (together, "Turn", lambda: SimTurn(kernel)),
            (leases_module, "secrets", SimpleNamespace(token_hex=lambda n: f"{next(tokens):0{2 * n}x}")),
        ]
        real = fanout.run
        for name, module in list(sys.modules.items()):
            if name.startswith("wsctl.") and getattr(module, "fan_out", None) is real:
                swaps.append((module, "fan_out", self.fan_out))
        before = [(where, name, getattr(where, name)) for where, name, _ in swaps]
        for where, name, value in swaps:
            setattr(where, name, value)
        try:
            yield
        finally:
            for where, name, value in before:
                setattr(where, name, value)
