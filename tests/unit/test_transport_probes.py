"""Looking at nodes: what each kind of answer, and of silence, shows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import node
from wsctl.errors import NodeUnreachable
from wsctl.health import Sign
from wsctl.model import SshSettings
from wsctl.transport import lazy
from wsctl.transport.probes import NodeProbes, _answered
from wsctl.transport.timeouts import Timeouts

LIMITS = Timeouts(connect=0.5, handshake=0.5, auth=0.5, channel=0.5, request=0.5, status=0.2, retries=0)


@contextmanager
def engine(path: Path, answer: bytes | None) -> Iterator[None]:
    """A socket that answers each connection with the same (None: takes it and says nothing)."""
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(path))
        listening.listen()
        taken: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    taken.append(listening.accept()[0])
                except OSError:
                    return
                if answer is not None:
                    taken[-1].recv(1000)
                    taken[-1].sendall(answer)
                    taken[-1].close()

        threading.Thread(target=serve, daemon=True).start()
        yield
        for one in taken:
            one.close()


@contextmanager
def probes(**changes: Any) -> Iterator[NodeProbes]:
    made = NodeProbes({"n1": replace(node("n1"), **changes)}, LIMITS)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("answer", "sign", "says"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nOK", Sign.WELL, ""),
        (b"HTTP/1.1 200 OK\r\n\r\nOK", Sign.WELL, ""),
        (b"HTTP/1.0 503 Busy\r\n\r\n", Sign.ALIVE, "503 Busy"),
        (b"SSH-2.0-x\r\n", Sign.ALIVE, "the engine says 'SSH-2.0-x'"),
        (b"", Sign.ALIVE, "hung up without a word"),
        (None, Sign.ALIVE, "timed out"),
    ],
)
def test_this_machines_engine(tmp_path: Path, answer: bytes | None, sign: Sign, says: str) -> None:
    where = tmp_path / "s"
    with engine(where, answer), probes(address="local", docker_socket=str(where)) as made:
        found, reason = made.look("n1")
        assert found is sign
        assert says in reason
        assert made.knock("n1") == (True, "")
        assert made.ask("n1", "n1") is None


def test_without_a_socket_this_machine_lives_all_the_same(tmp_path: Path) -> None:
    with probes(address="local", docker_socket=str(tmp_path / "absent")) as made:
        assert made.look("n1")[0] is Sign.ALIVE


def ssh(port: int) -> SshSettings:
    return SshSettings(config=False, port=port, known_hosts="/nowhere")


def test_a_machine_that_says_no_is_alive() -> None:
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        with probes(address="127.0.0.1", ssh=ssh(closed.getsockname()[1])) as made:
            sign, reason = made.look("n1")
            assert (sign, "refused" in reason) == (Sign.SILENT, True), "of its engine nothing is known"
            assert made.knock("n1")[0] is True
            assert made.look("n1")[0] is Sign.SILENT, "it is tried anew"


def test_a_machine_whose_sshd_hangs_is_alive() -> None:
    with closing(socket.socket()) as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        with probes(address="127.0.0.1", ssh=ssh(frozen.getsockname()[1])) as made:
            sign, reason = made.look("n1")
            assert (sign, "no banner" in reason) == (Sign.SILENT, True)
            assert made.knock("n1") == (True, "")


def test_nobody_at_all() -> None:
    with closing(socket.socket()) as full:
        # A backlog that is full drops what comes, as a machine that is gone does.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with probes(address="127.0.0.1", ssh=ssh(full.getsockname()[1])) as made:
            assert made.look("n1")[0] is Sign.SILENT
            assert made.knock("n1")[0] is False
        for one in waiting:
            one.close()


def test_what_ended_on_the_way_says_nothing() -> None:
    assert _answered(NodeUnreachable("n1", "jump host j: no answer", details={"jump_host": "j"})) is None
    assert _answered(NodeUnreachable("n1", "no route")) is False


class Witness:
    """A session of another node that refuses to connect, or takes its time."""

    def __init__(self, code: int, text: str, *, lives: bool = True) -> None:
        from wsctl.transport.channels import ChannelRefused

        self.refusal, self.lives = ChannelRefused(code, text), lives

    def open_tcp(self, host: str, port: int, limit_s: float) -> None:
        raise self.refusal

    def answers(self, limit_s: float) -> bool:
        return self.lives


@pytest.mark.parametrize(
    ("code", "text", "lives", "opinion"),
    [
        (2, "Connection refused", True, True),
        (2, "No route to host", True, False),
        (2, "Connection timed out", True, False),
        (2, "Network is unreachable", True, None),
        (1, "administratively prohibited", True, None),
        (0, "no answer within 3 s", True, False),
        (0, "no answer within 3 s", False, None),
    ],
)
def test_second_opinions(code: int, text: str, lives: bool, opinion: bool | None) -> None:
    lazy.load_paramiko()
    nodes = {name: replace(node(name), address=f"10.0.0.{n}", ssh=ssh(22)) for n, name in enumerate(("n1", "n2"), 1)}
    made = NodeProbes(nodes, LIMITS)
    assert made.ask("n2", "n1") is None, "no connection, no opinion"
    made._open["n2"] = Witness(code, text, lives=lives)  # type: ignore[assignment]
    assert made.ask("n2", "n1") is opinion
