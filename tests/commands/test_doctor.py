"""`wsctl doctor`: the control side, one line a check."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import INVENTORY, Desk
from wsctl.doctor import ROOM_BYTES, check_disk, check_nginx
from wsctl.findings import CheckStatus
from wsctl.inventory import load


@pytest.fixture
def keyed(alice: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Alice's cluster, with a key to log in with."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = alice.folder / "key"
    key.write_text("a key")
    key.chmod(0o600)
    alice.inventory(INVENTORY.replace("config: false", f"config: false, identity_file: {key}"))
    return alice


def found(desk: Desk, code: int = 0) -> dict[str, dict[str, Any]]:
    result = desk("doctor", "-o", "json")
    assert result.code == code, result
    return {item["check"]: item for item in result.items}


def test_all_is_well(keyed: Desk) -> None:
    items = found(keyed)
    assert list(items) == ["inventory", "state", "write", "time", "coordination", "watch", "nginx", "ssh", "disk"]
    for item in items.values():
        assert set(item) == {"check", "status", "detail", "fix"}
        assert item["status"] == "OK", item
    assert items["state"]["detail"].endswith("1 placements")
    assert items["coordination"]["detail"] == "in the state database, 0 leases are held"
    assert keyed.sql("SELECT COUNT(*) FROM notes") == [(0,)]


def test_a_broken_inventory_is_the_only_line_and_9(keyed: Desk) -> None:
    keyed.inventory("version: 2\n")
    items = found(keyed, 9)
    assert list(items) == ["inventory"]
    assert items["inventory"]["status"] == "FAIL"


def test_a_database_that_cannot_be_used(keyed: Desk) -> None:
    keyed.state.write_bytes(b"this is no database" * 100)
    items = found(keyed, 9)
    assert items["state"]["status"] == "FAIL"
    assert items["coordination"]["status"] == "FAIL"
    assert items["ssh"]["status"] == "OK", "the other checks go on"


def test_a_schema_that_is_too_old_names_the_upgrade(keyed: Desk) -> None:
    keyed.sql("DELETE FROM schema_migrations WHERE version = 16")
    keyed.sql("DROP TABLE notes")
    assert "db upgrade" in found(keyed, 9)["state"]["fix"]


def test_a_new_place_without_a_database_makes_none(keyed: Desk) -> None:
    keyed.state.unlink()
    assert "isn't there yet" in found(keyed)["state"]["detail"]
    assert not keyed.state.exists()


def test_a_key_that_is_absent_or_open(keyed: Desk) -> None:
    key = keyed.folder / "key"
    key.chmod(0o644)
    item = found(keyed)["ssh"]
    assert (item["status"], item["fix"]) == ("WARN", f"chmod 600 {key}")
    key.unlink()
    assert "No such file" in found(keyed, 9)["ssh"]["detail"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = tmp_path / "agent"
        listening.bind(str(path))
        yield path


def test_an_agent_or_a_usual_key_will_do(alice: Desk, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert found(alice, 9)["ssh"]["detail"] == "no agent and no key to log in with"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert found(alice)["ssh"]["detail"] == f"an agent at {agent}"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent) + ".gone")
    key = Path(os.environ["HOME"]) / ".ssh" / "id_ed25519"
    key.parent.mkdir(parents=True)
    key.write_text("a key")
    assert found(alice)["ssh"]["detail"] == f"{key} can be read, no agent"


def test_this_machine_alone_needs_no_key(alice: Desk) -> None:
    alice.inventory(INVENTORY.partition("nodes:")[0] + "nodes:\n  here: {address: local}\n")
    assert "not needed" in found(alice)["ssh"]["detail"]


@pytest.mark.parametrize(("free", "status"), [(0, "FAIL"), (1, "WARN"), (2, "OK")])
def test_room(tmp_path: Path, free: int, status: str) -> None:
    left = (ROOM_BYTES[0] - 1, ROOM_BYTES[1] - 1, ROOM_BYTES[1])[free]
    (check,) = check_disk([tmp_path, tmp_path], lambda path: left)
    assert check.status.value == status
    (gone,) = check_disk([tmp_path / "gone"])
    assert gone.status is CheckStatus.FAIL


def test_nginx_is_needed_where_the_gateway_is(desk: Desk) -> None:
    inventory = load(desk.inventory())
    assert check_nginx(inventory, lambda name: None).status is CheckStatus.OK
    local = load(desk.inventory(INVENTORY + "gateway: {hosts: {edge: {address: local}}}\n"))
    assert check_nginx(local, lambda name: None).status is CheckStatus.FAIL
    assert check_nginx(local, lambda name: "/usr/sbin/nginx").status is CheckStatus.OK
