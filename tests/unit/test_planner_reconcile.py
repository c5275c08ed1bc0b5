"""What differs, what is done about it, and that a second run finds nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import (
    CAPACITY,
    CLUSTER,
    RESOURCES,
    capacity,
    cluster,
    container,
    placement,
    view,
)
from tests.worlds import SPEC, Site, invariants, make_site
from wsctl.errors import EngineError, NodeUnreachable, NotReady
from wsctl.model import (
    LABEL_GENERATION,
    ClusterView,
    DamagedPlacement,
    NodeState,
    PlacementState,
    PullPolicy,
    Usage,
    WorkspaceSpec,
)
from wsctl.planner.claims import user_in
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.drift import differences, wrong_counts
from wsctl.planner.reconcile import Rules, plan_repair
from wsctl.reconciler import Repair

ADOPT = "ws-u-{user}"
ALONE = Rules()
FOLDER = "/srv/workspaces/alice"


def found(state: ClusterView, rules: Rules = ALONE, **more: Any) -> list[Difference]:
    return [d for d in differences(state, lambda user, view: SPEC, rules, **more) if d.kind is not Kind.WRONG_COUNT]


def kinds(state: ClusterView, rules: Rules = ALONE) -> list[tuple[str, bool]]:
    return [(d.kind.value, d.safe) for d in found(state, rules)]


def plan(state: ClusterView, rules: Rules = ALONE, *, user: str = "alice", spec: WorkspaceSpec = SPEC) -> list[str]:
    """The steps as text; an error is one line that begins with `!`."""
    decision = plan_repair(user, spec, state, rules)
    if decision.error is not None:
        assert decision.work is None
        return [f"! {decision.error.message}"]
    assert decision.work is not None
    assert decision.work.action == ("repaired" if decision.work.steps else "unchanged")
    return [step.line() for step in decision.work.steps]


def verbs(state: ClusterView, rules: Rules = ALONE, **more: Any) -> list[str]:
    return [line.split()[1] for line in plan(state, rules, **more)]


def mine(**changes: Any) -> Any:
    """alice's own container, running where it is recorded."""
    return replace(container("alice"), **{"host_port": 20000, "address": "10.0.0.11", **changes})


def placed(*containers: Any, of: Any = None, other: Any = (), **changes: Any) -> ClusterView:
    """alice on n1 with these containers; n2 with `other`."""
    home = view("n1", containers=containers, ports_used={20000}, address=None) if of is None else of
    return cluster(home, view("n2", containers=other), placements=[placement(**changes)])


BRING_UP = ["claim", "create", "start", "await", "record"]
ASIDE = "- keep     ws-u-alice on n1, stopped, as ws-q-alice-id-alice"


def test_nothing_is_wrong_with_what_is_as_recorded() -> None:
    for state in (
        placed(mine()),
        placed(mine(state="exited", host_port=None), state=PlacementState.STOPPED),
        placed(state=PlacementState.STOPPED),
        placed(mine(), container("x", cluster="other", name="nginx"), container("y", cluster=None, name="db")),
    ):
        assert kinds(state) == []
        assert plan(state) == []


def test_a_missing_container_is_made_anew() -> None:
    state = placed()
    assert kinds(state) == [("missing", True)]
    assert verbs(state) == BRING_UP


def test_one_that_ended_is_started() -> None:
    state = placed(mine(state="exited", host_port=None))
    assert kinds(state) == [("not-running", True)]
    assert verbs(state) == ["claim", "start", "await", "record"]


def test_one_that_was_left_paused_goes_on() -> None:
    state = placed(mine(state="paused"))
    assert kinds(state) == [("paused", True)]
    assert verbs(state) == ["unpause"]
    state = placed(mine(state="paused"), state=PlacementState.STOPPED)
    assert kinds(state) == [("should-be-stopped", True)]


def test_one_that_runs_though_it_is_stopped_is_stopped() -> None:
    state = placed(mine(), state=PlacementState.STOPPED)
    assert kinds(state) == [("should-be-stopped", True)]
    assert verbs(state) == ["claim", "stop", "record"]


