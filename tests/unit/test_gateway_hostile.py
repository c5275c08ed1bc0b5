"""Whatever got into the database or the inventory: nothing leaves its place in what Nginx reads.

The oracle is a reader of its own: the texts are taken apart as Nginx takes them apart (`ngx_conf_read_token`), and what
hostile values left must be, word for word, what plain values leave. `WSCTL_FAULTS=all` tries 100,000 of each kind.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
from dataclasses import replace

import pytest

from wsctl.livemap import parse_routes
from wsctl.model import is_user_id
from wsctl.routes import GatewaySettings, Mode, Route, is_intact, render_map, routes_of, states_of
from wsctl.snippet import render_snippet
from wsctl.store import rows

ALL = os.environ.get("WSCTL_FAULTS") == "all"
COUNT = 100_000 if ALL else 1_000

pytestmark = pytest.mark.timeout(3600 if ALL else 120)

NASTY = " \t\r\n\x00\x0b\x1b;{}()[]$\"'\\#~%:/.,-_=<>|&*?^A\x7f\x85\u2028\u0661\u0131\ufe55é"
WORDS = (
    "default", "include", "hostnames", "volatile", "~.*", "$ws_id", "${ws_user}", "u:alice", "..", "/etc/passwd",
    "a; }", "a\n}", '"', "]]", "]=]", "--[[", "end", "\\", "1.2.3.4:1; }", "*.example.org", "_", "localhost",
)  # fmt: skip


def mutated(dice: random.Random, plain: str) -> str:
    """A plain value with a few characters put in, taken out or replaced."""
    text = plain
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(text) + 1)
        text = text[:at] + dice.choice((*NASTY, *WORDS, "")) + text[at + dice.randrange(2) :]
    return text


def hostile(dice: random.Random, *plain: str) -> object:
    """Nearly right, quite wrong, or of a type that no column should have."""
    way = dice.randrange(10)
    if way < 6:
        return mutated(dice, dice.choice(plain))
    if way < 7:
        return dice.choice(WORDS) * dice.choice((1, 1, 2, 40))
    if way < 8:
        return "".join(dice.choices(NASTY + "abc019", k=dice.randrange(90)))
    if way < 9:
        return dice.choice((None, True, False, 0, -1, 7, 65536, 1 << 70, 1.5, float("nan"), b"alice", b"\xff;"))
    return dice.choice(plain)


# ------------------------------------------------------------------------------------------------- reading as Nginx


def words(text: str) -> list[str]:
    """The words of a configuration, `;`, `{` and `}` marked by a NUL in front; a block of Lua is one word."""
    found: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char in " \t\r\n":
            at += 1
        elif char == "#":
            at = text.find("\n", at) % (len(text) + 1)
        elif char in ";{}":
            at += 1
            found.append(f"\0{char}")
            if any(word.endswith("_by_lua_block") for word in _head(found)):
                end = _lua_end(text, at)
                found.append(text[at:end])
                at = end
        elif char in "\"'":
            end, word = _quoted(text, at + 1, char)
            assert text[end] in " \t\r\n;{)", "Nginx refuses what stands behind a quotation mark"
            found.append(word)
            at = end
        else:
            end = _bare(text, at)
            found.append(text[at:end])
            at = end
    return found


def _head(found: list[str]) -> list[str]:
    """The directive that a block has just been opened for."""
    if found[-1] != "\0{":
        return []
    head: list[str] = []
    for word in reversed(found[:-1]):
        if word.startswith("\0"):
            break
        head.append(word)
    return head


def _bare(text: str, at: int) -> int:
    while at < len(text) and text[at] not in " \t\r\n;{":
        if text[at] == "\\" or text[at : at + 2] == "${":
            at += 1
        at += 1
    return at


def _quoted(text: str, at: int, mark: str) -> tuple[int, str]:
    word = ""
    while text[at] != mark:
        if text[at] == "\\":
            word += text[at]
            at += 1
        word += text[at]
        at += 1
    return at + 1, word


def _lua_end(text: str, at: int) -> int:
    """The brace that closes a block of Lua: the module counts those outside of strings."""
    depth = 1
    for found in re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|--[^\n]*|[{}]').finditer(text, at):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    raise AssertionError("a block of Lua that doesn't end")


def test_the_reader_reads() -> None:
    text = 'a "b;\\" c" ~x{1,2} ${d}e; # f {\nif ($g = "") { return 404; } h_by_lua_block { i = {"}"} -- }\n}'
    assert words(text) == [
        "a", 'b;\\" c', "~x", "\0{", "1,2}", "${d}e", "\0;", "if", "($g", "=", "", ")", "\0{", "return", "404", "\0;",
        "\0}", "h_by_lua_block", "\0{", ' i = {"}"} -- }\n', "\0}",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the database

SETTINGS = {
    Mode.MAP: GatewaySettings(),
    Mode.HOST: GatewaySettings(mode=Mode.HOST, host_suffix=".x.org"),
    Mode.REDIRECT: GatewaySettings(mode=Mode.REDIRECT, node_domain="{node}.x.org"),
    Mode.AUTH_REQUEST: GatewaySettings(mode=Mode.AUTH_REQUEST),
    Mode.DYNAMIC: GatewaySettings(mode=Mode.DYNAMIC),
}
UPSTREAM = re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}", re.ASCII)
STATES = ("starting", "stopped", "migrating", "failed")


def frame(text: str, users: set[str]) -> list[str]:
    """The words of a map without its entries, and with what depends on their number made equal."""
    left: list[str] = []
    listed = iter(words(text))
    for word in listed:
        if word.startswith("u:") and word[2:] in users:
            value, end = next(listed), next(listed)
            assert end == "\0;"
            assert UPSTREAM.fullmatch(value) or value in STATES or re.fullmatch("[a-z0-9-]+", value), value
        else:
            left.append(re.sub(r"[0-9a-f]{64}|^[0-9]+$", "N", word))
    return left


@pytest.mark.parametrize("mode", list(Mode))
def test_no_row_leaves_its_entry(mode: Mode) -> None:
    dice = random.Random(f"rows {mode}")
    settings = SETTINGS[mode]
    plain = frame(render_map([], 1, settings), set())
    rendered = 0
    for _ in range(COUNT):
        row = [
            "alice" if dice.randrange(3) else hostile(dice, "alice", "a_b-c", "x" * 63),
            "n1" if dice.randrange(3) else hostile(dice, "n1", "node-2"),
            "10.0.0.1" if dice.randrange(3) else hostile(dice, "10.0.0.1", "fd00::1", "fe80::1%eth0", "::ffff:1.2.3.4"),
            20000 if dice.randrange(3) else hostile(dice, "20000"),
            dice.choice(("running", "migrating", "stopped")) if dice.randrange(3) else hostile(dice, "running"),
        ]
        try:
            spots, _ = rows.spots([tuple(row)])
            text = render_map(routes_of(spots, {}), 1, settings, states_of(spots))
        except ValueError:
            continue
        rendered += 1
        users = {spot.user for spot in spots}
        assert all(map(is_user_id, users)) or mode is Mode.AUTH_REQUEST, row
        assert frame(text, users) == plain, row
        assert is_intact(text)
        for user, upstream in parse_routes(text).items():
            address, _, port = upstream.rpartition(":")
            assert (user, int(port)) == (row[0], row[3])
            assert ipaddress.ip_address(address.strip("[]")) == ipaddress.ip_address(str(row[2]))
    assert rendered > COUNT / 20, "not everything was refused"


@pytest.mark.parametrize("mode", list(Mode))
def test_comments_that_lua_reads_are_one_line_each(mode: Mode) -> None:
    """In the mode `dynamic` entries are comments: a line end in one would be a directive."""
    dice = random.Random("comments")
    for _ in range(COUNT // 10):
        user, address = hostile(dice, "alice"), hostile(dice, "10.0.0.1", "fe80::1%0")
        try:
            text = render_map([Route(user, address, 1, "n")], 1, SETTINGS[mode])  # type: ignore[arg-type]
        except ValueError:
            continue
        assert len(text.splitlines()) - len(text.split("\n")) == -1, "no other character ends a line"
        assert text.isascii()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


# ----------------------------------------------------------------------------------------------------- the inventory

KEYS: dict[str, tuple[Mode, str, tuple[str, ...]]] = {
    "path_prefix": (Mode.MAP, "/zzz/", ("/ws/", "/my.apps/w/")),
    "auth_request": (Mode.MAP, "/zzz", ("/auth", "/oauth2/auth")),
    "wake": (Mode.MAP, "/zzz", ("/wake",)),
    "host_suffix": (Mode.HOST, ".zzz.org", (".ws.example.org",)),
    "node_domain": (Mode.REDIRECT, "{node}.zzz.org", ("{node}.ws.example.org", "{node}.x.org:8443")),
    "endpoint": (Mode.AUTH_REQUEST, "127.9.9.9:9", ("127.0.0.1:8095", "[::1]:80")),
    "map_file": (Mode.DYNAMIC, "/zzz/zzz", ("/etc/nginx/map.conf",)),
}


def both(settings: GatewaySettings) -> list[str]:
    """The words of map and snippet. A dot in a regular expression is a dot."""
    text = render_map([Route("a", "10.0.0.1", 1, "n")], 1, settings) + render_snippet(settings)
    return [
        re.sub(r"[0-9a-f]{64}| [0-9a-f]{12}\\|ws_by_[a-z_]+_[0-9a-f]{6}", "N", word).replace("[.]", ".")
        for word in words(text)
    ]


def in_hosts(word: str, marker: str, value: str) -> str:
    """`{node}` isn't in the text; the port is behind the host only where requests are sent to."""
    host, colon, port = value.removeprefix("{node}").partition(":")
    bare = marker.removeprefix("{node}")
    return word.replace(f"{bare}$request", f"{host}{colon}{port}$request").replace(bare, host)


@pytest.mark.parametrize("key", list(KEYS))
def test_no_setting_leaves_its_place(key: str) -> None:
    mode, marker, plain = KEYS[key]
    dice = random.Random(f"settings {key}")
    base = replace(SETTINGS[mode], **{key: marker})  # type: ignore[arg-type]
    expected = both(base)
    insert = in_hosts if key == "node_domain" else str.replace
    accepted = 0
    for _ in range(COUNT):
        value = hostile(dice, *plain)
        if not isinstance(value, str):
            continue  # the inventory's own business: it hands over text
        try:
            found = both(replace(base, **{key: value}))  # type: ignore[arg-type]
        except ValueError:
            continue
        accepted += 1
        assert found == [insert(word, marker, value) for word in expected], value
        assert not re.search(r"[\t\r\n;\"'\\$#]", value)
    assert accepted > COUNT / 100
