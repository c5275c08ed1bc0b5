"""LabView: what a lab is and where everything of it can be reached; looks, and changes nothing.

Not here: building, breaking and removing it (lab.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import clusters, description, image, network
from lab.description import Description
from lab.inventory import inventory_text
from lab.node import LabNode
from lab.services import SERVICES, Nginx, Service
from lab.shell import LabError

DEFAULT_ROOT = Path("/var/lib/wsctl-lab")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


class LabView:
    """A lab by its name; whether it exists, and in what state, is looked up with every call."""

    def __init__(self, name: str = "lab", root: Path | None = None, say: Callable[[str], None] | None = None) -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"a lab's name is lower-case letters, digits, - and _: not {name!r}")
        given = root or Path(os.environ.get("WSCTL_LAB_ROOT") or DEFAULT_ROOT)
        self.name = name
        self.root = given.resolve()
        self.folder = self.root / name
        self._say = say or (lambda _: None)

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def group(self) -> str:
        """The lab's cgroup; a lab elsewhere may have the same name, so its root is in it."""
        if self.root == DEFAULT_ROOT:
            return self.name
        return f"{self.name}@{'%'.join(self.root.parts[1:])}"[:200]

    @property
    def exists(self) -> bool:
        return (self.folder / description.FILE).exists()

    def _description(self) -> Description:
        found = description.load(self.folder)
        if found is None:
            raise LabError(f"there is no lab {self.name!r}: `python -m lab --name {self.name} up`")
        return found

    @property
    def nodes(self) -> dict[str, LabNode]:
        return self._nodes(self._description())

    def _nodes(self, what: Description) -> dict[str, LabNode]:
        return {
            node.name: LabNode(
                name=node.name,
                index=node.index,
                number=what.number,
                group=f"{self.group}/{node.name}",
                lab_folder=self.folder,
                small_disk=node.small_disk,
            )
            for node in what.nodes
        }

    def node(self, name: str) -> LabNode:
        """A node by name, or an error that lists those there are."""
        nodes = self.nodes
        if name not in nodes:
            raise LabError(f"lab {self.name!r} has no node {name!r}, only {', '.join(nodes)}")
        return nodes[name]

    @property
    def ssh_key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`: every node by its name."""
        return self.folder / "ssh_config"

    @property
    def image(self) -> str:
        return image.IMAGE

    @property
    def control_address(self) -> str:
        return network.control_address(self._description().number)

    def _port(self, service: str) -> int:
        ports = self._description().ports
        if service not in ports:
            raise LabError(f"lab {self.name!r} was built without services: `up` adds them")
        return ports[service]

    @property
    def mysql_url(self) -> str:
        return f"mysql://wsctl@127.0.0.1:{self._port('mariadb')}/wsctl"

    @property
    def mysql_password_file(self) -> Path:
        return self.folder / "mysql_password"

    @property
    def mysql_ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._port('redis')}/0"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self._port('nginx')}"

    @property
    def gateway_folder(self) -> Path:
        """Nginx includes *.conf (http level), *.snippet (server level), *.main (main level)."""
        return self.folder / "gateway"

    def _services(self, what: Description) -> list[Service]:
        return [
            kind(self.folder, f"{self.group}/control", what.ports[name])
            for name, kind in SERVICES.items()
            if name in what.ports
        ]

    def service(self, name: str) -> Service:
        """`mariadb`, `redis` or `nginx`, or a member of a cluster."""
        if name not in SERVICES:
            members = {m.name: m for kind in clusters.NAMES for m in self.cluster(kind).members.values()}
            if name not in members:
                raise LabError(f"no service {name!r}, only {', '.join([*SERVICES, *members])}")
            return members[name]
        return SERVICES[name](self.folder, f"{self.group}/control", self._port(name))

    def cluster(self, name: str) -> clusters.Cluster:
        """`galera`, `redis-cluster` or `redis-sentinel`; none of them runs before its `up`."""
        return clusters.make(name, self.folder, f"{self.group}/control", self._description().number)

    def _nginx(self) -> Nginx:
        service = self.service("nginx")
        assert isinstance(service, Nginx)
        return service

    # --- reports -----------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, object]]:
        """A row per node, then a row per service."""
        what = self._description()
        nodes = list(self._nodes(what).values())
        with ThreadPoolExecutor(max(1, len(nodes))) as pool:
            rows = list(pool.map(LabNode.status, nodes))
        for service in self._services(what):
            condition = "frozen" if service.paused else "up" if service.alive else "killed"
            address = f"127.0.0.1:{service.port}"
            rows.append({"name": service.name, "address": address, "state": condition})
        return rows

    def inventory(
        self,
        path: Path,
        *,
        state: str = "sqlite:///wsctl.db",
        coordination: str | None = None,
        extra: str = "",
        ready: str = "{http: /, timeout: 30s}",
    ) -> Path:
        """Write a wsctl inventory of this lab; `extra` is YAML that goes to its end."""
        text = inventory_text(self, state=state, coordination=coordination, ready=ready)
        path.write_text(text + extra)
        return path
