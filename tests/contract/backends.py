"""Private servers for the contract tests: MariaDB, Redis, a Redis Cluster, each in a temporary folder, on free ports.

A missing server program fails the tests that need it, unless WSCTL_SKIP_LAB=1 says that it is known to be missing.
Only processes started here are ended, by their handles.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PASSWORD = "s3cret-ü-pässwort"


def need(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        if os.environ.get("WSCTL_SKIP_LAB") == "1":
            pytest.skip(f"{program} isn't installed")
        pytest.fail(f"{program} isn't installed (WSCTL_SKIP_LAB=1 skips what needs it)")
    return path


def free_port() -> int:
    """Below the range that the kernel takes client ports from, and with room for a cluster's bus 10000 above."""
    while True:
        port = random.randrange(21000, 31000)
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10000))
            return port


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"{what} didn't happen within {timeout_s} s"
        time.sleep(0.02)


@dataclass
class MariaDb:
    """One mariadbd; `admin` runs SQL as its root."""

    folder: Path
    port: int
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    databases: list[str] = field(default_factory=list)

    def start(self) -> None:
        command = [
            need("mariadbd"), "--no-defaults", "--user=root", f"--datadir={self.folder}/data",
            f"--socket={self.folder}/s", f"--port={self.port}", "--bind-address=127.0.0.1",
            f"--pid-file={self.folder}/pid", "--skip-log-bin", "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=1", "--skip-name-resolve", *self.arguments,
        ]  # fmt: skip
        Path(f"{self.folder}/s").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, f"mariadbd in {self.folder}")

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is None or self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        if not Path(f"{self.folder}/s").exists():  # PyMySQL leaks the socket of a failed attempt
            return False
        try:
            self.admin("SELECT 1")
        except OSError:
            return False
        except Exception as error:
            if error.args and error.args[0] in (2002, 2003, 2013):
                return False
            raise
        return True

    def admin(self, *statements: str, database: str | None = None) -> list[tuple[object, ...]]:
        import pymysql

        with contextlib.closing(
            pymysql.connect(
                unix_socket=f"{self.folder}/s", user="root", database=database, autocommit=True, ssl_disabled=True
            )
        ) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def new_database(self) -> str:
        name = f"wsctl_{len(self.databases)}_{os.getpid()}"
        self.databases.append(name)
        self.admin(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return name

    def url(self, database: str, **options: str) -> str:
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"mysql://wsctl@127.0.0.1:{self.port}/{database}" + (f"?{query}" if query else "")


def make_mariadb(*arguments: str) -> MariaDb:
    folder = Path(tempfile.mkdtemp(prefix="wsctl-mariadb-"))
    subprocess.run(
        [
            need("mariadb-install-db"), "--no-defaults", "--user=root", f"--datadir={folder}/data",
            "--auth-root-authentication-method=normal", "--skip-test-db",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    server = MariaDb(folder, free_port(), arguments)
    try:
        server.start()
        server.admin(
            f"CREATE USER 'wsctl'@'%' IDENTIFIED BY '{PASSWORD}'",
            r"GRANT ALL ON `wsctl\_%`.* TO 'wsctl'@'%'",
            "FLUSH PRIVILEGES",
        )
    except BaseException:
        drop_mariadb(server)
        raise
    return server


def drop_mariadb(server: MariaDb) -> None:
    server.stop(kill=True)
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    """A MariaDB without TLS, shared by the session; take a `new_database` each."""
    server = make_mariadb("--skip-ssl")
    yield server
    drop_mariadb(server)


@dataclass
class RedisServer:
    """One redis-server."""

    folder: Path
    port: int
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir",
            str(self.folder), *self.arguments,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, f"redis-server on {self.port}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is None or self.process.poll() is None, f"redis-server on {self.port} ended at once"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(64))
        except OSError:
            return False

    def command(self, *words: str) -> str:
        result = subprocess.run(
            [need("redis-cli"), "-p", str(self.port), *words], check=True, capture_output=True, text=True
        )
        return result.stdout.strip()


def make_redis(*arguments: str) -> RedisServer:
    server = RedisServer(Path(tempfile.mkdtemp(prefix="wsctl-redis-")), free_port(), arguments)
    try:
        server.start()
    except BaseException:
        drop_redis(server)
        raise
    return server


def drop_redis(server: RedisServer) -> None:
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis shared by the session, for tests that leave it alive; each uses a cluster name of its own."""
    server = make_redis()
    yield server
    drop_redis(server)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    server = make_redis()
    yield server
    drop_redis(server)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    members: list[RedisServer] = []
    try:
        for _ in range(3):
            members.append(make_redis("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
        addresses = [f"127.0.0.1:{member.port}" for member in members]
        subprocess.run(
            [need("redis-cli"), "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"],
            check=True, capture_output=True,
        )  # fmt: skip
        for member in members:
            wait_until(lambda m=member: "cluster_state:ok" in m.command("cluster", "info"), "the cluster")  # type: ignore[misc]
        yield members
    finally:
        for member in members:
            drop_redis(member)
