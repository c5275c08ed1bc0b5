"""Reaching the nodes: one SSH connection each, and the Docker Engine behind it.

Responsible for: opening every connection when it is needed, remembering failures, closing all of it. Not responsible
for: which nodes there are (`inventory`), what is done with them (`workflow`), SSH (`ssh`) and HTTP (`docker_socket`).

Importing this module loads neither paramiko nor docker; the first connection does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from wsctl.errors import NodeError, NotFound
from wsctl.model import Node
from wsctl.ports import Commands
from wsctl.transport import fanout, lazy
from wsctl.transport.host_keys import HostKey
from wsctl.transport.once import Once
from wsctl.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from wsctl.transport.engine import DockerEngine
    from wsctl.transport.files import ShellFiles
    from wsctl.transport.folders import ShellFolders
    from wsctl.transport.hosts import Host
    from wsctl.transport.inside import EngineInside
    from wsctl.transport.pipes import Launcher
    from wsctl.transport.restic import ResticRepository
    from wsctl.transport.sessions import Sessions
    from wsctl.transport.standby_files import ShellStandbys

__all__ = ["Connections", "HostKey", "Timeouts", "fanout"]

WARM_PARALLEL = 16
"""How many nodes are greeted at a time in the background: a handshake costs several ms of our own CPU."""


WARM_STEP_S = 0.003
"""How far apart the background connections start, in seconds."""


class Connections:
    """The nodes of one run: `engine` is the `EngineFactory` of the ports.

    Every node has at most one SSH connection, however many threads ask, and so does every jump host. One that breaks is
    made anew for whoever asks next; a node that couldn't be reached stays unreachable for the rest of the run. Safe to
    use from several threads.
    """

    def __init__(self, nodes: Mapping[str, Node], *, cluster: str, timeouts: Timeouts | None = None) -> None:
        self._nodes = dict(nodes)
        self._cluster = cluster
        self._timeouts = timeouts or Timeouts()
        self._engines = {name: Once(partial(self._connect, node)) for name, node in self._nodes.items()}
        self._sessions: Once[Sessions] = Once(self._make_sessions)
        self._files: Once[ShellFiles] = Once(self._make_files)
        self._standbys: Once[ShellStandbys] = Once(self._make_standbys)
        self._warmed: set[str] = set()
        self._closed = threading.Event()

    def engine(self, name: str) -> DockerEngine:
        """The engine of the node, connected and its API version negotiated. The first call opens the connection (some
        tens of ms); the later ones are free. Raises `NotFound`, `NodeUnreachable`, `HostKeyError`, `EngineError`."""
        self._node(name)
        return self._engines[name].get()

    def inside(self, name: str) -> EngineInside:
        """What goes on inside the node's containers. Connects as `engine` does, and raises the same."""
        from wsctl.transport.inside import EngineInside

        return EngineInside(self.engine(name))

    def folders(self, name: str) -> ShellFolders:
        """The users' folders of the node, over the same connection as its engine. Raises `NotFound`, `NodeUnreachable`,
        `HostKeyError`."""
        from wsctl.transport.folders import ShellFolders

        return ShellFolders(self._node(name), self._launcher(name))

    def repository(self, name: str, environment: Mapping[str, str]) -> ResticRepository:
        """The repository of backups as the node reaches it; `environment` is what restic needs to know. Raises as
        `folders` does."""
        from wsctl.transport.restic import ResticRepository

        return ResticRepository(self._node(name), self._launcher(name), self._cluster, environment)

    def warm(self, names: Iterable[str]) -> None:
        """Begin to connect to the nodes in the background and return at once. What fails is kept until `engine` asks.
        Names that are unknown, or being warmed already, are left out."""
        fresh = [name for name in dict.fromkeys(names) if name in self._nodes and name not in self._warmed]
        self._warmed.update(fresh)
        if fresh:
            threading.Thread(target=self._warm, args=(fresh,), name="warm", daemon=True).start()

    @property
    def files(self) -> ShellFiles:
        """The users' files on the nodes: `ports.NodeFiles`. Nothing is connected before it is used."""
        return self._files.get()

    @property
    def standbys(self) -> ShellStandbys:
        """Standby copies on the nodes: `ports.StandbyFiles`. Nothing is connected before it is used."""
        return self._standbys.get()

    def close(self) -> None:
        """Close every connection that is open; connections still being opened close themselves. Never raises."""
        self._closed.set()
        for once in self._engines.values():
            engine = once.peek()
            if engine is not None:
                engine.close()
        sessions = self._sessions.peek()
        if sessions is not None:
            sessions.close()

    def commands(self, name: str) -> Commands:
        """Commands on the node, over the connection that the engine has, or on this machine. Connects when a command is
        run; raises `NotFound`."""
        node = self._node(name)
        from wsctl.transport.shell import LocalShell, NodeCommands, SshShell

        if node.is_local:
            return NodeCommands(lambda: LocalShell(name), self._timeouts.request)
        return NodeCommands(lambda: SshShell(name, lambda: self._sessions.get().session(node)), self._timeouts.request)

    def scan_host_key(self, name: str) -> HostKey:
        """The host key that the node presents, without logging in. With jump hosts: the first host on the way whose
        key isn't trusted yet, else the node's; `HostKey.status` says which of new, changed or trusted it is.
        Raises `NotFound`, `NodeUnreachable`."""
        node = self._node(name)
        return self._sessions.get().scan(node)

    def trust(self, name: str, key: HostKey) -> None:
        """Add the key to the known_hosts file that the node uses; older keys of exactly that host and type are kept as
        comments. Raises `NotFound`, `NodeError` when the file can't be written."""
        from wsctl.transport import known_hosts

        known_hosts.trust(self._node(name).name, key)

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            raise NotFound(f"no node named {name!r} in the inventory", hint="wsctl node ls")
        return node

    def _launcher(self, name: str) -> Launcher:
        from wsctl.transport.pipes import LocalLauncher, SshLauncher

        node = self._node(name)
        if node.is_local:
            return LocalLauncher(name, self._timeouts.silence)
        return SshLauncher(name, self._sessions.get().session(node), self._timeouts.silence)

    def _make_sessions(self) -> Sessions:
        from wsctl.transport.sessions import Sessions

        return Sessions(self._timeouts, self._closed)

    def _make_files(self) -> ShellFiles:
        from wsctl.transport.files import ShellFiles

        return ShellFiles(self._cluster, self._host)

    def _make_standbys(self) -> ShellStandbys:
        from wsctl.transport.standby_files import ShellStandbys

        return ShellStandbys(self._cluster, self._host)

    def _host(self, name: str) -> Host:
        from wsctl.transport.hosts import Host

        node = self._node(name)
        return Host(node, lambda: self._sessions.get().session(node))

    def _connect(self, node: Node) -> DockerEngine:
        if node.is_local:
            lazy.load_docker()
            from wsctl.transport.engine import local_engine

            return local_engine(node, self._cluster, self._timeouts)
        sessions = self._sessions.get()
        sessions.session(node)
        lazy.load_docker()
        from wsctl.transport.remote import remote_engine

        return remote_engine(node, self._cluster, self._timeouts, lambda: sessions.session(node))

    def _warm(self, names: list[str]) -> None:
        """Connect to all of them; results and failures stay with their `Once`. The imports go on in this thread while
        the others wait for their nodes."""
        waiting = list(reversed(names))

        def work(delay: float) -> None:
            time.sleep(delay)
            while waiting and not self._closed.is_set():
                try:
                    name = waiting.pop()
                except IndexError:
                    return
                with contextlib.suppress(NodeError):
                    self._engines[name].get()

        for number in range(min(WARM_PARALLEL, len(names))):
            # The first starts at once, the others one after the other, so that no burst hits a shared jump host.
            delay = number * WARM_STEP_S
            threading.Thread(target=work, args=(delay,), name=f"warm-{number}", daemon=True).start()
        # The worker's handshake is mostly waiting; this import is mostly not.
        if not all(self._nodes[name].is_local for name in names):
            lazy.load_paramiko()
        lazy.load_docker()