@pytest.mark.parametrize("state", ["reserved", "starting", "failed", "migrating"])
def test_half_done_beginnings_are_finished(state: str) -> None:
    for containers, steps in (((), BRING_UP), ((mine(),), ["claim", "await", "record"])):
        seen = placed(*containers, state=PlacementState(state))
        assert kinds(seen) == [("half-done", True)]
        assert verbs(seen) == steps


@pytest.mark.parametrize("containers", [(), (mine(),), (mine(host_port=20001),)], ids=["absent", "runs", "elsewhere"])
def test_half_done_stops_are_finished(containers: tuple[Any, ...]) -> None:
    seen = placed(*containers, state=PlacementState.STOPPING)
    assert kinds(seen) == [("half-done", True)]
    assert verbs(seen) == (["claim", "stop", "record"] if containers else ["claim", "record"])


def test_a_half_done_stop_with_a_stale_copy() -> None:
    seen = placed(mine(generation=7), state=PlacementState.STOPPING)
    assert kinds(seen) == [("stale-generation", True), ("half-done", True)]
    assert verbs(seen) == ["keep", "claim", "record"]


@pytest.mark.parametrize("port", [20005, None])
@pytest.mark.parametrize("state", ["running", "starting"])
def test_a_container_on_another_port_is_made_anew_on_its_own(port: int | None, state: str) -> None:
    seen = placed(mine(host_port=port), state=PlacementState(state))
    assert kinds(seen) == [("wrong-port", True)]
    assert plan(seen)[0] == f"{ASIDE}   (wrong-port)"
    assert "port" not in plan(seen)[1]
    assert verbs(seen) == ["keep", *BRING_UP]


def test_a_taken_port_moves_the_user_and_keeps_what_ran() -> None:
    foreign = container("x", cluster=None, name="nginx", host_port=20000)
    home = replace(view("n1", ports_used={20000}), ports_foreign=frozenset({20000}), last_port=20000)
    for mine_now in (mine(host_port=20005), mine(state="exited", host_port=None)):
        seen = placed(of=replace(home, containers=(mine_now, foreign)))
        assert plan(seen)[0].startswith(ASIDE)
        assert "port 20001" in plan(seen)[1]
    never_ran = placed(of=replace(home, containers=(mine(state="created", host_port=None), foreign)))
    assert verbs(never_ran) == ["claim", "remove", "create", "start", "await", "record"]


def test_no_port_is_left() -> None:
    home = replace(view("n1", ports=(20000, 20000), ports_used={20000}), ports_foreign=frozenset({20000}))
    seen = placed(of=replace(home, containers=(mine(state="exited", host_port=None),)))
    assert kinds(seen) == [("not-running", False)]
    assert "widen `ports`" in found(seen)[0].fix
    assert plan(seen)[0].startswith("! port 20000 of alice is taken")


def test_a_missing_image_that_may_not_be_fetched_is_left_to_an_operator() -> None:
    spec = replace(SPEC, pull=PullPolicy.NEVER)
    seen = placed(of=view("n1", image_present={SPEC.image: False}))
    assert plan(seen, spec=spec)[0].startswith("! n1: image")
    (difference,) = differences(seen, lambda u, v: spec, Rules(), users=["alice"])
    assert (difference.kind, difference.safe) == (Kind.MISSING, False)


@pytest.mark.parametrize("changes", [{"generation": 9}, {"generation": None}, {"user": "bob"}, {"user": None}])
def test_a_copy_of_another_generation_or_with_forged_labels_is_put_aside(changes: dict[str, Any]) -> None:
    running = placed(mine(**changes))
    assert kinds(running) == [("stale-generation", True)]
    assert verbs(running) == ["keep", *BRING_UP]
    stopped = placed(mine(**changes), state=PlacementState.STOPPED)
    assert kinds(stopped) == [("stale-generation", True)]
    assert verbs(stopped) == ["keep"]


def test_a_forged_copy_on_the_recorded_port_gives_it_back() -> None:
    home = replace(
        view("n1", containers=[mine(user="bob")], ports_used={20000}), ports_foreign=frozenset({20000}), last_port=20000
    )
    assert "port" not in plan(placed(of=home))[1]
    shared = replace(home, containers=(*home.containers, container("x", cluster=None, name="db", host_port=20000)))
    assert "port 20001" in plan(placed(of=shared))[1]


