"""Lab: several nodes and the control side's services as one thing that comes up, goes down and is described.

Not here: what is inside a node (machine.py, node.py) or a service (services.py).
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lab import cgroups, clusters, description, engine, network, packages
from lab.description import Description, NodeDescription
from lab.image import BuiltImage, build
from lab.machine import remove_tree
from lab.node import LabNode
from lab.services import SERVICES, MariaDB, Service, free_ports
from lab.shell import LabError, interrupted, run, write_atomically
from lab.view import DEFAULT_ROOT, LabView

MAX_NODES = 200
BOOTING_AT_ONCE = 8


class Lab(LabView):
    """A lab that can be built, broken, repaired and removed."""

    # --- up ----------------------------------------------------------------------------------------------------

    def up(self, nodes: int = 3, services: bool = True, small_disk: tuple[str, ...] = ()) -> None:
        """Build the lab, or repair it: what runs stays as it is, what is missing is added."""
        need_root()
        interrupted.clear()
        if not 1 <= nodes <= MAX_NODES:
            raise LabError(f"a lab has 1 to {MAX_NODES} nodes, not {nodes}")
        need_passage(self.root)
        packages.ensure(services, self._say)
        with self._lock():
            what = self._describe(nodes, services, small_disk)
            machines = list(self._nodes(what).values())
            key = self._prepare_keys()
            jobs: list[Future[None]] = []
            with ThreadPoolExecutor(BOOTING_AT_ONCE + len(SERVICES) + 1) as pool, _interruptible():
                archive = pool.submit(self._build_image)
                jobs += [pool.submit(self._bring_service, one) for one in self._services(what)]
                jobs += [pool.submit(self._bring_node, one, key, archive) for one in machines]
                wait(jobs)
            collect(jobs)
            self._write_ssh_files(machines)

    def _describe(self, nodes: int, services: bool, small_disk: tuple[str, ...]) -> Description:
        """What the lab shall consist of, written down before anything of it is made."""
        with network.machine_lock():
            what = description.load(self.folder)
            if what is None:
                taken = description.numbers_in_use(self.root)
                what = Description(self.name, network.free_number(taken))
            names = [f"n{index}" for index in range(1, nodes + 1)]
            unknown = sorted(set(small_disk) - set(names))
            if unknown:
                raise LabError(f"small_disk names nodes that will not exist: {', '.join(unknown)}")
            known = {node.name for node in what.nodes}
            fresh = tuple(
                NodeDescription(name, index, name in small_disk)
                for index, name in enumerate(names, 1)
                if name not in known
            )
            ports = what.ports or (free_ports(what.number) if services else {})
            what = replace(what, nodes=what.nodes + fresh, ports=ports)
            description.save(self.folder, what)
            if network.create_bridge(what.number, self.folder):
                self._say(f"network {network.NET}.{what.number}.0/24")
            return what

    def _prepare_keys(self) -> str:
        if not self.ssh_key.exists():
            comment = f"wsctl-lab-{self.name}"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", self.ssh_key])
        return self.ssh_key.with_suffix(".pub").read_text()

    def _build_image(self) -> BuiltImage:
        return build(self.folder / "workspace.tar")

    def _bring_service(self, service: Service) -> None:
        if service.start():
            self._say(f"{service.name} on 127.0.0.1:{service.port}")

    def _bring_node(self, node: LabNode, key: str, archive: Future[BuiltImage]) -> None:
        began = time.monotonic()
        condition = node.condition
        if condition == "killed":
            node.cut_power()  # leftovers of a boot that failed
            node.prepare(key)
            node.boot()
        else:
            if not network.is_up(node.link):
                node.heal()
            if condition == "frozen":
                node.thaw()
            node.start_sshd()
            node.start_engine()
        built = archive.result()
        path = node.docker_socket_path
        if any(engine.image_id(path, name) != wanted for name, wanted in built.ids.items()):
            engine.load(path, built.archive)
        if condition != "up":
            spent = time.monotonic() - began
            what = "booted" if condition == "killed" else f"repaired, was {condition},"
            self._say(f"{node.name} {node.address} {what} in {spent:.1f} s")

    def sync_known_hosts(self) -> None:
        """Write what the nodes' host keys are now."""
        self._write_ssh_files(list(self.nodes.values()))

    def _write_ssh_files(self, nodes: list[LabNode]) -> None:
        hosts = [f"{n.address},{n.address6},{n.name} {n.host_key}\n" for n in nodes]
        write_atomically(self.known_hosts, "".join(hosts))
        common = (
            f"Host *\n  User root\n  IdentityFile {self.ssh_key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n"
        )
        aliases = [f"Host {n.name}\n  HostName {n.address}\n" for n in nodes]
        write_atomically(self.ssh_config, "".join(aliases) + common)

    # --- down --------------------------------------------------------------------------------------------------

    def down(self) -> None:
        """End and remove everything of the lab, also of one half-built; nothing there is fine."""
        need_root()
        if not self.folder.exists() and not (cgroups.tracking() / self.group).exists():
            self._remove_network(None)
            return
        with self._lock():
            try:
                what = description.load(self.folder)
            except LabError:
                what = None  # damaged: cgroups and the bridge's alias are enough
            self._remove_network(what)
            cgroups.kill(self.group)
            cgroups.remove(self.group)
            cgroups.remove_base()
            remove_tree(self.folder)
        if self.root == DEFAULT_ROOT:  # another one isn't ours to remove
            with suppress(OSError):  # other labs live there
                self.root.rmdir()

    def _remove_network(self, what: Description | None) -> None:
        names = network.bridges_of(self.folder)
        # A bridge without alias is ours only if we were stopped between the two steps of making it.
        if what and network.alias(network.bridge(what.number)) == "":
            names.append(network.bridge(what.number))
        for name in names:
            network.delete_bridge(name)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` of this lab at a time. The folder itself is what is locked."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # A `down` we waited for has removed the folder: lock the new one.
                if self.folder.exists() and os.fstat(fd).st_ino == self.folder.stat().st_ino:
                    yield
                    return
            finally:
                os.close(fd)

    def repair(self) -> None:
        """Undo every fault that can be injected; then as `up`."""
        what = self._description()
        for service in self._services(what):
            service.resume()
        for node in self._nodes(what).values():
            node.undo_faults()
        self.up(len(what.nodes), services=what.services)
        for kind in clusters.NAMES:
            if self.cluster(kind).exists:
                self.cluster(kind).up()

    def start_cluster(self, name: str) -> clusters.Cluster:
        """Start, or repair, a cluster of services: `galera`, `redis-cluster` or `redis-sentinel`."""
        packages.ensure(True, self._say)
        made = self.cluster(name)
        made.up()
        return made

    # --- faults ------------------------------------------------------------------------------------------------

    def kill(self, node: str) -> None:
        self.node(node).kill()

    def start(self, node: str) -> None:
        self.node(node).start()

    def cut(self, node: str) -> None:
        self.node(node).cut()

    def heal(self, node: str) -> None:
        self.node(node).heal()

    def freeze(self, node: str) -> None:
        self.node(node).freeze()

    def thaw(self, node: str) -> None:
        self.node(node).thaw()

    def start_service(self, name: str) -> None:
        self.service(name).start()

    def stop_service(self, name: str, *, kill: bool = False) -> None:
        self.service(name).stop(kill=kill)

    def restart_service(self, name: str, *, kill: bool = False) -> None:
        self.stop_service(name, kill=kill)
        self.start_service(name)

    def pause_service(self, name: str) -> None:
        self.service(name).pause()

    def resume_service(self, name: str) -> None:
        self.service(name).resume()

    def sql(self, statement: str) -> str:
        """Execute as MariaDB's root, who may do what `wsctl` may not: SET GLOBAL, KILL, FLUSH."""
        service = self.service("mariadb")
        assert isinstance(service, MariaDB)
        return service.sql(statement)

    def nginx_test(self) -> None:
        """Raise with what nginx says, unless it accepts the gateway's folder as it is now."""
        result = self._nginx().test()
        if result.returncode != 0:
            raise LabError(f"nginx refuses its configuration: {result.stderr.strip()}")

    def nginx_reload(self) -> None:
        """Test, then make nginx use the gateway's folder as it is now."""
        self._nginx().reload()


def need_root() -> None:
    """Refuse early and clearly."""
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces, links and mounts: run it as root")


def need_passage(root: Path) -> None:
    """Services don't run as root, and must get through to the lab's folder."""
    for folder in (root, *root.parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise LabError(f"{folder} is closed to the users mysql and www-data: choose another WSCTL_LAB_ROOT")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C makes the threads stop waiting for daemons, so that their pool can close."""
    try:
        yield
    except KeyboardInterrupt:
        interrupted.set()
        raise


def collect(jobs: list[Future[None]]) -> None:
    """Raise all that went wrong in finished jobs as one error."""
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if not isinstance(error, (LabError, OSError)):
            raise error
    if errors:
        raise LabError("\n".join(str(error) for error in errors)) from errors[0]
