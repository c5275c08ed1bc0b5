"""Wiring: nothing is opened before it is asked for, and everything that was is closed, the last first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.builders import IMAGE
from tests.fakes import FakeClock
from wsctl.context import App, SystemClock, Wiring
from wsctl.errors import BackendError, InventoryError
from wsctl.model import Node
from wsctl.output import Output

TEXT = f"version: 1\ncluster: studio\nworkspace: {{image: {IMAGE}}}\nnodes: {{n1: {{address: 10.0.0.1}}}}\n"


class Fleet:
    """Connections that only remember what happened to them."""

    def __init__(self, nodes: Mapping[str, Node], cluster: str) -> None:
        self.nodes, self.cluster, self.closed = nodes, cluster, 0

    def engine(self, name: str) -> Any:
        raise AssertionError("nobody asked for an engine")

    files = None
    commands = None
    inside = None

    def warm(self, names: Iterable[str]) -> None: ...

    def scan_host_key(self, name: str) -> Any: ...

    def trust(self, name: str, key: object) -> None: ...

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WSCTL_INVENTORY", "WSCTL_STATE_PASSWORD", "WSCTL_REDIS_PASSWORD", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "inventory.yaml"
    path.write_text(TEXT)
    return path


def app(path: Path | None, **wiring: Any) -> App:
    return App(Output(), path, Wiring(**wiring))


def test_nothing_is_opened_before_it_is_asked_for(inventory: Path) -> None:
    made: list[Fleet] = []

    def fleet(nodes: Mapping[str, Node], cluster: str) -> Fleet:
        made.append(Fleet(nodes, cluster))
        return made[-1]

    one = app(inventory, fleet=fleet)
    assert one.inventory.cluster == "studio"
    assert not made
    assert not (inventory.parent / "wsctl.db").exists()
    assert one.fleet is one.fleet
    assert one.store is one.store
    assert one.leases is one.leases
    assert (list(made[0].nodes), made[0].cluster) == (["n1"], "studio")
    one.close()
    assert made[0].closed == 1
    one.close()
    assert made[0].closed == 1


def test_closing_nothing_is_fine(inventory: Path) -> None:
    app(inventory).close()
    app(None).close()


def test_what_was_opened_is_closed_whatever_happens(inventory: Path) -> None:
    one = app(inventory, fleet=Fleet)
    world = one.world()
    held = world.leases.acquire(["user:alice"], command="test")
    assert [lease.name for lease in world.leases.ls()] == ["user:alice"]
    fleet: Any = one.fleet
    one.close()
    assert fleet.closed == 1
    held.release()
    with pytest.raises(BackendError):
        one.store.placements()
    other = app(inventory)
    assert other.leases.ls() == [], "leases are given back before the database is closed"
    other.close()


def test_a_rehearsal_reads_without_making_a_file(inventory: Path) -> None:
    one = app(inventory, fleet=Fleet)
    world = one.world(dry_run=True, parallel=3, wait_s=1.5)
    assert world.store.placements() == []
    assert (world.parallel, world.lease_wait_s) == (3, 1.5)
    assert world.actor == one.actor
    one.close()
    assert os.listdir(inventory.parent) == ["inventory.yaml"]


def test_the_clock_of_the_wiring_is_the_databases(inventory: Path) -> None:
    clock = FakeClock()
    one = app(inventory, clock=clock)
    one.store.touch(["alice"], clock.now(), "touch")
    from wsctl.model import NodeState

    one.store.set_mark("n1", NodeState.CORDONED, "", "me")
    assert one.store.marks()["n1"].changed_at == clock.now()
    one.close()


def test_who_is_user_host_and_process(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = app(inventory).who
    assert who.endswith(f":{os.getpid()}")
    assert "@" in who
    monkeypatch.setenv("SUDO_USER", "carol")
    assert app(inventory).who.startswith("carol@")


def test_who_without_a_name_is_a_number(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert app(inventory).who.startswith(f"{os.getuid()}@")


@pytest.mark.parametrize(
    ("variable", "key", "read"),
    [
        ("WSCTL_STATE_PASSWORD", "state_password_file", lambda one: one.state_password),
        ("WSCTL_REDIS_PASSWORD", "coordination_password_file", lambda one: one.coordination_password),
    ],
)
def test_secrets_come_from_the_environment_or_a_file(
    inventory: Path, monkeypatch: pytest.MonkeyPatch, variable: str, key: str, read: Any
) -> None:
    assert read(app(inventory)) is None
    extra = "coordination: redis://127.0.0.1:1\n" if "coordination" in key else ""
    inventory.write_text(f"{key}: secret\n{extra}{TEXT}")
    with pytest.raises(InventoryError, match="cannot read") as caught:
        read(app(inventory))
    assert variable in str(caught.value.hint)
    (inventory.parent / "secret").write_text("  p4ss wörd \n")
    (inventory.parent / "secret").chmod(0o600)
    assert read(app(inventory)) == "p4ss wörd"
    monkeypatch.setenv(variable, "from the environment")
    assert read(app(inventory)) == "from the environment"
    monkeypatch.setenv(variable, "")
    assert read(app(inventory)) == ""


def test_the_inventory_is_found_where_i_am(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inventory.parent)
    assert app(None).inventory_file == inventory
    assert app(Path("other.yaml")).inventory_file == inventory.parent / "other.yaml"


def test_warnings_of_the_inventory_are_told_once_to_who_wants_detail(
    inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app(inventory).inventory.warnings
    assert capsys.readouterr().err == ""
    one = App(Output(verbosity=1), inventory, Wiring())
    assert len(one.inventory.warnings) > 0
    assert one.inventory is one.inventory
    assert capsys.readouterr().err.count("warning:") == len(one.inventory.warnings)


def test_the_real_clock_and_the_real_fleet_are_the_default(inventory: Path) -> None:
    one = app(inventory)
    assert isinstance(one.wiring.clock, SystemClock)
    assert one.wiring.clock.now().tzinfo is not None
    one.wiring.clock.sleep(0)
    assert type(one.fleet).__name__ == "Connections"
    one.close()
