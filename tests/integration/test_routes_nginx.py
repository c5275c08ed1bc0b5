"""The route map and the snippet on a real, private Nginx with a small upstream behind it.

A missing nginx fails these tests: what they show can't be shown without one. `WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.nginxes import Gateway, check, free_port, running, upstreams_of
from wsctl.livemap import parse_served
from wsctl.routes import GatewaySettings, Route, parse_header, render_map
from wsctl.snippet import render_snippet

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")

WORDS = ["default", "include", "hostnames", "volatile"]
USERS = ["alice", "bob", "a", "x" * 63, "under_score", "7", *WORDS]


def configuration(root: Path, port: int, route_map: str, snippet: str) -> Path:
    (root / "map.conf").write_text(route_map)
    (root / "snippet.conf").write_text(snippet)
    temp = "\n".join(
        f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = root / "nginx.conf"
    config.write_text(f"""
        daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log warn;
        events {{ worker_connections 256; }}
        http {{
            access_log off; {temp}
            include {root}/map.conf;
            server {{
                listen 127.0.0.1:{port};
                set_real_ip_from 127.0.0.1; real_ip_header X-Test-From;
                include {root}/snippet.conf;
                location = /generation {{ return 200 "$ws_map_generation $ws_map_digest"; }}
                location /secret/ {{ internal; return 200 "the server's secret"; }}
                location = /auth {{
                    internal;
                    proxy_pass http://unix:{root}/auth.sock:/;
                    proxy_pass_request_body off;
                    proxy_set_header Content-Length "";
                    proxy_set_header X-Asked-For $ws_user;
                }}
            }}
            server {{
                listen unix:{root}/auth.sock;
                if ($http_x_token != "good-$http_x_asked_for") {{ return 401; }}
                add_header X-Auth-Request-User "person-of-$http_x_asked_for";
                return 204;
            }}
        }}""")
    return config


def start(root: Path, settings: GatewaySettings) -> Iterator[Gateway]:
    with upstreams_of(*USERS) as upstreams:
        routes = [Route(user, "127.0.0.1", server.server_port) for user, server in upstreams.items()]
        routes.append(Route("dead", "127.0.0.1", free_port()))
        port = free_port()
        config = configuration(root, port, render_map(routes, 17, settings), render_snippet(settings))
        with running(root, config, port):
            yield Gateway(port, upstreams, root)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from start(tmp_path_factory.mktemp("strip"), GatewaySettings(max_body_bytes=1 << 20))


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = GatewaySettings(path_prefix="/my.apps/w/", strip_prefix=False, auth_request="/auth")
    yield from start(tmp_path_factory.mktemp("keep"), settings)


@pytest.mark.parametrize("user", USERS)
def test_each_user_reaches_their_own_workspace(gateway: Gateway, user: str) -> None:
    answer = gateway.get(f"/ws/{user}/page")
    assert (answer.status, answer.body) == (200, f"{user} /page".encode())


@pytest.mark.parametrize(
    "path",
    [
        "/ws/ALICE/", "/ws/Alice/", "/ws/nobody/", "/ws//", "/ws/", "/ws/-alice/", "/ws/alice-/", "/ws/al.ice/",
        "/ws/u:alice/", "/ws/$ws_id/", "/ws/alice%00/", "/ws/alice%0A/", "/ws/alice%0A", "/ws/alice%20/",
        "/ws/" + "x" * 64 + "/", "/ws/~alice/", "/ws/alice;/", '/ws/alice"/', "/ws/%7B%7D/", "/ws/alice%2E/",
    ],
)  # fmt: skip
def test_what_names_no_user_is_not_found(gateway: Gateway, path: str) -> None:
    seen = [len(server.seen) for server in gateway.upstreams.values()]
    answer = gateway.get(path)
    assert answer.status in (400, 404)
    if answer.status == 404:
        assert b"no running workspace" in answer.body
    assert seen == [len(server.seen) for server in gateway.upstreams.values()]


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        ("/ws/alice/", "/"),
        ("/ws/alice/?a=1&b=%2F", "/?a=1&b=%2F"),
        ("/ws/alice/a%2Fb/c%20d", "/a%2Fb/c%20d"),
        ("/ws/alice/%C3%BC/%E6%97%A5", "/%C3%BC/%E6%97%A5"),
        ("/ws/alice/proxy/https://x.org//y", "/proxy/https://x.org//y"),
        ("/ws/alice/a?x=/../y", "/a?x=/../y"),
        ("/ws/alice/a+b;c=d,e@f:g!*'()", "/a+b;c=d,e@f:g!*'()"),
        ("/ws/alice/%25%3F%23", "/%25%3F%23"),
        ("/ws/alice/%0d%0aX-Evil:%201", "/%0d%0aX-Evil:%201"),
        ("/ws/alice/...", "/..."),
        ("/ws/alice/.hidden/..b", "/.hidden/..b"),
        ("/ws/alice/$ws_user$1", "/$ws_user$1"),
        # What isn't plain is normalised, then encoded again.
        ("/ws/%61lice/a%2Fb", "/a/b"),
        ("//ws/alice/x%20y", "/x%20y"),
        ("/other/../ws/alice/x?q=%20", "/x?q=%20"),
        ("/ws/alice/a/../b", "/b"),
        ("/ws/alice/a/%2e%2E/b", "/b"),
        ("/ws/alice/./b%0D%0AX-Evil:%201", "/b%0D%0AX-Evil:%201"),
        ("/ws/alice/./b%0A", "/b%0A"),
        ("/ws/alice/./a%25b%3Fc%23", "/a%25b%3Fc%23"),
        ("/ws/alice/b#fragment", "/b"),
    ],
)
def test_the_path_behind_the_user_arrives_as_it_was_sent(gateway: Gateway, path: str, arrives: str) -> None:
    assert gateway.get(path).status == 200
    sent, headers = gateway.last("alice")
    assert sent == arrives
    assert "X-Evil" not in headers


@pytest.mark.parametrize(
    ("path", "user"),
    [("/ws/alice/../bob/x", "bob"), ("/ws/alice/..%2fbob/x", "bob"), ("/ws/a/%2e%2e/bob/x", "bob"), ("/ws/a/./x", "a")],
)
def test_dot_segments_lead_to_whom_the_normalised_path_names(gateway: Gateway, path: str, user: str) -> None:
    assert gateway.get(path).body == f"{user} /x".encode()


@pytest.mark.parametrize("path", ["/ws/alice/../../generation", "/ws/../generation", "/ws/alice/..%2f..%2fgeneration"])
def test_dot_segments_out_of_the_prefix_leave_it(gateway: Gateway, path: str) -> None:
    assert gateway.get(path).body.startswith(b"17 ")


def test_a_path_without_its_slash_is_redirected_within_the_site(gateway: Gateway) -> None:
    answer = gateway.get("/ws/alice?a=%2F&b", Host="gate.example:8443")
    assert (answer.status, answer.headers["Location"]) == (308, "/ws/alice/?a=%2F&b")


def test_the_workspace_learns_who_asked_and_where(gateway: Gateway) -> None:
    gateway.get(
        "/ws/alice/", Host="gate.example:8443", X_Forwarded_Prefix="/evil", X_Forwarded_User="root", X_Real_IP="6.6.6.6"
    )
    _, headers = gateway.last("alice")
    assert headers["Host"] == "gate.example:8443"
    assert headers["X-Forwarded-Host"] == "gate.example:8443"
    assert headers["X-Forwarded-Prefix"] == "/ws/alice"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Real-IP"] == headers["X-Forwarded-For"] == "127.0.0.1"
    assert "X-Forwarded-User" not in headers
    assert headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("/login?next=/", "/ws/alice/login?next=/"),
        ("/ws/alice/login", "/ws/alice/login"),
        ("http://gate.example/login", "/ws/alice/login"),
        ("http://gate.example/ws/alice/login", "/ws/alice/login"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
        ("//elsewhere.example/", "//elsewhere.example/"),
        ("relative", "relative"),
    ],
)
def test_redirects_stay_under_the_users_path(gateway: Gateway, sent: str, arrives: str) -> None:
    answer = gateway.get("/ws/alice/moved", Host="gate.example", X_Test_Location=sent)
    assert answer.headers["Location"] == arrives
    assert answer.headers["Set-Cookie"] == "s=1; Path=/ws/alice/"


def test_a_workspace_cannot_make_the_gateway_serve_its_secrets(gateway: Gateway) -> None:
    answer = gateway.get("/ws/alice/accel")
    assert (answer.status, answer.body) == (200, b"mine")


def test_the_workspaces_own_errors_pass_through(gateway: Gateway) -> None:
    assert gateway.get("/ws/alice/missing").body == b"the workspace's own 404"
    assert gateway.get("/ws/alice/status418").status == 418


def test_a_dead_workspace_is_an_honest_502(gateway: Gateway) -> None:
    answer = gateway.get("/ws/dead/")
    assert (answer.status, answer.headers["Retry-After"]) == (502, "5")
    assert b"doesn't answer" in answer.body
    assert answer.headers["Content-Type"] == "text/plain"


def test_uploads_arrive_whole_and_too_large_ones_are_refused(gateway: Gateway) -> None:
    body = os.urandom(1 << 20)
    assert gateway.get("/ws/alice/up", "POST", body).body == hashlib.sha256(body).hexdigest().encode()
    assert gateway.get("/ws/alice/up", "POST", None, Content_Length=str((1 << 20) + 1)).status == 413


def test_events_are_not_held_back(gateway: Gateway) -> None:
    upstream = gateway.upstreams["alice"]
    upstream.go_on.clear()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        client.sendall(b"GET /ws/alice/sse HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"data: one" not in received:
            received += client.recv(4096)
        assert b"data: two" not in received
        upstream.go_on.set()
        while b"data: two" not in received:
            received += client.recv(4096)


def test_websockets_are_tunnelled_both_ways(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        client.sendall(
            b"GET /ws/alice/socket?t=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(4096)
        assert received.startswith(b"HTTP/1.1 101")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in received
        for frame in (b"\x81\x02hi", b"\x81\x03you"):
            client.sendall(frame)
            assert client.recv(4096) == b"echo:" + frame
    assert gateway.last("alice")[0] == "/socket?t=1"


def test_the_live_generation_can_be_asked_for(gateway: Gateway) -> None:
    header = parse_header((gateway.root / "map.conf").read_text())
    assert header is not None
    assert gateway.get("/generation").body == f"{header.generation} {header.digest}".encode()
    assert header.count == len(USERS) + 1


def test_which_map_a_worker_has_is_told_to_its_own_machine_only(gateway: Gateway, keeping: Gateway) -> None:
    answer = gateway.get("/ws/.wsctl-status")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain")
    assert parse_served(answer.body.decode()) == parse_served(gateway.get("/generation").body.decode())
    assert parse_served(answer.body.decode()) is not None
    assert keeping.get("/my.apps/w/.wsctl-status").body.startswith(b"17 "), "auth_request isn't asked"
    for address in ("10.0.0.7", "192.0.2.1", "128.0.0.1", "::2", "fd00::1", "12.7.0.0"):
        assert gateway.get("/ws/.wsctl-status", X_Test_From=address).status == 404, address
    assert gateway.get("/ws/.wsctl-status", X_Test_From="::1").status == 200


def test_a_kept_prefix_arrives_untouched(keeping: Gateway) -> None:
    path = "/my.apps/w/alice/a%2Fb/../c//d?q=%20"
    assert keeping.get(path, X_Token="good-alice", X_Forwarded_Prefix="/evil").status == 200
    sent, headers = keeping.last("alice")
    assert sent == path
    assert "X-Forwarded-Prefix" not in headers


def test_a_dot_in_the_prefix_is_only_a_dot(keeping: Gateway) -> None:
    assert keeping.get("/myXapps/w/alice/", X_Token="good-alice").status == 404
    assert keeping.get("/ws/alice/", X_Token="good-alice").status == 404


def test_auth_is_asked_for_the_user_whose_workspace_it_is(keeping: Gateway) -> None:
    before = len(keeping.upstreams["alice"].seen)
    assert keeping.get("/my.apps/w/alice/").status == 401
    assert keeping.get("/my.apps/w/alice/", X_Token="good-bob").status == 401
    assert keeping.get("/my.apps/w/bob/../alice/", X_Token="good-bob").status == 401
    assert len(keeping.upstreams["alice"].seen) == before
    assert keeping.get("/my.apps/w/alice/", X_Token="good-alice", X_Forwarded_User="root").status == 200
    assert keeping.last("alice")[1]["X-Forwarded-User"] == "person-of-alice"


@pytest.mark.parametrize("length", [1, 30, 63])
@pytest.mark.parametrize("count", [0, 1, 300, 30_000])
def test_nginx_has_nothing_to_say_about_the_hash_sizes(tmp_path: Path, count: int, length: int) -> None:
    users = {hashlib.sha256(str(number).encode()).hexdigest()[:length] for number in range(count)}
    routes = [Route(user, "fd00::1", 1024 + number) for number, user in enumerate(sorted(users))]
    config = configuration(tmp_path, free_port(), render_map(routes, 1), render_snippet(GatewaySettings()))
    checked = check(tmp_path, config)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_a_root_prefix_is_a_prefix_too(tmp_path: Path) -> None:
    settings = GatewaySettings(path_prefix="/")
    text = render_map([Route("alice", "::1", 2000)], 1, settings)
    checked = check(tmp_path, configuration(tmp_path, free_port(), text, render_snippet(settings)))
    assert checked.returncode == 0, checked.stderr
