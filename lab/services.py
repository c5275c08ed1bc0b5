"""The control side's services: MariaDB, Redis and Nginx, each an own instance in the lab's folder.

Each runs in its own cgroup, on 127.0.0.1 and a port of the lab. Not here: Debian's own instances, which are never
touched, and what is in the database or in the gateway's files.
"""

from __future__ import annotations

import http.client
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from lab import cgroups
from lab.shell import CLEAN_ENV, LabError, run, spawn, wait_until, write_atomically

START_TIMEOUT = 30.0


class Service:
    """What all three have in common."""

    name = ""

    def __init__(self, lab_folder: Path, group: str, port: int) -> None:
        self.folder = lab_folder / self.name
        self.lab_folder = lab_folder
        self.group = f"{group}/{self.name}"
        self.port = port
        self.log = self.folder / f"{self.name}.log"

    def prepare(self) -> None:
        """Write the files; changes no data that is there."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        return bool(cgroups.members(self.group))

    @property
    def paused(self) -> bool:
        return any(cgroups.state(pid) in "Tt" for pid in cgroups.members(self.group))

    def start(self) -> bool:
        """Start if it isn't running, and wait until it answers; whether there was anything to do."""
        if self.paused:
            self.resume()
        if self.alive and self.ready():
            return False
        if not self.alive:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.prepare()
            group = cgroups.create(self.group)
            spawn(self.command(), group, self.log)
        wait_until(self._ready_or_dead, START_TIMEOUT, self.name, self.log)
        if not self.ready():
            wait_until(lambda: False, 0, self.name, self.log)
        return True

    def _ready_or_dead(self) -> bool:
        return self.ready() or not self.alive

    def stop(self, *, kill: bool = False) -> None:
        """End it, politely (SIGTERM, then wait) or by SIGKILL as in a crash."""
        if self.paused:
            self.resume()
        if not kill:
            cgroups.send(self.group, signal.SIGTERM)
            wait_until(lambda: not self.alive, 20, f"the end of {self.name}", self.log)
        cgroups.kill(self.group)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        cgroups.send(self.group, signal.SIGSTOP)

    def resume(self) -> None:
        cgroups.send(self.group, signal.SIGCONT)


class MariaDB(Service):
    """MariaDB with TLS on offer, durable as in production; database and user `wsctl`."""

    name = "mariadb"

    @property
    def socket(self) -> Path:
        """For root, who is let in by user id here."""
        return self.folder / "mysqld.sock"

    @property
    def password_file(self) -> Path:
        return self.lab_folder / "mysql_password"

    def prepare(self) -> None:
        if not self.password_file.exists():
            write_atomically(self.password_file, secrets.token_hex(16) + "\n", 0o600)
        if not (self.lab_folder / "server-cert.pem").exists():
            make_certificates(self.lab_folder)
        (self.folder / "tmp").mkdir(exist_ok=True)
        shutil.chown(self.folder / "tmp", "mysql", "mysql")
        self._make_data()
        # The server reads files as its own user, who may not read root's.
        for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
            self._copy(name, (self.lab_folder / name).read_text())
        self._copy("init.sql", self._init_sql())
        shutil.chown(self.folder, "mysql", "mysql")

    def _make_data(self) -> None:
        data, fresh = self.folder / "data", self.folder / "data.new"
        if data.exists():
            return
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        shutil.chown(fresh, "mysql", "mysql")
        options = [*self._common(), f"--datadir={fresh}", "--skip-test-db"]
        run(["mariadb-install-db", *options, "--auth-root-authentication-method=socket"])
        fresh.replace(data)

    def _common(self) -> list[str]:
        return [
            "--no-defaults",
            "--user=mysql",
            # Its own: a server that starts removes other servers' temporary tables from its folder for them.
            f"--tmpdir={self.folder / 'tmp'}",
            "--skip-name-resolve",
            "--innodb-log-file-size=48M",
        ]

    def _copy(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text, 0o600)
        shutil.chown(self.folder / name, "mysql", "mysql")

    def _init_sql(self) -> str:
        password = self.password_file.read_text().strip()
        lines = [
            "CREATE DATABASE IF NOT EXISTS wsctl CHARACTER SET utf8mb4;",
            f"CREATE USER IF NOT EXISTS 'wsctl'@'%' IDENTIFIED BY '{password}';",
            "GRANT ALL ON `wsctl%`.* TO 'wsctl'@'%';",  # tests make their own, wsctl_…
        ]
        return "\n".join(lines) + "\n"

    def command(self) -> list[str]:
        tls = {"ca": "ca.pem", "cert": "server-cert.pem", "key": "server-key.pem"}
        return [
            "mariadbd",
            *self._common(),
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'data' / 'mariadbd.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--init-file={self.folder / 'init.sql'}",
            *(f"--ssl-{option}={self.folder / name}" for option, name in tls.items()),
            "--innodb-buffer-pool-size=128M",
            "--max-connections=500",
        ]

    def ready(self) -> bool:
        """Listening means the init file has been executed: the port opens after it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return len(connection.recv(5)) == 5
        except OSError:
            return False

    def sql(self, statement: str) -> str:
        """Execute as the server's root; rows come back tab-separated, without headings."""
        client = ["mariadb", "--no-defaults", f"--socket={self.socket}", "-uroot", "-N", "-B"]
        return run([*client, "-e", statement]).stdout


