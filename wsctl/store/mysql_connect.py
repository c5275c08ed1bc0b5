"""One connection to MySQL or MariaDB, with the session settings that the statements rely on.

Responsible for: connecting, to the next member of a cluster when one can't be had; TLS that is never weaker than asked
for, time limits, and the session's isolation, causality, SQL mode and time zone. Not responsible for: transactions and
pooling (`mysql`).
"""

from __future__ import annotations

import ssl
import threading
from typing import Any

import pymysql
import pymysql.connections
from pymysql.constants import CLIENT, CR, ER, SERVER_STATUS

from wsctl.store import mysql_errors as errors
from wsctl.store.url import MysqlTarget

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 5

SHORT, REMEMBERED = 64, 1024
"""Texts of so many characters, and so many of them, are remembered as they are escaped."""

# The schema's CHECKs and lengths only bite in a strict mode; escaping relies on backslashes meaning what they mean.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
    f"innodb_lock_wait_timeout = {LOCK_TIMEOUT_S}"
)
# On a member of a Galera cluster: every statement waits until the member has what was committed on any of them before.
# Otherwise a generation read here, to be sure that nobody else has acted, might be that of a moment ago. 7: reads,
# updates, deletes and inserts. Without a cluster it has no effect and costs nothing.
_CAUSAL = ", wsrep_sync_wait = 7, wsrep_dirty_reads = OFF"


class RememberingConnection(pymysql.connections.Connection):
    """PyMySQL's, which remembers how short texts are escaped.

    A batch writes the same few (cluster, verb, who, states) for every user, some forty a row; escaping them was a
    quarter of what a placement cost on this side. The server's mode is part of what is remembered.
    """

    server_status: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._escaped: dict[tuple[str, int], str] = {}
        super().__init__(*args, **kwargs)

    def escape(self, obj: Any, mapping: Any = None) -> str:
        """As PyMySQL's."""
        if type(obj) is int:
            return str(obj)
        if type(obj) is not str or len(obj) > SHORT:
            return str(super().escape(obj, mapping))
        key = (obj, self.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES)
        known = self._escaped.get(key)
        if known is None:
            if len(self._escaped) >= REMEMBERED:
                self._escaped.clear()
            known = self._escaped[key] = str(super().escape(obj, mapping))
        return known


class Connector:
    """Opens connections to `target`: to the first of its hosts that can be had, and from then on to the same one.

    Remembers the TLS context, which takes longer to make than to use, and what the server doesn't know. Safe to use
    from several threads.
    """

    def __init__(self, target: MysqlTarget, password: str | None, *, writable: bool) -> None:
        self._target = target
        self._arguments = self._fixed(password or "")
        self._access = "READ WRITE" if writable else "READ ONLY"
        self._session = _SESSION + _CAUSAL
        self._lock = threading.Lock()
        self._at = 0

    def open(self) -> Any:
        """A connection in autocommit mode. Raises what PyMySQL raises (`mysql_errors.CAUGHT`), for the host that was
        tried last, when none can be had."""
        for left in reversed(range(len(self._target.hosts))):
            host = self._target.hosts[self._at]
            try:
                return self._open(host)
            except errors.CAUGHT as error:
                if not left or not errors.is_unavailable(error):
                    raise
                self._leave(host)
        raise AssertionError("a target without hosts")

    def leave(self, connection: Any) -> None:
        """The host of this connection doesn't serve any more: try the next one from now on."""
        self._leave((connection.host, connection.port))

    def _leave(self, host: tuple[str, int]) -> None:
        hosts = self._target.hosts
        with self._lock:  # of several threads that lost the same host, one goes on to the next
            if hosts[self._at] == host:
                self._at = (self._at + 1) % len(hosts)

    def _open(self, host: tuple[str, int]) -> Any:
        connection = self._connect(host)
        try:
            self._assert_tls(connection)
            connection.query(f"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, {self._access}")
            self._set_session(connection)
            connection._read_timeout = ANSWER_TIMEOUT_S
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_session(self, connection: Any) -> None:
        try:
            connection.query(self._session)
        except pymysql.err.MySQLError as error:
            if errors.code_of(error) != ER.UNKNOWN_SYSTEM_VARIABLE or self._session == _SESSION:
                raise
            self._session = _SESSION  # MySQL, which can't be a member of a Galera cluster
            connection.query(self._session)

    def _connect(self, host: tuple[str, int]) -> Any:
        where: dict[str, Any] = {} if self._target.socket else {"host": host[0], "port": host[1]}
        try:
            return RememberingConnection(**self._arguments, **where)
        except pymysql.err.OperationalError as error:
            # Said before anything was sent: the server has no TLS. Only who merely prefers it goes on without.
            if self._demanded or error.args[0] != CR.CR_SSL_CONNECTION_ERROR:
                raise
        self._arguments = {**self._arguments, "ssl": None, "ssl_disabled": True}
        return RememberingConnection(**self._arguments, **where)

    def _fixed(self, password: str) -> dict[str, Any]:
        target = self._target
        arguments: dict[str, Any] = {
            "user": target.user,
            "password": password.encode(),  # PyMySQL's own encoding is latin-1
            "database": target.database,
            "charset": "utf8mb4",
            "autocommit": True,  # for reads; what writes begins its own transaction
            "connect_timeout": CONNECT_TIMEOUT_S,
            # Until it is connected: where there is another member to go to, one that hangs isn't waited for as long.
            "read_timeout": ANSWER_TIMEOUT_S if len(target.hosts) == 1 else CONNECT_TIMEOUT_S,
            "write_timeout": ANSWER_TIMEOUT_S,
            "client_flag": CLIENT.FOUND_ROWS,  # count the rows that matched, also if nothing changed in them
            "program_name": "wsctl",
        }
        if target.socket:
            arguments["unix_socket"] = target.socket
        if target.tls == "disabled" or (target.socket and not self._demanded):
            arguments["ssl_disabled"] = True
        else:
            arguments["ssl"] = _context(target)
        return arguments

    @property
    def _demanded(self) -> bool:
        return self._target.tls in ("required", "verify-ca", "verify-identity")

    def _assert_tls(self, connection: Any) -> None:
        # PyMySQL refuses before it sends the user's name. This is the belt to its braces.
        if self._demanded and not isinstance(getattr(connection, "_sock", None), ssl.SSLSocket):
            raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the connection isn't encrypted")


def _context(target: MysqlTarget) -> ssl.SSLContext:
    """What the connection must satisfy. `required` means encrypted; with a `ca` also signed by it, as elsewhere."""
    if target.ca is None and target.tls in ("preferred", "required"):
        # Not through create_default_context: it takes 20 ms to load authorities that wouldn't be asked.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=target.ca)
    # The certificates that MySQL makes for itself don't pass the strict checks of newer Pythons.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = target.tls == "verify-identity"
    return context