def test_copies_elsewhere_and_under_other_names_are_put_aside() -> None:
    seen = placed(mine(), mine(id="second", name="alice-2", host_port=20007), other=[mine(id="elsewhere")])
    assert kinds(seen) == [("duplicate", True), ("wrong-node", True)]
    assert plan(seen) == [
        "- keep     alice-2 on n1, stopped, as ws-q-alice-second   (duplicate)",
        "- keep     ws-u-alice on n2, stopped, as ws-q-alice-elsewher   (wrong-node)",
    ]


def test_a_copy_that_is_newer_than_the_database_is_left_alone_unless_named() -> None:
    seen = placed(other=[mine(id="elsewhere", generation=7)], generation=3)
    assert kinds(seen) == [("wrong-node", False)]
    assert "restored from an older backup" in found(seen)[0].detail
    assert plan(seen) == []
    named = Rules(named=True)
    assert kinds(seen, named) == [("wrong-node", True), ("missing", True)]
    assert verbs(seen, named) == ["keep", *BRING_UP]
    assert kinds(placed(mine(), other=[mine(id="elsewhere", generation=3)], generation=3)) == [("wrong-node", True)]


def test_what_was_put_aside_is_no_difference_until_it_runs_again() -> None:
    aside = mine(id="old", name="ws-q-alice-01234567", state="exited", host_port=None)
    assert kinds(placed(mine(), aside)) == []
    again = placed(mine(), replace(aside, state="running"))
    assert kinds(again) == [("should-be-stopped", True)]
    assert verbs(again) == ["keep"]
    unplaced = cluster(view("n1", containers=[replace(aside, state="running")]))
    assert kinds(unplaced) == [("should-be-stopped", True)]
    not_ours = cluster(view("n1", containers=[replace(aside, cluster="other", state="running")]))
    assert kinds(not_ours) == []


def test_a_foreign_container_with_the_users_name_is_left_alone() -> None:
    for foreign in (mine(cluster=None, user=None), mine(cluster="other")):
        seen = placed(foreign)
        assert kinds(seen) == [("foreign-name", False)]
        assert plan(seen)[0].startswith("! n1: a container named ws-u-alice exists")
        assert kinds(placed(mine(), other=[foreign])) == []


def test_an_unreachable_node_is_said_once_and_nobody_on_it_is_judged() -> None:
    away = view("n1", reachable=False, error="no route")
    seen = placed(of=away, other=[mine(id="elsewhere")])
    assert [(d.kind.value, d.node, d.safe) for d in found(seen)] == [
        ("wrong-node", "n2", True),
        ("unreachable", "n1", False),
    ]
    assert "no route" in found(seen)[1].detail
    assert verbs(seen) == ["keep"]
    assert "was not asked" in found(cluster(view("n1", reachable=None)))[0].detail


@pytest.mark.parametrize("reason", ["", "disk"])
def test_a_node_that_is_marked_down_is_left_out(reason: str) -> None:
    seen = placed(of=view("n1", state=NodeState.DOWN, reason=reason, reachable=None))
    assert kinds(seen) == [("unreachable", False)]
    assert found(seen)[0].detail == ("skipped, marked down: disk" if reason else "skipped, marked down")
    assert plan(seen) == []


def test_users_of_a_node_that_is_not_in_the_inventory_are_left_alone() -> None:
    gone = cluster(view("n2"), placements=[placement()])
    assert kinds(gone) == [("unknown-node", False)]
    assert "add n1 to the inventory" in found(gone)[0].fix
    renamed = cluster(view("m1", containers=[mine()]), placements=[placement()])
    assert kinds(renamed) == [("unknown-node", False)]
    assert "on m1: if that is n1 by a new name, name it n1 again" in found(renamed)[0].fix
    assert plan(renamed) == []


def test_a_damaged_row_is_named_and_its_user_left_alone() -> None:
    row = DamagedPlacement("alice", "not a port", "n1", None)
    seen = replace(cluster(view("n1", containers=[mine()])), damaged={"alice": row})
    assert kinds(seen) == [("damaged-row", False)]
    assert plan(seen) == []
    assert [d.kind for d in found(seen, users=["bob"])] == []
    assert [d.kind for d in found(seen, users=["alice"])] == [Kind.DAMAGED_ROW]


