# ruff: noqa: TID251 - tidying up is docker-py's work
"""The rig: the lab, a folder for inventories and databases, and the environment that all measured programs share.

Responsible for: bringing the lab up and taking it down whatever happens, the same clean environment for both sides, and
removing what a run has made. Not responsible for: measuring.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docker import APIClient
from docker.errors import NotFound

from bench.measure import BenchError, say
from bench.shape import Shape
from lab import Lab

NODES = 3
CLEANERS = 6
CLUSTER = "bench"
USERS = "bench-"
"""How every user begins who is made here: with --lab, others work on the same nodes."""

DOTFILE = "/root/.bashrc"
EMPTY = "/run/wsctl-bench-empty"
"""On a node."""

OUR_PORTS = range(26000, 26500)
FLOOR_PORTS = range(26500, 27000)


@dataclass
class Rig:
    """Everything a benchmark needs. Without a lab (`_lab` None) only what asks no node can be measured."""

    folder: Path
    _lab: Lab | None

    # ---- programs

    python = sys.executable

    @cached_property
    def wsctl(self) -> str:
        """The console script of this interpreter's environment."""
        path = Path(sys.executable).with_name("wsctl")
        if not path.exists():
            raise BenchError(f"{path} is missing: install wsctl into this environment, pip install -e .")
        return str(path)

    @cached_property
    def env(self) -> dict[str, str]:
        """For every measured program: no configuration but the lab's, and an `ssh` that reads the lab's ssh_config.

        `docker -H ssh://` runs whatever `ssh` is on the PATH. OpenSSH takes its home from the password database, not
        from HOME, so a two-line script (1 ms) hands it the file. That file asks for strict host key checking.
        """
        bin_folder, ssh = self.folder / "bin", shutil.which("ssh")
        if self._lab is not None:
            bin_folder.mkdir(exist_ok=True)
            script = bin_folder / "ssh"
            script.write_text(f'#!/bin/sh\nexec {ssh} -F {self.lab.ssh_config} "$@"\n')
            script.chmod(0o755)
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        path = f"{bin_folder}:{os.environ.get('PATH', os.defpath)}"
        return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}

    def run(self, *words: str) -> None:
        """A wsctl command outside the timed part. Raises `BenchError`."""
        done = subprocess.run([self.wsctl, *words], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"wsctl {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")

    # ---- nodes

    @property
    def lab(self) -> Lab:
        if self._lab is None:
            raise BenchError("this needs a lab")
        return self._lab

    @property
    def sockets(self) -> dict[str, Path]:
        return {name: node.docker_socket_path for name, node in self.lab.nodes.items()}

    @cached_property
    def addresses(self) -> dict[str, str]:
        return {name: node.address for name, node in self.lab.nodes.items()}

    @property
    def clients(self) -> dict[str, APIClient]:
        """docker-py on the nodes' own sockets, for what isn't timed. A node that was switched off has another one."""
        return {n: APIClient(base_url=f"unix://{path}", version="auto") for n, path in self.sockets.items()}

    @property
    def engine_version(self) -> str | None:
        """The Docker Engine's on the nodes; None without a lab."""
        if self._lab is None:
            return None
        return str(next(iter(self.clients.values())).version()["Version"])

    def inventory(self, name: str, *, ready: str = "null", local: Path | None = None) -> Path:
        """A fresh inventory with an empty, made state database beside it. SSH settings as in the lab's ssh_config.

        `local` adds a node `here`: that engine's socket, without SSH.
        """
        folder = self.folder / name
        folder.mkdir()
        root = next(iter(self.lab.nodes.values())).host_root
        nodes = "".join(f"  {name}: {{address: {address}}}\n" for name, address in self.addresses.items())
        if local is not None:
            nodes += f"  here: {{address: local, docker_socket: {local}}}\n"
        path = folder / "inventory.yaml"
        path.write_text(f"""\
version: 1
cluster: {CLUSTER}
state: sqlite:///wsctl.db
defaults:
  ssh: {{user: root, identity_file: {self.lab.ssh_key}, known_hosts: {self.lab.known_hosts}, config: false}}
  host_root: {root}
  ports: {OUR_PORTS[0]}-{OUR_PORTS[-1]}
  capacity: {{workspaces: 200, memory: 64g, cpus: 256}}
workspace: {{image: "{self.lab.image}", pull: never, memory: 64m, cpus: 0.5, pids: 64, ready: {ready}}}
nodes:
{nodes}""")
        self.run("db", "upgrade", "-i", str(path))
        return path

    def source(self, user: str) -> str:
        """The user's folder on a node."""
        return f"{next(iter(self.lab.nodes.values())).host_root}/{user}"

    @cached_property
    def shape(self) -> Shape:
        """What wsctl makes, read off a container it made."""
        user = f"{USERS}shape"
        inventory = self.inventory("shape")
        self.run("place", "-i", str(inventory), user)
        try:
            return self.shape_of(f"ws-u-{user}")
        finally:
            self.clean()

    def shape_of(self, container: str) -> Shape:
        """The shape of a container on whichever node has it."""
        for client in self.clients.values():
            try:
                return Shape.of(client, container)
            except NotFound:
                continue
        raise BenchError(f"no node has a container {container}")

    def hide_dotfiles(self) -> None:
        """Give the nodes' root an empty ~/.bashrc until `show_dotfiles`.

        A lab's nodes see the home of this machine's root. bash reads that file for each command that comes by ssh, so
        whatever a developer put there (pyenv: 200 ms) would slow down both floors that start `docker system dial-stdio`
        on the node, and not wsctl, which starts nothing there.
        """
        for node in self.lab.nodes.values():
            node.run(["sh", "-c", f"[ ! -e {DOTFILE} ] || {{ : >{EMPTY}; mount --bind {EMPTY} {DOTFILE}; }}"])

    def show_dotfiles(self) -> None:
        """Undo `hide_dotfiles`."""
        for node in self.lab.nodes.values():
            node.run(["sh", "-c", f"[ ! -e {EMPTY} ] || umount {DOTFILE}; rm -f {EMPTY}"], check=False)

    def clean(self) -> None:
        """Remove all containers of the benchmarks and their folders from all nodes."""
        label = {"label": "io.wsctl.cluster"}
        found = [
            (client, one["Id"], node)
            for node, client in self.clients.items()
            for one in client.containers(all=True, filters=label)
            if one["Names"][0].startswith(f"/ws-u-{USERS}")
        ]
        with ThreadPoolExecutor(CLEANERS) as pool:
            list(pool.map(lambda job: job[0].remove_container(job[1], force=True), found))
        for node in self.lab.nodes.values():
            for folder in node.workspaces.glob(f"{USERS}*"):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def rig(lab_name: str | None, *, needs_lab: bool, services: bool = False) -> Iterator[Rig]:
    """The rig with the named lab, or with one of its own (with MariaDB and Redis: `services`) that is gone afterwards.
    Raises `LabError`, `BenchError`."""
    # Not /tmp, which may be in memory: SQLite shall wait for a disk.
    folder = Path(tempfile.mkdtemp(prefix="wsctl-bench-", dir="/var/tmp"))
    lab: Lab | None = None
    own = lab_name is None
    made: Rig | None = None
    try:
        if needs_lab:
            lab = Lab(lab_name or f"bench-{os.getpid()}")
            if own:
                say(f"lab {lab.name}: coming up")
                lab.up(NODES, services=services)
            elif not lab.exists:
                raise BenchError(f"there is no lab {lab_name!r}: python -m lab --name {lab_name} up")
        made = Rig(folder, lab)
        if lab is not None:
            made.hide_dotfiles()
        yield made
    finally:
        with _undisturbed():
            say("tidying up")
            if lab is not None and own:
                lab.down()
            elif lab is not None and made is not None:
                made.clean()
                made.show_dotfiles()
            shutil.rmtree(folder, ignore_errors=True)
            say("")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C doesn't leave half a lab behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
