"""Wiring: from the inventory to the adapters that a command needs, opened when first asked for, closed at the end.

Responsible for: which adapter implements which port, and for their lifetimes. Not responsible for: parsing the command
line (`commands`), the pipeline (`workflow`), or any decision. Nothing here is imported before a command needs it: a
`wsctl ls` on SQLite loads neither SSH nor Redis.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsctl.model import Node

START_WAIT_S = 600.0
"""How long a start is queued: a thousand logins at once on a few nodes take minutes, and each is right to wait."""

if TYPE_CHECKING:
    from wsctl.coordination.gate import StartGate
    from wsctl.fleets import Fleet, GatewayFleet
    from wsctl.inventory import Inventory
    from wsctl.movework import Told
    from wsctl.output import Output
    from wsctl.ports import ActivityLog, Clock, Leases
    from wsctl.records import Actor
    from wsctl.requests import Request
    from wsctl.routes import GatewayHost
    from wsctl.snapshots import Repository
    from wsctl.store.store import SqlStore
    from wsctl.watchports import Presence, Probes
    from wsctl.workflow import World


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)


def _real_fleet(nodes: Mapping[str, Node], cluster: str) -> Fleet:
    from wsctl.transport import Connections

    return Connections(nodes, cluster=cluster)


def _real_gateways(hosts: Mapping[str, GatewayHost]) -> GatewayFleet:
    from wsctl.transport.gateways import Gateways

    return Gateways(hosts)


def _real_probes(nodes: Mapping[str, Node]) -> Probes:
    from wsctl.transport.probes import NodeProbes

    return NodeProbes(nodes)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What tests replace: how nodes and gateways are reached and what time it is."""

    fleet: Callable[[Mapping[str, Node], str], Fleet] = _real_fleet
    gateways: Callable[[Mapping[str, GatewayHost]], GatewayFleet] = _real_gateways
    probes: Callable[[Mapping[str, Node]], Probes] = _real_probes
    clock: Clock = SystemClock()  # noqa: RUF009 - it holds no state