def test_an_orphan_is_put_aside() -> None:
    bob = placement("bob", "n2")
    seen = cluster(view("n1", containers=[mine()]), view("n2", containers=[container("bob", host_port=20000)]),
                   placements=[bob])  # fmt: skip
    assert kinds(seen) == [("orphan", True)]
    assert plan(seen) == [f"{ASIDE}   (orphan)"]
    foreign = cluster(view("n1", containers=[mine(cluster=None), mine(id="2", cluster="other")]))
    assert kinds(foreign) == []
    assert plan(foreign) == []


def test_if_the_state_knows_nobody_what_runs_is_left_alone_unless_named() -> None:
    seen = cluster(view("n1", containers=[mine()]))
    assert kinds(seen) == [("orphan", False)]
    assert "is it the right one?" in found(seen)[0].detail
    assert plan(seen) == []
    assert kinds(seen, Rules(named=True)) == [("orphan", True)]
    assert kinds(cluster(view("n1", containers=[mine(state="exited")]))) == [("orphan", True)]


def test_a_container_with_our_label_for_nobody_is_named() -> None:
    seen = cluster(view("n1", containers=[mine(user=None, name="evil"), mine(user=None, name="ws-purge-alice")]))
    assert [(d.kind, d.user, d.safe) for d in found(seen)] == [(Kind.ORPHAN, None, False)]


def test_counters_are_compared() -> None:
    right = Usage(1, 1, RESOURCES.memory_bytes, RESOURCES.cpus_milli)
    seen = cluster(view("n1", usage=right), view("n2", usage=Usage(3)), placements=[placement()])
    assert [(d.kind, d.node) for d in wrong_counts(seen)] == [(Kind.WRONG_COUNT, "n2")]
    stopped = cluster(view("n1", usage=Usage(1)), placements=[placement(state=PlacementState.STOPPED)])
    assert wrong_counts(stopped) == []
    elsewhere = cluster(view("n1"), placements=[placement(node="gone")])
    assert wrong_counts(elsewhere) == []
    for node, kept in (("n2", []), ("n1", ["n2"]), (None, [])):
        damaged = replace(seen, damaged={"x": DamagedPlacement("x", "damaged", node)})
        assert [d.node for d in wrong_counts(damaged)] == kept


# ---- adopting


def hand_made(**changes: Any) -> Any:
    binds = {"/workspace": FOLDER}
    one = container("alice", cluster=None, host_port=8123, address="10.0.0.11", binds=binds)
    return replace(one, **changes)


def adopting(*containers: Any, adopt: str = ADOPT, home: str | None = None, **of: Any) -> tuple[ClusterView, Rules]:
    node = replace(view("n1", containers=containers, **of), address="10.0.0.11")
    homes = {"alice": home} if home is not None else {}
    return replace(cluster(node, "n2"), homes=homes), Rules(adopt=adopt)


def test_a_hand_made_container_is_adopted_on_its_port() -> None:
    seen, rules = adopting(hand_made())
    assert kinds(seen, rules) == [("unmanaged", True)]
    assert kinds(seen) == []
    assert plan(seen, rules)[0] == "+ reserve  alice on n1 port 8123   (adopted)"
    assert verbs(seen, rules) == ["reserve", "claim", "keep", "create", "start", "await", "record"]


def test_by_a_name_of_their_own() -> None:
    seen, rules = adopting(hand_made(name="jupyter-alice-lab"), adopt="jupyter-{user}-lab")
    assert plan(seen, rules)[2] == "- keep     jupyter-alice-lab on n1, stopped, as ws-q-alice-id-alice   (adopted)"
    assert [user_in(name, "j-{user}-l") for name in ("j-a-l", "j-l", "j--l", "x-a-l", "j-A-l", "j-a.b-l")] == [
        "a", None, None, None, None, None,
    ]  # fmt: skip


def test_an_orphan_is_adopted() -> None:
    seen, rules = adopting(hand_made(cluster=CLUSTER, user="alice", generation=4))
    assert kinds(seen, rules) == [("orphan", True)]
    assert verbs(seen, rules)[0] == "reserve"


