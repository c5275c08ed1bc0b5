"""How long each call to a node may take.

Responsible for: every time limit of the transport, in one place. Not responsible for: deadlines of whole commands
(`fanout`) nor how long a workspace may take to become ready (the inventory says that).
"""

from __future__ import annotations

from typing import NamedTuple


class Timeouts(NamedTuple):
    """Limits in seconds. A stop gets its grace period and `request` on top.

    A NamedTuple, like the other values of this package: every process pays for making the class, and this takes an
    eighth of a frozen dataclass.
    """

    ssh_config: float = 5.0
    connect: float = 5.0
    handshake: float = 10.0
    auth: float = 10.0
    channel: float = 5.0
    request: float = 15.0
    create: float = 60.0
    start: float = 60.0
    remove: float = 60.0
    pull: float = 600.0
    purge: float = 600.0
    silence: float = 120.0
    """A stream of a user's files in which nothing moves for so long is dead."""
    gateway: float = 120.0
    """Each command on a gateway; Nginx reads a map of a million routes in 2 s, on a busy machine in 40."""
    status: float = 2.0
    """One answer of a gateway's status location."""
    diagnosis: float = 3.0
    """What looking for the cause of a failure may cost on top of the failure."""
    dead_peer: float = 20.0
    """After this long without an acknowledgement the kernel gives the TCP connection up."""
    retries: int = 2
    """How often a connection that sshd dropped before its banner (MaxStartups) is tried again."""
