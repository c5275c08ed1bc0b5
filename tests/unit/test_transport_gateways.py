"""Gateways on this machine: the shell commands on real files, the status question on real sockets, plain and TLS."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsctl.errors import GatewayError, NodeUnreachable, NotFound
from wsctl.frontends import Said
from wsctl.model import SshSettings
from wsctl.routes import GatewayHost
from wsctl.transport.gateways import Gateways, ShellGateway, split_status_url
from wsctl.transport.shell import LocalShell
from wsctl.transport.timeouts import Timeouts


def host(
    map_file: str, *, test: str = "true", reload: str = "true", status_url: str = "http://127.0.0.1:1"
) -> GatewayHost:
    return GatewayHost("edge", "local", SshSettings(), map_file, ("sh", "-c", test), ("sh", "-c", reload), status_url)


def local(one: GatewayHost, **timeouts: float) -> ShellGateway:
    return ShellGateway(one, LocalShell("edge"), Timeouts(**timeouts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A map file whose name and folder a shell would trip over."""
    folder = tmp_path / "a folder; $(touch oops) 'x'"
    folder.mkdir()
    return folder / "-my map.conf"


@pytest.fixture
def gateway(path: Path) -> ShellGateway:
    return local(host(str(path)))


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def test_nothing_is_there_at_first(gateway: ShellGateway) -> None:
    live = gateway.read()
    assert (live.text, live.age_s, live.unfinished) == (None, None, False)


def test_upload_swap_finish(gateway: ShellGateway, path: Path) -> None:
    path.write_text("old")
    gateway.upload("new ü")
    assert path.read_text() == "old"
    assert names(path) == ["-my map.conf", ".-my map.conf.wsctl-new"]
    gateway.swap()
    assert names(path) == ["-my map.conf", ".-my map.conf.wsctl-old"]
    live = gateway.read()
    assert (live.text, live.unfinished) == ("new ü", True)
    assert live.age_s is not None
    assert live.age_s < 5
    assert path.stat().st_mode & 0o777 == 0o644
    gateway.finish()
    assert names(path) == ["-my map.conf"]


def test_put_back(gateway: ShellGateway, path: Path) -> None:
    path.write_text("old")
    gateway.upload("new")
    gateway.swap()
    assert gateway.put_back(there_was_none=False)
    assert (path.read_text(), names(path)) == ("old", ["-my map.conf"])
    assert not gateway.put_back(there_was_none=False), "nothing is kept any more"
    assert path.read_text() == "old"


def test_put_back_where_there_was_none(gateway: ShellGateway, path: Path) -> None:
    gateway.upload("new")
    gateway.swap()
    assert gateway.put_back(there_was_none=True)
    assert names(path) == []


def test_a_second_swap_keeps_what_was_kept_first(gateway: ShellGateway, path: Path) -> None:
    path.write_text("good")
    for text in ("one", "two"):
        gateway.upload(text)
        gateway.swap()
    gateway.put_back(there_was_none=False)
    assert path.read_text() == "good"


def test_bytes_that_are_no_text_come_back(gateway: ShellGateway, path: Path) -> None:
    path.write_bytes(b"\xff\x00x")
    text = gateway.read().text
    assert text is not None
    assert text.encode("utf-8", "surrogateescape") == b"\xff\x00x"


def test_a_folder_in_its_place_and_a_missing_folder_are_said(tmp_path: Path, path: Path) -> None:
    path.mkdir()
    gateway = local(host(str(path)))
    gateway.upload("x")
    with pytest.raises(GatewayError, match="is a folder"):
        gateway.swap()
    with pytest.raises(GatewayError, match="No such file or directory"):
        local(host(f"{tmp_path}/nowhere/map.conf")).read()
    with pytest.raises(GatewayError, match=r"nowhere") as caught:
        local(host(f"{tmp_path}/nowhere/map.conf")).upload("x")
    assert caught.value.exit_code == 8


def test_a_reload_resets_the_age(path: Path) -> None:
    path.write_text("x")
    os.utime(path, (1, 1))
    gateway = local(host(str(path), reload="exit 0"))
    age = gateway.read().age_s
    assert age is not None
    assert age > 1e6
    assert gateway.reload().ok
    age = gateway.read().age_s
    assert age is not None
    assert age < 5


