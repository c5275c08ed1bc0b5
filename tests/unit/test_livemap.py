"""A live map read back, what another one changes, and the verdict about a gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsctl.livemap import (
    Change,
    Complaint,
    MapChange,
    Served,
    Verdict,
    Wanted,
    complaint_in,
    decide,
    differences,
    parse_routes,
    parse_served,
    wanted_map,
)
from wsctl.routes import GatewaySettings, Mode, Route, render_map

USER = st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True)
ADDRESS = st.one_of(st.just("10.0.0.1"), st.just("fd00::7"), st.ip_addresses(v=4, network="10.0.0.0/8").map(str))


def a_map(generation: int, routes: dict[str, tuple[str, int]]) -> Wanted:
    return wanted_map(render_map([Route(user, *to) for user, to in routes.items()], generation))


ONE = a_map(1, {"alice": ("10.0.0.1", 2000)})
SAME = a_map(5, {"alice": ("10.0.0.1", 2000)})
TWO = a_map(2, {"alice": ("10.0.0.2", 2000), "bob": ("fd00::1", 2001)})


def served(wanted: Wanted) -> Served:
    return Served(wanted.generation, wanted.digest)


@given(st.dictionaries(USER, st.tuples(ADDRESS, st.integers(1, 65535)), max_size=20))
def test_what_is_rendered_is_read_back(routes: dict[str, tuple[str, int]]) -> None:
    unique = dict({to: (user, to) for user, to in routes.items()}.values())
    text = render_map([Route(user, *to) for user, to in unique.items()], 7)
    read = parse_routes(text)
    assert {user: upstream.replace("[", "").replace("]", "") for user, upstream in read.items()} == {
        user: f"{address}:{port}" for user, (address, port) in unique.items()
    }


def test_differences_are_told_per_user() -> None:
    found = differences(ONE.text, TWO)
    assert [(one.user, one.change, one.before, one.after) for one in found] == [
        ("alice", Change.MOVED, "10.0.0.1:2000", "10.0.0.2:2000"),
        ("bob", Change.ADDED, None, "[fd00::1]:2001"),
    ]
    back = differences(TWO.text, ONE)
    assert [one.change for one in back] == [Change.MOVED, Change.REMOVED]
    assert differences(ONE.text, SAME) == []
    assert [one.change for one in differences("", TWO)] == [Change.ADDED, Change.ADDED]


@pytest.mark.parametrize("mode", [Mode.MAP, Mode.DYNAMIC, Mode.REDIRECT])
def test_other_pages_and_other_settings_are_differences_too(mode: Mode) -> None:
    settings = GatewaySettings(mode=mode, node_domain="{node}.x.org")
    route = Route("alice", "10.0.0.1", 2000, "stopped")

    def made(states: dict[str, str], settings: GatewaySettings = settings, route: Route = route) -> Wanted:
        return wanted_map(render_map([route], 1, settings, states))

    old = made({"bob": "stopped", "carol": "failed", "alice": "migrating"})
    assert differences(old.text, made({"dan": "starting", "carol": "stopped"})) == [
        MapChange(Change.PAGE, "alice", "migrating", None),
        MapChange(Change.PAGE, "bob", "stopped", None),
        MapChange(Change.PAGE, "carol", "failed", "stopped"),
        MapChange(Change.PAGE, "dan", None, "starting"),
    ]
    many = made({f"user-{n}": "stopped" for n in range(3000)})
    assert {one.change for one in differences(old.text, many)} == {Change.PAGE}, "hash sizes are nobody's settings"
    other = made({"bob": "stopped"}, replace(settings, path_prefix="/w/"))
    assert differences(old.text, other)[0] == MapChange(Change.SETTINGS)
    assert [one.user for one in differences(old.text, other)] == [None, "alice", "carol"]
    if mode is Mode.REDIRECT:
        elsewhere = made({}, route=route._replace(node="n2"))
        assert differences(made({}).text, elsewhere) == [MapChange(Change.SETTINGS)]


@pytest.mark.parametrize(
    ("live", "loaded", "wanted", "verdict"),
    [
        (ONE.text, served(ONE), ONE, Verdict.UNCHANGED),
        (ONE.text, served(ONE), SAME, Verdict.UNCHANGED),
        (ONE.text, served(SAME), ONE, Verdict.RELOAD),
        (ONE.text, None, ONE, Verdict.RELOAD),
        (TWO.text, served(ONE), TWO, Verdict.RELOAD),
        (ONE.text, served(ONE), TWO, Verdict.REPLACE),
        (ONE.text, served(TWO), TWO, Verdict.REPLACE),
        (None, None, ONE, Verdict.REPLACE),
        ("", None, ONE, Verdict.REPLACE),
        (TWO.text, served(TWO), ONE, Verdict.NEWER),
        (SAME.text, served(SAME), ONE, Verdict.UNCHANGED),
        (ONE.text.replace("2000", "2001"), served(ONE), ONE, Verdict.EDITED),
        (ONE.text + "\n", served(ONE), ONE, Verdict.EDITED),
        (ONE.text[:-20], served(ONE), TWO, Verdict.EDITED),
        ("map $uri $x {}", None, ONE, Verdict.EDITED),
    ],
)
def test_verdicts(live: str | None, loaded: Served | None, wanted: Wanted, verdict: Verdict) -> None:
    assert decide(live, loaded, wanted) is verdict
    forced = decide(live, loaded, wanted, force=True)
    assert forced is (Verdict.REPLACE if verdict in (Verdict.EDITED, Verdict.NEWER) else verdict)


def test_something_else_is_no_wanted_map() -> None:
    with pytest.raises(ValueError, match="not a route map"):
        wanted_map("server {}")


@pytest.mark.parametrize("text", ["", "7", f"7 {'g' * 64}", f"-7 {'a' * 64}", f"7 {'a' * 64} more", "<html>"])
def test_other_answers_are_no_status(text: str) -> None:
    assert parse_served(text) is None


def test_a_status_is_generation_and_digest() -> None:
    assert parse_served(f"7 {'a' * 64}\n") == Served(7, "a" * 64)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ('nginx: [emerg] unknown directive "x" in /etc/nginx/a.conf:3\nnginx: configuration file t failed\n',
         Complaint('unknown directive "x"', "/etc/nginx/a.conf", 3)),
        ('nginx: [alert] could not open error log file: open() "/l" failed (13: Permission denied)\n'
         '2026/01/01 00:00:00 [emerg] 7#7: "map" directive is not allowed here in /b.conf:1\n',
         Complaint('"map" directive is not allowed here', "/b.conf", 1)),
        ('nginx: [error] invalid PID number "" in "/x.pid"', Complaint('invalid PID number "" in "/x.pid"')),
        ("sudo: a password is required\n", Complaint("sudo: a password is required")),
        ("", Complaint("it didn't say why")),
    ],
)  # fmt: skip
def test_the_complaint_is_found_in_nginx_words(said: str, complaint: Complaint) -> None:
    assert complaint_in(said) == complaint
