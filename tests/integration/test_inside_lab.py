"""Looking into real containers: output, commands with pipes and with a terminal, load, processes."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site


@pytest.fixture
def alice(lab: Lab, tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """A site on SQLite alone, with a user who runs."""
    site = Site(lab, tmp_path)
    try:
        user = site.user()
        site.run("place", user)
        yield site, user
    finally:
        site.sweep()


def test_pipes_and_exit_codes(alice: tuple[Site, str]) -> None:
    site, user = alice
    data = os.urandom(1 << 20)
    argv = site.command("exec", user)
    done = subprocess.run([*argv, "--", "cat"], input=data, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")
    ran = subprocess.run(
        [*argv, "--", "sh", "-c", "echo out; echo err >&2; exit 42"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (42, "out\n", "err\n")
    missing = subprocess.run([*argv, "--", "/no/such"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert missing.returncode in (126, 127)


def test_a_terminal(alice: tuple[Site, str]) -> None:
    """Keys go through, the size is known, and the terminal is as it was afterwards."""
    import termios

    site, user = alice
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        process = subprocess.Popen(
            [*site.command("exec", user), "--", "sh", "-c", "read line; echo got $line; test -t 0 && exit 3"],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        said = b""

        def listen() -> None:
            nonlocal said
            while b"got hello" not in said:
                said += os.read(ours, 4096)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        time.sleep(3)
        os.write(ours, b"hello\n")
        assert process.wait(60) == 3, said
        thread.join(5)
        assert b"got hello" in said
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def test_logs_load_and_processes(alice: tuple[Site, str]) -> None:
    site, user = alice
    whole = site.run("logs", user).out
    assert "workspace" in whole
    assert site.run("logs", user, "--tail", "1").out == whole.splitlines(keepends=True)[-1]
    follower = site.start("logs", user, "-f", "--tail", "0")
    time.sleep(3)
    shown = site.json("show", user)
    site.lab.nodes[shown["node"]].run(["docker", "exec", f"ws-u-{user}", "sh", "-c", "echo a word > /proc/1/fd/1"])
    assert follower.stdout is not None
    assert follower.stdout.readline() == "a word\n"
    follower.terminate()
    assert follower.wait(30) == 130
    follower.communicate()
    (load,) = site.json("stats", user)["items"]
    assert load["memory_bytes"] > 0
    assert load["processes"] >= 1
    assert site.json("top", user)["items"][0]["pid"].isdigit()
