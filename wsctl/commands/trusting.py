"""Trusting an SSH host key after comparing its fingerprint: the same for nodes and gateways.

Responsible for: the comparison, the question, and what is refused. Not responsible for: reading and keeping keys
(`transport.known_hosts`), nor for which machines there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wsctl.errors import Refused

if TYPE_CHECKING:
    from wsctl.context import App
    from wsctl.transport import HostKey


class Keys(Protocol):
    """The host keys of a kind of machines."""

    def scan_host_key(self, name: str) -> HostKey:
        """The host key that the machine presents."""

    def trust(self, name: str, key: HostKey) -> None:
        """Record the key as trusted."""


def trust_host_key(app: App, keys: Keys, kind: str, name: str, fingerprint: str | None) -> None:
    """Trust the key that the machine `name`, a `kind` (`node`, `gateway`), presents, if it is the expected one or the
    operator says so. Raises `Refused`, and what `keys` raises."""
    key = keys.scan_host_key(name)
    item: dict[str, object] = {kind: name, "key_type": key.type, "fingerprint": key.fingerprint}
    if fingerprint is not None and fingerprint.removeprefix("SHA256:") != key.fingerprint.removeprefix("SHA256:"):
        raise Refused(
            f"{name} presents {key.type} {key.fingerprint}, not {fingerprint}; nothing was trusted",
            hint=f"compare with the {kind}'s console; if it differs there too, somebody sits in between",
            details=item,
        )
    if key.status == "revoked":
        raise Refused(
            f"the key {key.fingerprint} that {name} presents is marked @revoked in known_hosts; nothing was trusted",
            hint=f"give the {kind} a new host key, then trust that one",
            details=item,
        )
    if key.status == "trusted":
        app.out.record({**item, "action": "unchanged"})
        return
    if fingerprint is None:
        changed = "CHANGED: it isn't the key trusted before. " if key.status == "changed" else ""
        app.out.typed(f"{changed}{name} presents {key.type} {key.fingerprint}. Trust it?", "yes")
    keys.trust(name, key)
    app.out.record({**item, "action": "trusted"})
