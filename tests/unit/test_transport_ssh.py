"""The handshake against servers that aren't quite sshd, and the order of host key algorithms."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsctl.errors import NodeUnreachable
from wsctl.model import Capacity, Node, PortRange, SshSettings
from wsctl.transport import Connections, Timeouts, ssh
from wsctl.transport.known_hosts import Entry

QUICK = Timeouts(connect=1, handshake=0.5, retries=1)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Connections]]:
    """A TCP server that treats each connection as told, and connections to it as if it were a node."""
    opened: list[socket.socket] = []
    made: list[Connections] = []

    def start(treat: Callable[[socket.socket], None]) -> Connections:
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)

        def accept() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                opened.append(one)
                treat(one)

        threading.Thread(target=accept, daemon=True).start()
        settings = SshSettings(user="u", port=listening.getsockname()[1], config=False)
        node = Node("n1", "127.0.0.1", PortRange(1, 2), Capacity(1, 1, 1), ssh=settings)
        made.append(Connections({"n1": node}, cluster="c", timeouts=QUICK))
        return made[-1]

    yield start
    for connections in made:
        connections.close()
    for one in opened:
        one.close()


def failure(connections: Connections) -> NodeUnreachable:
    with pytest.raises(NodeUnreachable) as caught:
        connections.engine("n1")
    return caught.value


def test_turned_away_by_maxstartups_is_tried_again(serve: Callable[..., Connections]) -> None:
    turned_away: list[int] = []

    def treat(one: socket.socket) -> None:
        turned_away.append(1)
        one.sendall(b"Exceeded MaxStartups\r\n")
        one.close()

    error = failure(serve(treat))
    assert "closed the connection before sshd's banner" in error.message
    assert "MaxStartups" in (error.hint or "")
    assert len(turned_away) == QUICK.retries + 1


def test_ssh_config_is_asked_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move runs dozens of commands on each of its nodes; each would wait for a process."""
    asked = tmp_path / "asked"
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho >>{asked}\nprintf 'hostname 127.0.0.1\\nport 9\\n'\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    node = Node("n1", "alias", PortRange(1, 2), Capacity(1, 1, 1), ssh=SshSettings())
    connections = Connections({"n1": node}, cluster="c", timeouts=QUICK)
    for _ in range(3):
        with pytest.raises(NodeUnreachable, match="port 9 refused"):
            connections.commands("n1").run(["true"])
    connections.close()
    assert asked.read_text() == "\n"


def test_hung_up_without_a_word(serve: Callable[..., Connections]) -> None:
    assert "before sshd's banner" in failure(serve(lambda one: one.close())).message


def test_silence_after_accepting(serve: Callable[..., Connections]) -> None:
    assert "sshd sent no banner within 0.5 s" in failure(serve(lambda one: None)).message


def test_silence_after_the_banner(serve: Callable[..., Connections]) -> None:
    error = failure(serve(lambda one: one.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")))
    assert "didn't finish the handshake within 0.5 s" in error.message or "during the handshake" in error.message


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n" * 120, b"220 smtp\r\n" * 120])
def test_something_else_listens(serve: Callable[..., Connections], said: bytes) -> None:
    assert "n1: 127.0.0.1 port" in failure(serve(lambda one: one.sendall(said))).message


def test_old_protocol(serve: Callable[..., Connections]) -> None:
    assert "no algorithm" in failure(serve(lambda one: one.sendall(b"SSH-1.5-old\r\n"))).message


@pytest.mark.parametrize(
    ("known", "first"),
    [((), "ssh-ed25519"), (("ecdsa-sha2-nistp256",), "ecdsa-sha2-nistp256"), (("ssh-rsa",), "rsa-sha2-512")],
)
def test_known_types_are_asked_for_first_and_none_is_left_out(known: tuple[str, ...], first: str) -> None:
    offered = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
    ordered = ssh.preferred([Entry("h", one, b"") for one in known], offered)
    assert ordered[0] == first
    assert sorted(ordered) == sorted(offered)
