"""Who shares which SSH connection: one for each distinct way to a host, nodes and jump hosts alike.

Responsible for: walking the chain of jump hosts, and opening each hop once. Not responsible for: the handshake (`ssh`).
"""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from wsctl.errors import HostKeyError, NodeUnreachable, UsageError
from wsctl.model import SshSettings
from wsctl.transport import dial, lazy
from wsctl.transport.host_keys import HostKey, KeyStatus
from wsctl.transport.once import Once
from wsctl.transport.ssh_config import Target, parse_hop, resolve
from wsctl.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from wsctl.transport.dial import Stream
    from wsctl.transport.ssh import Session

MAX_HOPS = 8
"""A longer chain is taken for a loop (a jump host that jumps through itself)."""


class Machine(Protocol):
    """What there is to reach: a node, or a gateway."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def ssh(self) -> SshSettings: ...

    @property
    def is_local(self) -> bool: ...


class Sessions:
    """The SSH connections of one run. Safe to use from several threads."""

    def __init__(self, timeouts: Timeouts, closed: threading.Event) -> None:
        self._timeouts = timeouts
        self._closed = closed
        self._lock = threading.Lock()
        self._open: dict[Target, Once[Session]] = {}
        self._targets: dict[str, Target] = {}

    def session(self, node: Machine) -> Session:
        """The connection to the node, opened when it isn't open, and anew when it has broken. A node that couldn't be
        reached isn't tried again. Raises `NodeUnreachable`, `HostKeyError`."""
        return self._session(self._target(node), node.ssh, depth=0)

    def scan(self, node: Machine) -> HostKey:
        """The key of the first host on the way to the node that isn't trusted, else the node's own."""
        if node.is_local:
            raise UsageError(f"{node.name} is this machine: it is reached without SSH and has no host key to trust")
        target = self._target(node)
        lazy.load_paramiko()
        from wsctl.transport import ssh

        for hop in self._hops(target, node.ssh):
            key = ssh.scan(hop, partial(self._dial, hop, node.ssh, 0), self._timeouts)
            if key.status is not KeyStatus.TRUSTED:
                return key
        return ssh.scan(target, partial(self._dial, target, node.ssh, 0), self._timeouts)

    def dial(self, node: Machine, target: Target) -> Stream:
        """A new stream to the node's sshd, over its jump hosts if it has any; nothing is said on it. Raises
        `NodeUnreachable`, with `jump_host` in its details if that is where it ended."""
        return self._dial(target, node.ssh, depth=0)

    def drop(self, name: str) -> None:
        """Close the node's connection and forget that it failed, so that the next one is made anew. So are those of
        jump hosts that are dead."""
        with self._lock:
            self._targets.pop(name, None)
            found = [(key, once.peek()) for key, once in self._open.items() if key.node in (name, "")]
            gone = [(key, one) for key, one in found if key.node or one is None or not one.is_open]
            for key, _ in gone:
                del self._open[key]
        for _, session in gone:
            if session is not None:
                session.close()

    def close(self) -> None:
        """Close all connections, those of the nodes before the jump hosts that carry them; never raises."""
        with self._lock:
            sessions = [session for once in self._open.values() if (session := once.peek()) is not None]
        for session in reversed(sessions):
            session.close()

    def _target(self, node: Machine) -> Target:
        """Where the machine is. Asked for with each of the many commands of a move: `ssh -G` is a process of 10 ms."""
        target = self._targets.get(node.name)
        if target is None:
            target = self._targets[node.name] = resolve(node.name, node.address, node.ssh, self._timeouts.ssh_config)
        return target

    def _session(self, target: Target, settings: SshSettings, depth: int) -> Session:
        if depth > MAX_HOPS:
            raise NodeUnreachable(target.node, f"the chain of jump hosts is longer than {MAX_HOPS}: a loop?")
        # A hop is the same connection whichever node it serves.
        key = target._replace(node="") if depth else target
        with self._lock:
            once = self._open.get(key)
            if once is None or self._has_broken(once):
                once = self._open[key] = Once(partial(self._make, target, settings, depth))
        return once.get()

    def _has_broken(self, once: Once[Session]) -> bool:
        session = once.peek()
        return session is not None and not session.is_open and not self._closed.is_set()

    def _make(self, target: Target, settings: SshSettings, depth: int) -> Session:
        # The socket first: sshd forks and prepares its banner while paramiko is imported here.
        first: list[Stream] = [self._dial(target, settings, depth)]
        lazy.load_paramiko()
        from wsctl.transport import ssh

        session = ssh.open_session(
            target, lambda: first.pop() if first else self._dial(target, settings, depth), self._timeouts
        )
        if self._closed.is_set():
            session.close()
            raise NodeUnreachable(target.node, "the command is ending")
        return session

    def _dial(self, target: Target, settings: SshSettings, depth: int) -> Stream:
        if not target.jumps:
            return dial.connect(target, self._timeouts)
        hop = self._hops(target, settings)[-1]
        try:
            session = self._session(hop, settings, depth + 1)
        except NodeUnreachable as error:
            raise _by_way_of(hop, target.node, error) from error
        return self._through(session, target)

    def _hops(self, target: Target, settings: SshSettings) -> list[Target]:
        """The jump hosts of `target`, each resolved like a host of its own; each is reached through those before it.
        The first one may have jump hosts of its own in ssh_config, as with `ssh -J`."""
        hops: list[Target] = []
        for number, spec in enumerate(target.jumps):
            host, user, port = parse_hop(target.node, spec)
            inherited = replace(settings, user=user, port=port, proxy_jump=None if number == 0 else "")
            if settings.config:
                # ssh_config knows the hop's own keys; the inventory's are the node's, and are tried besides.
                inherited = replace(inherited, identity_file=None)
            hop = resolve(target.node, host, inherited, self._timeouts.ssh_config)
            if settings.identity_file and settings.config:
                named = resolve(
                    target.node, host, replace(inherited, identity_file=settings.identity_file, config=False), 0
                )
                hop = hop._replace(key_files=(*named.key_files, *hop.key_files))
            if number:
                hop = hop._replace(jumps=target.jumps[:number], proxy_command=None)
            hops.append(hop)
        return hops

    def _through(self, session: Session, target: Target) -> Stream:
        import paramiko

        from wsctl.transport.channels import ChannelRefused

        where = f"{target.host} port {target.port}"
        try:
            channel = session.open_tcp(target.host, target.port, self._timeouts.connect)
        except ChannelRefused as error:
            if error.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                said = f"the jump host {session.target.name} forbids forwarding to {where}"
                hint = "its sshd_config needs AllowTcpForwarding yes (or local), and PermitOpen must allow this address"
            else:
                said = f"the jump host {session.target.name} can't reach {where}: {error.text}"
                hint = "is the node on, and does the jump host know its name and network?"
            raise NodeUnreachable(target.node, said, hint=hint) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise NodeUnreachable(
                target.node, f"the connection to the jump host {session.target.name} broke"
            ) from error
        channel.settimeout(self._timeouts.connect)
        return dial.Stream(cast(socket.socket, channel))


def _by_way_of(hop: Target, node: str, error: NodeUnreachable) -> NodeUnreachable:
    """The failure of a jump host, told as the node's."""
    hint = f"wsctl node trust {node}" if isinstance(error, HostKeyError) else error.hint
    details = {**error.details, "node": node, "jump_host": hop.name}
    kind = HostKeyError if isinstance(error, HostKeyError) else NodeUnreachable
    return kind(node, f"jump host {hop.name}: {error.reason}", hint=hint, details=details)
