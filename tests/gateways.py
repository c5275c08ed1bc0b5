"""Gateways in memory: a map file, workers that have loaded some map, and the ways in which both go wrong.

Responsible for behaving as `frontends.Gateway` says. Not responsible for: what Nginx thinks of a map; a test decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wsctl.errors import NotFound, WsctlError
from wsctl.frontends import LiveFile, Said
from wsctl.routes import GatewayHost, GatewaySettings, parse_header
from wsctl.snippet import snippet_digest
from wsctl.transport.host_keys import HostKey, KeyStatus

OK = Said(True, "nginx: configuration file /etc/nginx/nginx.conf test is successful")

KEY = HostKey("10.0.0.9", "ssh-ed25519", b"a gateway's key", KeyStatus.NEW, "/nowhere/known_hosts")


@dataclass
class FakeGateway:
    """`live`, `kept` and `uploaded` are files, `served` is what the workers have; `calls` are the effects in order.

    `refuses` is asked about the live text at each test; `reloads` says what a reload does: `yes`, `no` (it fails) or
    `silently not`. `snippet` is the digest of the one that Nginx includes. `before` is called before each call, with
    its name.
    """

    map_file: str = "/etc/nginx/conf.d/00-wsctl-map.conf"
    live: str | None = None
    kept: str | None = None
    uploaded: str | None = None
    served: str | None = None
    age_s: float | None = 3600.0
    refuses: Callable[[str | None], str | None] = lambda text: None
    reloads: str = "yes"
    snippet: str | None = snippet_digest(GatewaySettings())
    before: Callable[[str], None] = lambda call: None
    calls: list[str] = field(default_factory=list)

    def _call(self, name: str) -> None:
        self.before(name)
        self.calls.append(name)

    def read(self) -> LiveFile:
        self.before("read")
        return LiveFile(self.live, self.age_s, self.kept is not None)

    def upload(self, text: str) -> None:
        self._call("upload")
        self.uploaded = text

    def swap(self) -> None:
        self._call("swap")
        assert self.uploaded is not None
        if self.kept is None:
            self.kept = self.live
        self.live, self.uploaded = self.uploaded, None

    def finish(self) -> None:
        self._call("finish")
        self.kept = self.uploaded = None

    def put_back(self, *, there_was_none: bool) -> bool:
        self._call("put back")
        self.uploaded = None
        if there_was_none:
            self.live = self.kept = None
            return True
        if self.kept is None:
            return False
        self.live, self.kept = self.kept, None
        return True

    def test(self) -> Said:
        self._call("test")
        complaint = self.refuses(self.live)
        return OK if complaint is None else Said(False, complaint)

    def reload(self) -> Said:
        self._call("reload")
        if self.reloads == "no":
            return Said(False, 'nginx: [error] open() "/run/nginx.pid" failed (2: No such file or directory)')
        if self.reloads == "yes":
            self.served = self.live
        self.age_s = 0.0
        return Said(True, "")

    def status(self) -> Said:
        self.before("status")
        header = parse_header(self.served or "")
        if header is None:
            return Said(False, "http://127.0.0.1/ws/.wsctl-status answers with HTTP status 404")
        return Said(True, f"{header.generation} {header.digest}{f' {self.snippet}' if self.snippet else ''}\n")


@dataclass
class FakeGateways:
    """`context.GatewayFleet` on fakes, which outlive the commands; `broken` are those that can't be reached."""

    made: dict[str, FakeGateway] = field(default_factory=dict)
    broken: dict[str, WsctlError] = field(default_factory=dict)
    hosts: Mapping[str, GatewayHost] = field(default_factory=dict)
    key: HostKey = KEY
    trusted: list[tuple[str, HostKey]] = field(default_factory=list)

    def __call__(self, hosts: Mapping[str, GatewayHost]) -> FakeGateways:
        self.hosts = hosts
        return self

    def gateway(self, name: str) -> FakeGateway:
        assert name in self.hosts
        if name in self.broken:
            raise self.broken[name]
        return self.made.setdefault(name, FakeGateway())

    def scan_host_key(self, name: str) -> HostKey:
        if name not in self.hosts:
            raise NotFound(f"no gateway named {name!r} in the inventory")
        return self.key

    def trust(self, name: str, key: HostKey) -> None:
        self.trusted.append((name, key))

    def close(self) -> None: ...
