"""Streams of commands: silence, early ends, last words; and what a node's folders make of them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from tests.builders import node
from tests.rights import NOBODY
from wsctl.errors import BackupDamaged, NodeError, NodeUnreachable
from wsctl.transport.copying import couple
from wsctl.transport.folders import ShellFolders
from wsctl.transport.pipes import LocalLauncher, SshLauncher


def sh(script: str, silence_s: float = 10.0) -> Any:
    return LocalLauncher("n1", silence_s).start(["sh", "-c", script])


def test_bytes_go_in_and_come_out_and_the_end_is_told() -> None:
    with sh("cat; echo bye >&2; exit 7") as pipe:
        assert pipe.write(b"x" * 1000)
        assert pipe.read(5000) == b"x" * 1000
        assert pipe.end() == (7, "bye")


def test_silence_ends_it_and_the_command() -> None:
    started = time.monotonic()
    with pytest.raises(NodeUnreachable, match="nothing moved"), sh("exec sleep 60", 0.2) as pipe:
        pipe.read(1)
    with pytest.raises(NodeUnreachable, match="nothing moved"), sh("exec sleep 60", 0.2) as pipe:
        while pipe.write(b"x" * 100_000):
            pass
    assert time.monotonic() - started < 10


def test_a_command_that_wants_no_more_says_why() -> None:
    with sh("echo full >&2; exit 2") as pipe:
        while pipe.write(b"x" * 100_000):
            pass
        assert pipe.end() == (2, "full")


def test_much_on_stderr_blocks_nothing() -> None:
    with sh("yes no | head -c 3000000 >&2; echo done; echo last >&2") as pipe:
        assert pipe.read(10) == b"done\n"
        code, words = pipe.end()
    assert (code, words.splitlines()[-1]) == (0, "last")


def test_who_still_reads_when_the_block_ends_reads_nothing_else() -> None:
    """The number of a closed descriptor is given to the next file that is opened."""
    for after_s in (0.0, 0.001, 0.02):
        with ThreadPoolExecutor(1) as pool:
            with sh("exec cat") as pipe:
                heard = pool.submit(pipe.read, 100)
                time.sleep(after_s)
            ours, theirs = os.pipe()
            os.write(theirs, b"somebody else's")
            assert heard.result(5) == b""
        assert pipe.read(100) == b""
        assert not pipe.write(b"x")
        assert os.read(ours, 100) == b"somebody else's"
        os.close(ours)
        os.close(theirs)


def test_bytes_are_carried_both_ways_until_the_first_has_no_more() -> None:
    before = set(threading.enumerate())
    # It reads while it writes: what pipes hold may be less than this.
    both = "exec 3<&0; tail -c 5 <&3 >&2 & head -c 300000 /dev/zero; exec >&-; wait"
    with sh(both) as reading, sh("cat; sleep 0.1; echo over") as writing:
        assert couple(reading, writing, b"first") == 300_005
        assert not [thread for thread in threading.enumerate() if thread.name == "couple" and thread not in before]
        assert writing.end()[0] == 0
        assert reading.end() == (0, "over")


def test_an_account_without_a_shell_is_told_so() -> None:
    def refuse(words: str) -> None:
        raise paramiko.SSHException("Channel closed.")

    closed: list[bool] = []
    channel = SimpleNamespace(
        settimeout=lambda seconds: None, exec_command=refuse, close=lambda: closed.append(True)
    )  # fmt: skip
    transport = SimpleNamespace(open_session=lambda timeout: channel, is_active=lambda: True)
    session: Any = SimpleNamespace(
        transport=transport, timeouts=SimpleNamespace(channel=1.0), target=SimpleNamespace(user="wsctl")
    )
    with (
        pytest.raises(NodeError, match="runs no commands for the account wsctl") as caught,
        SshLauncher("n1", session, 1.0).start(["true"]),
    ):
        pass
    assert not isinstance(caught.value, NodeUnreachable)
    assert closed == [True]


def folders(root: Path) -> ShellFolders:
    return ShellFolders(replace(node(), host_root=str(root)), LocalLauncher("n1", 10.0))


def test_no_shell_reads_a_user_that_isnt_one(tmp_path: Path) -> None:
    for user in ("../x", "a;touch x", "", ".wsctl-kept"):
        with pytest.raises(ValueError, match="not a user id"):
            folders(tmp_path).facts(user)


def test_a_root_with_odd_letters_is_only_a_name(tmp_path: Path) -> None:
    root = tmp_path / "a b'$(touch x)\"; touch y"
    (root / "alice").mkdir(parents=True)
    assert folders(root).facts("alice").exists
    assert not folders(root).facts("bob").exists
    assert sorted(path.name for path in tmp_path.iterdir()) == [root.name]
    assert not folders(root / "not" / "there").facts("bob").exists


def test_a_refused_stream_ends_in_time(tmp_path: Path) -> None:
    """tar still has much to say when the reader has heard enough."""
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "big").write_bytes(b"\0" * 5_000_000)

    def refuse(stream: Any) -> None:
        stream.read(10)
        raise BackupDamaged("enough")

    started = time.monotonic()
    with pytest.raises(NodeError, match="enough"):
        folders(tmp_path).pack("alice", refuse, live=False)
    assert time.monotonic() - started < 5


def test_an_import_leaves_a_moves_mark_and_a_verification_alone(tmp_path: Path) -> None:
    incoming = tmp_path / ".wsctl-incoming"
    for name in (
        "alice.0123456789ab",
        "alice.0123456789ab.raw",
        "alice.v123456789ab",
        "alice.v123456789ab.raw",
        "bob.1",
    ):
        (incoming / name).mkdir(parents=True)
    (incoming / "alice.inode").write_text("7\n")
    folders = ShellFolders(replace(node("n1"), host_root=str(tmp_path)), LocalLauncher("n1", 10.0))
    with pytest.raises(NodeError):
        folders.unpack("alice", "1", f"{os.getuid()}:{os.getgid()}", lambda send: 0)
    left = {one.name for one in incoming.iterdir()}
    assert left == {"alice.1", "alice.inode", "alice.v123456789ab", "alice.v123456789ab.raw", "bob.1"}


class SlowToSync(LocalLauncher):
    """A machine on which `sync` takes longer than a node may be silent."""

    def __init__(self, tools: Path) -> None:
        super().__init__("n1", 2.5)
        tools.mkdir()
        (tools / "sync").write_text("#!/bin/sh\nsleep 3\n")
        (tools / "sync").chmod(0o755)
        self._tools = tools

    def start(self, argv: Any, *more: Any) -> Any:
        return super().start(["env", f"PATH={self._tools}:{os.environ['PATH']}", *argv], *more)


def test_a_disk_that_is_slow_to_sync_isnt_dead(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in (".wsctl-incoming/alice.1", "alice"):
        (root / name).mkdir(parents=True)
    folders = ShellFolders(replace(node("n1"), host_root=str(root)), SlowToSync(tmp_path / "tools"))
    assert folders.swap("alice", "1", "kept") == f"{root}/.wsctl-kept/kept"


class AsNobody(LocalLauncher):
    """This machine, as an account that isn't root."""

    def start(self, argv: Any) -> Any:
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        return super().start([*drop, *argv])


@pytest.mark.parametrize("owner", ["12345:12345", "many"])
def test_who_isnt_root_gives_files_to_nobody_else(tmp_path: Path, owner: str) -> None:
    there = ShellFolders(replace(node(), host_root=str(tmp_path)), AsNobody("n1", 10.0))
    with pytest.raises(NodeError, match="takes root"):
        there.unpack("alice", "t", owner, lambda send: 0)
    assert list(tmp_path.iterdir()) == []
