"""The endpoint of the mode `auth_request`: Nginx asks it at each request who may pass, and to which upstream.

Responsible for: the answers, keeping what is known of the placements fresh, and tokens. Not responsible for: where
placements come from (a function is given), nor for Nginx's side of the contract (`snippet`).

A platform with permissions of its own answers by the same contract in its own language; this one is the reference, and
enough where a signed token is. It answers from memory: the state database is asked a few times a second, however many
requests there are, and while it is gone the last knowledge goes on.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wsctl.errors import WsctlError

COOKIE = "ws_token"
FRESH_S = 0.2
"""How old knowledge may be before the generation is looked at."""
FULL_S = 2.0
"""How old it may be before everything is read, whatever the generation: pages of states don't change that."""
TOKEN = re.compile(r"([a-z0-9_-]{1,63})\.([0-9]{1,12})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Known:
    """The upstream (`address:port`) and the state of each user, at a generation of the routes."""

    generation: int
    upstreams: Mapping[str, str]
    states: Mapping[str, str]


class RouteBook:
    """What is known now. `generation` and `load` read the state database; `now` is a clock that only goes forward."""

    def __init__(self, generation: Callable[[], int], load: Callable[[], Known], now: Callable[[], float]) -> None:
        self._generation, self._load, self._now = generation, load, now
        self._known = load()
        self._looked = self._loaded = now()
        self._reading = threading.Lock()

    def look_up(self, user: str) -> tuple[str | None, str]:
        """The user's upstream or None, and their state, `unknown` if there is none. Never raises `WsctlError`."""
        if self._now() - self._looked >= FRESH_S and self._reading.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._reading.release()
        known = self._known
        upstream = known.upstreams.get(user)
        return upstream, known.states.get(user, "running" if upstream else "unknown")

    def _refresh(self) -> None:
        try:
            if self._now() - self._loaded >= FULL_S or self._generation() != self._known.generation:
                self._known = self._load()
                self._loaded = self._now()
        except WsctlError:
            pass  # the last knowledge goes on: a database that doesn't answer moves nobody
        self._looked = self._now()


def sign(key: bytes, user: str, expires: int) -> str:
    """A token that lets its bearer into the user's workspace until `expires` (Unix time)."""
    said = f"{user}.{expires}"
    return f"{said}.{hmac.new(key, said.encode('ascii'), hashlib.sha256).hexdigest()}"


def bearer(key: bytes, token: str, now: float) -> str | None:
    """Whose token it is; None if it isn't genuine or has expired."""
    found = TOKEN.fullmatch(token)
    if found is None or int(found[2]) <= now:
        return None
    return found[1] if hmac.compare_digest(sign(key, found[1], int(found[2])), token) else None


class RouteServer(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers. Without a `key` everybody may pass."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], book: RouteBook, key: bytes | None, wall: Callable[[], float]) -> None:
        self.book, self.key, self.wall = book, key, wall
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Question)


class _Question(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wsctl", ""
    timeout = 75  # longer than Nginx keeps an idle connection
    server: RouteServer

    def log_message(self, *_: object) -> None:
        """Nginx has a log."""

    def do_GET(self) -> None:
        if self.path != "/route":
            self._answer(404)
            return
        user = self.headers.get("X-Ws-User", "")
        owner: str | None = None
        if self.server.key is not None:
            owner = bearer(self.server.key, self._token(), self.server.wall())
            if owner is None:
                self._answer(401, {"WWW-Authenticate": 'Bearer realm="workspaces"'})
                return
            if owner != user:
                self._answer(403, {"X-Ws-State": "forbidden", "Cache-Control": "max-age=1"})
                return
        upstream, state = self.server.book.look_up(user)
        headers = {"X-Ws-State": state, "Cache-Control": "max-age=1"}
        if upstream is None:
            self._answer(403, headers)
            return
        person = {} if owner is None else {"X-Auth-Request-User": owner}
        self._answer(204, {"X-Ws-Upstream": upstream, **person, **headers})

    def _token(self) -> str:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return "" if morsel is None else morsel.value

    def _answer(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()
