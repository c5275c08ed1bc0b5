"""Commands as an operator types them: `main(argv)` with an inventory in a folder, fake nodes, our own streams."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import CLUSTER, IMAGE
from tests.builders import node as node_of
from tests.fakes import FakeClock, FakeCommands, FakeEngine, FakeFleet
from tests.filing import FakeFiles, FakeStandbys
from tests.gateways import FakeGateways
from tests.looking_in import FakeInside
from tests.vaults import FakeVault
from tests.watching import FakeProbes, Fleet
from wsctl.cli import main
from wsctl.context import SystemClock, Wiring
from wsctl.errors import NotFound
from wsctl.folders import Folders
from wsctl.model import Node
from wsctl.ports import Clock
from wsctl.snapshots import Repository
from wsctl.store import lease_rows, open_store
from wsctl.store.store import SqlStore
from wsctl.transport.folders import ShellFolders
from wsctl.transport.host_keys import HostKey, KeyStatus
from wsctl.transport.pipes import LocalLauncher

INVENTORY = f"""\
version: 1
cluster: {CLUSTER}
state: sqlite:///wsctl.db
defaults:
  ssh: {{config: false}}
  capacity: {{workspaces: 10, memory: 20g, cpus: 10}}
  ports: 20000-20099
workspace:
  image: {IMAGE}
  memory: 2g
  cpus: 1
  idle_after: 30m
  ready: {{http: /, timeout: 30s}}
nodes:
  n1: {{address: 10.0.0.1, labels: {{zone: a}}}}
  n2: {{address: 10.0.0.2}}
  n3: {{address: 10.0.0.3}}
"""

KEY = HostKey("10.0.0.1", "ssh-ed25519", b"a public key", KeyStatus.NEW, "/nowhere/known_hosts")


@dataclass
class Reached:
    """`context.Fleet` on fake engines; it outlives the commands that use it. `closed` counts how many did.
    The users' folders are real ones: `root/<node>/<user>`."""

    fleet: FakeFleet
    key: HostKey = KEY
    trusted: list[tuple[str, HostKey]] = field(default_factory=list)
    warmed: list[str] = field(default_factory=list)
    machines: dict[str, FakeCommands] = field(default_factory=dict)
    opened: int = 0
    closed: int = 0
    root: Path | None = None
    trees: FakeFiles = field(init=False)
    spares: FakeStandbys = field(init=False)
    vault: FakeVault | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trees = FakeFiles(self.fleet, FakeClock())
        self.spares = FakeStandbys(self.trees)

    def __call__(self, nodes: Mapping[str, Node], cluster: str) -> Reached:
        self.opened += 1
        self.nodes = nodes
        return self

    def folders(self, name: str) -> Folders:
        self.fleet(name)
        if self.root is None:
            raise AssertionError("this test has no folders")
        node = replace(node_of(name), host_root=str(self.root / name))
        return ShellFolders(node, LocalLauncher(name, 10.0))

    def repository(self, name: str, environment: Mapping[str, str]) -> Repository:
        if name not in self.nodes:
            raise NotFound(f"no node named {name!r} in the inventory")
        self.fleet(name)
        if self.vault is None or self.root is None:
            raise AssertionError("this test has no repository")
        return self.vault.at(name, self.root / name)

    def engine(self, name: str) -> FakeEngine:
        return self.fleet(name)

    @property
    def files(self) -> FakeFiles:
        return self.trees

    @property
    def standbys(self) -> FakeStandbys:
        return self.spares

    def inside(self, name: str) -> FakeInside:
        return FakeInside(self.fleet(name))

    def warm(self, names: Iterable[str]) -> None:
        self.warmed += names

    def commands(self, name: str) -> FakeCommands:
        return self.machines.get(name, FakeCommands())

    def scan_host_key(self, name: str) -> HostKey:
        self.fleet(name)
        return self.key

    def trust(self, name: str, key: HostKey) -> None:
        self.trusted.append((name, key))

    def close(self) -> None:
        self.closed += 1