def test_what_does_not_run_is_adopted_stopped() -> None:
    seen, rules = adopting(hand_made(state="exited", host_port=None, address=None))
    assert verbs(seen, rules) == ["reserve", "keep", "record"]
    assert plan(seen, rules)[-1].startswith("~ record   alice on n1 as stopped")


@pytest.mark.parametrize(
    ("others", "changes"),
    [
        ([], {"address": "0.0.0.0"}),
        ([container("x", cluster=None, name="db", host_port=8123)], {}),
        ([], {"host_port": None}),
    ],
    ids=["another address", "two have it", "none"],
)
def test_a_port_that_can_not_stay_is_replaced(others: list[Any], changes: dict[str, Any]) -> None:
    seen, rules = adopting(hand_made(**changes), *others)
    assert plan(seen, rules)[0] == "+ reserve  alice on n1 port 20000   (adopted)"


def test_a_port_that_somebody_is_recorded_on_is_replaced() -> None:
    seen, rules = adopting(hand_made())
    recorded = replace(seen, placements={"bob": placement("bob", host_port=8123, state=PlacementState.STOPPED)})
    damaged = replace(seen, damaged={"bob": DamagedPlacement("bob", "damaged", "n1", 8123)})
    for state in (recorded, damaged):
        assert "port 20000" in plan(state, rules)[0]


@pytest.mark.parametrize(
    ("containers", "of", "says"),
    [
        ([hand_made(binds={"/workspace": "/data/alice"})], {}, "move /data/alice to /srv/workspaces/alice"),
        ([hand_made(binds={})], {}, "copy its files to /srv/workspaces/alice on n1"),
        ([hand_made()], {"home": "n2"}, "wsctl rm alice --purge-data deletes those on n2"),
        ([hand_made()], {"capacity": capacity(memory_bytes=1)}, "raise `capacity` of node n1"),
        ([hand_made()], {"usage": Usage(CAPACITY.workspaces)}, "raise `capacity` of node n1"),
        ([hand_made(host_port=None)], {"ports": (20000, 20000), "ports_used": {20000}}, "widen `ports` of node n1"),
        ([hand_made(), hand_made(id="2", name="alice")], {"adopt": "{user}"}, "decide which one has alice's work"),
    ],
    ids=["elsewhere", "nowhere", "home", "memory", "count", "ports", "two"],
)
def test_what_can_not_be_adopted_is_said(containers: list[Any], of: dict[str, Any], says: str) -> None:
    seen, rules = adopting(*containers, **of)
    assert {(d.kind, d.safe) for d in found(seen, rules)} == {(Kind.UNMANAGED, False)}
    assert says in found(seen, rules)[0].fix
    assert plan(seen, rules) == []


def test_an_image_that_may_not_be_fetched_prevents_adoption() -> None:
    seen, rules = adopting(hand_made(), image_present={SPEC.image: False})
    assert plan(seen, rules, spec=replace(SPEC, pull=PullPolicy.NEVER)) == []
    assert "pull" in verbs(seen, rules)


def test_files_on_shared_storage_are_everywhere() -> None:
    seen, rules = adopting(hand_made(), home="n2")
    node = seen.nodes["n1"]
    shared = replace(node, node=replace(node.node, storage="shared"))
    assert kinds(replace(seen, nodes={**seen.nodes, "n1": shared}), rules) == [("unmanaged", True)]


def test_containers_of_other_clusters_are_not_adopted() -> None:
    seen, rules = adopting(hand_made(cluster="other"))
    assert kinds(seen, rules) == []
    assert plan(seen, rules) == []


@pytest.mark.parametrize("state", ["reserved", "starting"])
def test_an_adoption_that_was_cut_off_goes_on_and_never_runs_two_on_one_folder(state: str) -> None:
    for name in ("ws-u-alice", "jupyter-alice"):
        seen = placed(hand_made(name=name), state=PlacementState(state))
        rules = Rules(adopt=name.replace("alice", "{user}"))
        assert kinds(seen, rules) == [("unmanaged", True), ("half-done", True)]
        assert verbs(seen, rules) == ["keep", *BRING_UP]
        assert not any(safe for _, safe in kinds(seen))
    other_files = placed(hand_made(binds={}), state=PlacementState(state))
    assert kinds(other_files, Rules(adopt=ADOPT)) == [("foreign-name", False)]
    elsewhere = placed(state=PlacementState(state), other=[hand_made()])
    assert verbs(elsewhere, Rules(adopt=ADOPT)) == BRING_UP


