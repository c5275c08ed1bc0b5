"""The wake hook of the gateway: a request for a stopped user starts them.

Responsible for: one start per user however many requests wait, bounded workers, queue and waiting requests, and the
answers to Nginx. Not responsible for: starting (a function is given), for a limit per node (every start passes the
gate of `max_concurrent_starts`), nor for who may ask: Nginx asks for permission before it asks here.

A request waits while the start takes, and is sent to its own address again when the gateway routes there. What isn't
somebody opening a page wakes nobody: a forgotten tab that keeps asking must not bring back whom the reaper stopped.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from wsctl.errors import NotFound, WsctlError
from wsctl.model import is_user_id

HOLD_S = 25.0
"""How long a request waits for a start; Nginx would give it up after 60 s."""

MOST_HELD = 128
"""So many requests wait at once at most; the others are told to come again."""

KEEP_S = {"ready": 3.0, "unrouted": 3.0, "failed": 15.0, "unknown": 3.0}
"""How long an outcome answers for the user: a failing start isn't tried again by each reload of a page."""

_PATH = re.compile(r"/[!-~]*", re.ASCII)


class Woken(StrEnum):
    """What became of a start. `unrouted`: it runs, and the gateway doesn't send requests there yet."""

    READY = "ready"
    UNROUTED = "unrouted"
    FAILED = "failed"
    UNKNOWN = "unknown"
    STARTING = "starting"
    BUSY = "busy"


@dataclass
class _Job:
    """One user's start: `outcome` is there once `done` is set, which is `ended`."""

    user: str
    done: threading.Event = field(default_factory=threading.Event)
    outcome: Woken = Woken.STARTING
    ended: float = 0.0


class Waker:
    """Starts users, each once at a time. `start` starts one and says what became of it; a `WsctlError` is a failed
    start, told to `say` with the user. `now` counts seconds and only goes forward."""

    def __init__(
        self,
        start: Callable[[str], Woken],
        say: Callable[[str, str], None],
        now: Callable[[], float],
        *,
        workers: int = 8,
        queue: int = 256,
    ) -> None:
        self._start, self._say, self._now = start, say, now
        self._workers, self._most = workers, queue
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._working = 0
        self.bug: BaseException | None = None

    def wake(self, user: str, hold_s: float) -> tuple[Woken, bool]:
        """Have the user started and wait up to `hold_s` for it: the outcome, and whether it came while we waited."""
        with self._lock:
            self._forget()
            job = self._jobs.get(user)
            if job is None:
                if len(self._queue) >= self._most:
                    return Woken.BUSY, False
                job = self._jobs[user] = _Job(user)
                self._queue.append(job)
                if self._working < self._workers:
                    self._working += 1
                    threading.Thread(target=self._work, name="wake", daemon=True).start()
            waited = not job.done.is_set()
        job.done.wait(hold_s)
        return job.outcome, waited

    def check(self) -> None:
        """Raise what a start or a request raised that wasn't meant to."""
        if self.bug is not None:
            raise self.bug

    def _forget(self) -> None:
        now = self._now()
        for user, job in list(self._jobs.items()):
            if job.done.is_set() and now - job.ended >= KEEP_S[job.outcome]:
                del self._jobs[user]

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._working -= 1
                    return
                job = self._queue.popleft()
            outcome = Woken.FAILED
            try:
                outcome = self._start(job.user)
            except NotFound:
                outcome = Woken.UNKNOWN
            except WsctlError as error:
                self._say(job.user, error.message)
            except BaseException as error:  # noqa: BLE001 - raised again by `check`; the requests must not hang
                self.bug = error
            job.outcome, job.ended = outcome, self._now()
            job.done.set()


class WakeServer(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], waker: Waker, hold_s: float = HOLD_S) -> None:
        self.waker, self.hold_s = waker, hold_s
        self._room = threading.BoundedSemaphore(MOST_HELD)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Request)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """In a thread of its own, or not at all if too many wait."""
        if not self._room.acquire(blocking=False):
            if isinstance(request, socket.socket):
                request.settimeout(1.0)
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: object, client_address: object) -> None:
        """What the thread does."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is its own business; anything else is a bug, and `Waker.check` has it."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.waker.bug = error


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent: `again_s` is Retry-After, and when the page loads itself again; None: neither."""

    status: int
    text: str
    again_s: int | None = None
    location: str | None = None


def answer_for(outcome: Woken, *, waited: bool, uri: str) -> Answer:
    """The answer to a request for `uri`, which is sent there again only once per start: if the gateway still asks us
    after that, its page waits a moment instead of turning in a circle."""
    if outcome is Woken.READY and waited and is_own_path(uri):
        return Answer(307, "This workspace is running.", location=uri)
    return {
        Woken.READY: Answer(503, "This workspace is starting: try again in a moment.", 1),
        Woken.UNROUTED: Answer(503, "This workspace is running, and will be reachable in a moment.", 5),
        Woken.STARTING: Answer(503, "This workspace is starting: try again in a moment.", 2),
        Woken.BUSY: Answer(503, "Many workspaces are starting: try again in a moment.", 10),
        Woken.FAILED: Answer(503, "This workspace couldn't be started.", 30),
        Woken.UNKNOWN: Answer(404, "There is no workspace at this address."),
    }[outcome]


def is_own_path(uri: str) -> bool:
    """Whether it is a path on this host and nothing else: no other host's address, nothing that ends a header."""
    return _PATH.fullmatch(uri) is not None and not uri.startswith("//") and "\\" not in uri


def wakes(headers: Mapping[str, str]) -> bool:
    """Whether the request is somebody opening a page. Browsers say so; who isn't one is believed."""
    return headers.get("Sec-Fetch-Mode", "navigate") == "navigate" and not headers.get("Upgrade")


class _Request(BaseHTTPRequestHandler):
    server_version, sys_version = "wsctl", ""
    timeout = 10  # for the request itself
    server: WakeServer

    def log_message(self, *_: object) -> None:
        """Nginx has a log."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        users = [*parse_qs(parts.query, max_num_fields=4).get("user", ()), *self.headers.get_all("X-Ws-User", ())]
        if parts.path != "/wake" or len(set(users)) != 1 or not is_user_id(users[0]):
            self._send(answer_for(Woken.UNKNOWN, waited=False, uri=""))
            return
        if not wakes({name: self.headers.get(name, "") for name in self.headers}):
            self._send(Answer(503, "This workspace is stopped."))
            return
        outcome, waited = self.server.waker.wake(users[0], self.server.hold_s)
        self._send(answer_for(outcome, waited=waited, uri=self.headers.get("X-Original-URI", "")))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def _send(self, answer: Answer) -> None:
        is_page = "text/html" in self.headers.get("Accept", "") and answer.again_s is not None
        body = (_page(answer) if is_page else answer.text + "\n").encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", f"text/{'html' if is_page else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if answer.again_s is not None:
            self.send_header("Retry-After", str(answer.again_s))
        if answer.location is not None:
            self.send_header("Location", answer.location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _page(answer: Answer) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{answer.again_s}"><title>Workspace</title><p>{answer.text}\n'
    )
