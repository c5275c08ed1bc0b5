"""The URLs of the state database and of the coordination backend.

Responsible for: which forms there are, and that no password stands in them. A refused URL is never repeated, not even
in part: what looks malformed may be a password with a slash in it. Not responsible for: connecting (`store`,
`coordination`), nor for the password itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, quote, unquote

from wsctl import hosturl
from wsctl.inventory.names import parse_host
from wsctl.inventory.scalars import Text, whole

_USER = r"[A-Za-z0-9_.$-]{1,80}"
_PATH_CHARS = "/~+=@,:!$&'()*;"
_DATABASE = r"[A-Za-z0-9_$-]{1,64}"
_PATHS = {
    "": (r"([0-9]{1,4})?", "has a database that isn't a number"),
    "cluster": (r"", "has a database, and a cluster has only one"),
    "sentinel": (r"[A-Za-z0-9._-]{1,64}", "doesn't name the service that the sentinels watch"),
}
TLS_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")


def _refuse_password(rest: str, instead: str) -> None:
    """`rest` is what follows `://`. Looks further than the first `/`, as passwords may hold one."""
    userinfo, at, _ = rest.partition("?")[0].rpartition("@")
    if at and ":" in userinfo:
        raise ValueError(f"has a password in it, which this file mustn't hold (use {instead})")


def _printable(text: str) -> None:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has characters that a URL can't have")


def _host_port(text: str) -> None:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]+))?", text)
    if found is None:
        raise ValueError("has a malformed host or port")
    try:
        parse_host(found[1].strip("[]"))
        whole(found[2] or "1", 1, 65535)
    except ValueError as error:
        raise ValueError("has a malformed host or port") from error


def parse_state(text: str) -> str:
    """`sqlite:///path` or `mysql://user@host:port/database` (or several hosts, by commas), as written."""
    _printable(text)
    scheme, sep, rest = text.partition("://")
    if not sep or scheme not in ("sqlite", "mysql", "mariadb"):
        if sep:
            _refuse_password(rest, "state_password_file or WSCTL_STATE_PASSWORD")
        raise ValueError("has an unknown scheme" if sep else "")
    return _sqlite(text, rest) if scheme == "sqlite" else _mysql(text, rest)


def _sqlite(text: str, rest: str) -> str:
    path = rest.removeprefix("/")
    if path in ("", "/", ":memory:"):
        raise ValueError("names no file, and a database in memory forgets every placement")
    if not rest.startswith("/"):
        raise ValueError("needs three slashes before a relative path, four before an absolute one")
    if "?" in path or "#" in path or path.endswith("/") or not unquote(path).isprintable():
        raise ValueError("has options, or names a directory")
    return text


def _mysql(text: str, rest: str) -> str:
    _refuse_password(rest, "state_password_file or WSCTL_STATE_PASSWORD")
    try:
        url = hosturl.split(text)
    except ValueError as error:  # its own message repeats the host
        raise ValueError("has a malformed host or port") from error
    user, at, host = url.netloc.rpartition("@")
    if not at or not re.fullmatch(_USER, user):
        raise ValueError("names no user")
    if host or "socket=" not in url.query:
        for member in host.split(","):
            _host_port(member)
    if "," in host and "socket=" in url.query:
        raise ValueError("has several hosts and a socket")
    if not re.fullmatch(_DATABASE, url.path.removeprefix("/")):
        raise ValueError("names no database")
    _mysql_options(url)
    return text


def _mysql_options(url: SplitResult) -> None:
    options = parse_qsl(url.query, keep_blank_values=True)
    names = [name for name, _ in options]
    if url.fragment or any(name not in ("tls", "ca", "socket") for name in names) or len(set(names)) < len(names):
        raise ValueError("has an unknown or repeated option (there are tls, ca and socket)")
    for name, value in options:
        if name == "tls" and value not in TLS_MODES:
            raise ValueError(f"has an unknown tls (there are {', '.join(TLS_MODES)})")
        if name == "socket" and not value.startswith("/"):
            raise ValueError("has a socket without an absolute path")
        if name == "ca" and not value:
            raise ValueError("has a ca without a file")
    if "ca" in names and dict(options).get("tls", "preferred") in ("disabled", "preferred"):
        raise ValueError("has a ca, which needs tls=required, verify-ca or verify-identity")


def parse_coordination(text: str) -> str:
    """One Redis, or the members of a Redis Cluster or the Sentinels of a Redis, as written."""
    _printable(text)
    scheme, sep, rest = text.partition("://")
    if sep:
        _refuse_password(rest, "coordination_password_file or WSCTL_REDIS_PASSWORD")
    protocol, _, kind = scheme.partition("+")
    if not sep or protocol not in ("redis", "rediss") or scheme.endswith("+") or kind not in _PATHS:
        raise ValueError("has an unknown scheme" if sep else "")
    base, mark, query = rest.partition("?")
    if mark:
        _redis_options(query, tls=protocol == "rediss")
    user, at, base = base.rpartition("@")
    if at and not re.fullmatch(_USER, user, re.ASCII):
        raise ValueError("has a malformed user")
    hosts, _, path = base.partition("/")
    for host in hosts.split(",") if kind else [hosts]:
        _host_port(host)
    pattern, complaint = _PATHS[kind]
    if not re.fullmatch(pattern, path, re.ASCII):
        raise ValueError(complaint)
    return text


def _redis_options(query: str, *, tls: bool) -> None:
    options = parse_qsl(query, keep_blank_values=True)
    if [name for name, _ in options] != ["ca"] or not options[0][1] or "#" in query:
        raise ValueError("has an unknown or repeated option (there is ca)")
    if not tls:
        raise ValueError("has a ca, which needs rediss")


def resolve_state(url: str, resolve: Callable[[str], str]) -> str:
    """`url` with every file in it made absolute by `resolve`, in one spelling."""
    if url.startswith("sqlite:"):
        path = unquote(url.removeprefix("sqlite:///"))
        return f"sqlite:///{quote(resolve(path), safe=_PATH_CHARS)}"
    return resolve_ca(url, resolve)


def resolve_ca(url: str, resolve: Callable[[str], str]) -> str:
    """`url` with the file of its option `ca` made absolute by `resolve`."""
    base, mark, query = url.partition("?")
    if not mark:
        return url
    options = [(name, resolve(value) if name == "ca" else value) for name, value in parse_qsl(query)]
    return base + "?" + "&".join(f"{name}={quote(value, safe='/')}" for name, value in options)


STATE = Text(
    parse_state,
    "sqlite:///file or mysql://user@host:3306/database (h1:3306,h2:3306 for several hosts)",
    {"type": "string", "pattern": "^(sqlite:///|mysql://|mariadb://)"},
    secret=True,
)
COORDINATION = Text(
    parse_coordination,
    "redis://host:6379/0, redis+cluster://h1:p,h2:p or redis+sentinel://h1:p,h2:p/name (rediss… with TLS)",
    {"type": "string", "pattern": r"^rediss?(\+cluster|\+sentinel)?://"},
    secret=True,
)
