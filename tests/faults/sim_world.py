"""The simulated outside: one site, and the way of each contact from a process to it and back.

Responsible for: `Sim`, through which every call to the state database, the leases and the nodes goes: it takes time,
others act meanwhile, and faults strike. Not responsible for: which commands are run (`simulator`), the order of things
(`sim_kernel`), or what must hold (`sim_oracle`, `invariants`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.builders import CLUSTER, capacity, node, resources
from tests.fakes import FakeClock, FakeFleet
from tests.faults.sim_faults import Faults, Kind
from tests.faults.sim_kernel import Kernel, Killed, Process
from tests.faults.sim_leases import SimRedis
from tests.faults.sim_oracle import Oracle
from tests.worlds import SPEC, Site, copy_of_empty_database
from wsctl.coordination.leases import BackendLeases
from wsctl.errors import BackendError, EngineError, NodeUnreachable
from wsctl.model import Strategy
from wsctl.store.leases import LeaseRows
from wsctl.store.store import SqlStore

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TTL_S = 30.0
CONTACTS = 20_000
"""More than that in one schedule means that something goes round in circles."""

LEASES_IN = {"redis": 5, "rows": 2, "nothing": 3}
"""Where leases are kept, by how many schedules: a Redis, the state database, or nowhere, as if it forgot everything."""

_TIMEOUT_S = {"state": 10.0, "lease": 2.0, "node": 15.0}


class SimClock(FakeClock):
    """The wall clock of a process's host: the kernel's time, and how far that host is off."""

    def __init__(self, kernel: Kernel, process: Process | None = None) -> None:
        super().__init__()
        self.kernel = kernel
        self.process = process

    def now(self) -> datetime:
        off = self.process.clock_s if self.process is not None else 0.0
        return START + timedelta(seconds=self.kernel.now + off)

    def sleep(self, seconds: float) -> None:
        self.kernel.sleep(seconds)


@dataclass(frozen=True)
class Contact:
    """One call to the outside: by whom, where (`state write`, `node effect`, …), which one, and what it does."""

    process: Process
    where: str
    who: str
    name: str
    effect: Callable[[], Any]
    about: str = ""


class Sim:
    """One site in virtual time, with everything that may go wrong with it."""

    def __init__(self, seed: int, *, trace: bool = False, store: type[SqlStore] = SqlStore) -> None:
        self.kernel = Kernel(seed)
        self.store_type = store
        self.rng: Random = self.kernel.rng
        self.violations: list[str] = []
        self.trace: list[str] | None = [] if trace else None
        self.contacts = 0
        self.groups: Counter[int] = Counter()
        """How many writes were asked for together, and how often."""
        self.leases_in = self.rng.choices(list(LEASES_IN), weights=list(LEASES_IN.values()))[0]
        self.hiccups = self.rng.choice((0.02, 0.07, 0.07, 0.25))
        self.strategy = self.rng.choice((Strategy.SPREAD, Strategy.BINPACK, Strategy.BINPACK))
        self.faults = Faults(self.rng)
        self.site = _site(self.kernel, self.rng)
        self.redis = SimRedis(self.kernel)
        self.rows = LeaseRows(self.site.store.database, CLUSTER, owned=False)
        backend: Any = self.rows if self.leases_in == "rows" else self.redis
        self.site.leases = BackendLeases(lambda: backend, holder="outside", ttl_s=TTL_S, clock=lambda: self.kernel.now)
        self.oracle = Oracle(self.site, self.kernel, self.violate)
        self.cut_until: dict[str, float] = {}
        """Until when somebody can't be reached: a node, `lease`, or the state database by one process."""

    def violate(self, what: str) -> None:
        """Something broke: say so, and end the schedule."""
        self.note(f"VIOLATION: {what}")
        self.violations.append(what)
        self.kernel.aborted = True

    def note(self, what: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.kernel.now:10.4f} {self.kernel.current.name:8} {what}")

    # ---- contacts

    def contact(self, call: Contact) -> Any:
        """Carry out one call, as far as the faults let it come."""
        if self.kernel.in_event:
            return self._renewal(call)
        task, process, rng = self.kernel.current, call.process, self.rng
        self._alive(process)
        self.contacts += 1
        if self.contacts > CONTACTS:
            self.violate("it never ends")
        if call.where in ("node effect", "node purge"):
            self.oracle.before_effect(process, task, call.who, call.name, call.about)
        kind = self.faults.draw(call.where, without=() if task.leads else (Kind.INTERRUPTED,))
        self._strike_before(call, kind)
        if call.where != "node purge":
            self.kernel.sleep(self._latency())
            self._alive(process)
        if self.is_cut(call):
            self._time_out(call, "cut off")
        if kind is Kind.LOST_REQUEST:
            self._time_out(call, "request lost")
        if kind in (Kind.LATE, Kind.KILLED_LATE):
            self.kernel.later(rng.uniform(0.5, 120.0), lambda: self._belated(call))
            if kind is Kind.KILLED_LATE:
                self._kill(process)
            self._time_out(call, "late")
        if kind is Kind.REFUSED:
            self.note(f"{call.who}.{call.name} {call.about}: refused")
            raise EngineError(call.who, f"{call.name}: no space left on device")
        result, error = self._effect(call)
        looked_at = self.kernel.now
        self._strike_after(call, kind)
        self.kernel.sleep(self._latency())
        self._alive(process)
        task.looked_at = looked_at
        if error is not None:
            raise error
        return result

    def _latency(self) -> float:
        """Seconds of one way: mostly milliseconds, now and then a hiccup."""
        drawn = self.rng.random()
        return drawn * 0.02 if drawn > self.hiccups else 5.0 * self.rng.random()

    def is_cut(self, call: Contact) -> bool:
        """Whether the call can't come through at the moment."""
        whom = {"state": f"state of {call.process.name}", "lease": "lease"}.get(call.where.split()[0], call.who)
        return self.cut_until.get(whom, 0.0) > self.kernel.now

    def _effect(self, call: Contact) -> tuple[Any, Exception | None]:
        result, error = None, None
        try:
            result = call.effect()
        except Exception as raised:
            error = raised
        if self.trace is not None:
            said = f"{type(error).__name__}: {error}" if error is not None else _brief(result)
            self.note(f"{call.who}.{call.name} {call.about} -> {said}")
        if error is None and call.where in ("node effect", "node purge"):
            self.oracle.after_effect(call.process, call.who, call.name, call.about)
        return result, error

    def _belated(self, call: Contact) -> None:
        """The request takes effect when nobody waits for it any more."""
        self.note(f"(belated, from {call.process.name})")
        if self.cut_until.get(call.who, 0.0) <= self.kernel.now:
            self._effect(call)

    def _renewal(self, call: Contact) -> Any:
        """A call in the background: it takes no time, and the faults of the others reach it too."""
        self._alive(call.process)
        if self.is_cut(call):
            raise BackendError("the leases can't be reached")
        return call.effect()

    def _alive(self, process: Process) -> None:
        if process.dead or self.kernel.aborted:
            raise Killed

    def _kill(self, process: Process) -> None:
        process.dead = True
        raise Killed

    def _time_out(self, call: Contact, why: str) -> None:
        self.note(f"{call.who}.{call.name} {call.about}: {why}")
        kind = call.where.split()[0]
        self.kernel.sleep(_TIMEOUT_S[kind])
        self._alive(call.process)
        if kind == "node":
            raise NodeUnreachable(call.who, f"no answer from the engine within {_TIMEOUT_S[kind]:g} s")
        raise BackendError(f"the {kind} backend went away; outcome unknown")

    # ---- faults

    def _strike_before(self, call: Contact, kind: Kind | None) -> None:
        if kind is None:
            return
        self.note(f"FAULT at {call.who}.{call.name}: {kind}")
        if kind is Kind.KILLED_BEFORE:
            self._kill(call.process)
        if kind is Kind.INTERRUPTED:
            raise KeyboardInterrupt
        if kind is Kind.PAUSED_BEFORE:
            self._pause(call.process)
        self._strike_world(call, kind)

    def _strike_after(self, call: Contact, kind: Kind | None) -> None:
        if kind is Kind.KILLED_AFTER:
            self._kill(call.process)
        if kind is Kind.PAUSED_AFTER:
            self._pause(call.process)
        if kind is Kind.TWICE:
            self.kernel.later(self.rng.uniform(0.01, 60.0), lambda: self._belated(call))
        if kind is Kind.LOST_REPLY:
            self._time_out(call, "reply lost")

    def _pause(self, process: Process) -> None:
        process.paused_until = self.kernel.now + self.rng.uniform(TTL_S + 1, 4 * TTL_S)

    def _strike_world(self, call: Contact, kind: Kind) -> None:
        rng, until = self.rng, self.kernel.now + self.rng.uniform(1.0, 60.0)
        if kind in (Kind.CUT_NODE, Kind.REBOOT):
            name = rng.choice(sorted(self.site.nodes))
            self.cut_until[name] = max(until, self.cut_until.get(name, 0.0))
            if kind is Kind.REBOOT:
                self.site.fleet[name].power_cycle()
        elif kind is Kind.CUT_STATE:
            self.cut_until[f"state of {call.process.name}"] = until
        elif kind is Kind.REDIS_DOWN:
            self.cut_until["lease"] = until
        elif kind is Kind.REDIS_FLUSHED:
            self._forget_leases(None)
        elif kind is Kind.LEASE_EXPIRED:
            names = [lease.name for lease in self.site.leases.ls()]
            self._forget_leases(rng.choice(names) if names else None)
        elif kind is Kind.CLOCK_JUMP:
            call.process.clock_s += rng.choice((-600.0, 600.0))

    def _forget_leases(self, name: str | None) -> None:
        for lease in self.site.leases.ls():
            if name in (None, lease.name):
                self.site.leases.break_lease(lease.name)

    def heal(self) -> None:
        """Nothing is broken any more, and every lease of the dead has run out."""
        self.faults.on = False
        self.cut_until.clear()
        for engine in self.site.fleet.engines.values():
            for one in engine._held.values():
                one.ready = True
        self.kernel.now += TTL_S + 1


