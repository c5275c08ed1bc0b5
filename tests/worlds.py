"""A site that outlives the commands run on it: real SQLite state and leases, fake engines, a clock that is told.

`Site` is the cluster between commands; `Site.process` is one run of wsctl on it, whose every contact with the outside
goes through a `Wire` that can be cut at any point. `invariants` is what must hold after whatever was done to it.
"""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from tests.builders import CLUSTER, IMAGE, RESOURCES, node
from tests.fakes import FakeClock, FakeContainer, FakeFleet, _inspected
from tests.faults.invariants import Truth, broken
from tests.filing import FakeFiles, FakeStandbys
from wsctl.coordination import open_leases
from wsctl.coordination.leases import BackendLeases
from wsctl.drainer import Drainer, DrainOptions
from wsctl.errors import BackendError, EngineError, FilesError, NodeUnreachable, WsctlError
from wsctl.failover import Failover, fail_over
from wsctl.fencing import Readmission, readmit
from wsctl.model import (
    LABEL_CLUSTER,
    LABEL_USER,
    QUARANTINE_PREFIX,
    ClusterView,
    Node,
    NodeState,
    ReadyProbe,
    Strategy,
    WorkspaceSpec,
)
from wsctl.mover import Rules as MoveRules
from wsctl.planner.decision import Decision
from wsctl.planner.life import plan_mark, plan_remove, plan_restart, plan_stop
from wsctl.planner.migrate import plan_migrate, plan_unmove
from wsctl.planner.place import plan_place, plan_start
from wsctl.planner.reconcile import Rules
from wsctl.reaper import Reaper, ReapOptions
from wsctl.reconciler import Reconciler, Repair
from wsctl.records import Actor
from wsctl.routes import render_map, routes_of
from wsctl.standby import Keeper, Synced, SyncOptions
from wsctl.standbys import FailoverRules
from wsctl.store import lease_rows, migrations
from wsctl.store.sqlite import SqliteDatabase, open_sqlite
from wsctl.store.store import SqlStore
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, ready=ReadyProbe("/", 30.0))
LEASE_S = 31.0
"""After so many seconds, the lease of a process that was killed has run out."""


@dataclass
class Site:
    """The cluster: what is left when no command runs. `store` and `leases` are for looking at it from outside."""

    nodes: dict[str, Node]
    fleet: FakeFleet
    clock: FakeClock
    store: SqlStore
    leases: BackendLeases
    classes: dict[str, WorkspaceSpec] = field(default_factory=lambda: {"default": SPEC})
    files: FakeFiles = field(init=False)
    standbys: FakeStandbys = field(init=False)

    def __post_init__(self) -> None:
        self.files = FakeFiles(self.fleet, self.clock)
        self.standbys = FakeStandbys(self.files)

    def close(self) -> None:
        """End the threads and give up the database."""
        self.leases.close()
        self.store.close()

    @contextmanager
    def process(self, wire: Wire | None = None, **world: Any) -> Iterator[Commands]:
        """One run of wsctl; keywords replace fields of its `World`."""
        wire = wire or Wire()

        def rows() -> Any:
            return Proxy("lease", lease_rows(self.store), wire, ())

        leases = open_leases(None, cluster=CLUSTER, rows=rows, holder="tests@here:1")
        fields: dict[str, Any] = {
            "cluster": CLUSTER,
            "nodes": self.nodes,
            "classes": self.classes,
            "store": Proxy("store", self.store, wire, WRITES),
            "leases": leases,
            "engines": lambda name: Proxy(name, self.fleet(name), wire, CALLS),
            "clock": self.clock,
            "files": lambda: Proxy("files", self.files, wire, FILES),
            "standbys": lambda: Proxy("standbys", self.standbys, wire, STANDBYS),
            "actor": Actor("tests", process="here:1"),
            "lease_wait_s": 0.0,
        }
        try:
            yield Commands(World(**{**fields, **world}))
        finally:
            leases.close()

    def run(self, verb: str, *users: str, **options: Any) -> list[Outcome]:
        """One command in a process of its own."""
        with self.process() as commands:
            outcomes: list[Outcome] = getattr(commands, verb)(*users, **options)
            return outcomes

    def ours(self) -> list[tuple[str, FakeContainer]]:
        """(node, container) of all containers that bear our labels."""
        return [
            (name, one)
            for name, engine in self.fleet.engines.items()
            for one in list(engine._held.values())
            if one.spec.labels.get(LABEL_CLUSTER) == CLUSTER and not is_kept(one)
        ]

    def kept(self) -> list[tuple[str, FakeContainer]]:
        """(node, container) of those that were put aside and are still stopped."""
        return [
            (name, one) for name, engine in self.fleet.engines.items() for one in engine._held.values() if is_kept(one)
        ]

    def of(self, user: str) -> list[tuple[str, FakeContainer]]:
        """The containers of one user."""
        return [(name, one) for name, one in self.ours() if one.spec.labels.get(LABEL_USER) == user]

    def asked(self, *operations: str) -> Counter[str]:
        """How often each node was called (by these operations; none: by any) since `forget_calls`."""
        return Counter(
            name
            for name, engine in self.fleet.engines.items()
            for operation, _ in engine.calls
            if not operations or operation in operations
        )

    def forget_calls(self) -> None:
        """Count calls from here on."""
        for engine in self.fleet.engines.values():
            engine.calls.clear()


