"""The connections to nodes and gateways, as the wiring needs them: what `transport` offers, and fakes in tests.

Responsible for: these contracts. Not responsible for: when anything is connected (`context`), nor how (`transport`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wsctl.folders import Folders
    from wsctl.frontends import Gateway
    from wsctl.insideports import Inside
    from wsctl.ports import Commands, Engine, NodeFiles, StandbyFiles
    from wsctl.snapshots import Repository
    from wsctl.transport import HostKey


class Fleet(Protocol):
    """The connections to the nodes: what `transport.Connections` offers, and a fake in tests."""

    def engine(self, name: str) -> Engine:
        """The node's engine; see `ports.EngineFactory`."""

    def inside(self, name: str) -> Inside:
        """What goes on inside the node's containers; see `insideports.Inside`."""

    def folders(self, name: str) -> Folders:
        """The users' folders of the node; see `folders.Folders`."""

    def repository(self, name: str, environment: Mapping[str, str]) -> Repository:
        """The repository of backups as the node reaches it; see `snapshots.Repository`."""

    @property
    def files(self) -> NodeFiles:
        """Users' files on the nodes."""

    @property
    def standbys(self) -> StandbyFiles:
        """Standby copies on the nodes."""

    def warm(self, names: Iterable[str]) -> None:
        """Begin to connect in the background."""

    def commands(self, name: str) -> Commands:
        """Commands on the node, for checks."""

    def scan_host_key(self, name: str) -> HostKey:
        """The host key that the node presents."""

    def trust(self, name: str, key: HostKey) -> None:
        """Record the key as trusted."""

    def close(self) -> None:
        """Close what is open."""


class GatewayFleet(Protocol):
    """The connections to the gateways: what `transport.gateways.Gateways` offers, and a fake in tests."""

    def gateway(self, name: str) -> Gateway:
        """The gateway, connected at most once a run. Raises `NodeUnreachable`, `HostKeyError`."""

    def scan_host_key(self, name: str) -> HostKey:
        """The host key that the gateway presents."""

    def trust(self, name: str, key: HostKey) -> None:
        """Record the key as trusted."""

    def close(self) -> None:
        """Close what is open."""
