"""wsctl as a process of its own: pipes that close, no streams at all, completion, and what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import CLUSTER, RESOURCES, capacity
from tests.commands.conftest import INVENTORY
from wsctl.commands import COMMANDS
from wsctl.ports import Reservation
from wsctl.store import open_store


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an inventory and many placements."""
    folder = tmp_path_factory.mktemp("process")
    (folder / "inventory.yaml").write_text(INVENTORY)
    store = open_store("sqlite:///wsctl.db", cluster=CLUSTER, base=folder)
    store.database._connection.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
    for number in range(2000):
        wanted = Reservation(
            f"user{number:04}", "n1", "10.0.0.1", 20000 + number, RESOURCES, capacity(10**6, 1 << 60, 10**9)
        )
        store.reserve(wanted)
    store.close()
    return folder


def run(cluster: Path, *argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """One wsctl in the cluster's folder; keywords are `subprocess.run`'s, `env` is added to the environment."""
    return call(cluster, [sys.executable, "-m", "wsctl", *argv], **more)


def call(cluster: Path, command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """The same for any command."""
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "HOME": str(cluster), "COLUMNS": "100"}
    for name in ("WSCTL_INVENTORY", "WSCTL_DEBUG"):
        env.pop(name, None)
    options = {
        "cwd": cluster,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "timeout": 60,
        **more,
    }
    options["env"] = {**env, **more.get("env", {})}
    return subprocess.run(command, check=False, **options)


def test_a_reader_that_goes_away_is_no_accident(cluster: Path) -> None:
    script = f"{sys.executable} -m wsctl ls -o plain 2>err | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = call(cluster, ["bash", "-c", script])
    assert done.stdout.splitlines() == ["USER      NODE  ADDRESS    PORT  STATE     GEN  ACTIVE", "0"]
    assert (cluster / "err").read_text() == ""


@pytest.mark.parametrize("command", ["ls", "ls -o json", "render-gateway", "--version", "--help"])
def test_a_reader_that_was_never_there(cluster: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(cluster, *command.split(), stdout=writing)
    os.close(writing)
    assert done.stderr == ""
    # Typer itself writes the help, and ends with 1 here.
    assert done.returncode == 0 or command == "--help"


def test_a_full_disk_behind_stdout_is_not_silent(cluster: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(cluster, "ls", stdout=full)
    assert done.returncode not in (0, 120)
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


def test_nobody_to_ask_and_no_stdin_at_all(cluster: Path) -> None:
    done = run(cluster, "node", "trust", "n1", stdin=subprocess.DEVNULL)
    assert done.returncode in (5, 8)
    assert "Traceback" not in done.stderr
    done = call(cluster, ["bash", "-c", f"{sys.executable} -m wsctl ls -o json <&- | wc -c"])
    assert int(done.stdout) > 100_000
    assert done.stderr == ""


def test_a_terminal_that_knows_no_unicode(cluster: Path) -> None:
    done = run(cluster, "place", "älice", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode == 2
    assert "is not a user id" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_lists_the_verbs(cluster: Path, shell: str) -> None:
    words = {
        "_WSCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "wsctl ",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "wsctl ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "",
    }
    done = run(cluster, env=words)
    assert "Traceback" not in done.stderr
    for verb in COMMANDS:
        assert verb in done.stdout


def test_completion_of_a_groups_verbs_and_of_options(cluster: Path) -> None:
    done = run(cluster, env={"_WSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "wsctl node cor", "COMP_CWORD": "2"})
    assert done.stdout.split() == ["cordon"]
    done = run(cluster, env={"_WSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "wsctl place --str", "COMP_CWORD": "2"})
    assert done.stdout.split() == ["--strategy"]
    done = run(cluster, env={"_WSCTL_COMPLETE": "complete_bash", "COMP_WORDS": "wsctl ls --state r", "COMP_CWORD": "3"})
    assert set(done.stdout.split()) == {"reserved", "running"}


def test_the_script_for_completion_can_be_shown(cluster: Path) -> None:
    """Typer looks which shell it was called from."""
    done = call(cluster, ["bash", "-c", f"{sys.executable} -m wsctl --show-completion; exit $?"])
    assert done.returncode == 0
    assert "_WSCTL_COMPLETE" in done.stdout


def test_reading_loads_neither_ssh_nor_docker_nor_redis(cluster: Path) -> None:
    script = (
        "import sys; from wsctl.cli import main; code = main(['ls', '-o', 'json']);"
        "print([m for m in ('paramiko', 'docker', 'redis', 'pymysql', 'requests', 'rich', 'cryptography')"
        " if m in sys.modules], code, file=sys.stderr)"
    )
    done = call(cluster, [sys.executable, "-c", script])
    assert done.stderr == "[] 0\n"