def is_kept(one: FakeContainer) -> bool:
    """Whether a container was put aside, and stays so."""
    return one.spec.name.startswith(QUARANTINE_PREFIX) and one.state != "running"


def make_site(*names: str, state: Path | None = None, spec: WorkspaceSpec = SPEC, **of_nodes: Any) -> Site:
    """A site of the named nodes (n1, n2, n3), empty; `state` is its database (None: in memory). Other keywords are the
    nodes' own, or a dict of them by node."""
    names = names or ("n1", "n2", "n3")
    fleet, clock = FakeFleet(names), FakeClock()
    each = {name: of_nodes.pop(name, {}) for name in names}
    nodes = {name: node(name, **{"address": fleet[name].address, **of_nodes, **each[name]}) for name in names}
    if state is None:
        database, version = copy_of_empty_database(clock.now)
    else:
        database = open_sqlite(state, now=clock.now)
        version = migrations.ensure(database, "the state of a test", create=True)
    store = SqlStore(database, CLUSTER, version)
    leases = open_leases(None, cluster=CLUSTER, rows=lambda: lease_rows(store), holder="somebody@else:2")
    return Site(nodes, fleet, clock, store, leases, {"default": spec})


def copy_of_empty_database(now: Callable[[], datetime]) -> tuple[SqliteDatabase, int]:
    """A database in memory with its tables, and their version."""
    database = open_sqlite(None, now=now)
    _template().backup(database._connection)
    return database, migrations.KNOWN


@cache
def _template() -> sqlite3.Connection:
    """An empty database with its tables, to copy: making them anew takes longer than most tests."""
    database = open_sqlite(None)
    migrations.ensure(database, "the template", create=True)
    return database._connection


