"""The engine adapter against a small HTTP server on a Unix socket that says what each test wants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsctl.errors import EngineError, NodeUnreachable, NotReady
from wsctl.model import LABEL_CLUSTER, Capacity, Node, PortRange, ReadyProbe, Resources
from wsctl.ports import ContainerSpec
from wsctl.transport import Connections, Timeouts, containers, docker_client, ready
from wsctl.transport.docker_socket import BufferedSocket
from wsctl.transport.engine import DockerEngine

QUICK = Timeouts(connect=1, request=0.5)


class Server:
    """Answers each request line by `answers`; None hangs up without a word, bytes are sent as they are."""

    def __init__(self, path: Path) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.answers: dict[str, list[object]] = {"GET /_ping": [(200, "OK", "Api-Version: 1.41")]}
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(50)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, one.makefile("rb") as file:
            while line := file.readline():
                length = 0
                while (header := file.readline().strip()) != b"":
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                file.read(length)
                asked = line.decode().rsplit(" ", 1)[0]
                self.requests.append(asked)
                answer = self._answer(asked)
                if answer is None:
                    return
                if isinstance(answer, bytes):
                    one.sendall(answer)
                    return
                if answer == "hang":
                    threading.Event().wait(3)
                    return
                status, value, header = (*answer, "X: y")[:3] if isinstance(answer, tuple) else (200, answer, "X: y")
                body = json.dumps(value).encode()
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{header}\r\n\r\n"
                one.sendall(head.encode() + body)

    def _answer(self, asked: str) -> object:
        for prefix, answers in self.answers.items():
            if asked.replace("/v1.41", "").startswith(prefix):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return (404, {"message": "page not found"})

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "s")
    yield one
    one.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[], DockerEngine]]:
    node = Node("here", "local", PortRange(1, 2), Capacity(1, 1, 1), docker_socket=str(tmp_path / "s"))
    connections = Connections({"here": node}, cluster="c", timeouts=QUICK)
    yield lambda: connections.engine("here")
    connections.close()


def test_importing_the_package_loads_neither_library() -> None:
    heavy = ("paramiko", "docker", "requests", "invoke")
    program = f"import sys, wsctl.transport; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_lazy_imports_leave_no_trace() -> None:
    program = (
        "import sys\nfrom wsctl.transport import lazy\nlazy.load_docker(); assert 'paramiko' not in sys.modules\n"
        "lazy.load_paramiko(); assert 'invoke' not in sys.modules\n"
        "import invoke, docker.transport.sshconn\nassert None not in sys.modules.values()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_no_file_of_the_docker_cli_is_read(
    server: Server, connect: Callable[[], DockerEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{ damaged")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.answers["GET /containers/json"] = [[]]
    assert connect().containers() == []


def test_requests_share_a_kept_connection(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /containers/json"] = [[]]
    engine = connect()
    for _ in range(5):
        engine.containers()
    assert server.connections == 1
    assert not any("size=1" in asked for asked in server.requests)


def test_a_get_on_a_broken_connection_is_sent_again(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /containers/json"] = [None, []]
    assert connect().containers() == []


def listed(name: str, state: str, cluster: str) -> dict[str, object]:
    return {"Id": name, "Names": [f"/{name}"], "State": state, "Labels": {LABEL_CLUSTER: cluster}}


def inspected(name: str, state: str) -> dict[str, object]:
    said = {"Id": name, "Name": f"/{name}", "State": {"Status": state}, "Config": {"Labels": {LABEL_CLUSTER: "c"}}}
    return {**said, "HostConfig": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}}


def test_who_is_said_never_to_have_run_is_looked_at(server: Server, connect: Callable[[], DockerEngine]) -> None:
    ours = [listed("fresh", "created", "c"), listed("runs", "created", "c"), listed("gone", "created", "c")]
    others = [listed("stopped", "exited", "c"), listed("theirs", "created", "other")]
    server.answers["GET /containers/json"] = [ours + others]
    server.answers["GET /containers/fresh/json"] = [inspected("fresh", "created")]
    server.answers["GET /containers/runs/json"] = [inspected("runs", "running")]
    found = {one.name: one.state for one in connect().containers()}
    assert found == {"fresh": "created", "runs": "running", "stopped": "exited", "theirs": "created"}
    assert len(server.requests) == 5  # the ping, the listing, and three of ours that may never have run


def test_an_engine_writes_down_what_runs_already(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["POST /containers/x/start"] = [(204, None), (304, None)]
    server.answers["GET /containers/x/json"] = [inspected("x", "running")]
    server.answers["POST /containers/x/update"] = [(200, {"Warnings": None}), (500, {"message": "no space left"})]
    engine = connect()
    engine.start("x")
    assert [asked for asked in server.requests if "update" in asked] == []
    engine.start("x")
    engine.start("x")  # it runs, also if that can't be written down
    assert len([asked for asked in server.requests if "update" in asked]) == 2


def test_start_is_sent_again_but_create_is_not(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["POST /containers/x/start"] = [None, (204, None)]
    engine = connect()
    engine.start("x")
    server.answers["POST /containers/create"] = [None, {"Id": "new"}]
    with pytest.raises(NodeUnreachable, match="broke"):
        engine.create(SPEC)
    assert sum("create" in asked for asked in server.requests) == 1


def test_an_engine_that_hangs(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /containers/json"] = ["hang"]
    with pytest.raises(NodeUnreachable, match=r"within 0.5 s"):
        connect().containers()


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp ready\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<x>",
        (200, "no such header"),
        (404, {}),
        (200, "OK", "Api-Version: x"),
    ],
)
def test_what_is_not_an_engine(server: Server, connect: Callable[[], DockerEngine], answer: object) -> None:
    server.answers["GET /_ping"] = [answer]
    with pytest.raises(EngineError, match="isn't a Docker Engine"):
        connect()


def test_an_engine_that_is_too_old(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /_ping"] = [(200, "OK", "Api-Version: 1.40")]
    with pytest.raises(EngineError, match=r"1.40, older than 1.41"):
        connect()


def test_an_engine_that_is_newer_than_docker_py(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /_ping"] = [(200, "OK", "Api-Version: 1.99")]
    server.answers["GET /version"] = [{"ApiVersion": "1.99", "MinAPIVersion": "1.90"}]
    assert connect().api_version == "1.90"


def test_sockets_that_are_missing_dead_or_forbidden(connect: Callable[[], DockerEngine], tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="there is no socket"):
        connect()
    with pytest.raises(NodeUnreachable, match="there is no socket"):
        connect()


def test_a_stale_socket(connect: Callable[[], DockerEngine], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
    with pytest.raises(NodeUnreachable, match="the engine isn't running"):
        connect()


def test_failed_pull_that_is_answered_with_200(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["POST /images/create"] = [{"error": "toomanyrequests: slow down"}]
    with pytest.raises(EngineError, match="can't pull x:1: toomanyrequests"):
        connect().pull("x:1")


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "1.41"), ("1.45", "1.24", "1.45"), ("1.52", "1.44", "1.45"), ("2.0", "1.48", "1.48")],
)
def test_versions(newest: str, oldest: str, spoken: str) -> None:
    assert docker_client.common_version(newest, oldest) == spoken


# -- containers ---

SPEC = ContainerSpec(
    "ws-u-a", "i:1", ("run",), {"K": "v"}, {"io.wsctl.user": "a"}, "/srv/a", "/workspace", 8080, "10.0.0.1", 20000,
    Resources(2**30, 500, 64),
)  # fmt: skip


def test_what_is_created_is_locked_down() -> None:
    config = containers.to_config(SPEC)
    host = config["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert set(host["CapAdd"]) == {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "NET_BIND_SERVICE",
    }
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "10.0.0.1", "HostPort": "20000"}]}
    assert host["Binds"] == ["/srv/a:/workspace"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (2**30, 2**30, 500_000_000, 64)
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}


def test_purging_sees_only_the_root_and_deletes_only_the_user() -> None:
    config = containers.to_purge_config("/srv", "a", "i", {})
    assert config["Entrypoint"] == ["rm", "-rf", "--", "/host/a"]
    assert config["HostConfig"]["NetworkMode"] == "none"
    assert set(config["HostConfig"]["CapAdd"]) == {"DAC_OVERRIDE", "FOWNER"}
    assert [mount["Source"] for mount in config["HostConfig"]["Mounts"]] == ["/srv"]
    for bad in ("", "..", "a/b", "-rf", "A"):
        with pytest.raises(ValueError, match="user id"):
            containers.to_purge_config("/srv", bad, "i", {})


@pytest.mark.parametrize(
    "labels",
    [None, [], {"io.wsctl.generation": "1e3"}, {"io.wsctl.generation": "9" * 99}, {"io.wsctl.generation": "-1"}],
)
def test_labels_of_strangers(labels: object) -> None:
    found = containers.from_listing({"Id": "x", "Labels": labels, "Names": None, "Ports": None})
    assert (found.generation, found.user, found.name, found.host_port) == (None, None, "", None)


def test_traffic() -> None:
    assert containers.sent_bytes({"networks": {"eth0": {"tx_bytes": 3}, "eth1": {"tx_bytes": 4}}}) == 7
    assert containers.sent_bytes({}) is None


def test_logs_with_and_without_terminal() -> None:
    framed = b"\1\0\0\0\0\0\0\3abc\2\0\0\0\0\0\0\2de"
    assert containers.demultiplex(framed, tty=False) == b"abcde"
    assert containers.demultiplex(framed[:10], tty=False) == b"ab"
    assert containers.demultiplex(b"abc", tty=True) == b"abc"


# -- the socket under http.client ---


def test_nothing_is_lost_between_file_and_raw_reads() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        sock = BufferedSocket(ours)
        theirs.sendall(b"line one\r\nrest")
        file = sock.makefile("rb")
        assert file.readline() == b"line one\r\n"
        assert sock.recv(2) == b"re"
        assert file.read(2) == b"st"
        sock.close()
        theirs.sendall(b"more")
        assert file.read(4) == b"more"
        file.close()
        assert theirs.recv(1) == b""


def test_taken_over_streams_are_not_read_ahead() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sock = BufferedSocket(ours)
        sock.read_ahead = False
        theirs.sendall(b"HTTP/1.1 101\r\n\r\npayload")
        file = sock.makefile("rb")
        assert file.readline() + file.readline() == b"HTTP/1.1 101\r\n\r\n"
        assert ours.recv(7) == b"payload"


def test_long_lines_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 500)
        assert len(BufferedSocket(ours).readline(100)) == 100


# -- readiness ---


class Wire:
    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.sent = b""

    def settimeout(self, seconds: float | None) -> None: ...

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv(self, size: int) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        now, self.answer = self.answer[:size], self.answer[size:]
        return now

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.0 404 Not Found\r\n", None),
        (b"HTTP/1.1 502 Bad\r\n", "status 502"),
        (b"hello\r\n", "isn't HTTP"),
        (b"", "closed without an answer"),
        (TimeoutError(), "without an answer"),
    ],
)
def test_http_probe(answer: bytes | Exception, why: str | None) -> None:
    found = ready.wait(lambda *_: Wire(answer), "a", 1, ReadyProbe("/", 0.05), lambda: False).why
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize(("answer", "passes"), [(TimeoutError(), True), (b"220 hi", True), (b"", False)])
def test_tcp_probe(answer: bytes | Exception, passes: bool) -> None:
    found = ready.wait(lambda *_: Wire(answer), "a", 1, ReadyProbe(None, 0.05), lambda: False)
    assert (found.why is None) is passes


def test_what_the_container_sends_for_the_probe_is_counted() -> None:
    """A refused connection is a reset, an accepted one SYN, FIN and two acknowledgements, an answer its bytes."""
    wires = iter([None, None, Wire(b"HTTP/1.1 200 OK\r\n")])
    found = ready.wait(lambda *_: next(wires), "a", 1, ReadyProbe("/", 1), lambda: False)
    assert (found.why, found.sent_bytes) == (None, 2 * 54 + 4 * 66 + 66 + 17)


def test_probe_request_cannot_be_split() -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\n")
    ready.wait(lambda *_: wire, "fd00::1", 80, ReadyProbe("/a b\r\nX: y", 1), lambda: False)
    assert wire.sent.startswith(b"GET /a%20b%20%20X:%20y HTTP/1.1\r\nHost: [fd00::1]:80\r\n")


def test_a_container_that_ended_is_noticed(server: Server, connect: Callable[[], DockerEngine]) -> None:
    server.answers["GET /containers/x/json"] = [{"Id": "x", "Name": "/x", "State": {"Status": "exited"}}]
    with pytest.raises(NotReady, match="the container ended"):
        connect().await_ready("x", "127.0.0.1", 1, ReadyProbe("/", 10))


def test_unprivileged_account_and_a_forbidden_socket() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    program = (
        "import os, sys\nfrom wsctl.transport import *\nfrom wsctl.model import *\n"
        "from wsctl.errors import *\nfrom wsctl.transport import lazy, engine\nos.setuid(65534)\n"
        "node = Node('h', 'local', PortRange(1, 2), Capacity(1, 1, 1), docker_socket=sys.argv[1])\n"
        "try:\n    Connections({'h': node}, cluster='c').engine('h')\n"
        "except NodeUnreachable as error:\n    print(error.message)\n"
    )
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        Path(folder).chmod(0o755)
        listening.bind(f"{folder}/s")
        Path(f"{folder}/s").chmod(0o600)
        listening.listen()
        command = [sys.executable, "-c", program, f"{folder}/s"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "this account may not use" in done.stdout, done.stderr
