"""The mode `auth_request`: a real Nginx that asks a real `wsctl serve-routes`, which reads a state database.

A missing nginx fails these tests. `WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.labsite import eventually
from tests.integration.nginxes import Gateway, free_port, running, upstreams_of
from wsctl.endpoint import sign
from wsctl.model import Capacity, PlacementState, Resources
from wsctl.ports import Reservation
from wsctl.routes import GatewaySettings, Mode, render_map
from wsctl.snippet import render_snippet
from wsctl.store import open_store

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")

KEY = "0123456789abcdef0123456789abcdef"
INVENTORY = """\
version: 1
cluster: asked
workspace: {{image: a}}
gateway: {{mode: auth_request, endpoint: "127.0.0.1:{port}"}}
nodes: {{here: {{address: local}}}}
"""


@dataclass
class Site:
    """Nginx, endpoint and database in one folder."""

    root: Path
    gateway: Gateway
    endpoint: int
    key: bool = False
    process: subprocess.Popen[str] | None = field(default=None)

    def place(self, user: str, port: int, state: PlacementState = PlacementState.RUNNING) -> None:
        store = open_store("sqlite:///wsctl.db", cluster="asked", base=self.root)
        capacity = Capacity(1000, 1 << 40, 10**6)
        placed = store.reserve(Reservation(user, "here", "127.0.0.1", port, Resources(1 << 20, 10, 16), capacity))
        assert not isinstance(placed, str), placed
        assert store.settle(user, placed.generation, state)
        store.close()

    def start(self) -> None:
        """The endpoint, until it accepts."""
        argv = [sys.executable, "-m", "wsctl", "serve-routes", "-i", str(self.root / "inventory.yaml")]
        if self.key:
            (self.root / "key").write_text(KEY + "\n")
            argv += ["--key-file", str(self.root / "key")]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        eventually(self.accepts)

    def accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.endpoint)) == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Its exit code and what it said."""
        assert self.process is not None
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    endpoint, port = free_port(), free_port()
    settings = GatewaySettings(mode=Mode.AUTH_REQUEST, endpoint=f"127.0.0.1:{endpoint}")
    (tmp_path / "inventory.yaml").write_text(INVENTORY.format(port=endpoint))
    text = render_map([], 3, settings)
    assert "/var/lib/nginx/" in text
    (tmp_path / "map.conf").write_text(text.replace("/var/lib/nginx/", f"{tmp_path}/"))
    (tmp_path / "snippet.conf").write_text(render_snippet(settings))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    config = tmp_path / "nginx.conf"
    config.write_text(f"""
        daemon off; user root; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log warn;
        events {{ worker_connections 256; }}
        http {{
            access_log off; {"".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)}
            include {tmp_path}/map.conf;
            server {{ listen 127.0.0.1:{port}; include {tmp_path}/snippet.conf; }}
        }}""")
    with upstreams_of("alice", "bob") as upstreams, running(tmp_path, config, port):
        made = Site(tmp_path, Gateway(port, upstreams, tmp_path), endpoint, key=getattr(request, "param", False))
        for user, one in upstreams.items():
            made.place(user, one.server_port)
        made.place("stan", 2, PlacementState.STOPPED)
        made.start()
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.stop(signal.SIGKILL)


def test_the_endpoint_says_where_a_user_is(site: Site) -> None:
    for user in ("alice", "bob"):
        answer = site.gateway.get(f"/ws/{user}/a%2Fb?q=1", X_Ws_Upstream="127.0.0.1:1", X_Ws_User="eve")
        assert (answer.status, answer.body) == (200, f"{user} /a%2Fb?q=1".encode())
    answer = site.gateway.get("/ws/stan/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert site.gateway.get("/ws/nobody/").status == 404
    assert site.gateway.get("/ws/ALICE/").status == 404
    assert site.gateway.get("/ws/.wsctl-route").status == 404, "only Nginx itself may ask"
    assert site.gateway.get("/ws/.wsctl-status").body.startswith(b"3 ")
    with socket.create_connection(("127.0.0.1", site.gateway.port), timeout=5) as client:
        client.sendall(
            b"GET /ws/alice/s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
    assert site.gateway.get("/ws/alice/up", "POST", b"x" * 300_000).status == 200


def test_a_change_is_seen_without_a_reload(site: Site) -> None:
    assert site.gateway.get("/ws/carol/").status == 404
    site.place("carol", site.gateway.upstreams["bob"].server_port + 1)
    eventually(lambda: site.gateway.get("/ws/carol/").status == 502)


def test_while_the_endpoint_is_down_the_known_go_on_and_others_are_told(site: Site) -> None:
    assert site.gateway.get("/ws/alice/x").status == 200
    assert site.stop() == (0, site_words(site))
    time.sleep(1.1)  # past the answer's max-age
    assert site.gateway.get("/ws/alice/x").body == b"alice /x"
    answer = site.gateway.get("/ws/bob/x")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert b"Nobody can say right now" in answer.body
    site.start()
    eventually(lambda: site.gateway.get("/ws/bob/x").status == 200)


def site_words(site: Site) -> str:
    return f"answering on 127.0.0.1:{site.endpoint}; who may pass: everybody\nended\n"


@pytest.mark.parametrize("site", [True], indirect=True)
def test_only_bearers_of_a_users_token_may_pass(site: Site) -> None:
    later = int(time.time()) + 60
    alice, old = sign(KEY.encode(), "alice", later), sign(KEY.encode(), "alice", later - 61)
    for refused in (
        {},
        {"Cookie": f"ws_token={old}"},
        {"Cookie": f"ws_token={alice}x"},
        {"Authorization": "Basic YTpi"},
    ):
        answer = site.gateway.get("/ws/alice/", **refused)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="workspaces"')
    for way in ({"Cookie": f"a=b; ws_token={alice}"}, {"Authorization": f"Bearer {alice}"}):
        assert site.gateway.get("/ws/alice/x", X_Forwarded_User="root", **way).body == b"alice /x"
        assert site.gateway.last("alice")[1]["X-Forwarded-User"] == "alice"
        assert site.gateway.get("/ws/bob/x", **way).status == 403
        assert site.gateway.get("/ws/alice/x").status == 401, "one's answer isn't kept for another"
    assert site.gateway.upstreams["bob"].seen == []
