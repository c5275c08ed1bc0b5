"""What every `ports.Engine` does: the same cases on the fake, on a node through SSH, and on a local socket."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeEngine
from tests.integration.conftest import lab as lab
from wsctl.errors import EngineError, ImageMissing, NameTaken, NotReady, PortTaken
from wsctl.model import (
    LABEL_CLUSTER,
    LABEL_GENERATION,
    LABEL_SPEC,
    LABEL_USER,
    Capacity,
    Node,
    PortRange,
    ReadyProbe,
    Resources,
    SshSettings,
)
from wsctl.planner.idle import NOISE_BYTES
from wsctl.ports import ContainerSpec, Engine

IMAGE = "wsctl-lab/workspace:1"
PORT = 28100
HTTP = ReadyProbe(http_path="/", timeout_s=10.0)


class World:
    """An engine with the names of one test, and how to put something in its way."""

    def __init__(self, engine: Engine, occupy: Callable[[int], Callable[[], None]], kind: str) -> None:
        self.engine = engine
        self.occupy = occupy
        self.kind = kind
        self.tag = uuid.uuid4().hex[:8]

    @property
    def user(self) -> str:
        return f"t{self.tag}"

    def spec(self, **changes: Any) -> ContainerSpec:
        spec = ContainerSpec(
            name=f"ws-u-{self.user}",
            image=IMAGE,
            command=None,
            env={"GREETING": "a b"},
            labels={
                LABEL_CLUSTER: "contract",
                LABEL_USER: self.user,
                LABEL_GENERATION: "3",
                LABEL_SPEC: "0123456789ab",
            },
            source=f"/srv/workspaces/{self.user}",
            mount="/workspace",
            container_port=8080,
            address=self.engine.address,
            host_port=PORT + int(self.tag, 16) % 800,
            resources=Resources(memory_bytes=64 * 2**20, cpus_milli=500, pids=64),
        )
        return replace(spec, **changes)


def _fake() -> Iterator[World]:
    engine = FakeEngine(images={IMAGE})

    def occupy(port: int) -> Callable[[], None]:
        engine.busy_ports.add(port)
        return lambda: engine.busy_ports.discard(port)

    yield World(engine, occupy, "fake")


def _real(lab: Any, kind: str) -> Iterator[World]:
    from wsctl.transport import Connections

    machine = lab.nodes["n1"]
    node = Node(
        name="n1",
        address=machine.address if kind == "ssh" else "local",
        ports=PortRange(PORT, PORT + 999),
        capacity=Capacity(100, 2**33, 32000),
        bind_address=None if kind == "ssh" else machine.address,
        docker_socket="/var/run/docker.sock" if kind == "ssh" else str(machine.docker_socket_path),
        ssh=lab_ssh(lab),
    )

    def occupy(port: int) -> Callable[[], None]:
        made = connections.engine("n1")
        name = f"occupy-{port}"
        other = World(made, occupy, kind)
        made.create(other.spec(name=name, host_port=port, labels={}))
        made.start(name)
        return lambda: made.remove(name)

    connections = Connections({"n1": node}, cluster="contract")
    try:
        yield World(connections.engine("n1"), occupy, kind)
    finally:
        connections.close()


def lab_ssh(lab: Any) -> SshSettings:
    return SshSettings(user="root", identity_file=str(lab.ssh_key), known_hosts=str(lab.known_hosts), config=False)


@pytest.fixture(
    params=["fake", pytest.param("ssh", marks=pytest.mark.lab), pytest.param("local", marks=pytest.mark.lab)]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield from _cleaned(_fake())
        return
    if os.environ.get("WSCTL_SKIP_LAB") == "1":
        pytest.skip("WSCTL_SKIP_LAB is set")
    yield from _cleaned(_real(request.getfixturevalue("lab"), request.param))


def _cleaned(worlds: Iterator[World]) -> Iterator[World]:
    for world in worlds:
        try:
            yield world
        finally:
            world.engine.remove(f"ws-u-{world.user}")


def test_facts_are_plausible(world: World) -> None:
    facts = world.engine.facts()
    assert facts.version
    assert facts.ncpu >= 1
    assert facts.memory_bytes > 2**28
    assert tuple(map(int, facts.api_version.split("."))) >= (1, 41)


def test_address_is_an_ip_literal(world: World) -> None:
    import ipaddress

    ipaddress.ip_address(world.engine.address)


def test_created_container_is_listed_with_its_labels(world: World) -> None:
    spec = world.spec()
    made = world.engine.create(spec)
    listed = next(one for one in world.engine.containers() if one.name == spec.name)
    assert listed.id == made
    assert (listed.cluster, listed.user, listed.generation) == ("contract", world.user, 3)
    assert (listed.spec, listed.state, listed.is_running) == ("0123456789ab", "created", False)
    assert listed.image == IMAGE


def test_running_container_is_listed_with_its_port(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    listed = next(one for one in world.engine.containers() if one.name == spec.name)
    assert (listed.state, listed.address, listed.host_port) == ("running", spec.address, spec.host_port)


def test_one_container_by_name_or_id(world: World) -> None:
    spec = world.spec()
    made = world.engine.create(spec)
    by_name, by_id = world.engine.container(spec.name), world.engine.container(made)
    assert by_name == by_id
    assert by_name is not None
    assert by_name.name == spec.name


def test_absent_container_is_none(world: World) -> None:
    assert world.engine.container("ws-u-nobody-at-all") is None


def test_second_container_of_a_name_is_refused(world: World) -> None:
    world.engine.create(world.spec())
    with pytest.raises(NameTaken):
        world.engine.create(world.spec())


def test_missing_image_is_refused_and_leaves_nothing(world: World) -> None:
    with pytest.raises(ImageMissing):
        world.engine.create(world.spec(image="wsctl-lab/no-such:1"))
    assert world.engine.container(f"ws-u-{world.user}") is None


def test_has_image(world: World) -> None:
    assert world.engine.has_image(IMAGE)
    assert not world.engine.has_image("wsctl-lab/no-such:1")


def test_pull_of_an_unknown_image(world: World) -> None:
    with pytest.raises(ImageMissing):
        world.engine.pull("127.0.0.1:1/no-such:1")


def test_start_twice_is_fine(world: World) -> None:
    world.engine.create(world.spec())
    world.engine.start(f"ws-u-{world.user}")
    world.engine.start(f"ws-u-{world.user}")


def test_start_of_an_absent_container(world: World) -> None:
    with pytest.raises(EngineError):
        world.engine.start("ws-u-nobody-at-all")


def test_port_taken_leaves_the_container_created(world: World) -> None:
    spec = world.spec()
    give_back = world.occupy(spec.host_port)
    try:
        world.engine.create(spec)
        with pytest.raises(PortTaken):
            world.engine.start(spec.name)
        found = world.engine.container(spec.name)
        assert found is not None
        assert found.state == "created"
    finally:
        give_back()
    world.engine.start(spec.name)


def test_stop_then_stop_again(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    world.engine.stop(spec.name, grace_s=0)
    found = world.engine.container(spec.name)
    assert found is not None
    assert found.state == "exited"
    world.engine.stop(spec.name, grace_s=0)
    listed = next(one for one in world.engine.containers() if one.name == spec.name)
    assert listed.host_port is None


def test_pause_and_unpause_freeze_and_free(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    with pytest.raises(EngineError):
        world.engine.pause(spec.name)
    world.engine.start(spec.name)
    for _ in range(2):  # a second time is no error: the request may have been sent twice
        world.engine.pause(spec.name)
        found = world.engine.container(spec.name)
        assert found is not None
        assert (found.state, found.is_running) == ("paused", True)
    listed = next(one for one in world.engine.containers() if one.name == spec.name)
    assert (listed.state, listed.host_port) == ("paused", spec.host_port)
    for _ in range(2):
        world.engine.unpause(spec.name)
        found = world.engine.container(spec.name)
        assert found is not None
        assert found.state == "running"
    world.engine.pause(spec.name)
    world.engine.stop(spec.name, grace_s=0)
    world.engine.unpause(spec.name)
    found = world.engine.container(spec.name)
    assert found is not None
    assert found.state == "exited"
    world.engine.unpause("ws-u-nobody-at-all")


def test_stop_and_remove_of_an_absent_container_are_fine(world: World) -> None:
    world.engine.stop("ws-u-nobody-at-all")
    world.engine.remove("ws-u-nobody-at-all")


def test_rename_keeps_the_container(world: World) -> None:
    spec, aside = world.spec(), f"ws-q-{world.user}"
    made = world.engine.create(spec)
    world.engine.start(made)
    try:
        for _ in range(2):  # a second time is no error: the request may have been sent twice
            world.engine.rename(made, aside)
            assert world.engine.container(spec.name) is None
            found = world.engine.container(aside)
            assert found is not None
            assert (found.id, found.user, found.is_running) == (made, world.user, True)
        world.engine.create(spec)
        with pytest.raises(NameTaken):
            world.engine.rename(made, spec.name)
        with pytest.raises(EngineError) as absent:
            world.engine.rename("ws-u-nobody-at-all", "ws-q-nobody-at-all")
        assert absent.value.details["status"] == 404
    finally:
        world.engine.remove(made)


def test_the_folder_behind_a_mount_is_told(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    listed = next(one for one in world.engine.containers() if one.name == spec.name)
    inspected = world.engine.container(spec.name)
    assert inspected is not None
    assert listed.binds == inspected.binds == {spec.mount: spec.source}


def test_remove_of_a_running_container(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    world.engine.remove(spec.name)
    assert world.engine.container(spec.name) is None


def test_ready(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    world.engine.await_ready(spec.name, spec.address, spec.host_port, HTTP)
    world.engine.await_ready(spec.name, spec.address, spec.host_port, ReadyProbe(None, 10.0))


def test_what_the_probe_cost_is_known_well_enough_for_the_reaper(world: World) -> None:
    """Otherwise a workspace that nobody used would be kept once more after each start; never less than was sent."""
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    counted = world.engine.await_ready(spec.name, spec.address, spec.host_port, HTTP)
    time.sleep(0 if isinstance(world.engine, FakeEngine) else 1.5)
    signs = world.engine.signs(spec.name)
    assert signs is not None
    assert signs.tx_bytes is not None
    print(counted, signs)
    assert 0 <= signs.tx_bytes - counted < NOISE_BYTES


def test_never_ready(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    with pytest.raises(NotReady, match="within"):
        world.engine.await_ready(spec.name, spec.address, spec.host_port + 1, ReadyProbe("/", 0.6))


def test_not_ready_because_it_ended(world: World) -> None:
    spec = world.spec(command=("sh", "-c", "echo oh no; exit 3"))
    world.engine.create(spec)
    world.engine.start(spec.name)
    if isinstance(world.engine, FakeEngine):
        world.engine.held(spec.name).output = "oh no\n"
        world.engine.exit(spec.name)
    with pytest.raises(NotReady, match="ended") as caught:
        world.engine.await_ready(spec.name, spec.address, spec.host_port, ReadyProbe("/", 20.0))
    assert "oh no" in str(caught.value.details["tail"])


def test_signs_of_running_and_other_containers(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    assert world.engine.signs(spec.name) is None
    world.engine.start(spec.name)
    signs = world.engine.signs(spec.name)
    assert signs is not None
    assert signs.tx_bytes is not None
    assert signs.tx_bytes >= 0
    assert signs.cpu_ns is not None
    assert signs.execs == 0
    assert world.engine.signs("ws-u-nobody-at-all") is None


def test_tail_of_an_absent_container_is_empty(world: World) -> None:
    assert world.engine.tail("ws-u-nobody-at-all") == ""


def test_purge_removes_only_the_users_data(world: World) -> None:
    spec = world.spec()
    world.engine.create(spec)
    world.engine.start(spec.name)
    world.engine.remove(spec.name)
    world.engine.purge_data("/srv/workspaces", world.user, IMAGE)
    world.engine.purge_data("/srv/workspaces", world.user, IMAGE)
    assert world.engine.container(f"ws-purge-{world.user}") is None


@pytest.mark.parametrize("user", ["", "..", "a/b", "-rf", "A", "a\n", "a" * 64, "$(x)"])
def test_purge_of_what_is_no_user(world: World, user: str) -> None:
    with pytest.raises(ValueError, match="user id"):
        world.engine.purge_data("/srv/workspaces", user, IMAGE)


def test_labels_that_are_nonsense_are_none(world: World) -> None:
    labels = {LABEL_CLUSTER: "contract", LABEL_USER: "../etc", LABEL_GENERATION: "٣"}
    world.engine.create(world.spec(labels=labels))
    found = world.engine.container(f"ws-u-{world.user}")
    assert found is not None
    assert (found.user, found.generation, found.spec) == (None, None, None)


def test_many_threads(world: World) -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            seen.append(world.engine.facts().ncpu)
        except Exception as error:
            seen.append(error)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert all(isinstance(one, int) for one in seen), seen