@dataclass
class Commands:
    """The verbs, as the command layer asks the workflow for them. `is_gone` says of a process that it is no more."""

    world: World
    is_gone: Callable[[str], bool] = lambda who: False

    def operation(self, verb: str, users: Sequence[str], decide: Callable[..., Decision], **more: Any) -> Operation:
        """An operation on users that `decide(user, spec, view)` decides about."""

        def spec(user: str, view: ClusterView) -> WorkspaceSpec:
            return self.world.classes["default"]

        return Operation(verb, tuple(users), lambda user, view: decide(user, spec(user, view), view), spec, **more)

    def place_operation(self, *users: str, strategy: Strategy = Strategy.SPREAD, **more: Any) -> Operation:
        """What `wsctl place` asks for."""
        return self.operation(
            "place", users, lambda user, spec, view: plan_place(user, spec, view, strategy), places=True, **more
        )

    def run(self, operation: Operation, **options: Any) -> list[Outcome]:
        """Through the pipeline."""
        return Workflow(self.world).run(operation, Options(**options))

    def place(self, *users: str, strategy: Strategy = Strategy.SPREAD, **options: Any) -> list[Outcome]:
        return self.run(self.place_operation(*users, strategy=strategy), **options)

    def start(self, *users: str, **options: Any) -> list[Outcome]:
        return self.run(self.operation("start", users, plan_start), **options)

    def stop(self, *users: str, **options: Any) -> list[Outcome]:
        return self.run(self.operation("stop", users, lambda user, spec, view: plan_stop(user, view)), **options)

    def restart(self, *users: str, recreate: bool = False, **options: Any) -> list[Outcome]:
        def decide(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
            return plan_restart(user, spec, view, recreate=recreate)

        return self.run(self.operation("restart", users, decide), **options)

    def rm(self, *users: str, purge: bool = False, **options: Any) -> list[Outcome]:
        def decide(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
            return plan_remove(user, spec, view, purge=purge)

        return self.run(self.operation("rm", users, decide), **options)

    def migrate(
        self, *users: str, to: str | None = None, strategy: Strategy = Strategy.SPREAD, **options: Any
    ) -> list[Outcome]:
        def decide(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
            return plan_migrate(user, spec, view, to, strategy)

        def undo(user: str, view: ClusterView) -> Decision:
            return plan_unmove(user, self.world.classes["default"], view)

        return self.run(self.operation("migrate-user", users, decide, places=True, undo=undo), **options)

    def drain(self, node: str, **options: Any) -> list[Outcome]:
        """`options` are `DrainOptions`'. Who is left there is a failed outcome."""
        rules = MoveRules("node drain", self._spec, Strategy.SPREAD)
        drained = Drainer(self.world, DrainOptions(node, rules, **options)).run()
        return [one.outcome or Outcome(one.errand.user, one.fate) for one in drained.moved]

    def _spec(self, user: str, view: ClusterView) -> WorkspaceSpec:
        return self.world.classes["default"]

    def reap(self, **options: Any) -> list[Outcome]:
        outcomes: list[Outcome] = []
        Reaper(self.world, ReapOptions(**options)).run(outcomes.append)
        return outcomes

    def reconcile(self, *users: str, adopt: str | None = None, **options: Any) -> list[Repair]:
        """`options` are the Reconciler's."""
        rules = Rules(
            adopt=adopt,
            named=bool(users),
            failover=(Strategy.SPREAD, FailoverRules(self.world.clock.now())),
        )
        run = Reconciler(self.world, rules=rules, users=users or None, is_gone=self.is_gone, **options)
        return run.repair(run.look())

    def sync(self, *users: str, **options: Any) -> list[Synced]:
        wanted = SyncOptions(Strategy.SPREAD, users or None, **options)
        return Keeper(self.world, wanted).run()

    def fail(self, node: str, **more: Any) -> list[Outcome]:
        rules = FailoverRules(self.world.clock.now(), **more)
        return fail_over(self.world, Failover(node, rules, Strategy.SPREAD))

    def readmit(self, node: str) -> list[Outcome]:
        return readmit(self.world, Readmission(node)).users

    def cordon(self, *nodes: str, **options: Any) -> list[Outcome]:
        def decide(name: str, view: ClusterView) -> Decision:
            return plan_mark(name, NodeState.CORDONED, "asked", view)

        return self.run(Operation("node cordon", nodes, decide, asks=False, lease="node"), **options)


# ------------------------------------------------------------------------------------------------------- the wire

WRITES = (
    "reserve", "claim", "settle", "release", "set_mark", "touch", "touch_at", "save_samples", "set_notes",
    "append_audit", "recount", "begin_request", "finish_request", "begin_move", "swap", "keep_copy", "forget_copy",
    "begin_standby", "finish_standby", "forget_standby", "take_over", "keep_left", "forget_left",
)  # fmt: skip
CALLS = (
    "facts", "containers", "container", "has_image", "pull", "create", "start", "stop", "pause", "unpause", "rename",
    "remove", "await_ready", "signs", "purge_data",
)  # fmt: skip
FILES = ("check", "prepare", "copy", "sync", "verify", "install", "discard", "disarm", "keep", "drop")
STANDBYS = ("begin", "bring", "complete", "promote", "drop", "keep_left")
EFFECTS = {
    "pull", "create", "start", "stop", "pause", "unpause", "rename", "remove", "purge_data", *WRITES, *FILES[1:],
    *STANDBYS,
}  # fmt: skip


class Fault(StrEnum):
    """What happens at one contact with the outside; the values are read in test ids."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    LOST_BEFORE = "request lost"
    LOST_AFTER = "reply lost"
    REFUSED = "refused"
    CTRL_C_BEFORE = "Ctrl-C before"
    CTRL_C_AFTER = "Ctrl-C after"

    @property
    def is_after(self) -> bool:
        """Whether the effect happens first."""
        return self in (Fault.KILLED_AFTER, Fault.LOST_AFTER, Fault.CTRL_C_AFTER)


class Killed(Exception):
    """The process is dead: none of its calls reaches anything any more, not even those that would tidy up."""


@dataclass
class Wire:
    """Between one process and the outside: `passed` are all contacts, `fault` strikes at the one with number `at`."""

    fault: Fault | None = None
    at: int = -1
    passed: list[str] = field(default_factory=list)
    struck: bool = False
    dead: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def carry(self, who: str, name: str, call: Callable[[], Any], *, counts: bool) -> Any:
        """Let one contact through, or not."""
        with self.lock:
            if self.dead:
                raise Killed
            if not counts:
                return call()
            number = len(self.passed)
            self.passed.append(f"{who}.{name}")
            if number != self.at or self.fault is None:
                return call()
            self.struck = True
            if self.fault.is_after:
                with suppress(WsctlError):
                    call()
            self._strike(who, name)
            return call()

    def _strike(self, who: str, name: str) -> None:
        if self.fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            self.dead = True
            raise Killed
        if self.fault in (Fault.CTRL_C_BEFORE, Fault.CTRL_C_AFTER):
            main = threading.main_thread()
            if threading.current_thread() is main:
                raise KeyboardInterrupt
            signal.pthread_kill(main.ident or 0, signal.SIGINT)
            raise NodeUnreachable(who, "interrupted")
        if who == "store":
            raise BackendError("the state database went away; outcome unknown")
        if who in ("files", "standbys"):
            raise FilesError("n1", f"{name}: no space left on device")
        if self.fault is Fault.REFUSED:
            raise EngineError(who, f"{name}: no space left on device")
        raise NodeUnreachable(who, "the connection broke in the middle of a request")


class Proxy:
    """Stands before an engine, the store or the lease rows; the methods named in `counted` are contacts."""

    def __init__(self, who: str, real: Any, wire: Wire, counted: Sequence[str]) -> None:
        self._who, self._real, self._wire, self._counted = who, real, wire, counted

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if not callable(value):
            return value
        if name == "close":
            # The others are the site's, and outlive a process.
            return value if self._who == "lease" else lambda: None

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wire.carry(self._who, name, lambda: value(*args, **kwargs), counts=name in self._counted)

        return call


# ------------------------------------------------------------------------------------------------------- the truth


def invariants(site: Site, *, purged: Sequence[str] = (), settled: bool = True) -> None:
    """What must hold whatever was cut off when. `purged` may have lost their files; `settled`: nothing is half-done
    either, as after a command that succeeded."""
    problems = broken(truth(site, may_purge=purged), settled=settled)
    site.files.check_truth({p.user: p for p in site.store.placements()})
    assert not problems, "; ".join(problems)


def truth(site: Site, **known: Any) -> Truth:
    """The site as it is; keywords replace or add fields."""
    placements, calls = site.store.placements(), [call for e in site.fleet.engines.values() for call in e.calls]
    addresses = {name: node.publish_address for name, node in site.nodes.items()}
    fields: dict[str, Any] = {
        "placements": placements,
        "usage": site.store.usage(),
        "containers": [(name, _inspected(one)) for name, one in site.ours()],
        "capacity": {name: node.capacity for name, node in site.nodes.items()},
        "files": {name: engine.data for name, engine in site.fleet.engines.items()},
        "purged": [about for call, about in calls if call == "purge_data"],
        "homes": site.store.homes(),
        "moves": list(site.store.moves().values()),
        "leases": site.leases.ls(),
        "route_map": render_map(routes_of(placements, addresses), site.store.route_generation()),
        "audit": site.store.audit(),
        "audit_problems": site.store.audit_problems(),
    }
    return Truth(**{**fields, **known})


def ending(site: Site) -> dict[str, object]:
    """Where a site ended, without what may differ after a detour: nodes, ports and generations."""
    users = {p.user: p.state.value for p in site.store.placements()}
    return {
        "users": users,
        "running": sorted(one.spec.name for _, one in site.ours() if one.state == "running"),
        "there": sorted(one.spec.name for _, one in site.ours()),
        "files": sorted(set[str]().union(*(engine.data for engine in site.fleet.engines.values()))),
        "homes": sorted(set(site.store.homes()) - set(users)),
        "marks": {name: mark.state.value for name, mark in site.store.marks().items()},
    }
