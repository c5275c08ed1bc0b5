"""Doing: one step, one effect; the generation goes from the claim to every later write; the first failure ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.builders import CLUSTER, IMAGE, RESOURCES, capacity
from tests.fakes import PROBE_BYTES
from tests.worlds import SPEC, Site, invariants, make_site
from wsctl.audit import Auditor
from wsctl.errors import EngineError, LeaseLost, NotReady, PlanChanged, StaleGeneration, Unschedulable
from wsctl.executor import Executor
from wsctl.model import NodeState, Placement, PlacementState, ReadyProbe
from wsctl.plan import (
    AwaitReady,
    Claim,
    CreateContainer,
    MarkNode,
    PullImage,
    PurgeData,
    QuarantineContainer,
    Release,
    RemoveContainer,
    Reserve,
    Settle,
    StartContainer,
    Step,
    StopContainer,
    Work,
)
from wsctl.records import Actor

ME = Actor("me", process="here:1")
PROBE = ReadyProbe("/", 30.0)


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site("n1", "n2")
    yield site
    site.close()


def reserve(user: str = "alice", port: int = 20000, workspaces: int = 100) -> Reserve:
    """The first step of a placement on n1."""
    room = capacity(workspaces=workspaces)
    return Reserve(user, "n1", "", "10.0.0.1", port, RESOURCES, room, "default")


def bring_up(user: str = "alice") -> list[Step]:
    """The steps from a reservation to running."""
    on = (user, "n1", "")
    return [CreateContainer(*on), StartContainer(*on), AwaitReady(*on, PROBE), Settle(*on, PlacementState.RUNNING)]


def do(
    site: Site, *steps: Step, placement: Placement | None = None, check: Callable[[], None] = lambda: None
) -> Placement | None:
    """Carry out the steps."""
    executor = Executor(CLUSTER, site.nodes, site.store, site.fleet, site.clock, Auditor("test", ME), check)
    return executor.run(Work("alice", "done", steps), SPEC, placement)


def placed(site: Site) -> Placement:
    """alice runs on n1."""
    placement = do(site, reserve(), *bring_up())
    assert placement is not None
    return placement


def test_a_new_user_from_reservation_to_running(site: Site) -> None:
    placement = placed(site)
    assert (placement.state, placement.generation, placement.host_port) == (PlacementState.RUNNING, 1, 20000)
    stored = site.store.placement("alice")
    assert stored is not None
    assert replace(stored, updated_at=None) == replace(placement, updated_at=None)
    assert site.fleet["n1"].effects() == [("create", "ws-u-alice"), ("start", "ws-u-alice")]
    invariants(site)


def test_a_start_gives_its_slot_back_when_it_answers(site: Site) -> None:
    """Whatever is left to do for its user then: recording it, the gateway, files."""
    said: list[str] = []

    @contextmanager
    def starting(node: str, token: str, check: Callable[[], None]) -> Iterator[None]:
        said.append(f"in {node}")
        yield
        answered = ("await_ready", "ws-u-alice") in site.fleet["n1"].calls
        placement = site.store.placement("alice")
        assert placement is not None
        said.append(f"out {node}: answered {answered}, {placement.state}")

    executor = Executor(CLUSTER, site.nodes, site.store, site.fleet, site.clock, Auditor("test", ME), starting=starting)
    executor.run(Work("alice", "done", (reserve(), *bring_up())), SPEC, None)
    assert said == ["in n1", "out n1: answered True, reserved"]
    site.fleet["n1"].fail("start", EngineError("n1", "no"))
    with pytest.raises(EngineError):
        executor.run(Work("alice", "done", (StartContainer("alice", "n1", ""),)), SPEC, site.store.placement("alice"))
    assert len(said) == 4, "also when it fails"


def test_the_container_is_made_from_spec_node_and_placement(site: Site) -> None:
    placed(site)
    made = site.fleet["n1"].held("ws-u-alice").spec
    assert (made.name, made.image, made.source, made.mount) == (
        "ws-u-alice", IMAGE, "/srv/workspaces/alice", "/workspace",
    )  # fmt: skip
    assert (made.address, made.host_port, made.container_port) == ("10.0.0.1", 20000, 8080)
    assert made.resources == RESOURCES
    assert made.env == {"WSCTL_USER": "alice"}
    assert made.labels == {
        "io.wsctl.cluster": CLUSTER,
        "io.wsctl.user": "alice",
        "io.wsctl.generation": "1",
        "io.wsctl.spec": SPEC.digest(),
    }


def test_the_users_name_in_the_environment_cannot_be_overridden_by_the_spec(site: Site) -> None:
    spec = replace(SPEC, env={"WSCTL_USER": "root", "LANG": "C"})
    executor = Executor(CLUSTER, site.nodes, site.store, site.fleet, site.clock, Auditor("test", ME), lambda: None)
    executor.run(Work("alice", "created", (reserve(), CreateContainer("alice", "n1", ""))), spec, None)
    assert site.fleet["n1"].held("ws-u-alice").spec.env == {"WSCTL_USER": "alice", "LANG": "C"}


def test_a_start_counts_as_activity_and_takes_the_first_counter(site: Site) -> None:
    placed(site)
    activity = site.store.activity(["alice"])["alice"]
    assert (activity.source, activity.last_active_at) == ("start", site.clock.now())
    sample = site.store.samples()["alice"]
    held = site.fleet["n1"].held("ws-u-alice")
    assert (sample.container_id, sample.tx_bytes) == (held.id, PROBE_BYTES)


def test_the_counter_begins_anew_with_a_start_and_only_with_one(site: Site) -> None:
    placement = placed(site)
    held = site.fleet["n1"].held("ws-u-alice")
    held.tx = 9000
    site.clock.advance(60)
    on = ("alice", "n1", "")
    settled = do(site, AwaitReady(*on, PROBE), Settle(*on, PlacementState.RUNNING), placement=placement)
    assert site.store.samples()["alice"].tx_bytes == PROBE_BYTES, "what was sent while we weren't there may be a user's"
    do(site, StopContainer(*on), StartContainer(*on), Settle(*on, PlacementState.RUNNING), placement=settled)
    assert site.store.samples()["alice"].tx_bytes == 0
    assert site.store.samples()["alice"].container_id == held.id


def test_the_generation_of_the_claim_is_the_one_of_all_later_writes(site: Site) -> None:
    placement = placed(site)
    steps = (
        Claim("alice", "n1", "", generation=1, state=PlacementState.STOPPING),
        StopContainer("alice", "n1", ""),
        Settle("alice", "n1", "", PlacementState.STOPPED),
    )
    stopped = do(site, *steps, placement=placement)
    assert stopped is not None
    assert (stopped.state, stopped.generation, stopped.container_generation) == (PlacementState.STOPPED, 2, 1)
    with pytest.raises(StaleGeneration) as caught:
        do(site, *steps, placement=placement)
    assert caught.value.details == {"user": "alice", "generation": 1}
    invariants(site)


def test_a_new_container_bears_the_generation_of_its_claim(site: Site) -> None:
    placement = placed(site)
    held = site.fleet["n1"].held("ws-u-alice")
    done = do(
        site,
        Claim("alice", "n1", "", generation=1, state=PlacementState.STARTING, new_container=True, port=20007),
        RemoveContainer("alice", "n1", "", held.id),
        *bring_up(),
        placement=placement,
    )
    assert done is not None
    assert (done.generation, done.container_generation, done.host_port) == (2, 2, 20007)
    assert site.fleet["n1"].held("ws-u-alice").spec.labels["io.wsctl.generation"] == "2"
    invariants(site)


def test_a_container_that_is_put_aside_stays_stopped_under_another_name(site: Site) -> None:
    placement = placed(site)
    engine = site.fleet["n1"]
    held = engine.held("ws-u-alice")
    for _ in range(2):
        do(site, QuarantineContainer("alice", "n1", "", held.id, "ws-u-alice"), placement=placement)
        assert (held.spec.name, held.state) == (f"ws-q-alice-{held.id[:8]}", "exited")
    assert "remove" not in {call for call, _ in engine.calls}
    with pytest.raises(EngineError, match="No such container"):
        do(site, QuarantineContainer("alice", "n1", "", "f" * 64, "ws-u-alice"), placement=placement)


def test_only_the_very_container_that_was_observed_is_removed(site: Site) -> None:
    placement = placed(site)
    do(site, RemoveContainer("alice", "n1", "", "f" * 64), placement=placement)
    assert site.fleet["n1"].held("ws-u-alice")
    do(site, RemoveContainer("alice", "n1", ""), placement=placement)
    assert not site.of("alice")


@pytest.mark.parametrize(
    "step",
    [
        StartContainer("alice", "n1", ""),
        StopContainer("alice", "n1", ""),
        QuarantineContainer("alice", "n1", "", "c0ffee00", "ws-u-alice"),
        RemoveContainer("alice", "n1", ""),
        PurgeData("alice", "n1", "", "/srv/workspaces", IMAGE),
    ],
)
def test_a_holder_that_slept_through_its_lease_touches_nothing(site: Site, step: Step) -> None:
    slept = placed(site)
    site.store.claim("alice", 1, PlacementState.STOPPING)
    site.fleet["n1"].calls.clear()
    with pytest.raises(StaleGeneration):
        do(site, step, placement=slept)
    with pytest.raises(StaleGeneration):
        do(site, step, placement=None)
    assert not site.fleet["n1"].effects()


def test_a_reservation_that_lost_says_to_whom(site: Site) -> None:
    do(site, reserve("bob"))
    with pytest.raises(PlanChanged, match="took the port first"):
        do(site, reserve("alice"))
    with pytest.raises(PlanChanged, match="placed the user first"):
        do(site, reserve("bob", 20001))
    with pytest.raises(PlanChanged, match="took the last room"):
        do(site, reserve("carol", 20001, workspaces=1))


def test_a_reservation_decided_before_the_users_files_came_to_be_is_refused(site: Site) -> None:
    """Somebody slept over a whole life of the user on another node: what they decided would leave the files behind."""
    decided = reserve()
    site.run("place", "alice")
    site.run("rm", "alice")
    (home,) = site.store.homes().values()
    with pytest.raises(PlanChanged, match="placed and removed the user since"):
        do(site, decided)
    assert site.store.placements() == []
    assert do(site, replace(decided, home=home)) is not None


def test_a_claim_without_room_and_one_for_a_port_that_is_given_away(site: Site) -> None:
    placement = placed(site)
    do(site, reserve("bob", 20001))
    with pytest.raises(PlanChanged, match="port 20001 of n1 was given to somebody else"):
        do(site, Claim("alice", "n1", "", generation=1, state=PlacementState.STARTING, port=20001), placement=placement)
    do(
        site,
        Claim("alice", "n1", "", generation=1, state=PlacementState.STOPPING),
        Settle("alice", "n1", "", PlacementState.STOPPED),
        placement=placement,
    )
    full = capacity(memory_bytes=RESOURCES.memory_bytes)
    with pytest.raises(Unschedulable, match="no room to start alice any more"):
        do(site, Claim("alice", "n1", "", generation=2, state=PlacementState.STARTING, capacity=full))
    site.run("stop", "alice")
    invariants(site, settled=False)


def test_a_settle_of_a_placement_that_moved_is_refused(site: Site) -> None:
    placement = placed(site)
    site.store.claim("alice", 1, PlacementState.STOPPING)
    with pytest.raises(StaleGeneration, match="moved past generation 1 while this command worked on it"):
        do(site, Settle("alice", "n1", "", PlacementState.STOPPED), placement=placement)
    with pytest.raises(StaleGeneration):
        do(site, Release("alice", "n1", ""), placement=placement)
    assert site.store.placement("alice") is not None


def test_a_failed_probe_is_recorded_and_raised(site: Site) -> None:
    site.fleet["n1"].fail("await_ready", NotReady("n1", "not within 30 s"))
    with pytest.raises(NotReady):
        do(site, reserve(), *bring_up())
    placement = site.store.placement("alice")
    assert placement is not None
    assert placement.state is PlacementState.FAILED
    assert site.fleet["n1"].held("ws-u-alice").state == "running"
    assert not site.store.activity()


def test_the_first_failure_ends_it_and_what_was_done_stays_done(site: Site) -> None:
    site.fleet["n1"].fail("create", EngineError("n1", "disk full"))
    with pytest.raises(EngineError):
        do(site, reserve(), *bring_up())
    placement = site.store.placement("alice")
    assert placement is not None
    assert placement.state is PlacementState.RESERVED
    assert site.fleet["n1"].effects() == [("create", "ws-u-alice")]


def test_the_lease_is_proved_before_every_effect(site: Site) -> None:
    left = iter([None, None])

    def check() -> None:
        if next(left, "gone") == "gone":
            raise LeaseLost("lost the lease on user:alice")

    with pytest.raises(LeaseLost):
        do(site, reserve(), *bring_up(), check=check)
    assert site.fleet["n1"].effects() == [("create", "ws-u-alice")]


def test_a_lost_lease_stops_even_the_first_effect(site: Site) -> None:
    def check() -> None:
        raise LeaseLost("lost the lease on user:alice")

    with pytest.raises(LeaseLost):
        do(site, reserve(), check=check)
    assert not site.store.placements()


def test_an_image_is_pulled_and_files_are_purged_on_their_node_only(site: Site) -> None:
    placement = placed(site)
    engine = site.fleet["n1"]
    engine.registry.add("new:1")
    do(site, PullImage("alice", "n1", "", "new:1"))
    assert "new:1" in engine.images
    do(
        site,
        RemoveContainer("alice", "n1", ""),
        PurgeData("alice", "n1", "", "/srv/workspaces", IMAGE),
        Release("alice", "n1", "", keep_home=False),
        placement=placement,
    )
    assert "alice" not in engine.data
    assert not site.store.homes()
    assert not site.fleet["n2"].calls
    invariants(site, purged=["alice"])


@pytest.mark.parametrize(("keep", "home"), [(True, {"alice": "n1"}), (None, {}), (False, {})])
def test_a_release_remembers_or_forgets_the_home(site: Site, keep: bool | None, home: dict[str, str]) -> None:
    placement = placed(site)
    left = do(site, RemoveContainer("alice", "n1", ""), Release("alice", "n1", "", keep), placement=placement)
    assert left is None
    assert site.store.homes() == home
    invariants(site)


def test_a_release_of_nobody_is_done_already(site: Site) -> None:
    assert do(site, Release("alice", "n1", "", keep_home=False)) is None


def test_a_mark_names_who_made_it(site: Site) -> None:
    do(site, MarkNode("", "n2", "", NodeState.CORDONED, "disk swap"))
    mark = site.store.marks()["n2"]
    assert (mark.state, mark.reason, mark.changed_by) == (NodeState.CORDONED, "disk swap", "me@here:1")


def test_a_grace_period_reaches_the_engine(site: Site) -> None:
    placement = placed(site)
    seen: list[float] = []
    stop = site.fleet["n1"].stop

    def listen(name: str, grace_s: float = 10.0) -> None:
        seen.append(grace_s)
        stop(name, grace_s)

    site.fleet["n1"].stop = listen  # type: ignore[method-assign]
    do(site, StopContainer("alice", "n1", "", grace_s=2.5), placement=placement)
    assert seen == [2.5]


@pytest.mark.parametrize(
    "step", [CreateContainer("alice", "n1", ""), Settle("alice", "n1", "", PlacementState.RUNNING)]
)
def test_steps_in_the_wrong_order_are_a_bug(site: Site, step: Step) -> None:
    with pytest.raises(AssertionError):
        do(site, step)


def test_creating_without_a_spec_is_a_bug(site: Site) -> None:
    executor = Executor(CLUSTER, site.nodes, site.store, site.fleet, site.clock, Auditor("test", ME), lambda: None)
    with pytest.raises(AssertionError):
        executor.run(Work("alice", "x", (reserve(), CreateContainer("alice", "n1", ""))), None, None)


def test_a_claim_decided_before_somebody_settled_is_refused(site: Site) -> None:
    """Found by the simulator: it made a running workspace a reservation again, which a refusing node then undid."""
    seen = do(site, reserve())
    do(site, *bring_up(), placement=seen)
    claim = Claim("alice", "n1", "", 1, PlacementState.RESERVED)
    with pytest.raises(StaleGeneration):
        do(site, claim, placement=seen)
    now = site.store.placement("alice")
    assert now is not None
    assert now.state is PlacementState.RUNNING
