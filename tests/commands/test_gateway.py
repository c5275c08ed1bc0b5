"""`wsctl render-gateway`: where the map goes, when it is written or put live, what is never overwritten."""

from __future__ import annotations

import gc
import os
import re
import socket
from pathlib import Path

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.gateways import KEY as GATEWAY_KEY
from tests.gateways import FakeGateway
from tests.rights import under_permissions
from wsctl.endpoint import RouteServer
from wsctl.errors import HostKeyError, NodeUnreachable
from wsctl.livemap import parse_routes
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
    assert '"u:bob" 1' not in text
    assert '"u:bob" stopped;' in text
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
    with under_permissions() as folder:
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


# ------------------------------------------------------------------------------------------- gateways that are asked

EDGES = INVENTORY + "gateway: {hosts: {east: {address: local}, west: {address: 10.0.0.9}}}\n"
EDGE = INVENTORY + "gateway: {auto_apply: AUTO, hosts: {east: {address: local}}}\n"


@pytest.fixture
def edge(desk: Desk) -> Desk:
    """alice and bob placed, and one gateway that has an empty map."""
    desk.inventory(EDGE.replace("AUTO", "false"))
    text = desk.ok("render-gateway").out
    desk.edges.made["east"] = FakeGateway(live=text, served=text)
    desk.ok("place", "alice", "bob")
    return desk


def test_an_apply_tells_what_it_did_with_each_gateway(edge: Desk) -> None:
    edge.inventory(EDGES)
    items = edge.ok("render-gateway", "--apply", "-o", "json").items
    assert [set(item) for item in items] == [
        {"gateway", "action", "generation", "routes", "reload_ms", "confirm_ms", "snippet_current", "error"}
    ] * 2
    assert [(item["gateway"], item["action"], item["routes"], item["error"]) for item in items] == [
        ("east", "applied", 2, None),
        ("west", "applied", 2, None),
    ]
    assert edge.edges.made["west"].live == edge.ok("render-gateway").out
    lines = edge.ok("render-gateway", "--apply").lines
    assert [line[:2] for line in lines[1:]] == [["east", "unchanged"], ["west", "unchanged"]]


def test_an_apply_with_a_request_id_is_done_once(edge: Desk) -> None:
    first = edge.ok("render-gateway", "--apply", "--request-id", "r-1", "-o", "json")
    assert first.items[0]["action"] == "applied"
    edge.ok("place", "carol")
    assert edge.ok("render-gateway", "--apply", "--request-id", "r-1", "-o", "json").json == first.json
    assert "carol" not in parse_routes(edge.edges.made["east"].live or ""), "the answer of then, and nothing done"
    assert edge("render-gateway", "--apply", "--force", "--request-id", "r-1").code == 5
    assert edge("render-gateway", "--request-id", "r-2").code == 2
    # What failed isn't an answer: the same request tries again.
    edge.edges.broken["east"] = NodeUnreachable("east", "no route to host")
    assert edge("render-gateway", "--apply", "--request-id", "r-3").code == 8
    del edge.edges.broken["east"]
    assert edge.ok("render-gateway", "--apply", "--request-id", "r-3", "-o", "json").items[0]["action"] == "applied"


def test_a_snippet_of_before_is_a_warning(edge: Desk) -> None:
    gateway = edge.edges.made["east"]
    done = edge.ok("render-gateway", "--apply", "-o", "json")
    assert (done.items[0]["snippet_current"], done.err) == (True, "")
    for snippet in (None, "0" * 12):
        gateway.snippet = snippet
        done = edge("render-gateway", "--apply")
        assert done.code == 0
        assert "warning: east: the snippet that Nginx includes isn't the one" in done.err
    edge.inventory(EDGE.replace("AUTO", "false").replace("hosts", "strip_prefix: false, hosts"))
    gateway.age_s = 3600.0
    assert edge("render-gateway", "--apply", "-o", "json").items[0]["snippet_current"] is False
    gateway.snippet = re.findall(r"\b[0-9a-f]{12}\b", edge.ok("render-gateway", "--snippet").out)[0]
    assert edge.ok("render-gateway", "--apply", "-o", "json").items[0]["snippet_current"] is True


