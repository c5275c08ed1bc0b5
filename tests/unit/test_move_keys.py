"""The key of a move: what a source says of itself never becomes more than that on the target."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from wsctl.errors import FilesError
from wsctl.moveports import Way
from wsctl.transport.movekeys import MoveKeys
from wsctl.transport.shell import Done

WAY = Way("alice", "n1", "n2", "/srv/workspaces", "/srv/workspaces")
OTHER = Way("bob", "n1", "n2", "/srv/workspaces", "/srv/workspaces")
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA+/= wsctl-move"


class FakeHost:
    """A node that says the same every time; `asked` are the words of the scripts that it was to run, `given` what they
    got on stdin."""

    is_local = False

    def __init__(self, name: str, says: str = "") -> None:
        self.name, self.says = name, says
        self.asked: list[Sequence[str]] = []
        self.given: list[bytes] = []
        key = SimpleNamespace(get_name=lambda: "ssh-ed25519", asbytes=lambda: b"host key")
        self.session = SimpleNamespace(
            peer="10.0.0.1",
            target=SimpleNamespace(host="10.0.0.2", port=22, user="root"),
            transport=SimpleNamespace(get_remote_server_key=lambda: key),
        )

    def run(self, script: str, *words: str, data: bytes, timeout_s: float, rise: bool = True) -> Done:
        self.asked.append(words)
        self.given.append(data)
        return Done(0, self.says.encode(), b"")


def answer(ciphers: str = "aes-gcm", address: str = "10.0.0.7", public: str = PUBLIC, *asked: str) -> str:
    commands = asked or ("rsync --server -e.L . /srv/workspaces/.wsctl-incoming/USER/",)
    return "".join(f"{line}\n" for line in (ciphers, address, public, *commands))


def keys_of(source: FakeHost, target: FakeHost) -> MoveKeys:
    hosts: dict[str, Any] = {"n1": source, "n2": target}
    return MoveKeys("demo", hosts.__getitem__)


def test_the_permission_names_command_and_peer() -> None:
    source, target = FakeHost("n1", answer().replace("USER", "alice")), FakeHost("n2")
    keys_of(source, target).have(WAY, ["--archive"])
    (line,) = target.given
    assert b'restrict,from="10.0.0.7",' in line
    assert b"'rsync --server -e.L . /srv/workspaces/.wsctl-incoming/alice/') exec $SSH" in line
    assert line.endswith(b" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA+/= wsctl-move:demo:alice:@UNTIL@\n")
    assert base64.b64encode(b"host key") in source.given[0]


def test_what_is_the_same_for_every_user_is_found_out_once() -> None:
    source, target = FakeHost("n1", answer().replace("USER", "alice")), FakeHost("n2")
    keys = keys_of(source, target)
    keys.have(WAY, ["--archive"])
    source.says = answer().replace("USER", "bob")
    keys.have(OTHER, ["--archive"])
    first, second = (words[7:9] for words in source.asked)
    assert (tuple(first), tuple(second)) == (("", ""), ("aes-gcm", "10.0.0.7"))


@pytest.mark.parametrize(
    "says",
    [
        answer(address='*",command="sh'),
        answer(address="10.0.0.7 10.0.0.8"),
        answer(public='ssh-ed25519 AAAA",command="sh" x'),
        answer(public="ssh-rsa AAAA"),
        answer("", "", PUBLIC, "sh -c evil"),
        answer("", "", PUBLIC, "rsync --server . /etc/"),
        answer("", "", PUBLIC, *["rsync --server -e.L . /srv/workspaces/.wsctl-incoming/alice/"] * 2),
        "",
        "one line\n",
    ],
)
def test_a_source_that_says_something_else_gets_no_permission(says: str) -> None:
    target = FakeHost("n2")
    with pytest.raises(FilesError):
        keys_of(FakeHost("n1", says), target).have(WAY, ["--archive"])
    assert target.given == []
