"""LabNode: a machine of the lab, and all that tests may do to it.

Every fault here has its undoing beside it. Not here: how a machine is made (machine.py).
"""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups, engine, network
from lab.machine import Machine
from lab.shell import LabError, run, wait_until

SSHD_TIMEOUT = 10.0


@dataclass(frozen=True)
class LabNode(Machine):
    """One node as tests, demo and benchmarks see it."""

    # --- power ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Power cut: every process dies at once, containers too, and the cable is out."""
        self.cut_power()

    def start(self) -> None:
        """Bring a killed node back as after a reboot: same disk, its containers stopped."""
        if self.pid:
            self.heal()
            self.thaw()
            return
        self.cut_power()  # leftovers of a boot that failed
        self.boot()

    # --- network -------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Take the network away; everything on the node goes on running."""
        self._need_pid()
        network.set_link(self.link, up=False)

    def heal(self) -> None:
        self._need_pid()
        network.set_link(self.link, up=True)

    # --- daemons -------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """SIGSTOP the SSH daemon with its sessions, and the engine; containers go on running."""
        for part in ("sshd", "engine"):
            while self._running(part):  # again: one may have forked while we went through the list
                self.signal_daemon(part, signal.SIGSTOP)

    def _running(self, part: str) -> bool:
        return any(cgroups.state(pid) != "T" for pid in self.daemon_processes(part))

    def thaw(self) -> None:
        for part in ("sshd", "engine"):
            self.signal_daemon(part, signal.SIGCONT)

    def stop_engine(self, *, kill: bool = False) -> None:
        """End dockerd: politely, which stops the containers too, or by SIGKILL as in a crash.

        After a SIGKILL the containers go on running until the engine is started again.
        """
        if not kill:
            pid = self.daemon_pid("engine")
            if pid:
                cgroups.send_one(pid, signal.SIGTERM)
            wait_until(lambda: not self.daemon_alive("engine"), 30, f"the end of dockerd on {self.name}")

        def gone() -> bool:
            # Shims carry the containers: they survive a crash of dockerd and containerd.
            left = [pid for pid in self.daemon_processes("engine") if not (kill and _is_shim(pid))]
            for pid in left:
                cgroups.send_one(pid, signal.SIGKILL)
            return not left

        # Who is writing to a disk dies when that is done: until then it would be taken for one that runs.
        wait_until(gone, 30, f"the end of dockerd on {self.name}")

    def start_engine(self) -> None:
        if not self.daemon_alive("engine"):
            self.start_daemon("engine")
        self.wait_ready()

    def stop_sshd(self) -> None:
        """End the SSH daemon and every session."""
        self.signal_daemon("sshd", signal.SIGKILL)
        wait_until(lambda: not self.daemon_processes("sshd"), 10, f"the end of sshd on {self.name}")

    def start_sshd(self) -> None:
        if not self.daemon_alive("sshd"):
            self.start_daemon("sshd")
        wait_until(self.sshd_answers, SSHD_TIMEOUT, f"sshd of {self.name}", self.log("sshd"))

    def restart_sshd(self) -> None:
        """With what lies in its configuration now; open sessions end."""
        self.stop_sshd()
        self.start_sshd()

    # --- SSH -----------------------------------------------------------------------------------------------------

    def sshd_option(self, line: str) -> None:
        """Add a line to sshd's configuration, above all others, and restart it."""
        with (self.folder / "sshd_extra.conf").open("a") as file:
            file.write(f"{line}\n")
        self.restart_sshd()

    def sshd_reset(self) -> None:
        """Take back every `sshd_option`."""
        (self.folder / "sshd_extra.conf").write_text("")
        self.restart_sshd()

    @property
    def host_key(self) -> str:
        """The public host key: type and base64."""
        return " ".join((self.folder / "ssh_host_ed25519_key.pub").read_text().split()[:2])

    def rotate_host_key(self) -> None:
        """A new host key, as after a reinstallation or an attack; the lab's known_hosts keeps the old one."""
        key = self.folder / "ssh_host_ed25519_key"
        for name in (key.name, f"{key.name}.pub"):
            kept = self.folder / f"original_{name}"
            if kept.exists():
                (self.folder / name).unlink()
            else:
                (self.folder / name).replace(kept)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key])
        self.restart_sshd()

    def restore_host_key(self) -> None:
        """Undo `rotate_host_key`."""
        self._restore_ssh_files(options=False)
        self.restart_sshd()

    def _restore_ssh_files(self, *, options: bool) -> bool:
        """Put the original host key back, and with `options` the original configuration; whether anything changed."""
        kept = list(self.folder.glob("original_ssh_host_ed25519_key*"))
        for file in kept:
            file.replace(self.folder / file.name.removeprefix("original_"))
        extra = self.folder / "sshd_extra.conf"
        changed = bool(kept) or (options and extra.stat().st_size > 0)
        if options:
            extra.write_text("")
        return changed

    # --- disk ----------------------------------------------------------------------------------------------------

    def fill_disk(self, leave_kib: int = 0) -> None:
        """Leave so much (by default no byte) for the engine and the workspaces; only for a node with a small disk."""
        filler = self._filler()
        self.run(
            ["sh", "-c", f"cat /dev/zero >{filler} 2>/dev/null; truncate -s -{leave_kib}K {filler}; sync"], check=False
        )

    def free_disk(self) -> None:
        self.run(["rm", "-f", self._filler()])

    def _filler(self) -> str:
        if not self.small_disk:
            raise LabError(
                f"{self.name} is on the host's disk, which the lab won't fill: "
                f'build the lab with up(small_disk=("{self.name}",))'
            )
        return "/run/disk/filler"

    def undo_faults(self) -> None:
        """Undo what the methods above have done, except a power cut and the end of a daemon: `Lab.up` sees to that."""
        changed = self._restore_ssh_files(options=True)
        if not self.pid:
            return
        self.heal()
        self.thaw()
        if self.small_disk:
            self.free_disk()
        if changed:
            self.restart_sshd()

    # --- what one sees -------------------------------------------------------------------------------------------

    @property
    def condition(self) -> str:
        """`up`, `killed`, `cut`, `frozen` or `broken`; what `status` shows."""
        if not self.pid:
            return "killed"
        daemons = self.daemon_pid("sshd"), self.daemon_pid("engine")
        if any(pid and cgroups.state(pid) == "T" for pid in daemons):
            return "frozen"
        if not network.is_up(self.link):
            return "cut"
        return "up" if all(daemons) else "broken"

    def status(self) -> dict[str, object]:
        """A row of `lab status`."""
        condition = self.condition
        containers: int | None = None
        if condition in ("up", "cut"):
            with suppress(OSError, LabError):  # an engine in trouble: unknown
                found = engine.containers(self.docker_socket_path)
                containers = sum(1 for one in found if one["State"] == "running")
        return {
            "name": self.name,
            "address": self.address,
            "state": condition,
            "sshd": bool(self.pid) and self.daemon_alive("sshd"),
            "engine": bool(self.pid) and self.daemon_alive("engine"),
            "running_containers": containers,
        }


def _is_shim(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").resolve().name.startswith("containerd-shim")
    except OSError:
        return False