def test_commands_are_words_and_end_with_their_own(path: Path) -> None:
    gateway = local(host(str(path), test='echo "$0 said no" >&2; exit 3'))
    assert gateway.test() == Said(False, "sh said no\n")
    with pytest.raises(NodeUnreachable, match="didn't end within"):
        local(host(str(path), test="sleep 5"), gateway=0.2).test()


def test_names_and_local_connections() -> None:
    gateways = Gateways({"edge": host("/etc/x.conf")})
    assert gateways.gateway("edge") is gateways.gateway("edge")
    with pytest.raises(NotFound):
        gateways.gateway("other")
    gateways.close()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1/ws/.s", ("http", "127.0.0.1", 80, "127.0.0.1", "/ws/.s")),
        ("http://gate.example:8080/ws/.s", ("http", "127.0.0.1", 8080, "gate.example:8080", "/ws/.s")),
        ("https://gate.example/ws/.s", ("https", "127.0.0.1", 443, "gate.example", "/ws/.s")),
        ("https://[::1]:8443/ws/.s", ("https", "::1", 8443, "[::1]:8443", "/ws/.s")),
        ("unix:/run/a.sock:/ws/.s", ("unix", "/run/a.sock", 0, "localhost", "/ws/.s")),
    ],
)
def test_status_urls_lead_to_the_loopback(url: str, parts: tuple[object, ...]) -> None:
    assert split_status_url(url) == parts


class Answering:
    """A server that gives one answer to everybody."""

    def __init__(self, listener: socket.socket, answer: bytes, context: ssl.SSLContext | None = None) -> None:
        self.listener, self.answer, self.context = listener, answer, context
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                wire, _ = self.listener.accept()
            except OSError:
                return
            if self.context is not None:
                self.context.sni_callback = lambda _socket, name, _context: self.names.append(name)
                wire = self.context.wrap_socket(wire, server_side=True)
            self.requests.append(wire.recv(4096))
            wire.sendall(self.answer)
            wire.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n7 abc\n"


def test_a_status_is_asked_over_http(listener: socket.socket) -> None:
    server = Answering(listener, GOOD)
    port = listener.getsockname()[1]
    gateway = local(host("/x.conf", status_url=f"http://gate.example:{port}/ws/.s"))
    assert gateway.status() == Said(True, "7 abc\n")
    assert server.requests[0].startswith(f"GET /ws/.s HTTP/1.1\r\nHost: gate.example:{port}\r\n".encode())


def test_a_status_is_asked_over_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        Answering(one, GOOD)
        assert local(host("/x.conf", status_url=f"unix:{tmp_path}/s:/ws/.s")).status().ok


def test_a_status_is_asked_over_tls_with_the_servers_name(listener: socket.socket, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("openssl isn't installed")
    pem = tmp_path / "pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-subj", "/CN=gate.example", "-keyout", str(tmp_path / "key"), "-out", str(pem)]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, tmp_path / "key")
    server = Answering(listener, GOOD, context)
    port = listener.getsockname()[1]
    assert local(host("/x.conf", status_url=f"https://gate.example:{port}/ws/.s")).status() == Said(True, "7 abc\n")
    assert server.names == ["gate.example"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 301 Moved\r\n\r\n", "HTTP status 301"),
        (b"SSH-2.0-OpenSSH\r\n", "doesn't answer in HTTP"),
        (b"", "doesn't answer in HTTP"),
    ],
)
def test_other_answers_are_no_status(listener: socket.socket, answer: bytes, says: str) -> None:
    Answering(listener, answer)
    said = local(host("/x.conf", status_url=f"http://127.0.0.1:{listener.getsockname()[1]}/")).status()
    assert not said.ok
    assert says in said.words


def test_nobody_and_somebody_silent_are_no_status(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    gateway = local(host("/x.conf", status_url=f"http://127.0.0.1:{port}/"), status=0.2)
    assert "refused" in gateway.status().words
    listener.listen()
    began = time.monotonic()
    assert not gateway.status().ok
    assert time.monotonic() - began < 5


def test_a_shell_that_is_not_there_is_said() -> None:
    with pytest.raises(GatewayError, match="cannot run /nowhere/sh"):
        LocalShell("edge").run(["/nowhere/sh"], b"", 1)
    assert LocalShell("edge").run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], b"", 10).code == 137
