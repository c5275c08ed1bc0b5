"""State and coordination URLs: the forms, no passwords, and agreement with those who open them."""

from pathlib import Path

import pytest

from wsctl.coordination.redis_url import parse_redis_url
from wsctl.errors import InventoryError
from wsctl.inventory import Inventory, parse, render_effective_yaml
from wsctl.inventory.urls import TLS_MODES
from wsctl.store import url as store_url

HERE = Path("/c/i.yaml")
REST = "version: 1\ncluster: a\nworkspace: {image: a}\nnodes: {n: {address: h}}\n"


def read(key: str, url: str) -> Inventory:
    return parse(f"{REST}{key}: {url!r}\n", HERE)


def refusal(key: str, url: str) -> str:
    with pytest.raises(InventoryError) as caught:
        read(key, url)
    (problem,) = caught.value.problems
    return problem.split(": ", 2)[2].partition(", expected ")[0]


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("sqlite:///wsctl.db", "sqlite:////c/wsctl.db"),
        ("sqlite:///../x/wsctl.db", "sqlite:////x/wsctl.db"),
        ("sqlite:////var/lib/wsctl/wsctl.db", "sqlite:////var/lib/wsctl/wsctl.db"),
        ("sqlite:///a%20b%25.db", "sqlite:////c/a%20b%25.db"),
        ("mysql://wsctl@db/wsctl", "mysql://wsctl@db/wsctl"),
        ("mysql://wsctl@db:3306/wsctl?tls=required", "mysql://wsctl@db:3306/wsctl?tls=required"),
        ("mariadb://w.s-1@[fd00::1]:3306/ws-ctl", "mariadb://w.s-1@[fd00::1]:3306/ws-ctl"),
        ("mysql://w@db/w?tls=verify-ca&ca=ca.pem", "mysql://w@db/w?tls=verify-ca&ca=/c/ca.pem"),
        ("mysql://w@db/w?tls=verify-identity&ca=/e/c%20a", "mysql://w@db/w?tls=verify-identity&ca=/e/c%20a"),
        ("mysql://w@localhost/w?socket=/run/mysqld/m.sock", "mysql://w@localhost/w?socket=/run/mysqld/m.sock"),
        ("mysql://w@/w?socket=/run/m.sock", "mysql://w@/w?socket=/run/m.sock"),
        ("mysql://w@db1,db2:3307/w?tls=required", "mysql://w@db1,db2:3307/w?tls=required"),
        ("mysql://w@db1,[fd00::2]:3307,[fd00::3]/w", "mysql://w@db1,[fd00::2]:3307,[fd00::3]/w"),
        ("mysql://w@db1,db2/w?tls=verify-ca&ca=ca.pem", "mysql://w@db1,db2/w?tls=verify-ca&ca=/c/ca.pem"),
    ],
)
def test_state(url: str, resolved: str) -> None:
    inventory = read("state", url)
    assert inventory.state.url == resolved
    store_url.parse_state_url(inventory.state.url, Path("/c"))
    assert parse(render_effective_yaml(inventory), Path("/other/i.yaml")) == inventory


def test_a_relative_database_is_opened_where_it_was_meant(tmp_path: Path) -> None:
    folder = tmp_path / "a b%41?#ü"
    inventory = parse(REST, folder / "i.yaml")
    target = store_url.parse_state_url(inventory.state.url, Path("/c"))
    assert isinstance(target, store_url.SqliteTarget)
    assert target.path == folder / "wsctl.db"


def test_the_store_knows_the_same_tls() -> None:
    assert TLS_MODES == store_url.TLS_MODES
    for mode in TLS_MODES:
        assert read("state", f"mysql://w@db/w?tls={mode}").state.url.endswith(mode)