def make_certificates(folder: Path) -> None:
    """A certificate authority of the lab's own, and the server's certificate for 127.0.0.1."""
    key: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    life = ["-x509", "-days", "3650"]
    ca_key, ca = folder / "ca-key.pem", folder / "ca.pem"
    ca_name = ["-subj", "/CN=wsctl lab CA"]
    run(["openssl", "req", *life, *key, "-keyout", ca_key, "-out", ca, *ca_name])
    server_key, server = folder / "server-key.pem", folder / "server-cert.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    leaf: list[str | Path] = ["-addext", "basicConstraints=critical,CA:FALSE", "-CA", ca, "-CAkey", ca_key]
    fresh = server.with_suffix(".new")
    run(["openssl", "req", *life, *key, "-keyout", server_key, "-out", fresh, *name, *leaf])
    fresh.replace(server)


class Redis(Service):
    """Redis without persistence: what it knows is gone when it is stopped."""

    name = "redis"

    def command(self) -> list[str]:
        listen = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return ["redis-server", *listen, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


NGINX_CONF = """\
# Made by the lab. Into the gateway's folder, then reload: *.conf for the http level, *.snippet for the server
# level, *.main for the main level (load_module).
include {gateway}/*.main;
user www-data;
worker_processes 2;
pid nginx.pid;
error_log nginx.log notice;
events {{ worker_connections 8192; }}
http {{
    include /etc/nginx/mime.types;
    access_log access.log;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    include {gateway}/*.conf;
    server {{
        listen 127.0.0.1:{port};
        root empty;
        location = /lab-health {{ access_log off; return 200 "ok\\n"; }}
        include {gateway}/*.snippet;
    }}
}}
"""


class Nginx(Service):
    """Nginx in a prefix folder of its own, in which it finds the gateway's generated files."""

    name = "nginx"

    @property
    def gateway(self) -> Path:
        return self.lab_folder / "gateway"

    def prepare(self) -> None:
        self.gateway.mkdir(exist_ok=True)
        for name in ("temp", "empty"):
            (self.folder / name).mkdir(exist_ok=True)
        config = NGINX_CONF.format(gateway=self.gateway, port=self.port)
        (self.folder / "nginx.conf").write_text(config)
        result = self.test()
        if result.returncode != 0:
            raise LabError(f"nginx refuses its configuration: {result.stderr.strip()}")

    def command(self) -> list[str]:
        return ["nginx", "-p", str(self.folder), "-c", "nginx.conf", "-g", "daemon off;"]

    def test(self) -> subprocess.CompletedProcess[str]:
        """Nginx -t on what lies in the gateway's folder now."""
        argv = ["nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "nginx.log", "-t"]
        return run(argv, check=False, env=CLEAN_ENV)

    def reload(self) -> None:
        """Test, reload, and return when no worker with the old configuration takes requests any more."""
        result = self.test()
        if result.returncode != 0:
            raise LabError(f"nginx refuses the new configuration: {result.stderr.strip()}")
        master = self._master()
        former = set(cgroups.members(self.group)) - {master}
        cgroups.send_one(master, signal.SIGHUP)
        # For a tenth of a second, old and new workers both accept connections.
        wait_until(lambda: not self._accepting(former), 20, "nginx's new workers", self.log)

    def _accepting(self, workers: set[int]) -> list[int]:
        """Those that don't say "worker process is shutting down" of themselves."""
        living = workers & set(cgroups.members(self.group))
        return [pid for pid in living if "shutting down" not in cgroups.command(pid)]

    def _master(self) -> int:
        """The one whose parent isn't in the cgroup."""
        pids = set(cgroups.members(self.group))
        for pid in sorted(pids):
            if cgroups.parent(pid) not in pids:
                return pid
        raise LabError("nginx is not running: `python -m lab up` starts it")

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/lab-health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


SERVICES: dict[str, type[Service]] = {kind.name: kind for kind in (MariaDB, Redis, Nginx)}


def free_ports(number: int) -> dict[str, int]:
    """A port per service: from the lab's number, hence the same each time, unless taken by others."""
    base = 17000 + number * 10
    return {name: _free_port(base + place) for place, name in enumerate(SERVICES)}


def _free_port(wanted: int) -> int:
    """`wanted`, or the next one in steps that stay clear of other labs' ports."""
    for candidate in range(wanted, wanted + 10000, 2500):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    raise LabError(f"no free port near {wanted} for a service of the lab")