# ---- through the pipeline, on fake nodes and a real database


@contextlib.contextmanager
def site(*users: str, **more: Any) -> Iterator[Site]:
    made = make_site(**more)
    try:
        if users:
            assert not [o.error for o in made.run("place", *users) if o.error]
        made.forget_calls()
        yield made
    finally:
        made.close()


def what(repairs: list[Repair]) -> list[tuple[str, str | None, bool]]:
    return [(r.difference.kind.value, r.difference.user, r.repaired) for r in repairs]


def reconcile(made: Site, *users: str, **more: Any) -> list[tuple[str, str | None, bool]]:
    repairs: Any = made.run("reconcile", *users, **more)
    return what(repairs)


def home(made: Site, user: str = "alice") -> Any:
    current = made.store.placement(user)
    assert current is not None
    return made.fleet[current.node]


def test_a_cluster_that_is_right_costs_three_calls_a_node() -> None:
    with site(*(f"u{number}" for number in range(30))) as made:
        assert reconcile(made) == []
        assert set(made.asked().values()) == {3}


def test_calls_for_looking_grow_with_nodes_not_with_what_is_wrong() -> None:
    users = [f"u{number}" for number in range(30)]
    with site(*users) as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        assert len(reconcile(made)) == 30
        assert set(made.asked("facts", "containers", "has_image").values()) == {6}
        invariants(made)


def test_a_thousand_placements_take_well_under_five_seconds() -> None:
    users = [f"u{number}" for number in range(1000)]
    with site(*users, capacity=capacity(1000, 1 << 60, 10**9)) as made:
        began = time.perf_counter()
        assert reconcile(made) == []
        for user in users[::10]:
            home(made, user).exit(f"ws-u-{user}")
        assert len(reconcile(made)) == 100
        assert reconcile(made) == []
        assert time.perf_counter() - began < 5


def test_a_foreign_process_on_the_port_moves_the_user() -> None:
    with site("alice") as made:
        before = made.store.placement("alice")
        assert before is not None
        home(made).power_cycle()
        home(made).busy_ports.add(before.host_port)
        assert reconcile(made) == [("not-running", "alice", True)]
        after = made.store.placement("alice")
        assert after is not None
        assert after.host_port != before.host_port
        invariants(made)
        assert reconcile(made) == []


def test_a_reservation_that_the_node_refuses_is_undone() -> None:
    with site("bob") as made:
        reserve(made, "alice", "n1", 20050)
        made.fleet["n1"].fail("create", EngineError("n1", "no space left on device"), times=9)
        assert reconcile(made) == [("half-done", "alice", True)]
        assert made.store.placement("alice") is None
        assert reconcile(made) == []
        invariants(made)


def reserve(made: Site, user: str, node: str, port: int) -> None:
    from wsctl.ports import Reservation

    made.store.reserve(Reservation(user, node, made.fleet[node].address, port, RESOURCES, CAPACITY))


def test_who_is_being_acted_upon_is_left_out() -> None:
    with site("alice", "bob") as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        with made.leases.acquire(["user:alice", "node:n1"], command="place"):
            assert reconcile(made) == [("not-running", "bob", True)]
        assert reconcile(made) == [("not-running", "alice", True)]


def test_who_is_taken_while_looking_is_left_out_too() -> None:
    with site("alice") as made:
        home(made).power_cycle()
        with made.process() as commands:
            from wsctl.reconciler import Reconciler

            run = Reconciler(commands.world)
            picture = run.look()
            with made.leases.acquire(["user:alice"], command="place"):
                assert run.repair(picture) == []
            assert what(run.repair(picture)) == [("not-running", "alice", True)]
            assert run.repair(picture) == [], "somebody else repaired it after the look"


def test_what_changes_while_looking_is_not_judged() -> None:
    with site("alice", "bob") as made:
        ask, engine = home(made).facts, home(made)

        def meanwhile() -> Any:
            engine.facts = ask
            made.run("stop", "bob")
            made.run("rm", "alice")
            return ask()

        engine.facts = meanwhile
        assert reconcile(made) == []