class App:
    """One run of one command."""

    def __init__(self, out: Output, inventory_path: Path | None, wiring: Wiring) -> None:
        self.out = out
        self.wiring = wiring
        self._inventory_path = inventory_path
        self._stack = ExitStack()
        self._clock: Clock | None = None

    def close(self) -> None:
        """Close everything that was opened, last first."""
        self._stack.close()

    @cached_property
    def inventory_file(self) -> Path:
        """The inventory's path: -i, WSCTL_INVENTORY, ./inventory.yaml, then the user's and the system's folder."""
        from wsctl.inventory import find

        return find(self._inventory_path, os.environ, Path.cwd())

    @cached_property
    def inventory(self) -> Inventory:
        """The loaded inventory. Its warnings belong to `inventory check`; elsewhere only -v tells them."""
        from wsctl.inventory import load

        inventory = load(self.inventory_file)
        for warning in inventory.warnings:
            self.out.detail(f"warning: {warning}")
        return inventory

    @cached_property
    def fleet(self) -> Fleet:
        """The connections to the nodes; none is opened yet."""
        fleet = self.wiring.fleet(self.inventory.nodes, self.inventory.cluster)
        self._stack.callback(fleet.close)
        return fleet

    @cached_property
    def gateways(self) -> GatewayFleet:
        """The connections to the gateways of the inventory; none is opened yet."""
        gateways = self.wiring.gateways(self.inventory.gateway_hosts)
        self._stack.callback(gateways.close)
        return gateways

    @cached_property
    def store(self) -> SqlStore:
        """The state database, created if it is SQLite and absent."""
        return self._open_store(create=True)

    @cached_property
    def store_for_reading(self) -> SqlStore:
        """The state database as it is: nothing is created, an absent SQLite file reads as empty."""
        return self._open_store(create=False)

    @cached_property
    def leases(self) -> Leases:
        """Where leases are taken: Redis, or rows in the state database."""
        return self._open_leases(lambda: self.store)

    @cached_property
    def leases_for_reading(self) -> Leases:
        """The same for who only looks: no state database is created."""
        return self._open_leases(lambda: self.store_for_reading)

    @cached_property
    def activity(self) -> ActivityLog:
        """Where it is recorded who was active: Redis and the state database behind it, or the latter alone."""
        return self._open_activity(lambda: self.store)

    @cached_property
    def activity_for_reading(self) -> ActivityLog:
        """The same for who only looks."""
        return self._open_activity(lambda: self.store_for_reading)

    @cached_property
    def presence(self) -> Presence:
        """What watchers saw: in Redis, or rows in the state database."""
        return self._open_presence(lambda: self.store)

    @cached_property
    def presence_for_reading(self) -> Presence:
        """The same for who only looks: no state database is created."""
        return self._open_presence(lambda: self.store_for_reading)

    @cached_property
    def probes(self) -> Probes:
        """Looking at the nodes again and again; none is connected yet."""
        probes = self.wiring.probes(self.inventory.nodes)
        self._stack.callback(probes.close)
        return probes

    @cached_property
    def start_gate(self) -> StartGate:
        """The gate before every start; nothing is asked before one."""
        from wsctl.coordination import open_slots
        from wsctl.coordination.gate import StartGate
        from wsctl.store import slot_rows

        slots = open_slots(self.inventory.coordination, rows=lambda: slot_rows(self.store), **self._shared)
        self._stack.callback(slots.close)
        limits = {name: node.max_concurrent_starts for name, node in self.inventory.nodes.items()}
        gate = StartGate(slots, limits, wait_s=START_WAIT_S)
        self._stack.callback(gate.close)
        return gate

    def starting(self, node: str, token: str, check: Callable[[], None]) -> AbstractContextManager[None]:
        """`executor.Starting`."""

        def cancelled() -> bool:
            check()
            return False

        return self.start_gate.starting(node, token, cancelled=cancelled)

    @property
    def notify(self) -> Callable[[Mapping[str, object]], None] | None:
        """Tells the hook of the inventory about somebody who will be stopped; None if there is none."""
        reap = self.inventory.reap
        if not reap.gives_notice:
            return None

        def tell(message: Mapping[str, object]) -> None:
            from wsctl.hooks import post, run

            if reap.hook is not None:
                run(reap.hook, message, reap.timeout_s)
            elif reap.url is not None:
                post(reap.url, message, reap.timeout_s)

        return tell

    @cached_property
    def actor(self) -> Actor:
        """Who runs this command."""
        from wsctl.origin import actor

        return actor(os.environ)

    @property
    def who(self) -> str:
        """`user@host:pid`, with the user behind sudo if there is one."""
        return str(self.actor)

    def request(
        self, request_id: str | None, verb: str, targets: Iterable[str], **parameters: object
    ) -> Request | None:
        """What --request-id stands for: the verb on these targets (in whatever order) with these parameters."""
        from wsctl.requests import make_request

        values = {"targets": sorted(targets), **parameters}
        return make_request(request_id, verb, values, self.inventory.requests_keep_s)

    @cached_property
    def state_password(self) -> str | None:
        """From WSCTL_STATE_PASSWORD, or the inventory's state_password_file."""
        from wsctl.passwords import secret

        return secret("WSCTL_STATE_PASSWORD", self.inventory.state.password_file, "state_password_file")

    @cached_property
    def coordination_password(self) -> str | None:
        """From WSCTL_REDIS_PASSWORD, or the inventory's coordination_password_file."""
        from wsctl.passwords import secret

        return secret("WSCTL_REDIS_PASSWORD", self.inventory.coordination_password_file, "coordination_password_file")

    @cached_property
    def backup_environment(self) -> dict[str, str]:
        """What restic on a node needs to know of the repository. Raises `InventoryError` if there is none, or if its
        secrets can't be read."""
        from wsctl.errors import InventoryError

        settings = self.inventory.backup
        if settings.repository is None:
            raise InventoryError(
                f"{self.inventory.path}: there is no backup.repository, so there are no backups",
                hint="docs/guides/backup.md says what it may be",
            )
        from wsctl.passwords import repository_environment

        return repository_environment(settings.repository, settings.password_file, settings.env_file)

    def repository(self, node: str) -> Repository:
        """The repository of backups as the node reaches it. Raises as `backup_environment`, and `NodeError`."""
        return self.fleet.repository(node, self.backup_environment)

    def restored(self, node: str, user: str, snapshot: str) -> str | None:
        """`failwork.Restoring`."""
        from wsctl.backups import fetch

        return fetch(self.repository(node), self.fleet.folders(node), node, user, snapshot, self.wiring.clock.now())

    def clock_of(self, store: SqlStore) -> Clock:
        """The time that is recorded and decided by: the database's, so that a wrong clock here does no harm."""
        if self.inventory.state.url.startswith("sqlite:"):
            return self.wiring.clock
        if self._clock is None:
            from wsctl.sharedclock import SharedClock

            self._clock = SharedClock(store.database_time, self.wiring.clock, self.out.warn)
        return self._clock

    def world(
        self,
        *,
        dry_run: bool = False,
        parallel: int = 8,
        wait_s: float = 10.0,
        told: Told | None = None,
        routed: Callable[[], None] = lambda: None,
    ) -> World:
        """Everything the pipeline acts through. A dry run reads the state database without creating it."""
        from wsctl.workflow import World

        store = self.store_for_reading if dry_run else self.store
        return World(
            cluster=self.inventory.cluster,
            nodes=self.inventory.nodes,
            classes=self.inventory.classes,
            store=store,
            leases=self.leases_for_reading if dry_run else self.leases,
            engines=self.fleet.engine,
            clock=self.clock_of(store),
            actor=self.actor,
            starting=self.starting,
            files=lambda: self.fleet.files,
            standbys=lambda: self.fleet.standbys,
            restoring=self.restored,
            told=told or _untold,
            routed=routed,
            warm=self.fleet.warm,
            parallel=parallel,
            lease_wait_s=wait_s,
            activity=self.activity_for_reading if dry_run else self.activity,
            commands=self.fleet.commands,
            set_aside_s=self.inventory.watch.set_aside_s,
        )

    def _open_leases(self, store: Callable[[], SqlStore]) -> Leases:
        from wsctl.coordination import open_leases
        from wsctl.store import lease_rows

        leases = open_leases(
            self.inventory.coordination, rows=lambda: lease_rows(store()), holder=self.who, **self._shared
        )
        self._stack.callback(leases.close)
        return leases

    @property
    def _shared(self) -> dict[str, Any]:
        """What everything that is kept in Redis is opened with."""
        inventory, base = self.inventory, self.inventory_file.parent
        return {"cluster": inventory.cluster, "password": self.coordination_password, "base": base}

    def _open_activity(self, store: Callable[[], SqlStore]) -> ActivityLog:
        from wsctl.coordination import open_activity

        activity = open_activity(self.inventory.coordination, store=store, **self._shared)
        self._stack.callback(activity.close)
        return activity

    def _open_presence(self, store: Callable[[], SqlStore]) -> Presence:
        from wsctl.coordination import PRESENCE_S, open_presence
        from wsctl.store import presence_rows

        url, shared = self.inventory.coordination, self._shared
        presence = open_presence(url, rows=lambda: presence_rows(store(), PRESENCE_S), **shared)
        self._stack.callback(presence.close)
        return presence

    def _open_store(self, *, create: bool) -> SqlStore:
        from wsctl.store import open_store

        store = open_store(
            self.inventory.state.url,
            cluster=self.inventory.cluster,
            password=self.state_password,
            clock=self.wiring.clock,
            base=self.inventory_file.parent,
            create=create,
        )
        self._stack.callback(store.close)
        return store


def _untold(user: str, number: int, size: int, share: float) -> None:
    """Nobody looks at the progress of a copy."""
