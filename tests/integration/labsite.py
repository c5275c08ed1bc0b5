"""A site: one inventory of its own on the shared lab, and `wsctl` as an operator runs it, in a process.

Responsible for keeping tests apart (cluster name, users, port range, database) and for removing their containers.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import Lab
from lab.hosts import ControlHost

_PORTS = itertools.count(20100, 30)


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer, parsed."""
        return json.loads(self.out)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of a list answer."""
        items: list[dict[str, Any]] = self.json["items"]
        return items

    @property
    def error(self) -> dict[str, Any]:
        """The error object that JSON mode puts on stderr."""
        for line in reversed(self.err.splitlines()):
            if line.startswith("{"):
                error: dict[str, Any] = json.loads(line)["error"]
                return error
        raise AssertionError(f"no error object in {self.err!r}")


@dataclass
class Site:
    """An inventory and the commands run against it: here, or on a control host with a name and a clock of its own."""

    lab: Lab
    folder: Path
    state: str = "sqlite:///wsctl.db"
    coordination: str | None = None
    password_file: Path | None = None
    host: ControlHost | None = None
    tag: str = field(default_factory=lambda: f"s{uuid.uuid4().hex[:6]}")

    def __post_init__(self) -> None:
        self.first_port = next(_PORTS)
        self.path = self.lab.inventory(self.folder / "inventory.yaml", state=self.state, coordination=self.coordination)
        text = self.path.read_text()
        text = text.replace(f'cluster: "{self.lab.name}"', f"cluster: {self.tag}")
        text = text.replace("ports: 20000-20999", f"ports: {self.first_port}-{self.first_port + 29}")
        self.path.write_text(text)
        assert f"cluster: {self.tag}" in text
        assert f"ports: {self.first_port}" in text

    def edit(self, old: str, new: str) -> None:
        """Change the inventory; the old text must be there."""
        text = self.path.read_text()
        assert old in text, f"{old!r} is not in the inventory:\n{text}"
        self.path.write_text(text.replace(old, new))

    def user(self, name: str = "alice") -> str:
        """A user id that no other test uses."""
        return f"{name}-{self.tag}"

    def command(self, *args: str) -> list[str]:
        """The argv of a wsctl command on this site."""
        argv = [sys.executable, "-m", "wsctl", *args, "-i", str(self.path)]
        return self.host.command(argv) if self.host is not None else argv

    def start(self, *args: str, **popen: Any) -> subprocess.Popen[str]:
        """Start a command and don't wait."""
        return subprocess.Popen(
            self.command(*args),
            stdin=popen.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **popen,
        )

    def run(self, *args: str, code: int | None = 0, stdin: str | None = None, timeout: float = 90, **env: str) -> Ran:
        """Run a command to its end; `code` is the exit code it must have (None: any)."""
        done = subprocess.run(
            self.command(*args),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout,
            env={**os.environ, **env},
            check=False,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, f"wsctl {' '.join(args)}: exit {ran.code}\n{ran.out}\n{ran.err}"
        assert "Traceback" not in ran.err, ran.err
        return ran

    def json(self, *args: str, code: int | None = 0, **more: Any) -> Any:
        """Run with -o json and return the answer."""
        return self.run(*args, "-o", "json", code=code, **more).json

    def containers(self, node: str | None = None, *, everything: bool = False) -> list[str]:
        """Names of this site's containers (running only, unless `everything`), as the engines say."""
        found: list[str] = []
        for name in [node] if node else list(self.lab.nodes):
            flags = ["-a"] if everything else []
            argv = ["docker", "ps", *flags, "--filter", f"label=io.wsctl.cluster={self.tag}"]
            out = self.lab.nodes[name].run([*argv, "--format", "{{.Names}}"]).stdout
            found += [f"{name}/{line}" for line in out.split()]
        return sorted(found)

    def sweep(self) -> None:
        """Remove this site's containers and files wherever an engine answers."""
        for node in self.lab.nodes.values():
            listed = node.run(
                ["docker", "ps", "-aq", "--filter", f"label=io.wsctl.cluster={self.tag}"], check=False, timeout=20
            )
            ids = listed.stdout.split()
            if ids:
                node.run(["docker", "rm", "-f", *ids], check=False, timeout=60)
            node.run(["sh", "-c", f"rm -rf /srv/workspaces/*-{self.tag}"], check=False, timeout=20)


def eventually(check: Any, timeout_s: float = 10.0, step_s: float = 0.1) -> Any:
    """The first true value of `check()`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(step_s)
