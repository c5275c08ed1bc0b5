"""`wsctl render-gateway`: where the map goes, when it is written, what is never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.rights import as_nobody
from wsctl.routes import is_intact, parse_header


@pytest.fixture
def team(desk: Desk) -> Desk:
    desk.ok("place", "alice", "bob")
    return desk


def nginx(desk: Desk, script: str) -> None:
    """Put a script in nginx's place."""
    folder = desk.folder.parent / "bin"
    folder.mkdir()
    (folder / "nginx").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nginx").chmod(0o755)
    desk.patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_map_goes_to_stdout_whole_and_the_same_each_time(team: Desk) -> None:
    text = team.ok("render-gateway").out
    assert is_intact(text)
    header = parse_header(text)
    assert header is not None
    assert header.count == 2
    assert '    "u:alice" 10.0.0.' in text
    assert team.ok("render-gateway", "--out", "-").out == text
    assert team.ok("render-gateway", "-o", "json").out == text, "a text of its own in every format"


def test_only_the_running_are_routed_and_nodes_are_not_asked(team: Desk) -> None:
    team.ok("stop", "bob")
    for name in ("n1", "n2", "n3"):
        team.fleet.cut(name)
    opened = team.reached.opened
    text = team.ok("render-gateway").out
    assert "u:alice" in text, "unreachable is not gone"
    assert "u:bob" not in text
    assert team.reached.opened == opened


def test_an_empty_cluster_has_an_empty_map_and_makes_no_file(desk: Desk) -> None:
    header = parse_header(desk.ok("render-gateway").out)
    assert header is not None
    assert header.count == 0
    assert not desk.state.exists()


def test_the_map_is_written_once(team: Desk) -> None:
    first = team.ok("render-gateway", "--out", "map.conf", "-o", "json").json
    assert first == {
        "schema_version": 1,
        "file": "map.conf",
        "routes": 2,
        "generation": first["generation"],
        "checked": False,
        "action": "written",
    }
    path = team.folder / "map.conf"
    inode = path.stat().st_ino
    assert path.read_text() == team.ok("render-gateway").out
    assert team.ok("render-gateway", "--out", "map.conf", "-o", "json").json["action"] == "unchanged"
    assert path.stat().st_ino == inode
    team.ok("stop", "bob")
    again = team.ok("render-gateway", "--out", "map.conf", "-o", "json").json
    assert (again["action"], again["routes"]) == ("written", 1)
    assert again["generation"] > first["generation"]


def test_a_rehearsal_writes_nothing(team: Desk) -> None:
    result = team.ok("render-gateway", "--out", "map.conf", "-n", "-o", "json")
    assert result.json["action"] == "would-write"
    assert not (team.folder / "map.conf").exists()
    team.ok("render-gateway", "--out", "map.conf")
    assert team.ok("render-gateway", "--out", "map.conf", "-n", "-o", "json").json["action"] == "unchanged"


def test_the_snippet_needs_no_state(desk: Desk) -> None:
    desk.inventory(INVENTORY + "gateway: {path_prefix: /w/, auth_request: /auth}\n")
    text = desk.ok("render-gateway", "--snippet").out
    assert "location ^~ /w/ {" in text
    assert "auth_request /auth;" in text
    assert desk.ok("render-gateway", "--snippet", "--out", "s.conf", "-o", "json").json["action"] == "written"
    assert (desk.folder / "s.conf").read_text() == text
    assert not desk.state.exists()


def test_a_folder_is_not_a_file(team: Desk) -> None:
    result = team("render-gateway", "--out", ".")
    assert (result.code, result.out) == (2, "")
    assert "is a folder" in result.err
    assert "wsctl-map.conf" in result.err


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["", "dry run"])
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["not writable", "not even visible"])
def test_a_folder_that_cannot_be_used_is_5(team: Desk, mode: int, more: list[str]) -> None:
    text = team.ok("render-gateway").out
    with as_nobody() as folder:
        inventory = folder / "inventory.yaml"
        inventory.write_text(INVENTORY)
        closed = folder / "closed"
        closed.mkdir(mode=mode)
        result = team("render-gateway", "-i", str(inventory), "--out", str(closed / "map.conf"), *more)
        closed.chmod(0o755)
        assert not os.listdir(closed)
    assert text
    if more and mode == 0o555:
        assert result.code in (0, 5)
    else:
        assert result.code == 5, result
        assert "closed" in result.err


def test_a_folder_that_is_not_there_is_5(team: Desk) -> None:
    result = team("render-gateway", "--out", "nowhere/map.conf")
    assert (result.code, result.out) == (5, "")
    assert "cannot write nowhere/map.conf" in result.err


def test_a_checked_map_is_written_only_if_nginx_agrees(team: Desk) -> None:
    nginx(team, 'grep -q alice "$4/map.conf" && grep -q "location" "$4/snippet.conf"')
    assert team.ok("render-gateway", "--check", "-o", "json").json["action"] == "checked"
    found = team.ok("render-gateway", "--check", "--out", "map.conf", "-o", "json").json
    assert (found["checked"], found["action"]) == (True, "written")
    before = (team.folder / "map.conf").read_text()
    (team.folder.parent / "bin" / "nginx").write_text("#!/bin/sh\necho 'nginx: [emerg] no \x1b[31mway' >&2; exit 1\n")
    team.ok("stop", "bob")
    result = team("render-gateway", "--check", "--out", "map.conf", "-o", "json")
    assert (result.code, result.out, result.error["code"]) == (5, "", "map-refused")
    assert "\x1b" not in result.err
    assert (team.folder / "map.conf").read_text() == before


def test_a_placement_that_must_not_reach_nginx_stops_the_render(team: Desk) -> None:
    """Somebody wrote into the database by hand: the map is refused whole, the file stays as it was."""
    team.ok("render-gateway", "--out", "map.conf")
    before = (team.folder / "map.conf").read_text()
    team.sql("UPDATE placements SET user = ? WHERE user = 'alice'", 'x" 1.2.3.4; } http { #')
    result = team("render-gateway", "--out", "map.conf")
    assert (result.code, result.out) == (10, "")
    assert "must not reach Nginx" in result.err
    assert (team.folder / "map.conf").read_text() == before


def test_a_node_that_moved_is_routed_to_its_present_address(team: Desk) -> None:
    home = team.home("alice")
    team.inventory(INVENTORY.replace(f"{{address: 10.0.0.{home[1]}", f"{{address: 10.9.9.{home[1]}"))
    assert f'"u:alice" 10.9.9.{home[1]}:20000;' in team.ok("render-gateway").out


def test_a_link_is_replaced_by_a_file_not_followed_half_way(team: Desk, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("somebody else's")
    (team.folder / "map.conf").symlink_to(target)
    team.ok("render-gateway", "--out", "map.conf")
    assert (team.folder / "map.conf").read_text().startswith("# Generated")
