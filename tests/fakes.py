"""Doubles with honest semantics: an engine in memory, a fleet of them, and a clock that only moves when told.

`FakeEngine` passes the same contract tests as the real engine (tests/contract/test_engine_contract.py), so what is
tested against it holds. Faults are scripted:

    engine.fail("start", EngineError("n1", "no"), times=1)     refuse: nothing happens
    engine.lose_reply("create")                                the effect happens, then NodeUnreachable
    engine.freeze() / engine.thaw()                            every call is NodeUnreachable, nothing happens
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from wsctl.errors import EngineError, ImageMissing, NameTaken, NodeUnreachable, NotReady, PortTaken
from wsctl.model import (
    LABEL_CLUSTER,
    LABEL_GENERATION,
    LABEL_SPEC,
    LABEL_USER,
    Container,
    EngineFacts,
    ReadyProbe,
    is_user_id,
)
from wsctl.ports import ContainerSpec
from wsctl.signals import ContainerSigns

T = TypeVar("T")

PROBE_BYTES = 700
"""What a container sends for the ready probe."""


class FakeClock:
    """A clock that stands still between `advance` and `sleep`; `slept` keeps what was slept, in seconds."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass
class FakeContainer:
    """A container in memory. `tx` is None for one without a network."""

    id: str
    spec: ContainerSpec
    state: str = "created"
    tx: int | None = 0
    output: str = ""
    ready: bool = True
    cpu_ns: int | None = 0
    execs: int = 0


@dataclass
class _Fault:
    error: Exception
    times: int
    after: bool


