"""One machine of the lab: its namespaces, its boot, its power cut, and running programs on it.

A machine is a set of namespaces (mount, network, host name, IPC, processes) around a first process, with an SSH daemon
and a Docker Engine in it. What happens inside at boot is in node.sh. Its processes are found by their cgroups (see
cgroups.py). Not here: the faults that tests inject (node.py), and what a lab is (lab.py).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups, engine, network
from lab.shell import CLEAN_ENV, LabError, run, spawn, tail, wait_until

SCRIPT = Path(__file__).with_name("node.sh")
BOOT_TIMEOUT = 30.0
SSHD_CONFIG = """\
# Settings of a test come first: sshd takes the first value it sees.
Include /run/lab/sshd_extra.conf
Port 22
ListenAddress {address}
ListenAddress {address6}
HostKey /run/lab/ssh_host_ed25519_key
PidFile /run/sshd.pid
AuthorizedKeysFile /run/lab/authorized_keys .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
LogLevel VERBOSE
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""


@dataclass(frozen=True)
class Machine:
    """A node as a value: everything about it that changes is asked of the kernel each time."""

    name: str
    index: int
    number: int  # the lab's K
    group: str  # its cgroup, below the lab's
    lab_folder: Path
    small_disk: bool = False

    host_root = "/srv/workspaces"  # as the node sees it

    @property
    def folder(self) -> Path:
        """The node's files on the host; the node sees them as /run/lab."""
        return self.lab_folder / "nodes" / self.name

    @property
    def address(self) -> str:
        return network.address(self.number, self.index)

    @property
    def address6(self) -> str:
        return network.address6(self.number, self.index)

    @property
    def link(self) -> str:
        """The control side's end of the node's cable."""
        return network.port(self.number, self.index)

    @property
    def pid(self) -> int:
        """The node's first process, as the host numbers it; 0 when the node is off."""
        for pid in cgroups.members(f"{self.group}/init"):
            if _inner_pids(pid)[1:] == [1]:
                return pid
        return 0

    @property
    def root(self) -> Path:
        """The node's file system as it sees it itself, reachable from the host while it is on."""
        return Path(f"/proc/{self._need_pid()}/root")

    @property
    def workspaces(self) -> Path:
        """The host_root, seen from the host."""
        if self.small_disk:  # mounted inside the node only
            return self.root / self.host_root.lstrip("/")
        return self.folder / "data" / "workspaces"

    @property
    def docker_socket_path(self) -> Path:
        """By this path the host itself reaches the node's engine, without SSH; changes at a reboot."""
        return self.root / "run/docker.sock"

    def log(self, name: str) -> Path:
        """`init`, `sshd` or `engine`."""
        return self.folder / "log" / f"{name}.log"

    # --- life ------------------------------------------------------------------------------------------------

    def prepare(self, public_key: str) -> None:
        """Write the node's files; changes nothing that is there, except the configuration."""
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        key = self.folder / "ssh_host_ed25519_key"
        if not key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key])
        (self.folder / "authorized_keys").write_text(public_key)
        config = SSHD_CONFIG.format(address=self.address, address6=self.address6)
        (self.folder / "sshd_config").write_text(config)
        (self.folder / "sshd_extra.conf").touch()
        settings = {
            "userland-proxy": False,
            "storage-driver": "overlay2",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{cgroups.BASE}/{self.group}/docker",
        }
        (self.folder / "daemon.json").write_text(json.dumps(settings))
        if self.small_disk and not (self.folder / "disk.img").exists():
            make_disk(self.folder / "disk.img")

    def boot(self) -> None:
        """Power on: returns when the SSH daemon and the engine answer."""
        for part in ("init", "sshd", "engine", "exec"):
            cgroups.create(f"{self.group}/{part}")
        flags = ["--mount", "--uts", "--net", "--ipc", "--pid", "--fork"]
        argv = ["env", *self._environment(), "unshare", *flags, "sh", str(SCRIPT), "boot"]
        spawn(argv, cgroups.tracking() / self.group / "init", self.log("init"))
        wait_until(lambda: self.pid != 0, BOOT_TIMEOUT, f"{self.name}", self.log("init"))
        network.connect(self.number, self.index, self.pid)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until both daemons answer, and give up at once when the boot itself has failed."""

        def booted() -> bool:
            if not self.pid:
                raise LabError(f"{self.name} did not boot{tail(self.log('init'))}")
            return self.sshd_answers()

        wait_until(booted, BOOT_TIMEOUT, f"sshd of {self.name}", self.log("sshd"))
        wait_until(self.engine_answers, BOOT_TIMEOUT, f"dockerd of {self.name}", self.log("engine"))

    def cut_power(self) -> None:
        """Unplug first, so that no peer hears a goodbye; then everything on the node dies at once."""
        network.delete(self.link)
        cgroups.kill(self.group)
        # As after a reboot: the engine finds no cgroups of its former containers.
        cgroups.remove(self.group)

    def daemon_alive(self, part: str) -> bool:
        """Whether the daemon itself, not only something it started, runs: `sshd` or `engine`."""
        return self.daemon_pid(part) != 0

    def daemon_pid(self, part: str) -> int:
        """The daemon's process as the host numbers it, or 0."""
        program = {"sshd": "sshd", "engine": "dockerd"}[part]
        for pid in self.daemon_processes(part):
            try:
                inner = int((self.root / "run" / _PID_FILES[part]).read_text())
                name = Path(os.readlink(f"/proc/{pid}/exe")).name
            except (OSError, ValueError, LabError):
                continue
            if name == program and _inner_pids(pid)[1:] == [inner]:
                return pid
        return 0

    def daemon_processes(self, part: str) -> list[int]:
        """The daemon and its helpers and sessions, without containers (they have their own PIDs)."""
        return [p for p in cgroups.members(f"{self.group}/{part}") if len(_inner_pids(p)) == 2]

    def sshd_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def engine_answers(self) -> bool:
        try:
            return engine.get(self.docker_socket_path, "/_ping")[0] == 200
        except (OSError, LabError, http.client.HTTPException):
            return False

    # --- programs --------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program as root in all the node's namespaces."""
        return run(self.enter(argv), check=check, timeout=timeout)

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the node, and dies with it."""
        group = cgroups.create(f"{self.group}/exec")
        spaces = ["--mount", "--uts", "--net", "--ipc", "--pid"]
        environment = [f"{key}={value}" for key, value in CLEAN_ENV.items()]
        nsenter = ["nsenter", f"--target={self._need_pid()}", *spaces, "--", "env", "-i"]
        script = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", script, str(group), *nsenter, *environment, *argv]

    def start_daemon(self, part: str) -> None:
        """Start `sshd` or `engine` of a node that is on."""
        environment = [f"{key}={value}" for key, value in CLEAN_ENV.items()]
        spaces = ["--mount", "--uts", "--net", "--ipc", "--pid"]
        argv = ["nsenter", f"--target={self._need_pid()}", *spaces, "--", "env", "-i", *environment]
        # The script lies on the host; the node reads it from its standard input.
        shell = ["sh", "-s", part]
        run([*argv, *self._environment(), *shell], input=SCRIPT.read_text())

    def signal_daemon(self, part: str, number: signal.Signals) -> None:
        """Signal a daemon with its helpers and sessions."""
        for pid in self.daemon_processes(part):
            cgroups.send_one(pid, number)

    def _environment(self) -> list[str]:
        return [
            f"NODE={self.name}",
            f"FOLDER={self.folder}",
            f"LAB_ROOT={self.lab_folder.parent}",
            f"ADDRESS={self.address}",
            f"ADDRESS6={self.address6}",
            f"CGROUP={cgroups.tracking() / self.group}",
        ]

    def _need_pid(self) -> int:
        pid = self.pid
        if not pid:
            raise LabError(f"{self.name} is off: `python -m lab start {self.name}` boots it")
        return pid


_PID_FILES = {"sshd": "sshd.pid", "engine": "docker.pid"}


def _inner_pids(pid: int) -> list[int]:
    """A process's ids, outermost namespace first: two inside a node, three inside a container."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    except OSError:
        pass
    return []


def make_disk(image: Path) -> None:
    """A file system in a file: all a small-disk node has for its engine and its workspaces."""
    size = "400M"
    fresh = image.with_suffix(".new")
    run(["truncate", "-s", size, fresh])
    run(["mkfs.ext4", "-q", "-m", "0", "-F", fresh])
    fresh.replace(image)


def remove_tree(path: Path) -> None:
    """Delete a folder; a mount that is just being taken down by the kernel may need a moment."""

    def gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    wait_until(gone, 10, f"the removal of {path}")