class Stream(io.TextIOWrapper):
    """A stream in memory that may claim to be a terminal."""

    def __init__(self, data: bytes = b"", *, tty: bool = False, thinking: Callable[[], object] = lambda: None) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", write_through=True)
        self._is_tty, self._thinking = tty, thinking

    def readline(self, size: int = -1, /) -> str:
        self._thinking()
        return super().readline(size)

    def isatty(self) -> bool:
        return self._is_tty

    def written(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        found = json.loads(self.out)
        assert found["schema_version"] == 1
        return found

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of a list."""
        found = self.json
        assert set(found) == {"schema_version", "items"}
        items: list[dict[str, Any]] = found["items"]
        return items

    @property
    def error(self) -> dict[str, Any]:
        """The error object on stderr."""
        found = json.loads(self.err.splitlines()[-1])
        assert set(found) == {"schema_version", "error"}
        assert found["schema_version"] == 1
        error: dict[str, Any] = found["error"]
        assert set(error) == {"code", "message", "hint", "details"}
        return error

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of stdout."""
        return [line.split() for line in self.out.splitlines()]


@dataclass
class Desk:
    """An operator's place: a folder with an inventory, and a fleet of fake nodes."""

    folder: Path
    fleet: FakeFleet
    reached: Reached
    clock: FakeClock | SystemClock
    patch: pytest.MonkeyPatch
    edges: FakeGateways = field(default_factory=FakeGateways)
    watched: Fleet = field(default_factory=lambda: Fleet(("n1", "n2", "n3")))

    def __call__(
        self,
        *argv: str,
        stdin: str | bytes = b"",
        tty: bool = False,
        thinking: Callable[[], object] = lambda: None,
    ) -> Result:
        """Run one command; `tty`: stdin and stderr are terminals. `thinking` goes on before a question is answered."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        streams = Stream(), Stream(tty=tty), Stream(data, tty=tty, thinking=thinking)
        with self.patch.context() as patch:
            for name, stream in zip(("stdout", "stderr", "stdin"), streams, strict=True):
                patch.setattr(sys, name, stream)
            clock: Clock = self.clock
            probes = FakeProbes(self.watched, "here")
            wiring = Wiring(fleet=self.reached, gateways=self.edges, probes=lambda nodes: probes, clock=clock)
            code = main(list(argv), wiring)
        result = Result(code, streams[0].written(), streams[1].written())
        assert "Traceback" not in result.err
        assert self.reached.opened == self.reached.closed, "what was opened was closed"
        return result

    def ok(self, *argv: str, **more: Any) -> Result:
        """A command that succeeds without a word on stderr."""
        result = self(*argv, **more)
        assert (result.code, result.err) == (0, ""), result
        return result

    def inventory(self, text: str = INVENTORY, name: str = "inventory.yaml") -> Path:
        """Replace the inventory."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def state(self) -> Path:
        """The state database's file."""
        return self.folder / "wsctl.db"

    def store(self) -> SqlStore:
        """The state, from outside. Close it."""
        return open_store("sqlite:///wsctl.db", cluster=CLUSTER, base=self.folder, clock=self.clock)

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Look or meddle behind wsctl's back."""
        import sqlite3

        connection = sqlite3.connect(self.state)
        try:
            rows = connection.execute(statement, parameters).fetchall()
            connection.commit()
            return rows
        finally:
            connection.close()

    def hold(self, *names: str, command: str = "migrate-user", holder: str = "eve@other:7") -> Sequence[Any]:
        """Let somebody else hold leases for the next half minute (of the fake clock)."""
        store = self.store()
        rows = lease_rows(store)
        found = rows.take(names, token="t0", holder=holder, command=command, ttl_s=30.0)
        rows.close()
        store.close()
        return found

    def effects(self) -> dict[str, list[tuple[str, str]]]:
        """What was changed on the nodes since `forget`."""
        return {name: engine.effects() for name, engine in self.fleet.engines.items() if engine.effects()}

    def forget(self) -> None:
        """Count effects from here on."""
        for engine in self.fleet.engines.values():
            engine.calls.clear()

    def home(self, user: str) -> str:
        """The node of a placed user."""
        ((node,),) = self.sql("SELECT node FROM placements WHERE user = ?", user)
        return str(node)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, if there is such a thing: the state database waits for its disk at each commit."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="wsctl-desk-") as name:
        yield Path(name) / "desk"


@pytest.fixture
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """An empty cluster of n1, n2 and n3, with the inventory in the current folder."""
    for name in (
        "WSCTL_INVENTORY",
        "WSCTL_STATE_PASSWORD",
        "WSCTL_REDIS_PASSWORD",
        "WSCTL_BACKUP_PASSWORD",
        "WSCTL_DEBUG",
        "SUDO_USER",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent / "home" / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    folder.mkdir()
    monkeypatch.chdir(folder)
    fleet = FakeFleet(["n1", "n2", "n3"])
    desk = Desk(folder, fleet, Reached(fleet, root=folder.parent / "nodes"), FakeClock(), monkeypatch)
    desk.inventory()
    return desk


@pytest.fixture
def alice(desk: Desk) -> Desk:
    """The same, with alice running."""
    desk.ok("place", "alice")
    desk.forget()
    return desk