def _brief(result: Any) -> str:
    if isinstance(result, set):
        result = sorted(result)
    text = str(getattr(result, "state", result)) if not isinstance(result, list) else f"{len(result)} rows"
    generation = getattr(result, "generation", None)
    return f"{text[:60]} g{generation}" if generation is not None else text[:60]


def _site(kernel: Kernel, rng: Random) -> Site:
    """A small site with little room, so that everybody is in everybody's way."""
    names = ("n1", "n2", "n3")[: rng.choice((2, 2, 3))]
    fleet, clock = FakeFleet(names), SimClock(kernel)
    nodes = {}
    for name in names:
        places = rng.choice((1, 2, 3, 3))
        running = min(places, rng.choice((1, 1, 2)))
        per_user = resources()
        room = capacity(places, running * per_user.memory_bytes, running * per_user.cpus_milli)
        # A port each, one for somebody else, and one to move to.
        nodes[name] = node(name, address=fleet[name].address, ports=(20000, 20000 + places + 2), capacity=room)
        if rng.random() < 0.3:
            fleet[name].busy_ports.add(20000 + rng.randrange(2))
        if rng.random() < 0.2:
            fleet[name].add("somebody-elses", host_port=20000 + rng.randrange(2))
        if rng.random() < 0.2:
            fleet[name].registry |= fleet[name].images
            fleet[name].images.clear()
    database, version = copy_of_empty_database(clock.now)
    store = SqlStore(database, CLUSTER, version)
    leases: Any = None  # depends on the clock and on the draw where leases are kept: `Sim` sets it
    return Site(nodes, fleet, clock, store, leases, {"default": SPEC})
