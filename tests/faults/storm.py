"""A storm of `place` calls from one of several processes: `python -m tests.faults.storm URL ROOM USERS CALLS SEED`.

The production workflow on a real database with real leases; only the engines are emulated: they have whatever the
database says is running. Prints how the calls ended, as JSON. The password comes from WSCTL_STATE_PASSWORD.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.builders import CLUSTER, IMAGE, RESOURCES, capacity, node
from wsctl.context import SystemClock
from wsctl.coordination import open_leases
from wsctl.model import Container, EngineFacts, PlacementState, ReadyProbe, Strategy, WorkspaceSpec
from wsctl.planner.place import plan_place
from wsctl.ports import ContainerSpec
from wsctl.records import Actor
from wsctl.store import lease_rows, open_store
from wsctl.store.store import SqlStore
from wsctl.workflow import Operation, Workflow, World

NODES = 3
THREADS = 4
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES, ready=None)


class Emulated:
    """An engine that has what the database says: every effect succeeds at once."""

    def __init__(self, name: str, store: SqlStore) -> None:
        self.name, self.store = name, store
        self.address = f"10.0.0.{name[1:]}"

    def container(self, name: str) -> Container | None:
        placement = self.store.placement(name.removeprefix("ws-u-"))
        if placement is None or placement.node != self.name or placement.state is not PlacementState.RUNNING:
            return None
        return Container(
            id=f"{name}-{placement.container_generation}",
            name=name,
            state="running",
            cluster=CLUSTER,
            user=placement.user,
            generation=placement.container_generation,
            spec=SPEC.digest(),
            address=placement.address,
            host_port=placement.host_port,
            image=IMAGE,
        )

    def containers(self) -> list[Container]:
        return []

    def facts(self) -> EngineFacts:
        return EngineFacts("0", "1.41", 1, 1, 0)

    def has_image(self, image: str) -> bool:
        return True

    def create(self, spec: ContainerSpec) -> str:
        return spec.name

    def start(self, name: str) -> None: ...

    def stop(self, name: str, grace_s: float = 10.0) -> None: ...

    def remove(self, name: str) -> None: ...

    def await_ready(self, name: str, address: str, port: int, probe: ReadyProbe) -> int:
        return 0


def storm(url: str, room: int, users: int, calls: int, seed: int) -> Counter[str]:
    """This process's calls, over users chosen by chance; how each ended."""
    store = open_store(url, cluster=CLUSTER, base=Path(), password=os.environ.get("WSCTL_STATE_PASSWORD"))
    leases = open_leases(None, cluster=CLUSTER, rows=lambda: lease_rows(store), holder=f"storm@here:{os.getpid()}")
    nodes = {
        f"n{n}": node(f"n{n}", address=f"10.0.0.{n}", capacity=capacity(room // NODES, 1 << 50, 10**9))
        for n in range(1, NODES + 1)
    }
    engines = {name: Emulated(name, store) for name in nodes}
    world = World(
        cluster=CLUSTER,
        nodes=nodes,
        classes={"default": SPEC},
        store=store,
        leases=leases,
        engines=lambda name: engines[name],  # type: ignore[arg-type,return-value]
        clock=SystemClock(),
        actor=Actor("storm", process=f"here:{os.getpid()}"),
        lease_wait_s=60.0,
    )

    def place(user: str) -> str:
        operation = Operation(
            "place",
            (user,),
            lambda target, view: plan_place(target, SPEC, view, Strategy.SPREAD),
            lambda target, view: SPEC,
            places=True,
        )
        (outcome,) = Workflow(world).run(operation)
        return outcome.action if outcome.error is None else outcome.error.code

    rng = random.Random(seed)
    # Everybody calls at least once, the rest is chance.
    wanted = [f"user{n}" for n in range(users)] + [f"user{rng.randrange(users)}" for _ in range(max(0, calls - users))]
    rng.shuffle(wanted)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return Counter(pool.map(place, wanted[:calls]))
    finally:
        leases.close()
        store.close()


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    room, users, calls, seed = map(int, numbers)
    print(json.dumps(storm(url, room, users, calls, seed)))
