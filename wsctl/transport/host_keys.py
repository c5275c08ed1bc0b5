"""Host keys as values: their fingerprints and their lines in known_hosts.

Responsible for: how a key is shown and written. Not responsible for: files of known keys (`known_hosts`), nor for
asking a host for its key (`ssh`). Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import NamedTuple

SSH_PORT = 22


class KeyStatus(StrEnum):
    """What the known_hosts files say about a key."""

    TRUSTED = "trusted"
    NEW = "new"
    CHANGED = "changed"
    REVOKED = "revoked"


class HostKey(NamedTuple):
    """A key that a host presented. `host` is its name in known_hosts, `file` the one that `trust` writes to, `known`
    the keys of that host until now, each as `type fingerprint`."""

    host: str
    type: str
    blob: bytes
    status: KeyStatus
    file: str
    known: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it: `SHA256:` and unpadded base64."""
        return fingerprint(self.blob)

    @property
    def line(self) -> str:
        """The line for known_hosts, without a newline."""
        return f"{self.host} {self.type} {base64.b64encode(self.blob).decode()}"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key in wire format, as OpenSSH prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def describe(key_type: str, blob: bytes) -> str:
    """A key as it appears in messages."""
    return f"{key_type} {fingerprint(blob)}"


def host_name(host: str, port: int) -> str:
    """How a host is called in known_hosts: lower case, with the port in brackets unless it is 22."""
    plain = host.lower()
    return plain if port == SSH_PORT else f"[{plain}]:{port}"
