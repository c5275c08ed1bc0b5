"""Choosing a node: every filter, every strategy's formula, ties, ports, and what is said about it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.builders import CLUSTER, GIB, IMAGE, RESOURCES, capacity, cluster, container, facts, request, resources, view
from wsctl.model import NodeState, NodeView, PullPolicy, Strategy, Usage
from wsctl.reports import REFUSAL, REFUSALS, SUSPECT, NodeReport
from wsctl.scheduler import (
    Batch,
    Candidate,
    Placed,
    Reason,
    ReasonKind,
    Request,
    Unschedulable,
    choose,
    dominant_share,
    explain,
    fits,
    next_port,
    rank,
    tie_break,
    with_placement,
)

FULL = Usage(workspaces=100, active=10, memory_bytes=20 * GIB, cpus_milli=10_000)


def reasons(node: NodeView, wanted: Request | None = None) -> list[str]:
    (candidate,) = rank(wanted or request(), cluster(node), Strategy.SPREAD)
    assert candidate.feasible is (not candidate.reasons)
    assert (candidate.score is None) is bool(candidate.reasons)
    return [str(reason) for reason in candidate.reasons]


@pytest.mark.parametrize(
    ("node", "said"),
    [
        pytest.param(view(excluded="port taken twice"), "out of the question: port taken twice", id="excluded"),
        pytest.param(view(state=NodeState.CORDONED, reason="new disk"), "cordoned: new disk", id="cordoned"),
        pytest.param(view(state=NodeState.CORDONED), "cordoned", id="cordoned without a reason"),
        pytest.param(view(state=NodeState.DRAINING, reason="move"), "draining: move", id="draining"),
        pytest.param(view(state=NodeState.DOWN, reason="burnt"), "down: burnt", id="down"),
        pytest.param(view(reachable=False, error="timed out"), "unreachable: timed out", id="unreachable"),
        pytest.param(view(reachable=False), "unreachable", id="unreachable, nobody knows why"),
        pytest.param(view(usage=FULL), "full: 100 of 100 workspaces", id="workspaces, stopped ones too"),
        pytest.param(
            view(usage=Usage(memory_bytes=63 * GIB)), "not enough memory: need 2.0 GiB, free 1.0 GiB", id="memory"
        ),
        pytest.param(
            view(usage=Usage(memory_bytes=65 * GIB)), "not enough memory: need 2.0 GiB, free 0 B", id="oversold memory"
        ),
        pytest.param(view(usage=Usage(cpus_milli=31_500)), "not enough CPU: need 1, free 0.5", id="cpu"),
        pytest.param(view(usage=Usage(cpus_milli=40_000)), "not enough CPU: need 1, free 0", id="oversold cpu"),
        pytest.param(view(ports=(7, 8), ports_used={7, 8}), "no free port: all of 7-8 are used", id="ports"),
        pytest.param(
            view(containers=[container(cluster=None)]),
            "container name taken: ws-u-alice exists, not made by wsctl",
            id="the name is a stranger's",
        ),
        pytest.param(
            view(containers=[container(cluster="other")]),
            "container name taken: ws-u-alice exists, of cluster other",
            id="the name is another cluster's",
        ),
    ],
)
def test_a_node_that_cannot_says_why(node: NodeView, said: str) -> None:
    assert reasons(node) == [said]


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(view(), id="an empty node"),
        pytest.param(view(reachable=None), id="not asked is not unreachable"),
        pytest.param(view(usage=Usage(99, 31, 62 * GIB, 31_000)), id="exactly room for one more"),
        pytest.param(view(ports=(7, 8), ports_used={7, 9, 10}), id="used ports outside of the range"),
        pytest.param(view(containers=[container()]), id="the user's own container"),
        pytest.param(view(containers=[container("bob", cluster=None)]), id="a stranger with another name"),
        pytest.param(view(labels={"zone": "a"}), id="labels nobody asked for"),
    ],
)
def test_a_node_that_can_has_no_reasons(node: NodeView) -> None:
    assert reasons(node) == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"zone": "a"}, []),
        ({"zone": "b"}, ["without the labels asked for: zone=b asked for, is a"]),
        ({"gpu": "1", "zone": "a"}, ["without the labels asked for: gpu=1 asked for, has none"]),
        (
            {"zone": "b", "gpu": "1"},
            ["without the labels asked for: gpu=1 asked for, has none; zone=b asked for, is a"],
        ),
    ],
)
def test_labels_are_asked_for_by_value(labels: dict[str, str], said: list[str]) -> None:
    assert reasons(view(labels={"zone": "a"}), request(labels=labels)) == said


@pytest.mark.parametrize("pull", PullPolicy)
@pytest.mark.parametrize("present", [True, False, None])
def test_an_absent_image_only_matters_when_it_may_not_be_pulled(pull: PullPolicy, present: bool | None) -> None:
    node = view(image_present={} if present is None else {IMAGE: present})
    refused = pull is PullPolicy.NEVER and present is False
    assert reasons(node, request(pull=pull)) == ([f"image absent and not to be pulled: {IMAGE}"] if refused else [])


def test_all_reasons_are_collected_in_the_order_of_the_filters() -> None:
    node = view(
        excluded="x", state=NodeState.DOWN, reachable=False, usage=Usage(100, 100, 64 * GIB, 32_000), ports=(1, 1),
        ports_used={1}, image_present={IMAGE: False}, containers=[container(cluster=None)],
    )  # fmt: skip
    now = datetime(2026, 1, 1, tzinfo=UTC)
    against = (NodeReport("n1", SUSPECT, 1, "gone", now, now), NodeReport("n1", REFUSAL, REFUSALS, "full", now, now))
    node = replace(node, reports=against)
    (candidate,) = rank(request(labels={"a": "b"}, pull=PullPolicy.NEVER), cluster(node), Strategy.HASH)
    left = [kind for kind in ReasonKind if kind not in (ReasonKind.CORDONED, ReasonKind.DRAINING)]
    assert [reason.kind for reason in candidate.reasons] == left


def test_the_summary_counts_each_node_once_and_names_the_numbers() -> None:
    nodes = [
        view("a", state=NodeState.CORDONED, usage=Usage(memory_bytes=64 * GIB)),
        view("b", state=NodeState.CORDONED),
        view("c", usage=Usage(memory_bytes=63 * GIB)),
        view("d", usage=Usage(memory_bytes=64 * GIB - 1288490189)),
        view("e", reachable=False),
    ]
    decision = choose(request(), cluster(*nodes), Strategy.SPREAD)
    assert isinstance(decision, Unschedulable)
    assert decision.summary() == (
        "0 of 5 nodes fit: 2 cordoned, 2 not enough memory (need 2.0 GiB, most free 1.2 GiB), 1 unreachable"
    )


def test_the_summary_of_cpu_and_of_nothing() -> None:
    decision = choose(request(), cluster(view(usage=Usage(cpus_milli=31_750))), Strategy.SPREAD)
    assert isinstance(decision, Unschedulable)
    assert decision.summary() == "0 of 1 nodes fit: 1 not enough CPU (need 1, most free 0.25)"
    nothing = choose(request(), cluster(), Strategy.SPREAD)
    assert nothing == Unschedulable(())
    assert nothing.summary() == "0 of 0 nodes fit: there are no nodes"


def test_explain_is_the_contracts_form() -> None:
    found = choose(request(), cluster(view("b"), view("a", state=NodeState.DOWN)), Strategy.SPREAD)
    assert explain(found.candidates) == {
        "a": {"feasible": False, "reasons": ["down"], "score": None},
        "b": {"feasible": True, "reasons": [], "score": 0.96875},
    }
    assert list(explain(found.candidates)) == ["a", "b"]


# ----------------------------------------------------------------------------------------------------------- scores


def scores(strategy: Strategy, *nodes: NodeView, last: str | None = None) -> list[float | None]:
    return [candidate.score for candidate in rank(request(), cluster(*nodes, last_node=last), strategy)]


HALF = Usage(workspaces=50, active=15, memory_bytes=30 * GIB, cpus_milli=15_000)


@pytest.mark.parametrize(
    ("usage", "share"),
    [
        (Usage(), 1 / 32),
        (Usage(workspaces=99, active=0), 1 / 32),
        (Usage(workspaces=60, active=49), 0.5),
        (Usage(memory_bytes=30 * GIB), 0.5),
        (Usage(cpus_milli=15_000), 0.5),
    ],
)
def test_the_dominant_share_is_the_fullest_resource_after_placing_and_ignores_the_stopped(
    usage: Usage, share: float
) -> None:
    assert dominant_share(request(), view(usage=usage)) == share


def test_a_node_without_a_capacity_takes_only_what_asks_for_none() -> None:
    node = view(capacity=capacity(memory_bytes=0, cpus_milli=0))
    assert dominant_share(request(resources=resources(0, 0)), node) == 0.01
    assert reasons(node, request(resources=resources(0, 0))) == []


def test_spread_and_binpack_are_opposites() -> None:
    nodes = [view("a"), view("b", usage=HALF)]
    assert scores(Strategy.SPREAD, *nodes) == [1 - 1 / 32, 0.5]
    assert scores(Strategy.BINPACK, *nodes) == [1 / 32, 0.5]


def test_scores_stay_in_their_range_when_the_records_are_wrong() -> None:
    wrong = view(usage=Usage(workspaces=3, active=300))
    assert scores(Strategy.SPREAD, wrong) == [0.0]
    assert scores(Strategy.BINPACK, wrong) == [1.0]


def test_least_loaded_counts_all_containers_per_cpu() -> None:
    nodes = [view("a", facts=facts(8, ncpu=8)), view("b", facts=facts(0)), view("c"), view("d", facts=facts(3, ncpu=0))]
    assert scores(Strategy.LEAST_LOADED, *nodes) == [0.5, 1.0, 0.0, 0.25]


def test_least_loaded_uses_a_node_that_was_not_asked_when_there_is_no_other() -> None:
    found = choose(request(), cluster(view("a"), view("b", state=NodeState.DOWN)), Strategy.LEAST_LOADED)
    assert isinstance(found, Placed)
    assert found.node == "a"


def test_weighted_divides_the_share_by_the_weight() -> None:
    nodes = [view("a", weight=1.0), view("b", weight=2.0, usage=HALF), view("c", weight=0.0)]
    assert scores(Strategy.WEIGHTED, *nodes) == [1 / (1 + 1 / 32), 2 / 2.5, 0.0]


@pytest.mark.parametrize(
    ("last", "order"),
    [(None, ["a", "b", "d"]), ("a", ["b", "d", "a"]), ("c", ["d", "a", "b"]), ("d", ["a", "b", "d"]), ("z", "abd")],
)
def test_round_robin_goes_on_behind_the_last_node(last: str | None, order: list[str]) -> None:
    now = cluster("a", "b", view("c", state=NodeState.CORDONED), "d", last_node=last)
    chosen = []
    for number in range(3):
        found = choose(request(f"u{number}"), now, Strategy.ROUND_ROBIN)
        assert isinstance(found, Placed)
        assert found.score == 1.0
        chosen.append(found.node)
        now = with_placement(now, "u", found.node, found.port, RESOURCES)
    assert chosen == list(order)


def test_round_robin_scores_fall_in_turn() -> None:
    assert scores(Strategy.ROUND_ROBIN, view("a"), view("b"), view("c"), view("d"), last="b") == [0.5, 0.25, 1.0, 0.75]


def test_hash_is_weighted_rendezvous() -> None:
    uniform = (int.from_bytes(hashlib.sha256(b"alice/a").digest()[:8], "big") + 1) / 2**64
    nodes = [view("a"), view("b", weight=0.0)]
    assert scores(Strategy.HASH, *nodes) == [uniform, 0.0]
    assert scores(Strategy.HASH, view("a", weight=2.0)) == [uniform**0.5]


def test_hash_follows_the_weights() -> None:
    nodes = cluster(view("a", weight=1.0), view("b", weight=3.0))
    chosen = [choose(request(f"user{n}"), nodes, Strategy.HASH) for n in range(2000)]
    share = sum(isinstance(found, Placed) and found.node == "b" for found in chosen) / 2000
    assert 0.72 < share < 0.78


# ------------------------------------------------------------------------------------------------------------- ties


def test_ties_go_to_the_greatest_hash_of_user_and_node() -> None:
    names = [f"n{number}" for number in range(9)]
    found = choose(request("carol"), cluster(*names), Strategy.SPREAD)
    assert isinstance(found, Placed)
    assert found.node == max(names, key=lambda name: hashlib.sha256(f"carol/{name}".encode()).digest())
    assert tie_break("carol", "n1") == int(hashlib.sha256(b"carol/n1").hexdigest()[:16], 16)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(Strategy.SPREAD, "few"), (Strategy.WEIGHTED, "few"), (Strategy.LEAST_LOADED, "few"), (Strategy.BINPACK, "many")],
)
def test_equal_scores_go_by_placements_first(strategy: Strategy, expected: str) -> None:
    nodes = cluster(
        view("few", usage=Usage(workspaces=3), facts=facts()), view("many", usage=Usage(workspaces=9), facts=facts())
    )
    for user in ("a", "b", "c", "d", "e", "f"):
        found = choose(request(user), nodes, strategy)
        assert isinstance(found, Placed)
        assert found.node == expected


# ------------------------------------------------------------------------------------------------------------ ports


@pytest.mark.parametrize(
    ("used", "last", "port"),
    [
        (set(), None, 10),
        ({10, 11}, None, 12),
        (set(), 11, 12),
        ({12}, 11, 13),
        (set(), 13, 10),
        ({10, 13}, 12, 11),
        (set(), 99, 10),
        (set(), 9, 10),
        ({10, 11, 12}, 13, 13),
        ({10, 11, 12, 13}, 12, None),
    ],
)
def test_the_next_port_is_the_first_free_one_behind_the_last(
    used: set[int], last: int | None, port: int | None
) -> None:
    assert next_port(view(ports=(10, 13), ports_used=used, last_port=last)) == port


def test_a_freed_port_is_reused_as_late_as_possible() -> None:
    now = cluster(view(ports=(10, 13)))
    given = []
    for number in range(8):
        found = choose(request(f"u{number}"), now, Strategy.SPREAD)
        assert isinstance(found, Placed)
        given.append(found.port)
        after = with_placement(now, "u", "n1", found.port, RESOURCES).nodes["n1"]
        now = cluster(view(ports=(10, 13), last_port=after.last_port))
    assert given == [10, 11, 12, 13, 10, 11, 12, 13]


def test_a_range_of_one_port_holds_one() -> None:
    batch = Batch(cluster(view(ports=(10, 10))), Strategy.SPREAD)
    assert isinstance(batch.place(request("a")), Placed)
    second = batch.place(request("b"))
    assert isinstance(second, Unschedulable)
    assert second.summary() == "0 of 1 nodes fit: 1 no free port"


# ---------------------------------------------------------------------------------------------- starting, and batches


def test_fits_asks_for_memory_and_cpu_only() -> None:
    busy = view(state=NodeState.CORDONED, reachable=False, usage=Usage(workspaces=100), ports=(1, 1), ports_used={1})
    assert fits(request(), busy) == ()
    full = view(usage=Usage(memory_bytes=63 * GIB, cpus_milli=32_000))
    assert fits(request(), full) == (
        Reason(ReasonKind.MEMORY, "need 2.0 GiB, free 1.0 GiB", 2 * GIB, GIB),
        Reason(ReasonKind.CPU, "need 1, free 0", 1000, 0),
    )


def test_with_placement_takes_what_the_user_takes_and_leaves_the_old_view_alone() -> None:
    before = cluster(view("a", facts=facts(4)), view("b"))
    after = with_placement(before, "alice", "a", 20005, RESOURCES)
    node = after.nodes["a"]
    assert node.usage == Usage(1, 1, 2 * GIB, 1000)
    assert node.ports_used == {20005}
    assert node.last_port == 20005
    assert node.facts == facts(5)
    assert after.last_node == "a"
    assert after.nodes["b"] is before.nodes["b"]
    assert before == cluster(view("a", facts=facts(4)), view("b"))
    assert with_placement(before, "bob", "b", 20000, RESOURCES).nodes["b"].facts is None


@pytest.mark.parametrize("strategy", Strategy)
def test_a_batch_decides_as_single_choices_do(strategy: Strategy) -> None:
    stranger = container("u3", cluster=None)
    now = cluster(
        view("a", facts=facts(), containers=[stranger]),
        view("b", weight=2.0, capacity=capacity(workspaces=5)),
        view("c", labels={"gpu": "1"}, facts=facts(2)),
    )
    batch = Batch(now, strategy)
    for number in range(12):
        labels = {"gpu": "1"} if number % 5 == 4 else {}
        wanted = request(f"u{number}", labels=labels)
        single = choose(wanted, now, strategy)
        assert batch.place(wanted) == single
        assert isinstance(single, Placed)
        now = with_placement(now, wanted.user, single.node, single.port, wanted.resources)
    assert batch.view == now


def test_a_batch_that_cannot_place_changes_nothing() -> None:
    now = cluster(view(state=NodeState.DOWN))
    batch = Batch(now, Strategy.SPREAD)
    assert isinstance(batch.place(request()), Unschedulable)
    assert batch.view is now


def test_a_taken_name_is_only_that_users_reason() -> None:
    nodes = cluster(view(containers=[container("alice", cluster=None), container("bob", cluster=CLUSTER)]))
    batch = Batch(nodes, Strategy.SPREAD)
    assert isinstance(batch.choose(request("alice")), Unschedulable)
    assert isinstance(batch.choose(request("bob")), Placed)
    assert isinstance(batch.choose(request("alice")), Unschedulable)


def test_the_decision_carries_every_node() -> None:
    found = choose(request(), cluster("b", "a"), Strategy.SPREAD)
    assert [candidate.node for candidate in found.candidates] == ["a", "b"]
    assert found.candidates[0] == Candidate("a", True, (), 1 - 1 / 32)
