"""The modes of routing, and what users do with it, on a real Nginx: pages for who isn't there, WebSockets, events,
large uploads, keep-alive, and TLS with HTTP/1.1 and HTTP/2 in front.

`WSCTL_UPLOAD` is the size of the large upload in bytes (64 MiB unless said). A missing nginx or curl fails these tests.
`WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.nginxes import Answer, Gateway, free_port, running, upstreams_of
from wsctl.nginx import lua_modules
from wsctl.routes import GatewaySettings, Mode, Route, render_map
from wsctl.snippet import render_snippet

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")

UPLOAD_BYTES = int(os.environ.get("WSCTL_UPLOAD", "67108864"))
STATES = {"stan": "stopped", "sue": "starting", "fay": "failed", "mia": "migrating", "max": "migrating"}


@contextmanager
def site(
    root: Path, settings: GatewaySettings, more: str = "", *, tls: bool = False, also: Sequence[Route] = ()
) -> Iterator[Gateway]:
    """An Nginx with this routing for alice, bob and mia, who is being moved but still answers; max no longer does."""
    with upstreams_of("alice", "bob", "mia") as upstreams:
        routes = [Route(user, "127.0.0.1", one.server_port, "n1") for user, one in upstreams.items()]
        routes += [Route("max", "127.0.0.1", free_port(), "n2"), *also]
        port = free_port()
        (root / "map.conf").write_text(render_map(routes, 3, settings, STATES))
        (root / "snippet.conf").write_text(render_snippet(settings))
        listen = f"listen 127.0.0.1:{port}"
        listen += f" ssl http2; ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;" if tls else ";"
        config = root / "nginx.conf"
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        modules = lua_modules() if settings.mode is Mode.DYNAMIC else ""
        config.write_text(f"""
            {modules} daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log warn;
            events {{ worker_connections 256; }}
            http {{
                access_log off; {"".join(f"{kind}_temp_path {root}/{kind};" for kind in kinds)}
                include {root}/map.conf;
                server {{ {listen} {more} include {root}/snippet.conf; }}
            }}""")
        with running(root, config, port):
            yield Gateway(port, upstreams, root)


# ------------------------------------------------------------------------------------------------ who isn't there


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with site(tmp_path_factory.mktemp("plain"), GatewaySettings()) as made:
        yield made


@pytest.mark.parametrize(
    ("user", "status", "says", "retry"),
    [
        ("nobody", 404, "no running workspace", None),
        ("stan", 503, "is stopped", "30"),
        ("sue", 503, "is starting", "5"),
        ("fay", 503, "failed to start", "60"),
        ("max", 503, "is moving to another server", "5"),
    ],
)
def test_the_page_says_why_a_workspace_is_not_there(
    plain: Gateway, user: str, status: int, says: str, retry: str | None
) -> None:
    for method in ("GET", "POST"):
        answer = plain.get(f"/ws/{user}/x", method)
        assert (answer.status, answer.headers.get("Retry-After")) == (status, retry)
        assert says in answer.body.decode()
        assert answer.headers["Content-Type"] == "text/plain"


def test_who_is_being_moved_is_served_until_the_swap(plain: Gateway) -> None:
    assert plain.get("/ws/mia/x").body == b"mia /x"


@pytest.mark.parametrize("mode", [Mode.MAP, Mode.HOST, Mode.DYNAMIC])
def test_a_stopped_workspace_may_be_woken(tmp_path: Path, mode: Mode) -> None:
    wake = """location = /wake {
        internal;
        add_header Retry-After 2 always;
        return 503 "$request_method $ws_user is waking for $request_uri";
    }"""
    settings = GatewaySettings(mode=mode, wake="/wake", host_suffix=".x.org", map_file=str(tmp_path / "map.conf"))
    by_host = mode is Mode.HOST
    with site(tmp_path, settings, wake) as gateway:

        def get(user: str, path: str = "", method: str = "GET") -> Answer:
            if by_host:
                return gateway.get(f"/{path}", method, Host=f"{user}.x.org")
            return gateway.get(f"/ws/{user}/{path}", method)

        answer = get("stan", "notes?a=1")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert answer.body == f"GET stan is waking for {'/' if by_host else '/ws/stan/'}notes?a=1".encode()
        assert get("stan", method="POST").body.startswith(b"POST stan is waking"), "whatever the method"
        assert b"is starting" in get("sue").body
        assert get("nobody").status == 404
        assert get("alice", "x").body == b"alice /x"
        assert gateway.get("/wake").status == 404, "only for the gateway itself"


@pytest.mark.parametrize("mode", [Mode.MAP, Mode.DYNAMIC])
def test_a_workspace_may_be_at_an_address_of_ipv6(tmp_path: Path, mode: Mode) -> None:
    settings = GatewaySettings(mode=mode, map_file=str(tmp_path / "map.conf"))
    with upstreams_of("six", address="::1") as six:
        with site(tmp_path, settings, also=[Route("six", "0:0::1", six["six"].server_port)]) as gateway:
            for _ in range(3):
                assert gateway.get("/ws/six/a%2Fb?q").body == b"six /a%2Fb?q"
            assert gateway.get("/ws/alice/x").body == b"alice /x"
        assert six["six"].connections == (1 if mode is Mode.DYNAMIC else 3)


# ------------------------------------------------------------------------------------------------ mode: host


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = GatewaySettings(mode=Mode.HOST, host_suffix=".ws.example.org")
    with site(tmp_path_factory.mktemp("hosts"), settings, "server_name .ws.example.org;") as made:
        yield made


@pytest.mark.parametrize("host", ["alice.ws.example.org", "ALICE.ws.Example.org:8443", "alice.ws.example.org."])
def test_each_user_has_a_host_name(hosts: Gateway, host: str) -> None:
    assert hosts.get("/a%2Fb/../c?q=%20", Host=host).body == b"alice /a%2Fb/../c?q=%20"
    assert hosts.get("/", Host="bob.ws.example.org").body == b"bob /"


@pytest.mark.parametrize(
    "host",
    [
        "ws.example.org", "nobody.ws.example.org", "alice.ws.example.org.evil.org", "alicews.example.org", "alice",
        "a.alice.ws.example.org", "alice.wsxexample.org", "-alice.ws.example.org", "x@alice",
        "alice .ws.example.org", "alice%00.ws.example.org", "u:alice.ws.example.org",
    ],
)  # fmt: skip
def test_other_host_names_are_nobodys(hosts: Gateway, host: str) -> None:
    seen = [len(one.seen) for one in hosts.upstreams.values()]
    assert hosts.get("/ws/alice/", Host=host).status in (400, 404)
    assert seen == [len(one.seen) for one in hosts.upstreams.values()]


def test_a_host_of_ones_own_is_told_to_the_workspace(hosts: Gateway) -> None:
    hosts.get("/", Host="alice.ws.example.org:8443", X_Forwarded_Prefix="/evil", X_Forwarded_User="root")
    _, headers = hosts.last("alice")
    assert headers["Host"] == headers["X-Forwarded-Host"] == "alice.ws.example.org:8443"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-For"] == headers["X-Real-IP"] == "127.0.0.1"
    assert not {"X-Forwarded-Prefix", "X-Forwarded-User"} & set(headers)


def test_a_cookie_cannot_be_set_for_everybody(hosts: Gateway) -> None:
    answer = hosts.get("/cookie", Host="alice.ws.example.org", X_Test_Cookie="s=1; Domain=.ws.example.org; Path=/")
    assert answer.headers["Set-Cookie"] == "s=1; Domain=alice.ws.example.org; Path=/"
    assert hosts.get("/cookie", Host="bob.ws.example.org", X_Test_Cookie="s=1").headers["Set-Cookie"] == "s=1"


def test_pages_and_websockets_by_host(hosts: Gateway) -> None:
    answer = hosts.get("/", Host="stan.ws.example.org")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert hosts.get("/ws/.wsctl-status", Host="x.ws.example.org").body.startswith(b"3 ")
    with socket.create_connection(("127.0.0.1", hosts.port), timeout=5) as client:
        websocket(client, "/socket", "alice.ws.example.org")


# -------------------------------------------------------------------------------------------- mode: redirect


@pytest.fixture(scope="module")
def redirects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = GatewaySettings(mode=Mode.REDIRECT, node_domain="{node}.ws.example.org:8443")
    with site(tmp_path_factory.mktemp("redirects"), settings) as made:
        yield made


def test_users_are_sent_to_their_node_which_serves_them(redirects: Gateway) -> None:
    answer = redirects.get("/ws/alice/a%2Fb?q=%20&r", Host="gate.example")
    assert answer.status == 302
    assert answer.headers["Location"] == "http://n1.ws.example.org:8443/ws/alice/a%2Fb?q=%20&r"
    assert answer.headers["Cache-Control"] == "no-store"
    target = urlsplit(answer.headers["Location"])
    there = redirects.get(f"{target.path}?{target.query}", Host=target.netloc)
    assert (there.status, there.body) == (200, b"alice /a%2Fb?q=%20&r")
    assert redirects.get("/ws/max/", Host="n1.ws.example.org").headers["Location"].startswith("http://n2.")


def test_who_has_no_workspace_is_sent_nowhere(redirects: Gateway) -> None:
    assert redirects.get("/ws/nobody/", Host="gate.example").status == 404
    assert redirects.get("/ws/stan/", Host="gate.example").status == 503


@pytest.mark.parametrize("host", ["evil.org", "n1.ws.example.org.evil.org", "n1.ws.example.org@evil.org", "n2", "n1."])
@pytest.mark.parametrize(
    "path",
    [
        "/ws/alice/", "//evil.org/../ws/alice/", "//evil.org/%2e%2e/ws/alice/", "/ws/alice//evil.org",
        "/ws/alice/@evil.org",
        "http://evil.org/ws/alice/", "/ws/alice/%0d%0aLocation:%20http://evil.org", "/ws/alice/?u=http://evil.org",
        "/\\evil.org/../ws/alice/", "/ws/alice/..;/evil.org", "/ws/alice/?://evil.org",
    ],
)  # fmt: skip
def test_nobody_is_redirected_elsewhere(redirects: Gateway, host: str, path: str) -> None:
    answer = redirects.get(path, Host=host)
    assert answer.status in (302, 400, 404)
    if answer.status == 302:
        assert answer.headers["Location"].startswith("http://n1.ws.example.org:8443/")
    assert not any("evil" in value for name, value in answer.headers.items() if name != "Location")


# ---------------------------------------------------------------------------------------------- real traffic


def websocket(client: socket.socket, path: str, host: str = "x") -> None:
    """Open a WebSocket and have three frames echoed."""
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(4096)
    assert received.startswith(b"HTTP/1.1 101"), received
    for frame in (b"\x81\x02hi", b"\x81\x03you", b"\x82\x7e\x01\x00" + b"x" * 256):
        client.sendall(frame)
        echoed = b""
        while len(echoed) < len(frame) + 5:
            echoed += client.recv(4096)
        assert echoed == b"echo:" + frame


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """TLS with HTTP/1.1 and HTTP/2, a kept prefix, uploads of any size."""
    root = tmp_path_factory.mktemp("secure")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=gate.example", "-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    with site(root, GatewaySettings(strip_prefix=False, max_body_bytes=0), tls=True) as made:
        yield made


def curl(gateway: Gateway, path: str, *more: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """What curl says, with the protocol's version behind the answer."""
    url = f"https://gate.example:{gateway.port}{path}"
    argv = ["curl", "-sk", "--noproxy", "*", "--resolve", f"gate.example:{gateway.port}:127.0.0.1", "-m", "300"]
    argv += ["-w", " HTTP/%{http_version}", *more, url]
    return subprocess.run(argv, input=data, capture_output=True, check=True)


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_both_versions_of_http_reach_the_workspace(secure: Gateway, option: str, version: str) -> None:
    said = curl(secure, "/ws/alice/a%2Fb?q=1", option).stdout.decode()
    assert said == f"alice /ws/alice/a%2Fb?q=1 HTTP/{version}"
    _, headers = secure.last("alice")
    host = f"gate.example:{secure.port}"
    assert (headers["Host"], headers["X-Forwarded-Host"], headers["X-Forwarded-Proto"]) == (host, host, "https")
    assert headers["X-Forwarded-For"] == headers["X-Real-IP"] == "127.0.0.1"
    assert curl(secure, "/ws/stan/", option, "-o", "/dev/null", "-w", "%{http_code}").stdout.endswith(b"503")


