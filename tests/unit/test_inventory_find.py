"""Where the inventory is looked for."""

import os
from pathlib import Path

import pytest

from wsctl.errors import InventoryError
from wsctl.inventory import find


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """All the usual places, with a file in each."""
    found = {
        "cwd": tmp_path / "cwd" / "inventory.yaml",
        "xdg": tmp_path / "xdg" / "wsctl" / "inventory.yaml",
        "home": tmp_path / "home" / ".config" / "wsctl" / "inventory.yaml",
        "system": tmp_path / "etc" / "inventory.yaml",
    }
    for file in found.values():
        file.parent.mkdir(parents=True)
        file.write_text("x")
    return found


def look(tmp_path: Path, explicit: Path | None = None, **env: str) -> Path:
    return find(explicit, env, tmp_path / "cwd", system=tmp_path / "etc" / "inventory.yaml")


def test_the_order(tmp_path: Path, places: dict[str, Path]) -> None:
    env = {"WSCTL_INVENTORY": "/by/env.yaml", "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    assert look(tmp_path, Path("/by/option.yaml"), **env) == Path("/by/option.yaml")
    assert look(tmp_path, **env) == Path("/by/env.yaml")
    env["WSCTL_INVENTORY"] = ""
    assert look(tmp_path, **env) == places["cwd"]
    places["cwd"].unlink()
    assert look(tmp_path, **env) == places["xdg"]
    places["xdg"].unlink()
    assert look(tmp_path, **env) == places["system"]  # with XDG_CONFIG_HOME set, ~/.config isn't looked at
    del env["XDG_CONFIG_HOME"]
    assert look(tmp_path, **env) == places["home"]
    assert look(tmp_path, **{**env, "XDG_CONFIG_HOME": "relative"}) == places["home"]
    del env["HOME"]
    assert look(tmp_path, **env) == places["system"]


def test_named_files_are_relative_to_the_current_folder_and_may_be_missing(tmp_path: Path) -> None:
    assert look(tmp_path, Path("a.yaml")) == tmp_path / "cwd" / "a.yaml"
    assert look(tmp_path, WSCTL_INVENTORY="b.yaml") == tmp_path / "cwd" / "b.yaml"


def test_a_dangling_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    os.symlink("nowhere", tmp_path / "cwd" / "inventory.yaml")
    assert look(tmp_path) == tmp_path / "cwd" / "inventory.yaml"


def test_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as caught:
        look(tmp_path, HOME="/home/op")
    assert caught.value.message == (
        f"there is no inventory; looked for -i, WSCTL_INVENTORY, {tmp_path}/cwd/inventory.yaml,"
        f" /home/op/.config/wsctl/inventory.yaml, {tmp_path}/etc/inventory.yaml"
    )
    assert caught.value.hint == "`wsctl init` writes one to start from"
