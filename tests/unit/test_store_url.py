"""State URLs: what is understood, and what a wrong one is told."""

from pathlib import Path

import pytest

from wsctl.errors import InventoryError
from wsctl.store.url import MysqlTarget, SqliteTarget, parse_state_url

BASE = Path("/etc/wsctl")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///wsctl.db", Path("/etc/wsctl/wsctl.db")),
        ("sqlite:///sub/wsctl.db", Path("/etc/wsctl/sub/wsctl.db")),
        ("sqlite:////var/lib/wsctl.db", Path("/var/lib/wsctl.db")),
        ("sqlite:///with%20space.db", Path("/etc/wsctl/with space.db")),
        ("sqlite://:memory:", None),
    ],
)
def test_sqlite(url: str, path: Path | None) -> None:
    assert parse_state_url(url, BASE) == SqliteTarget(path)


def test_mysql() -> None:
    assert parse_state_url("mysql://ops@db:3307/ws?tls=required", BASE) == MysqlTarget(
        "ops", (("db", 3307),), "ws", None, "required", None
    )
    plain = parse_state_url("mariadb://ops@[::1]/ws", BASE)
    assert plain == MysqlTarget("ops", (("::1", 3306),), "ws", None, "preferred", None)
    assert plain.label == "mysql ws at [::1]:3306"
    local = parse_state_url("mysql://o%40ps@/ws?socket=/run/s", BASE)
    assert local == MysqlTarget("o@ps", (("localhost", 3306),), "ws", "/run/s", "preferred", None)
    verified = parse_state_url("mysql://ops@db/ws?tls=verify-ca&ca=ca.pem", BASE)
    assert isinstance(verified, MysqlTarget)
    assert verified.ca == "/etc/wsctl/ca.pem"
    assert parse_state_url("mysql://ops@db/ws", BASE, "required") == MysqlTarget(
        "ops", (("db", 3306),), "ws", None, "required", None
    )


def test_several_members_of_one_cluster() -> None:
    several = parse_state_url("mysql://ops@db1,db2:3307,[::1]:3308/ws", BASE)
    assert isinstance(several, MysqlTarget)
    assert several.hosts == (("db1", 3306), ("db2", 3307), ("::1", 3308))
    assert several.label == "mysql ws at db1:3306, db2:3307, [::1]:3308"


@pytest.mark.parametrize(
    "url",
    [
        "", "wsctl.db", "sqlite:", "sqlite://", "sqlite:///", "sqlite://wsctl.db", "sqlite:wsctl.db", "sqlite:////var/",
        "sqlite:///a.db?mode=ro", "sqlite:///a.db#x", "postgres://u@h/db", "mysql://h/db", "mysql://u@h",
        "mysql://u@h/", "mysql://u@h/a/b", "mysql://u@h:port/db", "mysql://u@h:99999/db", "mysql://u@/db",
        "mysql://u@h/db?tls=maybe", "mysql://u@h/db?ssl=1", "mysql://u@h/db?ca=x", "mysql://u@h/db?tls=disabled&ca=x",
        "mysql://u@[::1/db", "mysql://u@a,/db", "mysql://u@,a/db",
        "mysql://u@a,b:x/db", "mysql://u@a,b/db?socket=/run/s", "sqlite:///\0.db", "\x1b[31m",
    ],
)  # fmt: skip
def test_a_wrong_one_says_what_was_expected(url: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse_state_url(url, BASE)
    assert "sqlite:///wsctl.db" in str(caught.value.hint)
    assert "mysql://user@host:3306/database" in str(caught.value.hint)
    assert caught.value.message.isprintable()


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InventoryError) as caught:
        parse_state_url("mysql://ops:hunter2@db/ws", BASE)
    assert "hunter2" not in caught.value.message + str(caught.value.hint)
    assert "WSCTL_STATE_PASSWORD" in str(caught.value.hint)