def test_a_failing_user_does_not_stop_the_others() -> None:
    with site("alice", "bob") as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        home(made).fail("await_ready", NotReady(home(made).name, "ended"), times=1)
        repairs: Any = made.run("reconcile")
        assert what(repairs) == [("not-running", "alice", False), ("not-running", "bob", True)]
        assert "ended" in str(repairs[0].error)


def test_an_unreachable_node_is_skipped() -> None:
    with site("alice", "bob", "carol") as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        away = home(made, "bob").name
        made.fleet.cut(away)
        assert sorted(reconcile(made), key=str) == [
            ("not-running", "alice", True),
            ("not-running", "carol", True),
            ("unreachable", None, False),
        ]
        made.fleet.heal(away)
        assert reconcile(made) == [("not-running", "bob", True)]


def test_named_users_only() -> None:
    with site("alice", "bob") as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        sql(made, "UPDATE node_usage SET workspaces = 7")
        assert reconcile(made, "alice") == [("not-running", "alice", True)]
        assert ("not-running", "bob", True) in reconcile(made)


@pytest.mark.parametrize("harm", ["UPDATE node_usage SET workspaces = 7, memory_bytes = 0", "DELETE FROM node_usage"])
def test_wrong_counters_are_counted_again(harm: str) -> None:
    with site("alice") as made:
        sql(made, harm)
        assert reconcile(made) == [("wrong-count", None, True)]
        assert reconcile(made) == []
        invariants(made)


def sql(made: Site, statement: str, *parameters: object) -> None:
    """Meddle behind the store's back, past its checks."""
    database: Any = made.store.database
    connection = database._connection
    connection.execute("PRAGMA ignore_check_constraints = 1")
    connection.execute(statement, parameters)
    connection.execute("PRAGMA ignore_check_constraints = 0")


@pytest.mark.parametrize(
    "damage", ["host_port = -1", "state = 'dancing'", "node = ''", "generation = 0", "pids = -1", "memory_bytes = 'x'"]
)
def test_only_the_damaged_row_suffers(damage: str) -> None:
    with site("alice", "bob", "carol") as made:
        for engine in made.fleet.engines.values():
            engine.power_cycle()
        sql(made, f"UPDATE placements SET {damage} WHERE user = 'bob'")
        assert reconcile(made) == [
            ("not-running", "alice", True),
            ("not-running", "carol", True),
            ("damaged-row", "bob", False),
        ]
        assert reconcile(made) == [("damaged-row", "bob", False)]
        assert made.of("bob")[0][1].state == "exited"
        assert not made.kept()


def test_a_process_that_died_while_putting_aside_is_finished() -> None:
    with site("alice") as made:
        engine = home(made)
        engine.held("ws-u-alice").spec.labels[LABEL_GENERATION] = "99"  # type: ignore[index]
        engine.fail("rename", NodeUnreachable(engine.name, "the connection broke"))
        assert reconcile(made) == [("stale-generation", "alice", False)]
        assert reconcile(made) == [("stale-generation", "alice", True)]
        assert [one.spec.name[:11] for _, one in made.kept()] == ["ws-q-alice-"]
        invariants(made)


def test_a_hand_grown_fleet_moves_in() -> None:
    with site() as made:
        engine = made.fleet["n2"]
        for number, user in enumerate(["alice", "bob", "carol"]):
            engine.data.add(user)
            engine.add(f"ws-u-{user}", host_port=8100 + number, folder=f"/srv/workspaces/{user}", mount="/workspace")
        engine.exit("ws-u-carol")
        engine.add("nginx", host_port=80)
        assert reconcile(made) == []
        assert reconcile(made, adopt=ADOPT) == [("unmanaged", user, True) for user in ("alice", "bob", "carol")]
        rows = {p.user: (p.node, p.host_port, p.state.value) for p in made.store.placements()}
        assert rows["alice"] == ("n2", 8100, "running")
        assert rows["bob"] == ("n2", 8101, "running")
        assert rows["carol"][::2] == ("n2", "stopped")
        assert "remove" not in {call for call, _ in engine.calls}
        assert reconcile(made, adopt=ADOPT) == []
        invariants(made)


