"""A workspace as seen by a gateway, and a private Nginx in front of it, for tests of routing.

Responsible for: upstreams that answer with what they were asked and try what a workspace could try, a client that sends
any path, and starting an Nginx from a configuration. Not responsible for: any configuration's content.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Upstream(BaseHTTPRequestHandler):
    """Answers with the request as it came, and with what a workspace could try: redirects, cookies, X-Accel, SSE."""

    protocol_version = "HTTP/1.1"
    server: UpstreamServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        path = self.path.partition("?")[0]
        upgrades = self.request_version == "HTTP/1.1" and self.headers.get("Connection", "").lower() == "upgrade"
        if upgrades and self.headers.get("Upgrade") == "websocket":
            self.websocket()
        elif path.endswith("/sse"):
            self.sse()
        elif path.endswith("/status418"):
            self.answer(418, b"teapot")
        elif path.endswith("/cookie"):
            self.answer(200, b"", {"Set-Cookie": self.headers["X-Test-Cookie"]})
        elif path.endswith("/missing"):
            self.answer(404, b"the workspace's own 404")
        elif path.endswith("/accel"):
            self.answer(200, b"mine", {"X-Accel-Redirect": "/secret/", "X-Accel-Buffering": "yes"})
        elif path.endswith("/moved"):
            target = self.headers["X-Test-Location"]
            self.answer(302, b"", {"Location": target, "Set-Cookie": "s=1; Path=/"})
        else:
            self.answer(200, f"{self.server.user} {self.path}".encode())

    def do_POST(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        digest = hashlib.sha256()
        for part in self.body():
            self.server.received += len(part)
            digest.update(part)
        self.answer(200, digest.hexdigest().encode())

    def body(self) -> Iterator[bytes]:
        """The body as it comes, whether its length was said or it is chunked."""
        left = int(self.headers["Content-Length"] or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        while chunked or left:
            if chunked and left == 0:
                left = int(self.rfile.readline(), 16)
                chunked = left > 0
            part = self.rfile.read1(min(left, 1 << 20))
            if left and not part:
                return
            left -= len(part)
            if left == 0 and part and self.headers.get("Transfer-Encoding") == "chunked":
                self.rfile.readline()
            yield part

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def sse(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: one\n\n")
        self.wfile.flush()
        self.server.go_on.wait(10)
        self.wfile.write(b"data: two\n\n")
        self.close_connection = True

    def websocket(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        while frame := self.connection.recv(1024):  # bytes are enough to show that the tunnel is two-way
            self.connection.sendall(b"echo:" + frame)
        self.close_connection = True


class UpstreamServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, user: str, address: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, 0), Upstream)
        self.user = user
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.go_on = threading.Event()
        self.received = self.connections = 0

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]


@dataclass
class Gateway:
    port: int
    upstreams: dict[str, UpstreamServer]
    root: Path

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, "/", skip_host="Host" in named)
            # http.client refuses hostile paths, which are what is to be sent here.
            connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
            for name, value in named.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.headers.items()))
        finally:
            connection.close()

    def last(self, user: str) -> tuple[str, dict[str, str]]:
        return self.upstreams[user].seen[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx() -> str:
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if found is None:
        pytest.fail("nginx isn't installed: apt-get install nginx-light, or WSCTL_SKIP_LAB=1 to do without these tests")
    return found


def check(root: Path, config: Path) -> subprocess.CompletedProcess[str]:
    argv = [nginx(), "-t", "-p", str(root), "-c", str(config), "-e", "stderr"]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


@contextmanager
def running(root: Path, config: Path, port: int) -> Iterator[None]:
    """An Nginx with this configuration, which must pass its test without a warning."""
    checked = check(root, config)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr, checked.stderr
    process = subprocess.Popen([nginx(), "-p", str(root), "-c", str(config), "-e", str(root / "error.log")])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def upstreams_of(*users: str, address: str = "127.0.0.1") -> Iterator[dict[str, UpstreamServer]]:
    """A running upstream for each user."""
    made = {user: UpstreamServer(user, address) for user in users}
    for server in made.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        for server in made.values():
            server.go_on.set()
            server.shutdown()
            server.server_close()