@dataclass
class FakeEngine:
    """An engine in memory. `images` are present, `registry` can be pulled; `busy_ports` are used by something else on
    the node; `data` are the users' folders that exist; `calls` records every call as (operation, first argument)."""

    name: str = "n1"
    address: str = "10.0.0.1"
    images: set[str] = field(default_factory=lambda: {"studio/workspace:1"})
    registry: set[str] = field(default_factory=set)
    busy_ports: set[int] = field(default_factory=set)
    data: set[str] = field(default_factory=set)
    version: str = "20.10.24"
    api_version: str = "1.41"
    ncpu: int = 4
    memory_bytes: int = 8 * 1024**3
    system_time: datetime | None = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.frozen = False
        self._held: dict[str, FakeContainer] = {}
        self._ids = (f"{number:08x}".ljust(64, "0") for number in itertools.count(0xC0FFEE))
        self._faults: dict[str, list[_Fault]] = defaultdict(list)
        self._lock = threading.RLock()

    # -- the script -------------------------------------------------------------------------------------------------

    def fail(self, operation: str, error: Exception, times: int = 1) -> None:
        """Let the next `times` calls of `operation` raise `error` and do nothing."""
        self._faults[operation].append(_Fault(error, times, after=False))

    def lose_reply(self, operation: str, times: int = 1) -> None:
        """Let the next `times` calls of `operation` do their work and then raise `NodeUnreachable`."""
        lost = NodeUnreachable(self.name, "the connection broke in the middle of a request")
        self._faults[operation].append(_Fault(lost, times, after=True))

    def freeze(self) -> None:
        """Answer nothing until `thaw`."""
        self.frozen = True

    def thaw(self) -> None:
        """Answer again."""
        self.frozen = False

    def held(self, name_or_id: str) -> FakeContainer:
        """The container itself, to change what only its own program could change."""
        found = self._find(name_or_id)
        assert found is not None, name_or_id
        return found

    def exit(self, name_or_id: str) -> None:
        """End the container's program."""
        self.held(name_or_id).state = "exited"

    def power_cycle(self) -> None:
        """The node was switched off and on: everything that ran has exited."""
        for one in self._held.values():
            if one.state == "running":
                one.state = "exited"

    def effects(self) -> list[tuple[str, str]]:
        """The calls that change something."""
        changing = {"pull", "create", "start", "stop", "pause", "unpause", "rename", "remove", "purge_data"}
        return [call for call in self.calls if call[0] in changing]

    def add(
        self,
        name: str,
        *,
        state: str = "running",
        host_port: int | None = None,
        folder: str = "/",
        mount: str = "/",
        address: str | None = None,
        **labels: str,
    ) -> FakeContainer:
        """Put a foreign or half-made container there without going through the port. Labels: user, cluster, …"""
        keys = {"cluster": LABEL_CLUSTER, "user": LABEL_USER, "generation": LABEL_GENERATION, "spec": LABEL_SPEC}
        one = FakeContainer(
            id=next(self._ids),
            spec=replace(
                _foreign(name, address or self.address, host_port, {keys[k]: v for k, v in labels.items()}),
                source=folder,
                mount=mount,
            ),
            state=state,
        )
        self._held[name] = one
        return one

    # -- ports.Engine -----------------------------------------------------------------------------------------------

    def facts(self) -> EngineFacts:
        return self._do("facts", "", self._facts)

    def _facts(self) -> EngineFacts:
        running = sum(1 for one in self._held.values() if one.state == "running")
        return EngineFacts(self.version, self.api_version, self.ncpu, self.memory_bytes, running, self.system_time)

    def containers(self) -> list[Container]:
        return self._do("containers", "", lambda: [_listed(one) for one in self._held.values()])

    def container(self, name_or_id: str) -> Container | None:
        def find() -> Container | None:
            one = self._find(name_or_id)
            return None if one is None else _inspected(one)

        return self._do("container", name_or_id, find)

    def has_image(self, image: str) -> bool:
        return self._do("has_image", image, lambda: image in self.images)

    def pull(self, image: str) -> None:
        def pull() -> None:
            if image not in self.registry:
                raise ImageMissing(self.name, f"can't pull {image}: manifest unknown")
            self.images.add(image)

        self._do("pull", image, pull)

    def create(self, spec: ContainerSpec) -> str:
        def create() -> str:
            if spec.image not in self.images:
                raise ImageMissing(self.name, f"No such image: {spec.image}", details={"status": 404})
            if spec.name in self._held:
                said = f'Conflict. The container name "/{spec.name}" is already in use by container'
                raise NameTaken(self.name, said, details={"status": 409})
            one = FakeContainer(id=next(self._ids), spec=spec)
            self._held[spec.name] = one
            # The engine makes the folder that is to be mounted.
            self.data.add(spec.source.rsplit("/", 1)[-1])
            return one.id

        return self._do("create", spec.name, create)

    def start(self, name_or_id: str) -> None:
        def start() -> None:
            one = self._existing(name_or_id)
            if one.state == "running":
                return
            if self._port_in_use(one.spec.host_port):
                said = f"Bind for {one.spec.address}:{one.spec.host_port} failed: port is already allocated"
                raise PortTaken(self.name, said, details={"status": 500})
            one.state = "running"
            one.tx = one.cpu_ns = one.execs = 0
            if one.spec.source != "/":
                # A folder that is to be mounted and has gone since is made again.
                self.data.add(one.spec.source.rsplit("/", 1)[-1])

        self._do("start", name_or_id, start)

    def stop(self, name_or_id: str, grace_s: float = 10.0) -> None:
        def stop() -> None:
            one = self._find(name_or_id)
            if one is not None and one.state in ("running", "paused"):
                one.state = "exited"

        self._do("stop", name_or_id, stop)

    def pause(self, name_or_id: str) -> None:
        def pause() -> None:
            one = self._existing(name_or_id)
            if one.state not in ("running", "paused"):
                raise EngineError(self.name, f"Container {name_or_id} is not running", details={"status": 409})
            one.state = "paused"

        self._do("pause", name_or_id, pause)

    def unpause(self, name_or_id: str) -> None:
        def unpause() -> None:
            one = self._find(name_or_id)
            if one is not None and one.state == "paused":
                one.state = "running"

        self._do("unpause", name_or_id, unpause)

    def rename(self, name_or_id: str, name: str) -> None:
        def rename() -> None:
            one = self._existing(name_or_id)
            if one.spec.name == name:
                return
            if name in self._held:
                said = f'Conflict. The container name "/{name}" is already in use by container'
                raise NameTaken(self.name, said, details={"status": 409})
            del self._held[one.spec.name]
            one.spec = replace(one.spec, name=name)
            self._held[name] = one

        self._do("rename", name_or_id, rename)

    def remove(self, name_or_id: str) -> None:
        def remove() -> None:
            one = self._find(name_or_id)
            if one is not None:
                del self._held[one.spec.name]

        self._do("remove", name_or_id, remove)

    def await_ready(self, name_or_id: str, address: str, port: int, probe: ReadyProbe) -> int:
        def wait() -> int:
            one = self._find(name_or_id)
            if one is None or one.state != "running":
                said = f"{name_or_id} isn't ready: the container ended"
                raise NotReady(self.name, said, details={"tail": one.output if one else ""})
            if not one.ready or one.spec.host_port != port:
                said = f"{name_or_id} isn't ready: not within {probe.timeout_s:g} s: nobody accepts the connection"
                raise NotReady(self.name, said, details={"tail": one.output})
            if one.tx is not None:
                one.tx += PROBE_BYTES
            return PROBE_BYTES

        return self._do("await_ready", name_or_id, wait)

    def signs(self, name_or_id: str) -> ContainerSigns | None:
        def seen() -> ContainerSigns | None:
            one = self._find(name_or_id)
            running = one is not None and one.state == "running"
            return ContainerSigns(one.tx, one.cpu_ns, one.execs) if one is not None and running else None

        return self._do("signs", name_or_id, seen)

    def tail(self, name_or_id: str, lines: int = 10) -> str:
        def tail() -> str:
            one = self._find(name_or_id)
            return "" if one is None else "".join(one.output.splitlines(keepends=True)[-lines:])

        return self._do("tail", name_or_id, tail)

    def purge_data(self, host_root: str, user: str, image: str) -> None:
        if not is_user_id(user):
            raise ValueError(f"not a user id: {user!r}")

        def purge() -> None:
            if image not in self.images:
                raise ImageMissing(self.name, f"No such image: {image}", details={"status": 404})
            self.data.discard(user)

        self._do("purge_data", user, purge)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _do(self, operation: str, about: str, effect: Callable[[], T]) -> T:
        with self._lock:
            self.calls.append((operation, about))
            if self.frozen:
                raise NodeUnreachable(self.name, "no answer from the engine within 15 s")
            fault = self._next_fault(operation)
            if fault is not None and not fault.after:
                raise fault.error
            result = effect()
            if fault is not None:
                raise fault.error
            return result

    def _next_fault(self, operation: str) -> _Fault | None:
        script = self._faults[operation]
        if not script:
            return None
        fault = script[0]
        fault.times -= 1
        if fault.times <= 0:
            script.pop(0)
        return fault

    def _find(self, name_or_id: str) -> FakeContainer | None:
        if name_or_id in self._held:
            return self._held[name_or_id]
        return next((one for one in self._held.values() if one.id == name_or_id), None)

    def _existing(self, name_or_id: str) -> FakeContainer:
        one = self._find(name_or_id)
        if one is None:
            raise EngineError(self.name, f"No such container: {name_or_id}", details={"status": 404})
        return one

    def _port_in_use(self, port: int) -> bool:
        if port in self.busy_ports:
            return True
        return any(one.state in ("running", "paused") and one.spec.host_port == port for one in self._held.values())