@pytest.mark.parametrize("at", range(12))
def test_an_adoption_that_is_cut_off_anywhere_is_finished_by_the_next(at: int) -> None:
    from tests.worlds import Fault, Killed, Wire

    with site() as made:
        engine = made.fleet["n2"]
        engine.data.add("alice")
        engine.add("ws-u-alice", host_port=8100, folder=FOLDER, mount="/workspace")
        wire = Wire(Fault.KILLED_BEFORE, 10 + at)
        with contextlib.suppress(Killed), made.process(wire) as commands:
            commands.reconcile(adopt=ADOPT)
        made.clock.advance(60)
        if wire.struck:
            made.run("reconcile", adopt=ADOPT)
        assert reconcile(made, adopt=ADOPT) == []
        alice = made.store.placement("alice")
        assert alice is not None
        assert (alice.node, alice.state) == ("n2", PlacementState.RUNNING)
        assert "remove" not in {call for call, _ in engine.calls}
        invariants(made)


# ---- random damage

USERS = [f"u{number}" for number in range(6)]
NODES = ["n1", "n2", "n3"]
STATES = [state.value for state in PlacementState]

HARMS = [
    "exit",
    "lose",
    "start",
    "state",
    "relabel",
    "reuser",
    "copy",
    "twin",
    "stray",
    "forge",
    "count",
    "busy",
    "foreign",
]

damages = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "forge",
                "exit",
                "lose",
                "state",
                "relabel",
                "reuser",
                "copy",
                "twin",
                "stray",
                "count",
                "busy",
                "start",
                "foreign",
            ]
        ),
        st.sampled_from(USERS),
        st.sampled_from(NODES),
        st.sampled_from(STATES),
    ),
    max_size=12,
)


def damage(made: Site, kind: str, user: str, node: str, state: str) -> None:
    """Do one harm. The user's own container may be gone by an earlier one."""
    row = made.store.placement(user)
    assert row is not None
    engine = made.fleet[row.node]
    name = f"ws-u-{user}"
    own = engine._find(name)
    labels = {"cluster": CLUSTER, "user": user, "generation": "1"}
    if kind == "state":
        sql(made, "UPDATE placements SET state = ? WHERE user = ?", state, user)
    elif kind == "count":
        sql(made, "UPDATE node_usage SET active = 55 WHERE node = ?", node)
    elif kind == "copy" and node != row.node and made.fleet[node]._find(name) is None:
        made.fleet[node].add(name, **labels)
    elif kind == "twin":
        with contextlib.suppress(KeyError):
            engine.add(f"twin-{user}-{len(engine._held)}", **labels)
    elif kind == "stray":
        made.fleet[node].add(f"ws-u-x{user}", cluster=CLUSTER, user=f"x{user}", generation="3")
    elif kind == "forge":
        made.fleet[node].add(f"evil-{user}-{state}", host_port=row.host_port, **{**labels, "generation": state})
    elif kind == "busy":
        engine.busy_ports.add(row.host_port)
    elif kind == "foreign":
        made.fleet[node].add(f"nginx-{user}", host_port=row.host_port)
    elif own is not None:
        harm(engine, own, kind, node)


def harm(engine: Any, own: Any, kind: str, node: str) -> None:
    if kind == "exit":
        own.state = "exited"
    elif kind == "start":
        own.state = "running"
    elif kind == "lose":
        del engine._held[own.spec.name]
    else:
        change = {"io.wsctl.user": "eve"} if kind == "reuser" else {LABEL_GENERATION: f"7{node[1]}"}
        own.spec = replace(own.spec, labels={**own.spec.labels, **change})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damages)
def test_whatever_was_damaged_is_repaired_at_once_and_nothing_is_lost(harms: list[tuple[str, str, str, str]]) -> None:
    with site(*USERS) as made:
        for one in harms:
            damage(made, *one)
        there = {one.id for engine in made.fleet.engines.values() for one in engine._held.values()}
        repairs: Any = made.run("reconcile")
        assert all(repair.repaired for repair in repairs), repairs
        assert reconcile(made) == []
        invariants(made)
        left = {one.id for engine in made.fleet.engines.values() for one in engine._held.values()}
        assert there <= left, "a container was removed"
        assert {p.user for p in made.store.placements()} == set(USERS)