def test_gateways_are_listed_with_what_they_serve(edge: Desk) -> None:
    edge.inventory(EDGES)
    edge.edges.broken["west"] = HostKeyError("west", "its host key isn't known", hint="wsctl gateway trust west")
    east, west = edge.ok("gateway", "ls", "-o", "json").items
    assert (east["state"], east["routes"], east["generation"], east["serves"]) == ("stale", 0, 0, 0)
    assert (west["state"], west["serves"]) == ("unknown", None)
    assert "wsctl gateway trust west" in west["reason"]
    del edge.edges.broken["west"]
    assert edge.ok("gateway", "ls", "-o", "json").items[1]["state"] == "none"
    edge.ok("render-gateway", "--apply")
    gateway = edge.edges.made["east"]

    def state() -> tuple[str, str | None]:
        item = edge.ok("gateway", "ls", "-o", "json").items[0]
        return item["state"], item["reason"]

    assert state() == ("current", None)
    gateway.snippet = None
    assert "the snippet that Nginx includes" in str(state()[1])
    gateway.served = None
    assert state() == ("not-loaded", "http://127.0.0.1/ws/.wsctl-status answers with HTTP status 404")
    gateway.live = f"{gateway.live}# mine\n"
    assert state()[0] == "edited"
    lines = edge.ok("gateway", "ls").lines
    assert lines[0][:3] == ["NAME", "ADDRESS", "STATE"]
    assert gateway.calls.count("reload") == 1, "looking changes nothing"


def test_a_gateways_host_key_is_trusted_like_a_nodes(edge: Desk) -> None:
    edge.inventory(EDGES)
    wrong = edge("gateway", "trust", "west", "--fingerprint", "SHA256:x")
    assert (wrong.code, edge.edges.trusted) == (5, [])
    assert edge("gateway", "trust", "nowhere", "--fingerprint", GATEWAY_KEY.fingerprint).code == 4
    done = edge.ok("gateway", "trust", "west", "--fingerprint", GATEWAY_KEY.fingerprint, "-o", "json").json
    assert (done["gateway"], done["action"], edge.edges.trusted) == ("west", "trusted", [("west", GATEWAY_KEY)])


def test_a_gateway_that_fails_is_9_among_several_and_its_own_code_alone(edge: Desk) -> None:
    edge.edges.broken["east"] = NodeUnreachable("east", "no route to host", hint="is it on?")
    result = edge("render-gateway", "--apply", "-o", "json")
    assert (result.code, result.error["code"]) == (8, "node-unreachable")
    edge.inventory(EDGES)
    result = edge("render-gateway", "--apply", "-o", "json")
    assert (result.code, result.error["details"]) == (9, {"failed": ["east"]})
    assert [(item["action"], item["error"] and item["error"]["code"]) for item in result.items] == [
        ("failed", "node-unreachable"),
        ("applied", None),
    ]


def test_a_dry_run_applies_nothing(edge: Desk) -> None:
    (item,) = edge.ok("render-gateway", "--apply", "-n", "-o", "json").items
    assert (item["action"], item["routes"]) == ("would-apply", 2)
    assert edge.edges.made["east"].calls == []


def test_a_map_that_was_edited_wants_force(edge: Desk) -> None:
    live = edge.edges.made["east"].live
    edge.edges.made["east"].live = f"{live}# mine\n"
    result = edge("render-gateway", "--apply", "--yes")
    assert result.code == 5
    assert "edited by hand" in result.err
    assert "--force" in result.err
    edge.ok("render-gateway", "--apply", "--force")


def test_the_differences_are_told_per_user(edge: Desk) -> None:
    edge.ok("render-gateway", "--apply")
    edge.ok("stop", "bob")
    edge.ok("place", "carol")
    items = edge.ok("render-gateway", "--diff", "-o", "json").items
    assert [(item["user"], item["change"]) for item in items] == [("bob", "removed"), ("carol", "added")]
    assert items[0]["to"] is None
    assert items[1]["from"] is None
    assert [line[:3] for line in edge.ok("render-gateway", "--diff").lines[1:]] == [
        ["east", "-", "bob"],
        ["east", "+", "carol"],
    ]


def test_other_settings_and_pages_are_differences_too(edge: Desk) -> None:
    edge.ok("render-gateway", "--apply")
    edge.inventory(EDGE.replace("AUTO", "false").replace("hosts", "path_prefix: /w/, hosts"))
    found = edge.ok("render-gateway", "--diff", "-o", "json")
    assert [(item["user"], item["change"]) for item in found.items] == [(None, "settings")]
    table = edge("render-gateway", "--diff")
    assert (table.code, table.lines[1][:3]) == (0, ["east", "*", "-"])
    assert "so the snippet may be an older one too" in table.err
    edge.inventory(EDGE.replace("AUTO", "false"))
    edge.sql("UPDATE placements SET state = 'migrating' WHERE user = 'bob'")
    (item,) = edge.ok("render-gateway", "--diff", "-o", "json").items
    assert (item["user"], item["change"], item["from"], item["to"]) == ("bob", "page", None, "migrating")


