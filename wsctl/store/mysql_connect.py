"""One connection to MySQL or MariaDB, with the session settings that the statements rely on.

Responsible for: connecting, TLS that is never weaker than asked for, time limits, and the session's isolation, SQL mode
and time zone. Not responsible for: transactions and pooling (`mysql`).
"""

from __future__ import annotations

import ssl
from typing import Any

import pymysql
from pymysql.constants import CLIENT, CR

from wsctl.store.url import MysqlTarget

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 5

# The schema's CHECKs and lengths only bite in a strict mode; escaping relies on backslashes meaning what they mean.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
    f"innodb_lock_wait_timeout = {LOCK_TIMEOUT_S}"
)


class Connector:
    """Opens connections to `target`; remembers the TLS context, which takes longer to make than to use."""

    def __init__(self, target: MysqlTarget, password: str | None, *, writable: bool) -> None:
        self._target = target
        self._arguments = self._fixed(password or "")
        self._access = "READ WRITE" if writable else "READ ONLY"

    def open(self) -> Any:
        """A connection in autocommit mode. Raises what PyMySQL raises (`mysql_errors.CAUGHT`)."""
        connection = self._connect()
        try:
            self._assert_tls(connection)
            connection.query(f"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, {self._access}")
            connection.query(_SESSION)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> Any:
        try:
            return pymysql.connect(**self._arguments)
        except pymysql.err.OperationalError as error:
            # Said before anything was sent: the server has no TLS. Only who merely prefers it goes on without.
            if self._demanded or error.args[0] != CR.CR_SSL_CONNECTION_ERROR:
                raise
        self._arguments = {**self._arguments, "ssl": None, "ssl_disabled": True}
        return pymysql.connect(**self._arguments)

    def _fixed(self, password: str) -> dict[str, Any]:
        target = self._target
        arguments: dict[str, Any] = {
            "user": target.user,
            "password": password.encode(),  # PyMySQL's own encoding is latin-1
            "database": target.database,
            "charset": "utf8mb4",
            "autocommit": True,  # for reads; what writes begins its own transaction
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": ANSWER_TIMEOUT_S,
            "write_timeout": ANSWER_TIMEOUT_S,
            "client_flag": CLIENT.FOUND_ROWS,  # count the rows that matched, also if nothing changed in them
            "program_name": "wsctl",
        }
        if target.socket:
            arguments["unix_socket"] = target.socket
        else:
            arguments |= {"host": target.host, "port": target.port}
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
