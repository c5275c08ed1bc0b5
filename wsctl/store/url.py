"""State URLs: from text to what is to be opened.

Responsible for: the spelling of `state:` and what is wrong with a wrong one. Not responsible for: connecting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from wsctl import hosturl
from wsctl.errors import InventoryError

EXPECTED = (
    "sqlite:///wsctl.db, sqlite:////var/lib/wsctl/wsctl.db, mysql://user@host:3306/database?tls=required "
    "or mysql://user@h1:3306,h2:3306/database for the members of a Galera cluster"
)
TLS_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")


@dataclass(frozen=True, slots=True)
class SqliteTarget:
    """A file, or (None) a database in memory that is gone when it is closed."""

    path: Path | None

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.path) if self.path else "the in-memory database"


@dataclass(frozen=True, slots=True)
class MysqlTarget:
    """A database on a MySQL or MariaDB server. `hosts` are (name, port): more than one are the members of a cluster in
    which each has what was committed on any; they are tried in this order. `tls` is one of `TLS_MODES`; with a `socket`
    there is one host, and the socket wins over it."""

    user: str
    hosts: tuple[tuple[str, int], ...]
    database: str
    socket: str | None
    tls: str
    ca: str | None

    @property
    def label(self) -> str:
        """How messages name it; there is no password in it."""
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"mysql {self.database} at {self.socket or ', '.join(hosts)}"


def parse_state_url(url: str, base: Path, tls: str | None = None) -> SqliteTarget | MysqlTarget:
    """What `url` names. Relative paths are relative to `base`; `tls`, if given, replaces the URL's own.

    Raises InventoryError for anything that isn't understood: a typing error must not become another database.
    """
    if url == "sqlite://:memory:":
        return SqliteTarget(None)
    try:
        parts = hosturl.split(url)
    except ValueError as error:
        raise _bad(url, str(error)) from None
    if parts.password is not None:
        raise InventoryError(
            "state: a password in the URL would be readable by everybody who can read the inventory",
            hint="put it in a file named by state_password_file, or in the environment as WSCTL_STATE_PASSWORD",
        )
    if parts.fragment:
        raise _bad(url, "'#' has no meaning here")
    if parts.scheme == "sqlite":
        return _sqlite(url, base)
    if parts.scheme in ("mysql", "mariadb"):
        return _mysql(url, base, tls)
    raise _bad(url, f"unknown kind of database {parts.scheme!r}" if parts.scheme else "no kind of database")


def _bad(url: str, why: str) -> InventoryError:
    shown = "".join(c if c.isprintable() else "?" for c in url[:200])
    return InventoryError(f"state: can't use {shown!r}: {why}", hint=f"expected {EXPECTED}")


def _sqlite(url: str, base: Path) -> SqliteTarget:
    rest = url[len("sqlite:") :]
    if not rest.startswith("///"):
        raise _bad(url, "three slashes and a path were expected after 'sqlite:'")
    if "?" in rest:
        raise _bad(url, "options have no meaning for sqlite")
    text = unquote(rest[3:])
    if not text or text.endswith("/") or "\0" in text:
        raise _bad(url, "there is no file name in it")
    path = Path(text).expanduser() if text.startswith("~") else Path(text)
    return SqliteTarget(base / path)


def _mysql(url: str, base: Path, tls: str | None) -> MysqlTarget:
    parts = hosturl.split(url)
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise _bad(url, "exactly one database name was expected after the host")
    user, _, hosts = parts.netloc.rpartition("@")
    if not user:
        raise _bad(url, "no user")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - {"tls", "ca", "socket"})
    if unknown:
        raise _bad(url, f"unknown option {unknown[0]!r} (there are tls, ca, socket)")
    socket = options.get("socket")
    if socket and "," in hosts:
        raise _bad(url, "several hosts and a socket")
    if not hosts and not socket:
        raise _bad(url, "no host")
    mode = tls or options.get("tls", "preferred")
    if mode not in TLS_MODES:
        raise _bad(url, f"tls={mode} isn't one of {', '.join(TLS_MODES)}")
    ca = options.get("ca")
    if ca and mode not in ("verify-ca", "verify-identity", "required"):
        raise _bad(url, f"ca= has no meaning with tls={mode}")
    return MysqlTarget(
        user=unquote(user),
        hosts=_hosts(url, hosts or "localhost"),
        database=database,
        socket=socket,
        tls=mode,
        ca=str(base / ca) if ca else None,
    )


def _hosts(url: str, text: str) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for item in text.split(","):
        try:
            parts = urlsplit(f"x://{item}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _bad(url, str(error)) from None
        if not host:
            raise _bad(url, "no host" if item == text else "a host of the list is missing")
        found.append((host, port or 3306))
    return tuple(found)