def test_the_differences_to_a_file(team: Desk) -> None:
    team.ok("render-gateway", "--out", "map.conf")
    assert team.ok("render-gateway", "--diff", "--out", "map.conf", "-o", "json").items == []
    team.ok("stop", "bob")
    (item,) = team.ok("render-gateway", "--diff", "--out", "map.conf", "-o", "json").items
    assert (item["gateway"], item["user"], item["change"]) == ("map.conf", "bob", "removed")
    path = team.folder / "map.conf"
    path.write_text(path.read_text().replace(":20000", ":20001"))
    result = team("render-gateway", "--diff", "--out", "map.conf")
    assert result.code == 0
    assert "isn't as wsctl wrote it" in result.err
    assert len(team.ok("render-gateway", "--diff", "--out", "absent.conf", "-o", "json").items) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--apply", "--out", "x"), ("--apply", "--snippet"), ("--apply", "--diff"), ("--diff", "--snippet"),
        ("--diff", "--check"), ("--diff", "--out", "-"), ("--force",),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_2(desk: Desk, words: tuple[str, ...]) -> None:
    assert desk("render-gateway", *words).code == 2


@pytest.mark.parametrize("how", ["--apply", "--diff"])
def test_without_gateways_nothing_can_be_live(desk: Desk, how: str) -> None:
    result = desk("render-gateway", how, "-o", "json")
    assert (result.code, result.error["code"]) == (3, "inventory")
    assert "hosts" in result.error["hint"]


def test_verbs_apply_at_their_end_if_the_inventory_says_so(edge: Desk) -> None:
    edge.inventory(EDGE.replace("AUTO", "true"))
    gateway = edge.edges.made["east"]

    def routed() -> set[str]:
        return set(parse_routes(gateway.served or ""))

    for words, users in (
        (("place", "carol"), {"alice", "bob", "carol"}),
        (("stop", "bob"), {"alice", "carol"}),
        (("start", "bob"), {"alice", "bob", "carol"}),
        (("rm", "alice", "--yes"), {"bob", "carol"}),
    ):
        edge.ok(*words, "-n")
        before = routed()
        gateway.age_s = 3600.0
        edge.ok(*words)
        assert routed() == users
        assert before != users
    gateway.age_s = 3600.0
    edge.clock.sleep(7200)
    edge("reap-idle")
    edge.clock.sleep(7200)
    gateway.age_s = 3600.0
    edge.ok("reap-idle")
    assert routed() == set(), "the idle are stopped, and not routed any more"


def test_a_gateway_that_fails_is_a_warning_and_9_and_the_placement_stands(edge: Desk) -> None:
    edge.inventory(EDGE.replace("AUTO", "true"))
    edge.edges.made["east"].reloads = "no"
    result = edge("place", "carol")
    assert result.code == 9
    assert "warning: gateway east: the reload failed" in result.err
    assert "carol" in result.out
    result = edge("place", "carol", "-o", "json")
    assert (result.code, result.json["action"]) == (9, "unchanged")
    assert list(result.error["details"]["gateways"]) == ["east"]
    assert edge("show", "carol").code == 0


def test_a_verb_that_failed_for_some_still_applies_for_the_others(edge: Desk) -> None:
    edge.inventory(EDGE.replace("AUTO", "true"))
    result = edge("stop", "bob", "nobody")
    assert result.code == 9
    assert set(parse_routes(edge.edges.made["east"].served or "")) == {"alice"}


def test_an_endpoint_that_cannot_be_is_refused(team: Desk, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("short\n")
    for words, code, said in (
        (("--listen", "localhost:1"), 2, "not an IP address"),
        (("--listen", "127.0.0.1:0"), 2, "not an address and a port"),
        (("--listen", "127.0.0.1:65536"), 2, "not an address and a port"),
        (("--listen", "192.0.2.1:9"), 3, "cannot listen on 192.0.2.1:9"),
        (("--key-file", str(key)), 3, "shorter than 32 bytes"),
        (("--key-file", str(tmp_path / "none")), 3, "cannot read the key"),
    ):
        result = team("serve-routes", *words)
        assert (result.code, said in result.err) == (code, True), result.err


def test_who_answers_for_months_collects_garbage(team: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def forever(server: RouteServer) -> None:
        seen.append(gc.isenabled())
        raise KeyboardInterrupt

    monkeypatch.setattr(RouteServer, "serve_forever", forever)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    gc.disable()  # as the console script does
    try:
        result = team("serve-routes", "--listen", f"127.0.0.1:{free}")
    finally:
        gc.enable()
    assert (result.code, seen) == (0, [True]), result.err
