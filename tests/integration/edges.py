"""An Nginx of a test's own, as an operator has one: here, or inside a node of the lab, which is reached by SSH.

Responsible for: its configuration, starting and ending it, and what its workers and its log say.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wsctl.routes import GatewaySettings
from wsctl.snippet import render_snippet

CONF = """\
user root;
worker_processes 2;
pid {root}/nginx.pid; error_log {root}/error.log notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
    uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
    include {root}/conf.d/*.conf;
    server {{ listen 127.0.0.1:{port}; include {root}/snippet.conf; }}
    server {{ listen 127.0.0.1:{workspace}; return 200 "a workspace"; }}
}}
"""

Wrap = Callable[[Sequence[str]], list[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Edge:
    """One Nginx in the folder `root`; `wrap` makes a command run where it is."""

    root: str
    address: str
    ssh: str = "{}"
    wrap: Wrap = list
    port: int = field(default_factory=free_port)
    workspace: int = field(default_factory=free_port)
    test: str = ""
    reload: str = ""

    @property
    def map_file(self) -> str:
        return f"{self.root}/conf.d/00-wsctl-map.conf"

    @property
    def nginx(self) -> list[str]:
        return ["nginx", "-p", self.root, "-c", f"{self.root}/nginx.conf", "-e", f"{self.root}/error.log"]

    def yaml(self) -> str:
        """The inventory's entry for it."""
        words = ", ".join(self.nginx)
        return (
            f"{{address: {self.address}, ssh: {self.ssh}, map_file: {self.map_file}, "
            f"status_url: 'http://127.0.0.1:{self.port}', test: {self.test or f'[{words}, -t]'}, "
            f"reload: {self.reload or f'[{words}, -s, reload]'}}}"
        )

    def sh(self, script: str, data: str = "", *, check: bool = True) -> str:
        """Run a script where the Nginx is."""
        environment = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; "
        argv = self.wrap(["sh", "-c", environment + script])
        done = subprocess.run(argv, input=data, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def prepare(self) -> None:
        if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.fail("nginx isn't installed: apt-get install nginx-light, or WSCTL_SKIP_LAB=1 to do without")
        self.sh(f"mkdir -p {self.root}/conf.d")
        self.write("snippet.conf", render_snippet(GatewaySettings()))
        self.write("nginx.conf", CONF.format(root=self.root, port=self.port, workspace=self.workspace))

    def write(self, name: str, text: str) -> None:
        self.sh(f"cat > {self.root}/{name}", text)

    def start(self) -> None:
        """Start it, with the map that is there."""
        self.sh(" ".join(self.nginx))

    def stop(self) -> None:
        """End it, if it runs."""
        self.sh(f"{' '.join(self.nginx)} -s stop 2>/dev/null; sleep 0.1", check=False)

    def live(self) -> str:
        return self.sh(f"cat {self.map_file} 2>/dev/null", check=False)

    def beside(self) -> list[str]:
        """The names in the map's folder."""
        return sorted(self.sh(f"ls -A {self.root}/conf.d").split())

    def reloads(self) -> int:
        """How many times the running master was told to load its configuration."""
        return self.sh(f"cat {self.root}/error.log").count(", reconfiguring")

    def workers(self) -> set[str]:
        """The process ids of the workers that don't end."""
        listed = self.sh(f"ps -o pid=,args= --ppid $(cat {self.root}/nginx.pid)")
        return {line.split()[0] for line in listed.splitlines() if "shutting down" not in line}

    def generations(self) -> int:
        """How many generations of workers live, those that are ending too. They are at least a second apart."""
        listed = self.sh(f"ps -o etimes= --ppid $(cat {self.root}/nginx.pid)", check=False)
        return len({int(line) for line in listed.split()})

    def settle(self) -> None:
        """Let the second pass in which no other reload is allowed."""
        time.sleep(1.05)

    def get(self, path: str) -> tuple[int, str]:
        """Ask the Nginx here, which itself waits 5 s for a workspace that is silent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def here(folder: Path, name: str = "here") -> Edge:
    """One on this machine."""
    return Edge(str(folder / name), "local")