def test_a_client_cannot_drop_out_of_the_chain_of_addresses(secure: Gateway) -> None:
    curl(secure, "/ws/alice/", "-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Forwarded-Proto: gopher", "--http2")
    _, headers = secure.last("alice")
    assert headers["X-Forwarded-For"] == "6.6.6.6, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "https"


@pytest.mark.timeout(120 + (UPLOAD_BYTES >> 21))
@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
@pytest.mark.parametrize("length", ["said", "chunked"])
def test_a_large_upload_is_streamed_through_whole(secure: Gateway, option: str, length: str, tmp_path: Path) -> None:
    file = tmp_path / "large"
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for _ in range(-(-UPLOAD_BYTES // len(block))):
            out.write(block)
            digest.update(block)
    way = ["-T", str(file), "-X", "POST"] + (["-H", "Transfer-Encoding: chunked"] if length == "chunked" else [])
    if option == "--http2" and length == "chunked":
        way = ["-T", ".", "-X", "POST"]  # HTTP/2 has no chunks: the length is just not said
    with file.open("rb") as data:
        argv = ["curl", "-sk", "--noproxy", "*", option, "-m", "580", *way]
        argv += [f"https://127.0.0.1:{secure.port}/ws/alice/upload"]
        said = subprocess.run(argv, stdin=data, capture_output=True, check=True).stdout.decode()
    assert said == digest.hexdigest()
    assert not list((secure.root / "client_body").glob("**/*[0-9]")), "nothing was put aside on the gateway's disk"


def test_an_upload_arrives_while_it_is_sent(plain: Gateway) -> None:
    server = plain.upstreams["bob"]
    with socket.create_connection(("127.0.0.1", plain.port), timeout=10) as client:
        client.sendall(b"POST /ws/bob/up HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
        until = time.monotonic() + 5
        while server.received < 100_000 and time.monotonic() < until:
            time.sleep(0.01)
        assert server.received == 100_000
        client.sendall(b"x" * 100_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_events_arrive_one_by_one(secure: Gateway, option: str) -> None:
    server = secure.upstreams["alice"]
    server.go_on.clear()
    argv = ["curl", "-skN", "--noproxy", "*", option, "-m", "30", f"https://127.0.0.1:{secure.port}/ws/alice/sse"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"data: one\n"
        assert not server.go_on.is_set()
        server.go_on.set()
        assert b"data: two" in client.stdout.read()


def test_websockets_through_tls(secure: Gateway) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", secure.port), timeout=5) as raw, context.wrap_socket(raw) as client:
        websocket(client, "/ws/alice/socket")


def test_one_connection_takes_many_requests(plain: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    connection.connect()
    own = connection.sock.getsockname()
    for user, status in (("alice", 200), ("nobody", 404), ("stan", 503), ("max", 503), ("bob", 200)):
        connection.request("GET", f"/ws/{user}/x")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert connection.sock.getsockname() == own
    connection.close()


def test_a_silent_workspace_is_given_up_on(tmp_path: Path) -> None:
    with site(tmp_path, GatewaySettings(read_timeout_s=0.3)) as gateway:
        server = gateway.upstreams["alice"]
        server.go_on.clear()
        began = time.monotonic()
        threading.Timer(10, server.go_on.set).start()
        with pytest.raises(http.client.IncompleteRead):
            gateway.get("/ws/alice/sse")
        assert time.monotonic() - began < 6
