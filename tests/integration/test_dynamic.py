"""The mode `dynamic` on a real Nginx with its Lua module: new routes without a reload, connections that are kept.

A missing nginx or Lua module fails these tests. `WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.edges import here
from tests.integration.labsite import eventually
from tests.integration.nginxes import Gateway
from tests.integration.test_gateway_apply import Site
from tests.integration.test_routing_modes import STATES, site, websocket
from wsctl.nginx import lua_modules
from wsctl.routes import GatewaySettings, Mode, Route, parse_header, render_map
from wsctl.snippet import render_snippet

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    settings = GatewaySettings(mode=Mode.DYNAMIC, map_file=str(tmp_path / "map.conf"))
    with site(tmp_path, settings) as made:
        yield made


def publish(gateway: Gateway, routes: list[Route], generation: int) -> str:
    """A new map as `--apply` puts it there."""
    text = render_map(routes, generation, GatewaySettings(mode=Mode.DYNAMIC), STATES)
    (gateway.root / "new").write_text(text)
    os.replace(gateway.root / "new", gateway.root / "map.conf")
    return text


def route(gateway: Gateway, user: str, at: str) -> Route:
    return Route(user, "127.0.0.1", gateway.upstreams[at].server_port)


def test_everybody_is_found(gateway: Gateway) -> None:
    for user in ("alice", "bob", "mia"):
        assert gateway.get(f"/ws/{user}/a%2Fb?q=1").body == f"{user} /a%2Fb?q=1".encode()
    for user, status, retry in (("stan", 503, "30"), ("max", 503, "5"), ("sue", 503, "5"), ("nobody", 404, None)):
        answer = gateway.get(f"/ws/{user}/")
        assert (answer.status, answer.headers.get("Retry-After")) == (status, retry), user
    for path in ("/ws/", "/ws/ALICE/", "/ws/alic/", "/ws/alicee/", "/ws/a/", "/ws/zzz/", "/ws/0/", "/ws/u:alice/"):
        assert gateway.get(path).status == 404, path


def test_each_of_very_many_is_found(gateway: Gateway) -> None:
    base = gateway.upstreams["alice"].server_port
    names = [f"{'u' * (n % 40)}x{n}" for n in range(5000)]
    routes = [Route(name, f"127.1.{n // 250}.{n % 250 + 1}", base) for n, name in enumerate(names)]
    with socket.socket() as own:  # the upstream listens on 127.0.0.1 only: a refusal shows that the address was found
        own.bind(("127.0.0.1", 0))
        publish(gateway, [*routes, route(gateway, "alice", "alice")], 4)
        eventually(lambda: gateway.get(f"/ws/{names[0]}/").status == 502)
        assert {gateway.get(f"/ws/{name}/").status for name in names[::97]} == {502}
        assert gateway.get("/ws/alice/x").body == b"alice /x"
        assert gateway.get("/ws/x5000/").status == 404


def test_a_new_map_is_served_without_a_reload(gateway: Gateway) -> None:
    assert gateway.get("/ws/alice/x").body == b"alice /x"
    text = publish(gateway, [route(gateway, "alice", "bob"), route(gateway, "carol", "alice")], 4)
    began = time.monotonic()
    eventually(lambda: gateway.get("/ws/alice/x").body == b"bob /x")
    assert time.monotonic() - began < 1
    assert gateway.get("/ws/bob/").status == 404
    header = parse_header(text)
    assert header is not None
    assert gateway.get("/ws/.wsctl-status").body.startswith(f"4 {header.digest} ".encode())


@pytest.mark.parametrize("cut", [0, 100, 1000, -200, -60])
def test_half_a_map_is_left_alone(gateway: Gateway, cut: int) -> None:
    before = gateway.get("/ws/.wsctl-status").body
    whole = render_map([], 9, GatewaySettings(mode=Mode.DYNAMIC))
    (gateway.root / "map.conf").write_text(whole[:cut])
    assert gateway.get("/ws/.wsctl-status").body == before
    assert gateway.get("/ws/alice/x").body == b"alice /x"
    (gateway.root / "map.conf").unlink()
    assert gateway.get("/ws/.wsctl-status").body == before


def test_connections_to_workspaces_are_kept(gateway: Gateway) -> None:
    for _ in range(20):
        assert gateway.get("/ws/alice/x").status == 200
        assert gateway.get("/ws/bob/x").status == 200
    assert gateway.upstreams["alice"].connections == gateway.upstreams["bob"].connections == 1
    assert gateway.last("alice")[1].get("Connection") is None


def test_a_hundred_changes_under_load_fail_nobody(gateway: Gateway) -> None:
    stop = threading.Event()
    answers: list[bytes] = []
    failed: list[str] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        while not stop.is_set():
            try:
                connection.request("GET", "/ws/alice/x")
                answers.append(connection.getresponse().read())
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
            time.sleep(0.004)
        connection.close()

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        websocket(client, "/ws/mia/socket")
        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        for n in range(100):
            publish(
                gateway, [route(gateway, "alice", "bob" if n % 2 else "alice"), route(gateway, "mia", "mia")], 10 + n
            )
            time.sleep(0.03)
        stop.set()
        for thread in asking:
            thread.join()
        client.sendall(b"\x81\x02ok")
        assert client.recv(100) == b"echo:\x81\x02ok", "the WebSocket is still the same"
    assert failed == []
    assert set(answers) == {b"alice /x", b"bob /x"}


def test_the_mode_is_changed_by_one_apply_and_the_wrong_order_is_refused(tmp_path: Path) -> None:
    edge = here(tmp_path)
    edge.prepare()
    made = Site(tmp_path, {"here": edge})
    made.place("alice", edge.workspace)
    edge.write("conf.d/00-wsctl-map.conf", made.run("render-gateway").out)
    edge.start()
    try:
        eventually(lambda: edge.get("/ws/alice/") == (200, "a workspace"))
        edge.write("nginx.conf", lua_modules() + (Path(edge.root) / "nginx.conf").read_text())
        for mode in ("dynamic", "map"):
            made.mode = mode
            assert [item["change"] for item in made.run("render-gateway", "--diff").items] == ["settings"]
            edge.settle()
            old = edge.live()
            assert made.run("render-gateway", "--apply", code=5).error["code"] == "map-refused"
            assert (edge.live(), edge.get("/ws/alice/")[0]) == (old, 200)
            edge.write("snippet.conf", made.run("render-gateway", "--snippet").out)
            reloads = edge.reloads()
            done = made.apply()["here"]
            assert (done["action"], done["snippet_current"], edge.reloads()) == ("applied", True, reloads + 1)
            assert edge.get("/ws/alice/") == (200, "a workspace")
            assert edge.get("/ws/bob/")[0] == 404
    finally:
        edge.stop()


def test_apply_needs_no_reload(tmp_path: Path) -> None:
    edge = here(tmp_path)
    edge.prepare()
    settings = GatewaySettings(mode=Mode.DYNAMIC, map_file=edge.map_file)
    edge.write("snippet.conf", render_snippet(settings))
    edge.write("nginx.conf", lua_modules() + (Path(edge.root) / "nginx.conf").read_text())
    made = Site(tmp_path, {"here": edge}, mode="dynamic")
    made.place("alice", edge.workspace)
    edge.write("conf.d/00-wsctl-map.conf", render_map([], 0, settings))
    edge.start()
    try:
        eventually(lambda: edge.get("/ws/alice/")[0] == 404)
        assert made.apply()["here"]["action"] == "applied"
        assert edge.get("/ws/alice/") == (200, "a workspace")
        workers = edge.workers()
        for n in range(5):
            made.place(f"user-{n}", 2000 + n)
            assert made.apply()["here"]["action"] == "applied"
            assert edge.get(f"/ws/user-{n}/")[0] == 502
        assert made.apply()["here"]["action"] == "unchanged"
        assert edge.reloads() == 0
        assert edge.workers() == workers
        assert edge.beside() == ["00-wsctl-map.conf"]
    finally:
        edge.stop()
