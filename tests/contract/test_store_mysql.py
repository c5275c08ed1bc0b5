"""What only a server can do to the store: TLS, passwords, lost connections, locks, read-only, crowds."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import PASSWORD, MariaDb, drop_mariadb, free_port, make_mariadb

from wsctl.errors import BackendError, WsctlError
from wsctl.failsteps import TakeOver
from wsctl.model import Capacity, Placement, PlacementState, Resources
from wsctl.ports import Reservation
from wsctl.store import mysql, mysql_connect, open_store
from wsctl.store.store import SqlStore

ROOM = Capacity(1000, 10**13, 10**7)


def reserve(store: SqlStore, user: str = "alice", port: int = 20000) -> Placement:
    made = store.reserve(Reservation(user, "n1", "10.0.0.11", port, Resources(1, 1, 1), ROOM))
    assert isinstance(made, Placement), made
    return made


def opened(url: str, base: Path, password: str | None = PASSWORD, *, create: bool = True) -> SqlStore:
    return open_store(url, cluster="c", base=base, password=password, create=create)


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[str]:
    name = mariadb.new_database()
    yield name
    mariadb.admin(f"DROP DATABASE {name}")


class Proxy:
    """Forwards to a port, records what clients send, and can cut the line at a word of theirs."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.sent = b""
        self.cut_at: bytes | None = None
        self.forward_it = True
        self._mute = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                if from_client:
                    self.sent += data
                    if self.cut_at is not None and self.cut_at in data:
                        self.cut_at = None
                        if self.forward_it:
                            self._mute = True
                            target.sendall(data)
                            time.sleep(0.2)
                        source.shutdown(socket.SHUT_RDWR)
                        target.shutdown(socket.SHUT_RDWR)
                        self._mute = False
                        return
                if from_client or not self._mute:
                    target.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(mariadb: MariaDb) -> Iterator[Proxy]:
    made = Proxy(mariadb.port)
    yield made
    made.close()


# TLS


