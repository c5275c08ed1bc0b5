"""The lab itself, for real: that it comes up, that its faults are what they say, and that nothing of it stays."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
import redis
import yaml

from lab import Lab, LabError, LabNode, cgroups, image, network, shell

NewLab = Callable[[], Lab]
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.lab


# --- helpers ---------------------------------------------------------------------------------------------------------


def lab_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", *words]
    return subprocess.run(
        argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def container(node: LabNode, name: str, port: int, *options: str) -> Iterator[tuple[str, int]]:
    """A workspace like wsctl's; yields where it answers."""
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "64", "--cap-drop", "ALL"]
    place = [
        "-p",
        f"{node.address}:{port}:8080",
        "-v",
        f"{node.host_root}/{name}:/workspace",
        "-e",
        f"WSCTL_USER={name}",
    ]
    node.run(["docker", "run", "-d", "--name", name, *limits, *place, *options, image.IMAGE])
    try:
        wait_for(lambda: http_get(node.address, port, "/healthz")[0] == 200)
        yield node.address, port
    finally:
        if node.pid:
            node.run(["docker", "rm", "-f", name], check=False)
            node.run(["rm", "-rf", f"{node.host_root}/{name}"], check=False)


def http_request(
    address: str, port: int, method: str, path: str, body: bytes | None = None, timeout: float = 3
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def http_get(address: str, port: int, path: str, timeout: float = 3) -> tuple[int, bytes]:
    try:
        return http_request(address, port, "GET", path, timeout=timeout)
    except OSError:
        return 0, b""


def wait_for(probe: object, timeout: float = 10) -> None:
    assert callable(probe)
    deadline = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def banner(node: LabNode, timeout: float = 1.5) -> bytes:
    """What sshd says first; nothing if it says nothing."""
    try:
        with socket.create_connection((node.address, 22), timeout=timeout) as connection:
            return connection.recv(4)
    except OSError:
        return b""


def ssh(lab: Lab, node: str, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", str(lab.ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", *options, node, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


class WebSocket:
    """As little of RFC 6455 as it takes to be a client."""

    def __init__(self, address: str, port: int, path: str) -> None:
        self.socket = socket.create_connection((address, port), timeout=5)
        key = base64.b64encode(os.urandom(16))
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        fields = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key
        self.socket.sendall(head.encode() + fields + b"\r\n\r\n")
        self.file = self.socket.makefile("rb")
        assert b" 101 " in self.file.readline()
        headers = dict(line.rstrip().split(b": ", 1) for line in iter(self.file.readline, b"\r\n"))
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        assert headers[b"Sec-WebSocket-Accept"] == base64.b64encode(hashlib.sha1(key + guid).digest())

    def send(self, data: bytes, opcode: int = 2) -> None:
        mask = os.urandom(4)
        size = len(data)
        length = (
            bytes([128 | size])
            if size < 126
            else bytes([254]) + struct.pack(">H", size)
            if size < 65536
            else (bytes([255]) + struct.pack(">Q", size))
        )
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.socket.sendall(bytes([128 | opcode]) + length + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        first, size = self.file.read(2)
        if size == 126:
            (size,) = struct.unpack(">H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.file.read(8))
        return first & 15, self.file.read(size)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


# --- up --------------------------------------------------------------------------------------------------------------


def test_three_nodes_with_services_are_up_in_15_seconds_and_a_second_up_changes_nothing(new_lab: NewLab) -> None:
    lab = new_lab()
    began = time.monotonic()
    first = lab_command("--name", lab.name, "up")
    spent = time.monotonic() - began
    assert first.returncode == 0, first.stderr
    assert spent < 15
    assert str(lab.folder / "inventory.yaml") in first.stdout
    assert "wsctl -i" in first.stdout
    before = sorted(cgroups.members(lab.group))
    keys = lab.known_hosts.read_text()
    second = lab_command("--name", lab.name, "up")
    assert second.returncode == 0
    assert sorted(cgroups.members(lab.group)) == before
    assert lab.known_hosts.read_text() == keys
    assert "booted" not in second.stdout
    assert lab_command("--name", lab.name, "down").returncode == 0


def test_a_second_up_repairs_what_died_and_leaves_the_rest_alone(fault_lab: Lab) -> None:
    n1, n2, n3 = fault_lab.nodes.values()
    n3_was = n3.pid, n3.daemon_pid("engine")
    n1.kill()
    n2.stop_sshd()
    n2.stop_engine(kill=True)
    fault_lab.stop_service("redis", kill=True)
    fault_lab.up(3)
    assert [row["state"] for row in fault_lab.status()] == ["up"] * 6
    assert (n3.pid, n3.daemon_pid("engine")) == n3_was


def test_up_adds_nodes(new_lab: NewLab) -> None:
    lab = new_lab()
    lab.up(1, services=False)
    first = lab.nodes["n1"].pid
    lab.up(2, services=False)
    assert list(lab.nodes) == ["n1", "n2"]
    assert lab.nodes["n1"].pid == first
    assert ssh(lab, "n2", "hostname").stdout == "n2\n"
    with pytest.raises(LabError, match="without services"):
        _ = lab.mysql_url


def test_every_node_is_a_machine_of_its_own(lab: Lab) -> None:
    seen: dict[str, set[str]] = {}
    for name in lab.nodes:
        script = (
            "hostname; cat /etc/machine-id; docker info -f '{{.ID}}'; readlink /proc/1/ns/net; readlink /proc/1/ns/mnt;"
            "cat /run/lab/ssh_host_ed25519_key.pub; ip -4 -o addr show eth0"
        )
        result = ssh(lab, name, script)
        assert result.returncode == 0, result.stderr
        seen[name] = set(result.stdout.splitlines())
        assert name in seen[name]
    a, b, c = seen.values()
    assert not a & b
    assert not b & c
    assert not a & c


def test_a_node_writes_its_own_disk_only_and_keeps_it_through_a_reboot(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n1"]
    mark = f"/etc/wsctl-mark-{os.getpid()}"
    node.run(["touch", mark, f"{mark}-2"])
    assert not Path(mark).exists()
    assert fault_lab.nodes["n2"].run(["test", "-e", mark], check=False).returncode == 1
    assert node.run(["ls", str(fault_lab.root)]).stdout == "", "a node must not see other nodes' files"
    node.kill()
    node.start()
    node.run(["rm", mark, f"{mark}-2"])


def test_limits_are_real(lab: Lab) -> None:
    node = lab.nodes["n1"]
    name = f"lim{os.getpid()}"
    hog = ["perl", "-e", "my $x = 'x' x 200_000_000; print length $x"]
    result = node.run(
        ["docker", "run", "--rm", "--name", name, "-m", "32m", "--memory-swap", "32m", image.IMAGE, *hog], check=False
    )
    assert result.returncode == 137


def test_engines_are_reached_from_the_host_and_have_the_same_images(lab: Lab) -> None:
    ids = set()
    for node in lab.nodes.values():
        argv = ["docker", "-H", f"unix://{node.docker_socket_path}", "images", "--no-trunc", "-q", image.REPOSITORY]
        found = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        assert len(found) == 2
        ids.add(tuple(sorted(found)))
    assert len(ids) == 1


# --- faults ----------------------------------------------------------------------------------------------------------


def test_kill_is_a_power_cut_and_start_a_reboot(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n1"]
    name = f"kill{os.getpid()}"
    with container(node, name, 20901) as (address, port):
        (node.workspaces / name / "data").write_text("kept")
        with socket.create_connection((node.address, 22), timeout=2) as connection:
            assert connection.recv(4) == b"SSH-"
            connection.recv(1000)
            living = cgroups.members(node.group)
            assert len(living) > 5
            fault_lab.kill("n1")
            # Who is ending has left its cgroup a moment before it is a zombie.
            wait_for(lambda: not any(cgroups.state(pid) not in ("", "Z", "X") for pid in living), timeout=2)
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):  # no goodbye: a machine without power says nothing
                connection.recv(1)
        assert http_get(address, port, "/healthz", timeout=1)[0] == 0
        assert banner(node) == b""
        assert fault_lab.status()[0]["state"] == "killed"
        with pytest.raises(LabError, match="start n1"):
            node.run(["true"])
        fault_lab.start("n1")
        wait_for(lambda: banner(node) == b"SSH-")
        state = node.run(["docker", "inspect", "-f", "{{.State.Running}}", name]).stdout
        assert state == "false\n"
        node.run(["docker", "start", name])
        wait_for(lambda: http_get(address, port, "/data") == (200, b"kept"))


def test_cut_takes_the_network_only_and_heal_gives_it_back(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n2"]
    name = f"cut{os.getpid()}"
    with container(node, name, 20902) as (address, port):
        fault_lab.cut("n2")
        assert fault_lab.status()[1]["state"] == "cut"
        assert banner(node) == b""
        assert http_get(address, port, "/healthz", timeout=1)[0] == 0
        assert fault_lab.nodes["n3"].run(["ping", "-c1", "-W1", node.address], check=False).returncode != 0
        assert node.run(["docker", "inspect", "-f", "{{.State.Running}}", name]).stdout == "true\n"
        fault_lab.heal("n2")
        wait_for(lambda: banner(node) == b"SSH-")
        assert http_get(address, port, "/healthz")[0] == 200


def test_freeze_stops_sshd_and_engine_and_nothing_else(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n3"]
    name = f"frz{os.getpid()}"
    with container(node, name, 20903) as (address, port):
        session = subprocess.Popen(
            ["ssh", "-F", str(fault_lab.ssh_config), "n3", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert session.stdin
        assert session.stdout
        session.stdin.write(b"a")
        session.stdin.flush()
        assert session.stdout.read(1) == b"a"
        fault_lab.freeze("n3")
        assert fault_lab.status()[2]["state"] == "frozen"
        with socket.create_connection((node.address, 22), timeout=1) as connection:  # the kernel still answers
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        assert not node.engine_answers()
        assert http_get(address, port, "/healthz")[0] == 200
        session.stdin.write(b"b")
        session.stdin.flush()
        os.set_blocking(session.stdout.fileno(), False)
        time.sleep(0.3)
        assert session.stdout.read(1) is None
        fault_lab.thaw("n3")
        wait_for(lambda: session.stdout is not None and session.stdout.read(1) == b"b")
        session.communicate(timeout=5)
        assert banner(node) == b"SSH-"
        assert node.engine_answers()


def test_an_engine_can_stop_politely_or_crash(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n1"]
    name = f"eng{os.getpid()}"
    with container(node, name, 20904) as (address, port):
        node.stop_engine(kill=True)
        assert not node.engine_answers()
        assert http_get(address, port, "/healthz")[0] == 200, "a crash of the engine leaves containers running"
        node.start_engine()
        node.run(["docker", "start", name])
        wait_for(lambda: http_get(address, port, "/healthz")[0] == 200)
        node.stop_engine()
        assert not node.docker_socket_path.exists() or not node.engine_answers()
        assert http_get(address, port, "/healthz", timeout=1)[0] == 0
        node.start_engine()
        assert node.engine_answers()


def test_sshd_options_come_and_go(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n1"]
    assert (
        ssh(fault_lab, "n1", "sshd -T -f /run/lab/sshd_config | grep ^maxstartups").stdout == "maxstartups 10:30:100\n"
    )
    node.sshd_option("MaxStartups 1:100:1")
    assert "maxstartups 1:100:1" in node.run(["/usr/sbin/sshd", "-T", "-f", "/run/lab/sshd_config"]).stdout
    with socket.create_connection((node.address, 22), timeout=2) as hog:
        assert hog.recv(4) == b"SSH-"
        assert banner(node) != b"SSH-", "the one unauthenticated connection is taken"
    node.sshd_reset()
    assert "maxstartups 10:30:100" in node.run(["/usr/sbin/sshd", "-T", "-f", "/run/lab/sshd_config"]).stdout
    assert banner(node) == b"SSH-"


def test_a_daemon_that_does_not_come_up_shows_the_end_of_its_log(
    fault_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = fault_lab.nodes["n1"]
    monkeypatch.setattr("lab.node.SSHD_TIMEOUT", 1)
    with pytest.raises(LabError, match=r"(?s)sshd of n1 did not come up.*Bad configuration option: Nonsense"):
        node.sshd_option("Nonsense yes")


def test_a_changed_host_key_is_noticed(fault_lab: Lab) -> None:
    node = fault_lab.nodes["n2"]
    before = node.host_key
    node.rotate_host_key()
    assert node.host_key != before
    result = ssh(fault_lab, "n2", "true")
    assert result.returncode == 255
    assert "IDENTIFICATION HAS CHANGED" in result.stderr
    node.restore_host_key()
    assert node.host_key == before
    assert ssh(fault_lab, "n2", "true").returncode == 0


def test_the_account_plain_may_log_in_but_not_use_docker(lab: Lab) -> None:
    result = ssh(lab, "n1", "id -un; docker ps", "-l", "plain")
    assert result.stdout == "plain\n"
    assert "permission denied" in result.stderr


def test_nodes_answer_over_ipv6(lab: Lab) -> None:
    with socket.create_connection((lab.nodes["n1"].address6, 22), timeout=2) as connection:
        assert connection.recv(4) == b"SSH-"


def test_a_small_disk_fills_and_the_host_does_not(new_lab: NewLab) -> None:
    lab = new_lab()
    lab.up(1, services=False, small_disk=("n1",))
    node = lab.nodes["n1"]
    with container(node, "full", 20905) as (address, port):
        free_before = shutil.disk_usage(lab.folder).free
        assert http_request(address, port, "PUT", "/a", b"x")[0] == 201
        node.fill_disk()
        assert http_request(address, port, "PUT", "/b", b"x" * 1_000_000)[0] == 507
        result = node.run(["docker", "run", "-d", "--name", "more", image.IMAGE], check=False)
        assert result.returncode != 0
        assert "no space left on device" in result.stderr
        assert free_before - shutil.disk_usage(lab.folder).free < 1_000_000_000
        node.free_disk()
        assert http_request(address, port, "PUT", "/b", b"x" * 1_000_000)[0] == 201
        assert (node.workspaces / "full" / "b").stat().st_size == 1_000_000
    node.kill()
    node.start()
    assert http_get(address, port, "/healthz", timeout=1)[0] == 0
    with pytest.raises(LabError, match="small_disk"):
        lab.up(1, services=False, small_disk=("n9",))


def test_an_ordinary_node_refuses_to_be_filled(lab: Lab) -> None:
    node = lab.nodes["n1"]
    if not node.small_disk:
        with pytest.raises(LabError, match="host's disk"):
            node.fill_disk()


# --- image -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(lab: Lab) -> Iterator[tuple[str, int]]:
    with container(lab.nodes["n3"], f"img{os.getpid()}", 20906) as where:
        yield where


def test_the_image_serves_pages(workspace: tuple[str, int]) -> None:
    user = f"img{os.getpid()}"
    status, page = http_get(*workspace, "/")
    assert status == 200
    assert user.encode() in page
    assert http_request(*workspace, "PUT", "/dir/a%20b.txt", b"hello")[0] == 201
    assert http_get(*workspace, "/dir/a%20b.txt") == (200, b"hello")
    assert http_get(*workspace, f"/ws/{user}/dir/a%20b.txt") == (200, b"hello")
    assert b"a%20b.txt" in http_get(*workspace, "/dir/")[1]
    assert http_get(*workspace, "/dir")[0] == 301
    assert http_get(*workspace, "/absent")[0] == 404
    assert http_get(*workspace, "/healthz") == (200, b"ok\n")
    assert json.loads(http_get(*workspace, "/whoami")[1])["user"] == user
    assert http_request(*workspace, "PUT", "/index.html", b"mine")[0] == 201
    assert http_get(*workspace, "/") == (200, b"mine")


def test_the_image_keeps_to_its_folder(workspace: tuple[str, int]) -> None:
    for path in ("/../VERSION", "/%2e%2e/VERSION", "/dir/..%2f..%2fVERSION", "/a/../../VERSION", "/%00"):
        assert http_get(*workspace, path)[0] == 403, path
        assert http_request(*workspace, "PUT", path, b"x")[0] == 403, path
    assert http_request(*workspace, "POST", "/append?file=../VERSION", b"x")[0] == 403


def test_appended_lines_are_counted_when_many_append(workspace: tuple[str, int]) -> None:
    answers: list[int] = []

    def append() -> None:
        for _ in range(10):
            answers.append(int(http_request(*workspace, "POST", "/append?file=counter", b"123")[1]))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(4, 164, 4))
    assert http_get(*workspace, "/counter") == (200, b"123\n" * 40)


def test_the_image_echoes_websockets(workspace: tuple[str, int]) -> None:
    connection = WebSocket(*workspace, "/ws/anybody/echo")
    for data in (b"", b"hello", b"x" * 125, b"y" * 126, b"z" * 65535, b"w" * 70000):
        connection.send(data)
        assert connection.receive() == (2, data)
    connection.send(b"ping?", 9)
    assert connection.receive() == (10, b"ping?")
    connection.send(struct.pack(">H", 1000), 8)
    assert connection.receive() == (8, struct.pack(">H", 1000))
    connection.close()


def test_the_image_sends_events_and_shows_headers(workspace: tuple[str, int]) -> None:
    address, port = workspace
    request = urllib.request.Request(f"http://{address}:{port}/headers", headers={"X-Forwarded-Proto": "https"})
    with urllib.request.urlopen(request, timeout=3) as answer:
        assert b"x-forwarded-proto: https\n" in answer.read()
    began = time.monotonic()
    with socket.create_connection(workspace, timeout=3) as connection:
        connection.sendall(b"GET /sse?n=4&ms=100 HTTP/1.1\r\nHost: x\r\n\r\n")
        stream = connection.makefile("rb")
        lines = [line for line in stream if line.startswith(b"id:")]
        stream.close()
    assert lines == [b"id: 1\n", b"id: 2\n", b"id: 3\n", b"id: 4\n"]
    assert time.monotonic() - began >= 0.3, "events come one by one"


def test_the_image_starts_and_stops_at_once(lab: Lab) -> None:
    server = image.SERVER
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spent = []
    for _ in range(5):
        began = time.monotonic()
        process = subprocess.Popen(["perl", str(server)], env={"PORT": str(port)}, stdout=subprocess.DEVNULL)
        while not _connects(port):
            time.sleep(0.001)
        spent.append(time.monotonic() - began)
        process.terminate()
        assert process.wait(timeout=2) == 0
    assert min(spent) < 0.1
    node = lab.nodes["n1"]
    with container(node, f"stop{os.getpid()}", 20907):
        began = time.monotonic()
        node.run(["docker", "stop", f"stop{os.getpid()}"])
        assert time.monotonic() - began < 8, "process 1 must heed SIGTERM"
        code = node.run(["docker", "inspect", "-f", "{{.State.ExitCode}}", f"stop{os.getpid()}"]).stdout
        assert code == "0\n"


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def test_building_the_image_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = image.build(tmp_path / "a.tar"), image.build(tmp_path / "b.tar")
    assert first.ids == second.ids
    assert first.archive.read_bytes() == second.archive.read_bytes()
    assert first.ids[f"{image.REPOSITORY}:1"] != first.ids[f"{image.REPOSITORY}:2"]


# --- services --------------------------------------------------------------------------------------------------------


def _mysql(lab: Lab, context: ssl.SSLContext | None = None) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
    port = int(lab.mysql_url.rpartition(":")[2].partition("/")[0])
    password = lab.mysql_password_file.read_text().strip()
    return pymysql.connect(
        host="127.0.0.1", port=port, user="wsctl", password=password, database="wsctl", read_timeout=5, ssl=context
    )


def test_mariadb_is_ours_with_tls_on_offer(lab: Lab) -> None:
    assert lab.mysql_password_file.stat().st_mode & 0o077 == 0
    context = ssl.create_default_context(cafile=str(lab.mysql_ca))
    with _mysql(lab, context) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
        assert row
        assert row[1]
        database = f"wsctl_{os.getpid()}"
        cursor.execute(f"CREATE DATABASE {database}")
        cursor.execute(f"DROP DATABASE {database}")
    assert lab.sql("SELECT @@innodb_flush_log_at_trx_commit") == "1\n"


def test_services_stop_pause_and_come_back_with_what_they_should_remember(fault_lab: Lab) -> None:
    with _mysql(fault_lab) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS lab_test (a INT)")
        cursor.execute("INSERT INTO lab_test VALUES (1)")
        connection.commit()
    fault_lab.restart_service("mariadb", kill=True)
    with _mysql(fault_lab) as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT a FROM lab_test") >= 1
        cursor.execute("DROP TABLE lab_test")
    client = redis.Redis.from_url(fault_lab.redis_url, socket_timeout=0.5)
    client.set("lab-test", "1")
    fault_lab.pause_service("redis")
    with pytest.raises(redis.exceptions.TimeoutError):
        client.get("lab-test")
    fault_lab.resume_service("redis")
    client.close()
    assert client.get("lab-test") == b"1"
    fault_lab.stop_service("redis")
    with pytest.raises(redis.exceptions.ConnectionError):
        client.get("lab-test")
    fault_lab.start_service("redis")
    assert client.get("lab-test") is None
    client.close()


def test_nginx_takes_what_lies_in_the_gateway_folder(lab: Lab, workspace: tuple[str, int]) -> None:
    address, port = workspace
    gateway_port = int(lab.gateway_url.rpartition(":")[2])
    mine = lab.gateway_folder / f"test{os.getpid()}"
    conf, snippet = mine.with_suffix(".conf"), mine.with_suffix(".snippet")
    try:
        conf.write_text(f'map $request_uri $lab_test {{ default ""; ~^/labtest/ {address}:{port}; }}\n')
        snippet.write_text("location /labtest/ { rewrite ^/labtest(/.*) $1 break; proxy_pass http://$lab_test; }\n")
        lab.nginx_test()
        lab.nginx_reload()
        assert http_get("127.0.0.1", gateway_port, "/labtest/healthz") == (200, b"ok\n")
        conf.write_text("nonsense;\n")
        with pytest.raises(LabError, match="nonsense"):
            lab.nginx_test()
        with pytest.raises(LabError, match="nonsense"):
            lab.nginx_reload()
        assert http_get("127.0.0.1", gateway_port, "/labtest/healthz")[0] == 200, "the old configuration stays"
    finally:
        conf.unlink(missing_ok=True)
        snippet.unlink(missing_ok=True)
        lab.nginx_reload()
    assert http_get("127.0.0.1", gateway_port, "/labtest/healthz")[0] == 404


def test_the_inventory_is_of_this_lab(lab: Lab, tmp_path: Path) -> None:
    path = lab.inventory(
        tmp_path / "i.yaml",
        state=lab.mysql_url,
        coordination=lab.redis_url,
        extra="x-note: mine\n",
        ready="{tcp: true}",
    )
    text = yaml.safe_load(path.read_text())
    assert text["version"] == 1
    assert text["state"] == lab.mysql_url
    assert Path(text["state_password_file"]) == lab.mysql_password_file
    assert {name: node["address"] for name, node in text["nodes"].items()} == {
        name: node.address for name, node in lab.nodes.items()
    }
    assert text["workspace"]["ready"] == {"tcp": True}
    assert text["x-note"] == "mine"
    assert Path(text["defaults"]["ssh"]["identity_file"]).exists()


# --- down ------------------------------------------------------------------------------------------------------------


class Traces:
    """Everything by which a lab could be seen, so that `down` can be judged."""

    def __init__(self, *labs: Lab) -> None:
        self.labs = labs
        self.rules = self._rules()
        self.netns = self._output("ip", "netns")

    def remember(self) -> None:
        """While the labs are up: which namespaces and links are theirs."""
        self.spaces = {space for lab in self.labs for node in lab.nodes.values() for space in _spaces(str(node.pid))}
        self.moment = max(born for _, born in _processes())
        # With their index: another lab may take the name as soon as ours is gone.
        self.links = {link for link in self._links() if self._is_ours(link[0])}
        self.ports = {
            (service.port, network.bridge(lab._description().number))
            for lab in self.labs
            for service in lab._services(lab._description())
        }
        assert self.spaces
        assert self.links

    def _links(self) -> set[tuple[str, str]]:
        found = set()
        for folder in Path("/sys/class/net").iterdir():
            with suppress(OSError):
                found.add((folder.name, (folder / "ifindex").read_text()))
        return found

    def _is_ours(self, link: str) -> bool:
        numbers = [str(next(iter(lab.nodes.values())).number) for lab in self.labs]
        return any(re.fullmatch(rf"wsctl{number}(n\d+)?", link) for number in numbers)

    def _output(self, *argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout

    def _rules(self) -> str:
        text = self._output("iptables-save") + self._output("ip6tables-save")
        return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", text)

    def assert_nothing_left(self) -> None:
        for lab in self.labs:
            assert not lab.folder.exists()
            assert str(lab.folder) not in Path("/proc/mounts").read_text()
            assert str(lab.folder) not in self._output("losetup", "-a")
            for hierarchy in cgroups.hierarchies():
                assert not (hierarchy / cgroups.BASE / lab.group).exists()
        assert not self.links & self._links()
        assert self._rules() == self.rules
        assert self._output("ip", "netns") == self.netns
        assert not [port for port, bridge in self.ports if _connects(port) and not network.exists(bridge)]
        wait_for(lambda: not self._inhabitants(), 5)

    def _inhabitants(self) -> list[str]:
        """Processes in the labs' former namespaces; not younger ones, for the kernel gives the numbers out again."""
        return [pid for pid, born in _processes() if born <= self.moment and _spaces(pid) & self.spaces]


def _processes() -> Iterator[tuple[str, int]]:
    """Every process with its time of birth, in ticks."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield folder.name, int((folder / "stat").read_text().rpartition(")")[2].split()[19])


def _spaces(pid: str) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "pid"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found


def test_two_labs_side_by_side_and_down_leaves_nothing_of_either(new_lab: NewLab) -> None:
    one, two = new_lab(), new_lab()
    traces = Traces(one, two)
    jobs = [threading.Thread(target=lab.up, args=(1, True)) for lab in (one, two)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    a, b = one.nodes["n1"], two.nodes["n1"]
    assert a.address != b.address
    assert one.redis_url != two.redis_url
    a.run(["docker", "run", "-d", "--name", "same", image.IMAGE])
    b.run(["docker", "run", "-d", "--name", "same", image.IMAGE])
    one.kill("n1")
    assert two.status()[0]["state"] == "up"
    one.start("n1")
    one.freeze("n1")
    one.pause_service("mariadb")
    traces.remember()
    one.down()
    assert b.run(["docker", "inspect", "-f", "{{.State.Running}}", "same"]).stdout == "true\n"
    assert ssh(two, "n1", "hostname").stdout == "n1\n"
    with redis.Redis.from_url(two.redis_url, socket_timeout=1) as client:
        assert client.ping()
    two.down()
    traces.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_down_removes_an_up_that_was_stopped_midway(number: signal.Signals, new_lab: NewLab) -> None:
    lab = new_lab()
    traces = Traces(lab)
    half_built = False
    for delay in (0.15, 0.3, 0.5, 0.8, 1.1, 1.5):
        argv = [sys.executable, "-m", "lab", "--name", lab.name, "up", "2"]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        if number == signal.SIGINT and process.returncode == 130:
            assert f"python -m lab --name {lab.name} down" in err
            assert "Traceback" not in err
        half_built |= lab.exists
        lab.down()
        traces.spaces, traces.ports, traces.moment = set(), set(), 0
        traces.links = set()
        traces.assert_nothing_left()
        assert not network.bridges_of(lab.folder)
        assert not cgroups.members(lab.group)
    assert half_built


def test_down_needs_no_description_and_nothing_to_do_is_fine(new_lab: NewLab) -> None:
    lab = new_lab()
    lab.down()
    lab.down()
    traces = Traces(lab)
    lab.up(1, services=True)
    traces.remember()
    (lab.folder / "lab.json").write_text("{ half")
    assert "python -m lab down" in lab_command("--name", lab.name, "up").stderr
    lab.down()
    traces.assert_nothing_left()


def test_a_lab_may_live_elsewhere_even_where_a_node_has_its_own_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(LabError, match="closed to the users mysql"):
        Lab("x", root=tmp_path).up(1)
    root = Path(tempfile.mkdtemp(prefix="wsctl-test-", dir="/tmp"))
    root.chmod(0o755)
    lab = Lab("x", root=root)
    traces = Traces(lab)
    try:
        lab.up(1)
        traces.remember()
        assert ssh(lab, "n1", "hostname").stdout == "n1\n"
        assert Lab("x").folder != lab.folder
        assert lab.group != Lab("x").group
    finally:
        lab.down()
    traces.assert_nothing_left()
    root.rmdir()  # ours, and empty again


def test_a_forwarding_policy_of_the_host_is_worked_round_and_its_rule_removed(
    monkeypatch: pytest.MonkeyPatch, new_lab: NewLab
) -> None:
    calls: list[list[str]] = []

    def recording(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if argv[0] != "iptables":
            return shell.run(argv, **options)
        calls.append(argv)
        present = sum("-I" in call for call in calls) > sum("-D" in call for call in calls)
        missing = "-C" in argv and not present
        return subprocess.CompletedProcess(argv, int(missing), "-P FORWARD DROP\n" if "-S" in argv else "", "")

    monkeypatch.setattr(network, "run", recording)
    lab = new_lab()
    lab.up(1, services=False)
    assert any("-I" in call for call in calls)
    lab.down()
    assert any("-D" in call for call in calls)


def test_a_node_takes_only_its_own_cgroup_with_it(new_lab: NewLab) -> None:
    """Nodes and services start at the same time: none may remove what another is about to use."""
    group = new_lab().group
    folder = cgroups.create(f"{group}/n1/init").parents[1]
    cgroups.remove(f"{group}/n1")
    assert folder.exists()
    assert not (folder / "n1").exists()


# --- command line ----------------------------------------------------------------------------------------------------


def test_without_root_there_is_one_clear_error() -> None:
    # It is imported before, as nobody may not read it where it is in somebody's home.
    script = "import os, sys; from lab.__main__ import main; os.setuid(65534); sys.exit(main(['up']))"
    argv = [sys.executable, "-c", script]
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 2
    assert result.stderr == "lab: the lab makes namespaces, links and mounts: run it as root\n"


def test_the_command_line_breaks_mends_and_looks_inside(fault_lab: Lab) -> None:
    name = ["--name", fault_lab.name]
    assert lab_command(*name, "exec", "n1", "--", "sh", "-c", "hostname; exit 7").returncode == 7
    for verb, state in (("cut", "cut"), ("heal", "up"), ("freeze", "frozen"), ("thaw", "up"), ("kill", "killed")):
        result = lab_command(*name, verb, "n2")
        assert result.stdout == f"n2: {state}\n", result.stderr
    assert re.search(r"(?m)^n2 +\S+ +killed", lab_command("status", WSCTL_LAB=fault_lab.name).stdout)
    assert "start n2" in lab_command(*name, "cut", "n2").stderr
    assert lab_command(*name, "start", "n2").stdout == "n2: up\n"
    unknown = lab_command(*name, "kill", "n77")
    assert unknown.returncode == 1
    assert "no node 'n77', only n1" in unknown.stderr
    assert lab_command("--name", "../x", "up").returncode == 1
    assert "`python -m lab --name tnone up`" in lab_command("--name", "tnone", "status").stderr
