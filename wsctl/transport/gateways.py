"""Gateways: the map file of an Nginx, on this machine or on another.

Responsible for: the few shell commands that read, place and take back a file in one step each, and for asking a worker
what it serves. The same commands run here and through SSH. Not responsible for: their order and what their outcome
means (`wsctl.gateway`), nor for texts (`routes`).

Beside `map.conf` an apply has `.map.conf.wsctl-new`, the upload, and `.map.conf.wsctl-old`, what was live before:
neither `include *.conf` nor `include *` of Nginx takes a name that begins with a dot.
"""

from __future__ import annotations

import contextlib
import posixpath
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wsctl.errors import GatewayError, HostKeyError, NodeUnreachable, NotFound
from wsctl.frontends import LiveFile, Said
from wsctl.routes import STATUS, GatewayHost
from wsctl.transport.once import Once
from wsctl.transport.shell import Done, LocalShell, Shell, SshShell
from wsctl.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from wsctl.transport.host_keys import HostKey
    from wsctl.transport.ready import Wire
    from wsctl.transport.sessions import Sessions
    from wsctl.transport.ssh import Session

# An account that isn't root may have no sbin in its PATH, which is where nginx is. $1 is the live file, $2 the upload,
# $3 what is kept, $4 the folder.
_PROLOGUE = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH; LC_ALL=C; export LC_ALL; "

_READ = """printf '%s %s %s\\n' "$(date +%s.%3N)" "$(stat -L -c %.3Y -- "$1" 2>/dev/null || echo -)" \\
"$(if [ -e "$3" ]; then echo unfinished; else echo -; fi)"
if [ -e "$1" ] || [ -L "$1" ]; then exec cat -- "$1"; fi
[ -x "$4" ] || exec ls -d -- "$4/." >/dev/null"""

_UPLOAD = """set -e; umask 022; rm -f -- "$2"; trap 'rm -f -- "$2"' EXIT
cat > "$2"; [ "$(wc -c < "$2")" -eq "$5" ] || { echo "only a part of the map arrived" >&2; exit 1; }
chmod 644 -- "$2"; sync -- "$2" 2>/dev/null || sync; trap - EXIT"""

_SWAP = """set -e; [ ! -d "$1" ] || { echo "$1 is a folder" >&2; exit 1; }
if [ -e "$1" ] && [ ! -e "$3" ]; then ln -- "$1" "$3" 2>/dev/null || cp -p -- "$1" "$3"; fi
mv -fT -- "$2" "$1"; sync -- "$4" 2>/dev/null || sync"""

_FINISH = 'rm -f -- "$2" "$3"'

_PUT_BACK = """set -e; rm -f -- "$2"; if [ "$5" = none ]; then rm -f -- "$1" "$3"; exit 0; fi
[ -e "$3" ] || { echo nothing; exit 0; }
mv -fT -- "$3" "$1"; sync -- "$4" 2>/dev/null || sync"""

_RUN = 'shift 4; exec "$@"'
_RELOAD = 'touch -c -- "$1"; shift 4; exec "$@"'

ANSWER_BYTES = 16384


class ShellGateway:
    """`frontends.Gateway` on a machine that runs commands."""

    def __init__(self, host: GatewayHost, shell: Shell, timeouts: Timeouts) -> None:
        self._host = host
        self._shell = shell
        self._timeouts = timeouts
        folder, name = posixpath.split(host.map_file)
        self._files = (host.map_file, f"{folder}/.{name}.wsctl-new", f"{folder}/.{name}.wsctl-old", folder or "/")

    @property
    def map_file(self) -> str:
        return self._host.map_file

    def read(self) -> LiveFile:
        done = self._do("read", _READ)
        first, _, body = done.out.partition(b"\n")
        now, written, state = first.decode("ascii", "replace").split()
        age = None
        with contextlib.suppress(ValueError):
            age = max(0.0, float(now) - float(written))
        text = None if written == "-" else body.decode("utf-8", "surrogateescape")
        return LiveFile(text, age, state == "unfinished")

    def upload(self, text: str) -> None:
        data = text.encode("utf-8")
        self._do("write", _UPLOAD, str(len(data)), data=data)

    def swap(self) -> None:
        self._do("replace", _SWAP)

    def finish(self) -> None:
        self._do("tidy up beside", _FINISH)

    def put_back(self, *, there_was_none: bool) -> bool:
        return not self._do("put back", _PUT_BACK, "none" if there_was_none else "kept").out

    def test(self) -> Said:
        return self._said(self._sh(_RUN, self._host.test))

    def reload(self) -> Said:
        return self._said(self._sh(_RELOAD, self._host.reload))

    def status(self) -> Said:
        try:
            return _ask(partial(self._connect), self._host.status_url, self._timeouts.status)
        except (OSError, EOFError) as error:
            return Said(False, f"{self._host.status_url} doesn't answer: {getattr(error, 'strerror', None) or error}")

    def _connect(self, host: str, port: int) -> Wire:
        return self._shell.connect(host, port, self._timeouts.status)

    def _sh(self, script: str, more: tuple[str, ...], data: bytes = b"") -> Done:
        argv = ("sh", "-c", _PROLOGUE + script, "wsctl", *self._files, *more)
        return self._shell.run(argv, data, self._timeouts.gateway)

    def _do(self, doing: str, script: str, *more: str, data: bytes = b"") -> Done:
        done = self._sh(script, more, data)
        if done.code != 0:
            words = " ".join(done.words.split())[:400]
            raise GatewayError(
                self._host.name,
                f"cannot {doing} {self.map_file}: {words or f'exit code {done.code}'}",
                hint=f"check the folder {self._files[3]}, its free space, and the account's permissions there",
            )
        return done

    @staticmethod
    def _said(done: Done) -> Said:
        return Said(done.code == 0, done.words)