def _foreign(name: str, address: str, port: int | None, labels: dict[str, str]) -> ContainerSpec:
    from wsctl.model import Resources

    return ContainerSpec(name, "other", None, {}, labels, "/", "/", 80, address, port or 0, Resources(0, 0, 0))


def _inspected(one: FakeContainer) -> Container:
    labels = one.spec.labels
    generation = labels.get(LABEL_GENERATION, "")
    user = labels.get(LABEL_USER)
    return Container(
        id=one.id,
        name=one.spec.name,
        state=one.state,
        cluster=labels.get(LABEL_CLUSTER) or None,
        user=user if user and is_user_id(user) else None,
        generation=int(generation) if generation.isascii() and generation.isdecimal() else None,
        spec=labels.get(LABEL_SPEC) or None,
        address=one.spec.address if one.spec.host_port else None,
        host_port=one.spec.host_port or None,
        image=one.spec.image,
        binds={one.spec.mount: one.spec.source},
    )


def _listed(one: FakeContainer) -> Container:
    """As the engine's list has it: the ports of one that doesn't run aren't there."""
    found = _inspected(one)
    return found if one.state in ("running", "paused") else replace(found, address=None, host_port=None)


GOOD_MACHINE = """\
==root there
==disk /dev/vda1 100000000 40000000 60000000 40% /srv
==inodes /dev/vda1 6000000 600000 5400000 10% /srv
==rsync rsync  version 3.2.7  protocol version 31
==getfattr /usr/bin/getfattr
==sshd maxsessions 10
==sshd maxstartups 10:30:100
==asked
==end
"""


@dataclass
class FakeCommands:
    """A node's shell that says the same to everything; `error`: it can't be reached."""

    said: str = GOOD_MACHINE
    code: int = 0
    error: Exception | None = None

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        if self.error is not None:
            raise self.error
        return self.code, self.said


class FakeFleet:
    """Engines by name, usable as an `EngineFactory`. `unreachable` names those that can't be connected to."""

    def __init__(self, names: Iterable[str], **defaults: Any) -> None:
        self.engines = {
            name: FakeEngine(name=name, address=f"10.0.0.{number}", **_copies(defaults))
            for number, name in enumerate(names, start=1)
        }
        self.unreachable: dict[str, Exception] = {}

    def __call__(self, name: str) -> FakeEngine:
        if name in self.unreachable:
            raise self.unreachable[name]
        return self.engines[name]

    def __getitem__(self, name: str) -> FakeEngine:
        return self.engines[name]

    def cut(self, name: str) -> None:
        """Make the node unreachable, as with the network cut."""
        self.unreachable[name] = NodeUnreachable(name, "no route to the host", hint=f"wsctl node check {name}")

    def heal(self, name: str) -> None:
        """Make it reachable again."""
        self.unreachable.pop(name, None)


def _copies(defaults: dict[str, Any]) -> dict[str, Any]:
    """Sets are copied, so that engines don't share one."""
    return {key: set(value) if isinstance(value, set) else value for key, value in defaults.items()}
