"""Every class that PyMySQL may raise is caught and told."""

import inspect
import ssl

import pymysql
import pytest

from wsctl.errors import BackendError, SchemaError
from wsctl.store import mysql_errors


def test_every_class_is_caught() -> None:
    classes = [c for c in vars(pymysql.err).values() if inspect.isclass(c) and issubclass(c, Exception)]
    assert len(classes) > 9
    for kind in classes:
        assert issubclass(kind, mysql_errors.CAUGHT), kind
        told = mysql_errors.explain(kind(9999, "boom"), "mysql ws at db:3306", "ws")
        assert isinstance(told, BackendError)
        assert "boom" in told.message
        assert isinstance(mysql_errors.explain(kind(), "mysql ws at db:3306", "ws"), BackendError)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1045, "access denied"), (1049, "no database 'ws'"), (1142, "may not do this"), (2003, "can't connect"),
        (1040, "too many connections"), (1203, "too many connections"), (1290, "read-only"), (1792, "read-only"),
        (1836, "read-only"), (1213, "locked for too long"), (1205, "locked for too long"), (1114, "out of disk"),
        (1047, "majority"), (1665, "STATEMENT format"), (2026, "TLS is required"), (3159, "only connections with TLS"),
        (2006, "connection was lost"), (2013, "connection was lost"), (4025, "refused a value"), (1317, "ended by the"),
    ],
)  # fmt: skip
def test_codes(code: int, expected: str) -> None:
    told = mysql_errors.explain(pymysql.err.OperationalError(code, "the server's words"), "mysql ws at db:3306", "ws")
    assert expected in told.message
    assert "the server's words" in told.message


def test_tables_that_are_missing_are_the_schemas_business() -> None:
    told = mysql_errors.explain(pymysql.err.ProgrammingError(1146, "Table 'x' doesn't exist"), "m", "ws")
    assert isinstance(told, SchemaError)


def test_tls_errors_are_told_from_others() -> None:
    error = pymysql.err.OperationalError(2003, "Can't connect")
    error.original_exception = ssl.SSLCertVerificationError("self-signed certificate")  # type: ignore[attr-defined]
    assert "TLS failed" in mysql_errors.explain(error, "m", "ws").message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Duplicate entry 'c-alice' for key 'PRIMARY'", "PRIMARY"),
        ("Duplicate entry 'c-n1-20000' for key 'placements_host_port'", "placements_host_port"),
        ("Duplicate entry 'c-n1-20000' for key 'placements.placements_host_port'", "placements_host_port"),
        ("Duplicate entry 'x for key 'placements_host_port'-y' for key 'PRIMARY'", "PRIMARY"),
    ],
)
def test_which_key(text: str, key: str) -> None:
    assert mysql_errors.duplicate_key(pymysql.err.IntegrityError(1062, text)) == key