def _ask(connect: partial[Wire], url: str, timeout_s: float) -> Said:
    """GET the URL over a new connection. Raises OSError, EOFError."""
    scheme, host, port, name, path = split_status_url(url)
    wire = connect(host, port)
    try:
        wire.settimeout(timeout_s)
        head = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: wsctl\r\nConnection: close\r\n\r\n".encode("ascii")
        if scheme == "https":
            from wsctl.transport.tls import exchange

            answer = exchange(wire, name.partition(":")[0], head, ANSWER_BYTES)
        else:
            wire.sendall(head)
            answer = _read(wire, time.monotonic() + timeout_s)
    finally:
        with contextlib.suppress(OSError, EOFError):
            wire.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    fields = top.split(None, 2)
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/"):
        return Said(False, f"{url} doesn't answer in HTTP")
    status = fields[1].decode("ascii", "replace")
    if status != "200":
        return Said(False, f"{url} answers with HTTP status {status}")
    return Said(True, body.decode("ascii", "replace"))


def _read(wire: Wire, deadline: float) -> bytes:
    answer = b""
    while len(answer) < ANSWER_BYTES and time.monotonic() < deadline:
        part = wire.recv(4096)
        if not part:
            break
        answer += part
    return answer


def split_status_url(url: str) -> tuple[str, str, int, str, str]:
    """Scheme, where to connect (port 0: a Unix socket), Host header and path. An http(s) URL leads to the loopback of
    the gateway whatever host it names, as only there the status is told; the host is for `server_name` and TLS."""
    if url.startswith("unix:"):
        path, _, rest = url.removeprefix("unix:").partition(":")
        return "unix", path, 0, "localhost", rest or f"/ws/{STATUS}"
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loopback = "::1" if parts.hostname == "::1" else "127.0.0.1"
    return parts.scheme, loopback, port, parts.netloc, parts.path or "/"


def _by_hand(host: GatewayHost) -> str:
    """How an operator would log in there."""
    port = f" -p {host.ssh.port}" if host.ssh.port is not None else ""
    return f"ssh{port} {host.ssh.user + '@' if host.ssh.user is not None else ''}{host.address}"


class Gateways:
    """The gateways of one run; each has at most one connection. Safe to use from several threads."""

    def __init__(self, hosts: Mapping[str, GatewayHost], timeouts: Timeouts | None = None) -> None:
        self._hosts = dict(hosts)
        self._timeouts = timeouts or Timeouts()
        self._closed = threading.Event()
        self._sessions: Once[Sessions] = Once(self._make_sessions)
        self._made = {name: Once(partial(self._connect, host)) for name, host in self._hosts.items()}

    def gateway(self, name: str) -> ShellGateway:
        """The gateway, connected. Raises `NotFound`, `NodeUnreachable`, `HostKeyError`."""
        self._host(name)
        return self._made[name].get()

    def scan_host_key(self, name: str) -> HostKey:
        """The host key that the gateway presents, without logging in; as `Connections.scan_host_key`. Raises
        `NotFound`, `NodeUnreachable`, `UsageError` for this machine."""
        return self._sessions.get().scan(self._host(name))

    def trust(self, name: str, key: HostKey) -> None:
        """Add the key to the known_hosts file that the gateway uses. Raises `NotFound`, `NodeError`."""
        from wsctl.transport import known_hosts

        known_hosts.trust(self._host(name).name, key)

    def close(self) -> None:
        """Close the connections; never raises."""
        self._closed.set()
        sessions = self._sessions.peek()
        if sessions is not None:
            sessions.close()

    def _host(self, name: str) -> GatewayHost:
        host = self._hosts.get(name)
        if host is None:
            raise NotFound(f"no gateway named {name!r} in the inventory", hint="wsctl gateway ls")
        return host

    def _make_sessions(self) -> Sessions:
        from wsctl.transport.sessions import Sessions

        return Sessions(self._timeouts, self._closed)

    def _connect(self, host: GatewayHost) -> ShellGateway:
        if host.is_local:
            return ShellGateway(host, LocalShell(host.name), self._timeouts)
        self._session(host)
        return ShellGateway(host, SshShell(host.name, partial(self._session, host)), self._timeouts)

    def _session(self, host: GatewayHost) -> Session:
        try:
            return self._sessions.get().session(host)
        except HostKeyError as error:
            hint = (error.hint or "").replace("wsctl node trust", "wsctl gateway trust")
            raise HostKeyError(host.name, error.reason, hint=hint, details=error.details) from error
        except NodeUnreachable as error:
            if error.hint and error.hint.startswith("wsctl node"):
                raise NodeUnreachable(host.name, error.reason, hint=f"try it: {_by_hand(host)}") from error
            raise