def _certificate(folder: Path, name: str, signer: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
    """A key and a certificate `<name>.pem`, for 127.0.0.1 unless it signs others."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[1].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    if signer:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(signer[0] if signer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return key, certificate


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MariaDb, Path]]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = _certificate(folder, "ca")
    _certificate(folder, "stranger")
    _certificate(folder, "server", authority)
    server = make_mariadb(
        f"--ssl-ca={folder}/ca.pem", f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key"
    )
    yield server, folder
    drop_mariadb(server)


def _cipher(store: SqlStore) -> str:
    return str(store.database.read(lambda s: s.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))[0][1])


@pytest.mark.parametrize("mode", ["required", "verify-ca", "verify-identity"])
def test_tls_that_is_demanded_is_never_given_up(proxy: Proxy, database: str, tmp_path: Path, mode: str) -> None:
    with pytest.raises(BackendError, match="TLS is required and the server offers none") as caught:
        opened(f"mysql://wsctl@127.0.0.1:{proxy.port}/{database}?tls={mode}", tmp_path)
    assert "tls=disabled" in str(caught.value.hint)
    assert proxy.sent == b"", "something was sent before the refusal"


@pytest.mark.parametrize(
    ("options", "encrypted"),
    [
        ("tls=required", True),
        ("tls=preferred", True),
        ("", True),
        ("tls=disabled", False),
        ("tls=verify-ca&ca=ca.pem", True),
        ("tls=verify-identity&ca=ca.pem", True),
        ("tls=required&ca=ca.pem", True),
    ],
)
def test_tls_modes(tls_server: tuple[MariaDb, Path], options: str, encrypted: bool) -> None:
    server, folder = tls_server
    url = f"mysql://wsctl@127.0.0.1:{server.port}/{server.new_database()}?{options}"
    store = opened(url, folder)
    try:
        assert bool(_cipher(store)) is encrypted
        reserve(store)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("127.0.0.1", "tls=verify-ca&ca=stranger.pem"),
        ("127.0.0.1", "tls=required&ca=stranger.pem"),
        ("127.0.0.1", "tls=verify-ca"),
        ("localhost", "tls=verify-identity&ca=ca.pem"),
    ],
)
def test_a_wrong_certificate_is_refused(tls_server: tuple[MariaDb, Path], host: str, options: str) -> None:
    server, folder = tls_server
    with pytest.raises(BackendError, match="TLS failed"):
        opened(f"mysql://wsctl@{host}:{server.port}/wsctl_x?{options}", folder)


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"can't use the CA certificate .*nowhere\.pem"):
        opened("mysql://wsctl@127.0.0.1:1/wsctl_x?tls=verify-ca&ca=nowhere.pem", tmp_path)


def test_a_downgraded_socket_is_noticed(tls_server: tuple[MariaDb, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the driver went on in the clear."""
    server, folder = tls_server
    without = {name: getattr(ssl, name) for name in vars(ssl)} | {"SSLSocket": type("Other", (), {})}
    monkeypatch.setattr(mysql_connect, "ssl", types.SimpleNamespace(**without))
    with pytest.raises(BackendError, match="TLS is required"):
        opened(f"mysql://wsctl@127.0.0.1:{server.port}/{server.new_database()}?tls=required", folder)


# who and where


def _fails(url: str, base: Path, expected: str, password: str = PASSWORD) -> BackendError:
    with pytest.raises(BackendError, match=expected) as caught:
        opened(url, base, password)
    told = f"{caught.value.message} {caught.value.hint} {caught.value.details}"
    assert password not in told
    assert caught.value.hint
    return caught.value


def test_a_wrong_password(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    error = _fails(mariadb.url(database), tmp_path, "access denied", "not-this-one")
    assert "WSCTL_STATE_PASSWORD" in str(error.hint)


def test_an_unknown_database(mariadb: MariaDb, tmp_path: Path) -> None:
    error = _fails(mariadb.url("wsctl_nowhere"), tmp_path, "there is no database 'wsctl_nowhere'")
    assert "CREATE DATABASE wsctl_nowhere" in str(error.hint)


def test_a_forbidden_database(mariadb: MariaDb, tmp_path: Path) -> None:
    _fails(mariadb.url("mysql"), tmp_path, "may not do this")


def test_nobody_listens(tmp_path: Path) -> None:
    started = time.monotonic()
    _fails(f"mysql://wsctl@127.0.0.1:{free_port()}/wsctl_x", tmp_path, "can't connect")
    assert time.monotonic() - started < 5


def test_a_unix_socket(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    store = opened(f"mysql://wsctl@localhost/{database}?socket={mariadb.folder}/s", tmp_path)
    reserve(store)
    store.close()


def test_too_many_connections(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    import pymysql

    crowd = []
    # Held all the time: the one place that is kept for root would be hard to get in a crowd.
    with contextlib.closing(
        pymysql.connect(unix_socket=f"{mariadb.folder}/s", user="root", autocommit=True, ssl_disabled=True)
    ) as root:
        root.query("SET @before = @@global.max_connections")
        root.query("SET GLOBAL max_connections = 10")
        try:
            with pytest.raises(pymysql.err.OperationalError):
                for _ in range(20):
                    crowd.append(
                        pymysql.connect(
                            host="127.0.0.1", port=mariadb.port, user="wsctl", password=PASSWORD.encode(),
                            ssl_disabled=True,
                        )
                    )  # fmt: skip
            _fails(mariadb.url(database), tmp_path, "too many connections")
        finally:
            root.query("SET GLOBAL max_connections = @before")
            for connection in crowd:
                connection.close()


def test_a_read_only_server(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    store = opened(mariadb.url(database), tmp_path)
    mariadb.admin("SET GLOBAL read_only = 1")
    try:
        assert store.placements() == []
        with pytest.raises(BackendError, match="the server is read-only") as caught:
            reserve(store)
        assert "primary" in str(caught.value.hint)
    finally:
        mariadb.admin("SET GLOBAL read_only = 0")
        reserve(store)
        store.close()


def test_a_reader_may_not_write(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    opened(mariadb.url(database), tmp_path).close()
    store = opened(mariadb.url(database), tmp_path, create=False)
    with pytest.raises(BackendError, match="opened for reading only"):
        reserve(store)
    store.close()


# connections that die


def _kill_connections(server: MariaDb) -> None:
    for (number,) in server.admin("SELECT id FROM information_schema.processlist WHERE user = 'wsctl'"):
        server.admin(f"KILL {number}")


def test_an_idle_connection_that_died_is_replaced(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    store = opened(mariadb.url(database), tmp_path)
    reserve(store)
    _kill_connections(mariadb)
    assert len(store.placements()) == 1
    _kill_connections(mariadb)
    reserve(store, "bob", 20001)
    _kill_connections(mariadb)
    store.set_mark("n1", next(iter(store.marks().values())).state if store.marks() else _ready(), "", "x")
    store.close()


def _ready() -> Any:
    from wsctl.model import NodeState

    return NodeState.READY


@pytest.mark.parametrize("arrives", [True, False])
def test_a_connection_lost_at_commit_is_an_unknown_outcome(
    proxy: Proxy, mariadb: MariaDb, database: str, tmp_path: Path, arrives: bool
) -> None:
    store = opened(f"mysql://wsctl@127.0.0.1:{proxy.port}/{database}?tls=disabled", tmp_path)
    reserve(store)
    proxy.cut_at, proxy.forward_it = b"COMMIT", arrives
    with pytest.raises(BackendError, match="outcome unknown") as caught:
        store.settle("alice", 1, PlacementState.RUNNING)
    assert caught.value.hint
    now = store.placement("alice")
    assert now is not None
    assert now.state is (PlacementState.RUNNING if arrives else PlacementState.RESERVED)
    assert store.route_generation() == int(arrives)
    store.close()


def test_a_connection_lost_before_commit_changes_nothing(proxy: Proxy, database: str, tmp_path: Path) -> None:
    store = opened(f"mysql://wsctl@127.0.0.1:{proxy.port}/{database}?tls=disabled", tmp_path)
    reserve(store)
    proxy.cut_at = b"INSERT INTO placements"
    reserve(store, "bob", 20001)  # on a kept connection: done again on a fresh one
    assert {node: usage.workspaces for node, usage in store.usage().items()} == {"n1": 2}
    store.close()


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    server = make_mariadb("--skip-ssl")
    try:
        store = opened(server.url(server.new_database()), tmp_path)
        reserve(store)
        server.stop(kill=True)
        with pytest.raises(BackendError, match="can't connect"):
            store.placements()
        server.start()
        assert len(store.placements()) == 1  # durable
        reserve(store, "bob", 20001)
        store.close()
    finally:
        drop_mariadb(server)


def test_a_frozen_server_is_given_up(mariadb: MariaDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_connect, "CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr(mysql_connect, "ANSWER_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        url = f"mysql://wsctl@127.0.0.1:{silent.getsockname()[1]}/wsctl_x"
        with pytest.raises(BackendError, match="connection was lost"):
            opened(url, tmp_path)
        assert time.monotonic() - started < 3


def test_what_isnt_mysql(tmp_path: Path) -> None:
    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)
        time.sleep(0.3)
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(WsctlError):
            opened(f"mysql://wsctl@127.0.0.1:{server.getsockname()[1]}/wsctl_x", tmp_path)
        thread.join()


# several hosts: what Galera adds to this is in tests/faults/test_scale_out.py


def test_the_first_host_that_answers_is_used(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{mariadb.port}"
    store = opened(f"mysql://wsctl@{hosts}/{database}", tmp_path)
    assert reserve(store).generation == 1
    store.close()


def test_none_of_several_hosts_answers(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    error = _fails(f"mysql://wsctl@127.0.0.1:{first},127.0.0.1:{second}/wsctl_x", tmp_path, "can't connect")
    assert f"127.0.0.1:{first}, 127.0.0.1:{second}" in error.message


def test_a_refusal_that_is_no_outage_is_not_taken_elsewhere(proxy: Proxy, database: str, tmp_path: Path) -> None:
    other = free_port()
    _fails(f"mysql://wsctl@127.0.0.1:{proxy.port},127.0.0.1:{other}/{database}", tmp_path, "access denied", "wrong")


def test_a_host_that_is_lost_is_left_for_the_next(
    proxy: Proxy, mariadb: MariaDb, database: str, tmp_path: Path
) -> None:
    """On a connection that was made for this very transaction: there is no other reason to try again."""
    opened(mariadb.url(database), tmp_path).close()
    hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{mariadb.port}"
    store = opened(f"mysql://wsctl@{hosts}/{database}?tls=disabled", tmp_path)
    _kill_connections(mariadb)
    proxy.cut_at = b"INSERT INTO placements"
    reserve(store)
    before = proxy.sent
    reserve(store, "bob", 20001)
    assert proxy.sent == before, "it stays with the host that served"
    assert store.usage()["n1"].workspaces == 2
    store.close()


def test_at_commit_nobody_goes_elsewhere(proxy: Proxy, mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{mariadb.port}"
    store = opened(f"mysql://wsctl@{hosts}/{database}?tls=disabled", tmp_path)
    proxy.cut_at = b"COMMIT"
    with pytest.raises(BackendError, match="outcome unknown"):
        reserve(store)
    assert len(store.placements()) == 1, "it was done, as the next host says"
    store.close()


# locks


def test_a_deadlock_is_tried_again(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    store = opened(mariadb.url(database), tmp_path)
    reserve(store, "a", 20000)
    reserve(store, "b", 20001)
    meet = threading.Barrier(2)
    tries: list[str] = []

    def change(first: str, second: str) -> None:
        def work(session: Any) -> None:
            tries.append(first)
            session.execute("UPDATE placements SET pids = pids + 1 WHERE user = ?", (first,))
            if len(tries) <= 2:
                with contextlib.suppress(threading.BrokenBarrierError):
                    meet.wait(20)
            session.execute("UPDATE placements SET pids = pids + 1 WHERE user = ?", (second,))

        store.database.write(work)

    threads = [threading.Thread(target=change, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tries) == 3
    assert [p.resources.pids for p in store.placements()] == [3, 3]
    store.close()


def test_a_row_that_stays_locked(
    mariadb: MariaDb, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "RETRY_FOR_S", 0.0)
    monkeypatch.setattr(mysql_connect, "_SESSION", mysql_connect._SESSION.replace("timeout = 5", "timeout = 1"))
    holder, waiter = opened(mariadb.url(database), tmp_path), opened(mariadb.url(database), tmp_path)
    reserve(holder)
    inside, leave = threading.Event(), threading.Event()

    def hold(session: Any) -> None:
        session.execute("UPDATE node_usage SET active = active")
        inside.set()
        leave.wait(20)

    thread = threading.Thread(target=lambda: holder.database.write(hold))
    thread.start()
    try:
        assert inside.wait(5)
        with pytest.raises(BackendError, match="locked for too long; nothing was changed"):
            reserve(waiter, "bob", 20001)
    finally:
        leave.set()
        thread.join()
        holder.close()
        waiter.close()


def test_an_idle_store_holds_no_transaction(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    """An open transaction in a pool would block every later change of the schema."""
    store = opened(mariadb.url(database), tmp_path)
    store.placements()
    reserve(store)
    store.release("nobody", 1, keep_home=None)
    assert mariadb.admin("SELECT COUNT(*) FROM information_schema.innodb_trx") == [(0,)]
    store.close()
    with pytest.raises(BackendError, match="closed"):
        store.placements()


def test_the_session_is_what_the_statements_rely_on(mariadb: MariaDb, database: str, tmp_path: Path) -> None:
    store = opened(mariadb.url(database), tmp_path)
    ((isolation, mode, zone),) = store.database.read(
        lambda s: s.query("SELECT @@tx_isolation, @@sql_mode, @@time_zone")
    )
    assert (isolation, zone) == ("READ-COMMITTED", "+00:00")
    assert "STRICT_ALL_TABLES" in mode
    store.close()


def test_sqlite_users_never_load_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from wsctl.store import open_store, lease_rows; "
        "from wsctl.coordination import open_leases; "
        "s = open_store('sqlite:///a.db', cluster='c', base=pathlib.Path('.')); s.placements(); "
        "l = open_leases(None, cluster='c', rows=lambda: lease_rows(s)); l.acquire(['a'], command='x').release(); "
        "l.close(); s.close(); "
        "s = open_store('sqlite:///a.db', cluster='c', base=pathlib.Path('.')); s.placements(); s.close(); "
        "print(sorted({'pymysql', 'redis', 'ssl'} & set(sys.modules)))"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_two_that_remember_a_home_at_once(
    mariadb: MariaDb, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no row, forgetting it locks nothing."""
    one, other = (opened(mariadb.url(database), tmp_path) for _ in range(2))
    forget = one._forget_home
    calls: list[str] = []

    def slow(session: Any, user: str) -> None:
        forget(session, user)
        calls.append(user)
        if len(calls) == 1:
            assert other.remember_home(user, "n2")

    monkeypatch.setattr(one, "_forget_home", slow)
    try:
        assert one.remember_home("alice", "n3")
        assert other.homes() == {"alice": "n3"}
        assert len(calls) == 2
    finally:
        one.close()
        other.close()


def test_a_standby_that_another_began_is_none_of_who_has_gone_elsewhere(
    mariadb: MariaDb, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (opened(mariadb.url(database), tmp_path) for _ in range(2))
    reserve(one)
    assert one.settle("alice", 1, PlacementState.RUNNING)
    step = TakeOver(
        "alice", "n2", "", "n1", "10.0.0.12", 20001, Resources(1, 1, 1), ROOM, 1, PlacementState.STARTING, True, 77
    )
    query = mysql._Session.query
    raced: list[str] = []

    def slow(session: Any, sql: str, params: Any = ()) -> Any:
        found = query(session, sql, params)
        if "FROM standbys" in sql and not raced:
            raced.append(sql)
            assert other.begin_standby("alice", "n3", "n1") is not None
            assert isinstance(other.take_over(step, was=PlacementState.RUNNING), Placement)
        return found

    monkeypatch.setattr(mysql._Session, "query", slow)
    try:
        assert one.begin_standby("alice", "n3", "n1") is None
        assert raced
    finally:
        one.close()
        other.close()
