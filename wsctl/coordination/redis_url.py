"""Coordination URLs: from text to which Redis is meant.

Responsible for: the spelling of `coordination:` and what is wrong with a wrong one. Not responsible for: connecting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from wsctl import hosturl
from wsctl.errors import InventoryError

EXPECTED = (
    "redis://host:6379/0, rediss://host:6379/0?ca=ca.pem, redis+cluster://h1:6379,h2:6379 or "
    "redis+sentinel://h1:26379,h2:26379/name"
)
_KINDS = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Which Redis. `kind` is standalone, cluster or sentinel; `hosts` are (name, port), of the sentinels if those."""

    kind: str
    hosts: tuple[tuple[str, int], ...]
    tls: bool
    username: str | None
    db: int
    service: str
    ca: str | None

    @property
    def label(self) -> str:
        """How messages name it; there is no password in it."""
        where = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return {
            "standalone": f"redis at {where}",
            "cluster": f"redis cluster at {where}",
            "sentinel": f"redis {self.service!r} of the sentinels at {where}",
        }[self.kind]


def parse_redis_url(url: str, base: Path) -> RedisTarget:
    """What `url` names; a relative `?ca=` is relative to `base`. Raises InventoryError for what isn't understood."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _KINDS:
        raise _bad(url, "unknown kind of coordination")
    kind, tls = _KINDS[scheme]
    try:
        parts = hosturl.split(f"x://{rest}")
    except ValueError as error:
        raise _bad(url, str(error)) from None
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise InventoryError(
            "coordination: a password in the URL would be readable by everybody who can read the inventory",
            hint="put it in the environment as WSCTL_REDIS_PASSWORD",
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - {"ca"}):
        raise _bad(url, f"unknown option {unknown[0]!r} (there is ca)")
    ca = options.get("ca")
    if ca and not tls:
        raise _bad(url, "ca= has no meaning without TLS (rediss://)")
    path = unquote(parts.path.removeprefix("/"))
    return RedisTarget(
        kind=kind,
        hosts=_hosts(url, hosts, 26379 if kind == "sentinel" else 6379, many=kind != "standalone"),
        tls=tls,
        username=unquote(user) or None,
        db=_db(url, kind, path),
        service=_service(url, path) if kind == "sentinel" else "",
        ca=str(base / ca) if ca else None,
    )


def _bad(url: str, why: str) -> InventoryError:
    shown = "".join(c if c.isprintable() else "?" for c in url[:200])
    return InventoryError(f"coordination: can't use {shown!r}: {why}", hint=f"expected {EXPECTED}")


def _hosts(url: str, text: str, default_port: int, *, many: bool) -> tuple[tuple[str, int], ...]:
    items = text.split(",")
    if len(items) > 1 and not many:
        raise _bad(url, "several hosts need redis+cluster:// or redis+sentinel://")
    found: list[tuple[str, int]] = []
    for item in items:
        try:
            parts = urlsplit(f"x://{item}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _bad(url, str(error)) from None
        if not host:
            raise _bad(url, "a host name is missing")
        found.append((host, port or default_port))
    return tuple(found)


def _db(url: str, kind: str, path: str) -> int:
    if kind == "sentinel" or not path:
        return 0
    if kind == "cluster":
        raise _bad(url, "a cluster has no numbered databases")
    if not path.isascii() or not path.isdigit():
        raise _bad(url, f"the database is a number, not {path!r}")
    return int(path)


def _service(url: str, path: str) -> str:
    if not path or "/" in path:
        raise _bad(url, "the name that the sentinels know the service by was expected after the hosts")
    return path