PASSWORD = "has a password in it, which this file mustn't hold (use state_password_file or WSCTL_STATE_PASSWORD)"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://w:hunter2@db/w", PASSWORD),
        ("mysql://w:@db/w", PASSWORD),
        ("mysql://w:hun/ter2@db/w", PASSWORD),
        ("mysql://w:hun#ter2@db/w", PASSWORD),
        ("mysql://w:hun@ter2@db/w", PASSWORD),
        ("postgres://w:hunter2@db/w", PASSWORD),
        ("mysql://w:hunter2?x@db/w", "names no user"),
        ("mysql://w@hunter2:99999/w", "has a malformed host or port"),
        ("mysql://w@[hunter2]/w", "has a malformed host or port"),
        ("mysql://w@[hunter2/w", "has a malformed host or port"),
        ("mysql://w@-hunter2/w", "has a malformed host or port"),
        ("mysql://w@hunter2:03306/w", "has a malformed host or port"),
        ("mysql://w@/w", "has a malformed host or port"),
        ("mysql://w@db,/w", "has a malformed host or port"),
        ("mysql://w@db,-hunter2/w", "has a malformed host or port"),
        ("mysql://w@db,hunter2/w?socket=/run/m.sock", "has several hosts and a socket"),
        ("mysql://hunter2/w", "names no user"),
        ("mysql://hunter2'@db/w", "names no user"),
        ("mysql://w@hunter2", "names no database"),
        ("mysql://w@db/hunter2/x", "names no database"),
        ("mysql://w@db/w?password=hunter2", "has an unknown or repeated option (there are tls, ca and socket)"),
        ("mysql://w@db/w?ca=/a&ca=/a", "has an unknown or repeated option (there are tls, ca and socket)"),
        ("mysql://w@db/w#hunter2", "has an unknown or repeated option (there are tls, ca and socket)"),
        ("mysql://w@db/w?tls=hunter2",
         "has an unknown tls (there are disabled, preferred, required, verify-ca, verify-identity)"),
        ("mysql://w@db/w?ca=/hunter2", "has a ca, which needs tls=required, verify-ca or verify-identity"),
        ("mysql://w@db/w?tls=required&ca=", "has a ca without a file"),
        ("mysql://w@db/w?socket=hunter2", "has a socket without an absolute path"),
        ("postgres://db/hunter2", "has an unknown scheme"),
        ("hunter2", "is malformed"),
        ("", "is malformed"),
        ("sqlite://", "names no file, and a database in memory forgets every placement"),
        ("sqlite:///", "names no file, and a database in memory forgets every placement"),
        ("sqlite:///:memory:", "names no file, and a database in memory forgets every placement"),
        ("sqlite://hunter2.db", "needs three slashes before a relative path, four before an absolute one"),
        ("sqlite:///hunter2.db?mode=ro", "has options, or names a directory"),
        ("sqlite:////var/hunter2/", "has options, or names a directory"),
        ("sqlite:///hunter2%00", "has options, or names a directory"),
        ("sqlite:///hunter 2.db", "has characters that a URL can't have"),
        ("mysql://w@hünter2/w", "has characters that a URL can't have"),
    ],
)  # fmt: skip
def test_bad_state(url: str, why: str) -> None:
    """Whatever is wrong, nothing of the URL is repeated: it may hold a password."""
    told = refusal("state", url)
    assert told == f"the URL {why}"
    assert "hunter" not in told


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:6379", "redis://h:6379/0", "redis://h:6379/15", "rediss://h:6379/0", "redis://op@h:6379",
        "redis://[fd00::1]:6379/0", "redis+cluster://h1:6379,h2:6379", "redis+cluster://10.0.0.1,10.0.0.2", "redis+cluster://h1,[fd00::2]:6380",
        "rediss+cluster://h1:1,h2:2?ca=/e/ca.pem", "redis+sentinel://h1:26379,h2:26379/name",
        "rediss+sentinel://op@h1:26379/my-name", "rediss://h?ca=/e/ca.pem",
    ],
)  # fmt: skip
def test_coordination(url: str) -> None:
    inventory = read("coordination", url)
    assert inventory.coordination == url
    parse_redis_url(url, Path("/c"))
    assert parse(render_effective_yaml(inventory), Path("/other/i.yaml")) == inventory


REDIS_PASSWORD = (
    "has a password in it, which this file mustn't hold (use coordination_password_file or WSCTL_REDIS_PASSWORD)"
)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:hunter2@h:6379", REDIS_PASSWORD),
        ("redis://op:hunter2@h", REDIS_PASSWORD),
        ("redis+cluster://:hunter2@h1:1,h2:2", REDIS_PASSWORD),
        ("redis://h?password=hunter2", "has an unknown or repeated option (there is ca)"),
        ("redis://h?ca=/hunter2", "has a ca, which needs rediss"),
        ("rediss://h?ca=", "has an unknown or repeated option (there is ca)"),
        ("redis://h/hunter2", "has a database that isn't a number"),
        ("redis://h1:1,h2:2", "has a malformed host or port"),
        ("redis://", "has a malformed host or port"),
        ("redis://a'b@h", "has a malformed user"),
        ("redis://-h", "has a malformed host or port"),
        ("redis://h:0", "has a malformed host or port"),
        ("redis+cluster://h1:1/0", "has a database, and a cluster has only one"),
        ("redis+cluster://h1:1,", "has a malformed host or port"),
        ("redis+sentinel://h1:1", "doesn't name the service that the sentinels watch"),
        ("redis+sentinel://h1:1/a/0", "doesn't name the service that the sentinels watch"),
        ("redis+://h", "has an unknown scheme"),
        ("redis+magic://h", "has an unknown scheme"),
        ("memcached://h", "has an unknown scheme"),
        ("h:6379", "is malformed"),
        ("redis://h x", "has characters that a URL can't have"),
    ],
)
def test_bad_coordination(url: str, why: str) -> None:
    told = refusal("coordination", url)
    assert told == f"the URL {why}"


def test_none_is_none() -> None:
    assert parse(REST + "coordination: null\n", HERE).coordination is None
