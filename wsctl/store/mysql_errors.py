"""What PyMySQL and the server complain about, in wsctl's words.

Responsible for: which errors may be tried again, which mean a lost connection, and a message with a hint for those an
operator can do something about. Not responsible for: trying again (`mysql`).
"""

from __future__ import annotations

import ssl

import pymysql

from wsctl.errors import BackendError, SchemaError

CAUGHT: tuple[type[Exception], ...] = (pymysql.err.MySQLError, OSError)
"""Everything that a call of PyMySQL may raise."""

DUPLICATE = 1062
TRY_AGAIN = frozenset({1020, 1205, 1213})
"""Changed since read, lock wait timeout, deadlock (also Galera's refusal at COMMIT): the transaction is undone."""
NOT_READY = 1047
LOST = frozenset({NOT_READY, 1053, 1927, 2006, 2013, 2014, 2055, 4031})
"""The connection is of no use any more; 1047: its member of a Galera cluster has left the majority."""
DOUBTFUL = frozenset({1180})
"""At COMMIT: a member of a Galera cluster lost the others while it asked them, and doesn't know what they decided."""
ELSEWHERE = LOST | frozenset({1040, 1129, 1130, 1203, 2002, 2003, 2005})
"""Another member of the same cluster may serve us all the same."""
ALREADY_THERE = frozenset({1050, 1060, 1061, 1091})

_PASSWORD = "the password comes from WSCTL_STATE_PASSWORD or state_password_file"  # noqa: S105 - that is a hint
_GRANT = "GRANT ALL ON {database}.* TO the user of the state URL"
_ADDRESS = "is it running, and is the address in `state:` right?"
_TLS_HINT = "enable TLS on the server, or say tls=disabled in `state:` if the network may be trusted"
_TABLE: tuple[tuple[tuple[int, ...], str, str | None], ...] = (
    ((1045, 1698), "access denied for this user and password", _PASSWORD),
    ((1044, 1142, 1143, 1227), "the user may not do this", _GRANT),
    ((1049,), "there is no database {database!r}", "CREATE DATABASE {database} CHARACTER SET utf8mb4"),
    ((1129, 1130), "the server refuses this host", "see the server's host cache and the user's host part"),
    ((2002, 2003, 2005), "can't connect", _ADDRESS),
    ((1040, 1203, 1226), "too many connections", "raise max_connections, or see who is connected: SHOW PROCESSLIST"),
    ((1290, 1792, 1836, 1288), "the server is read-only", "name the primary in `state:`"),
    ((1020, 1205, 1213), "its rows are locked for too long; nothing was changed", "try again, or see SHOW PROCESSLIST"),
    ((1021, 1114, 1030, 1041, 3), "the server is out of disk or memory; nothing was changed", "make room there"),
    ((1047, 1158), "this member isn't part of its cluster's majority", "heal it, or name all its members in `state:`"),
    ((1665,), "its binary log is in STATEMENT format", "set binlog_format to ROW or MIXED on the server"),
    ((2026,), "TLS is required and the server offers none", _TLS_HINT),
    ((3159, 2061, 1835), "the server accepts only connections with TLS", "say tls=required in `state:`"),
    ((1251, 2054, 2059, 1524), "the client doesn't know the user's authentication plugin", "use a password plugin"),
    ((3819, 4025, 1264, 1406, 1366, 1048, 1292), "it refused a value; nothing was changed", None),
    ((1317, 1969, 3024), "the statement was ended by the server; nothing was changed", "try again"),
    (tuple(sorted(LOST)), "the connection was lost; nothing was changed", _ADDRESS),
)


def code_of(error: BaseException) -> int:
    """The error's number; 0 if it has none."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


def is_lost(error: BaseException) -> bool:
    """Whether the connection can't be used any more."""
    return isinstance(error, OSError | pymysql.err.InterfaceError) or code_of(error) in LOST


def is_unavailable(error: BaseException) -> bool:
    """Whether the next host of a list is to be tried: this one is gone, or takes nobody."""
    return isinstance(error, OSError | pymysql.err.InterfaceError) or code_of(error) in ELSEWHERE


def is_doubtful(error: BaseException) -> bool:
    """Whether a COMMIT that failed with this may have been done all the same."""
    return is_lost(error) or code_of(error) in DOUBTFUL


def duplicate_key(error: BaseException) -> str:
    """The name of the unique key that said no."""
    text = str(error.args[1]) if len(error.args) > 1 else ""
    return text.rpartition(" for key ")[2].strip("'`").rpartition(".")[2]


def explain(error: Exception, label: str, database: str, *, writable: bool = True) -> BackendError:
    """The error an operator can act upon. Neither PyMySQL nor the server repeats the password in its message."""
    code = code_of(error)
    detail = " ".join(str(error.args[-1] if error.args else error).split())[:300]
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLError):
        return BackendError(f"{label}: TLS failed: {cause}", hint="check the certificate, and tls= and ca= in `state:`")
    if code in (1146, 1054):
        return SchemaError(f"{label}: {detail}", hint="check it: wsctl db version")
    if code == 1792 and not writable:
        return BackendError(f"{label}: it was opened for reading only", hint="that is a bug of wsctl: please report it")
    for codes, why, hint in _TABLE:
        if code in codes:
            what_to_do = hint.format(database=database) if hint else None
            return BackendError(f"{label}: {why.format(database=database)}: {detail}", hint=what_to_do)
    return BackendError(f"{label}: {type(error).__name__} {code or ''}: {detail}".replace(" :", ":"))
