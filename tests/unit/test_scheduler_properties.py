"""What must hold for every cluster and every request, whatever the strategy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import GIB, IMAGE, capacity, cluster, container, facts, request, resources, view
from wsctl.model import ClusterView, NodeState, NodeView, PullPolicy, Strategy, Usage
from wsctl.scheduler import Batch, Placed, Request, Unschedulable, choose, rank

USERS = st.sampled_from([f"user{number}" for number in range(40)])
STRATEGIES = st.sampled_from(list(Strategy))


@st.composite
def nodes(draw: st.DrawFn, name: str = "n0") -> NodeView:
    first = draw(st.integers(20000, 20005))
    ports = (first, first + draw(st.integers(0, 6)))
    workspaces = draw(st.integers(0, 8))
    return view(
        name,
        state=draw(st.sampled_from([NodeState.READY] * 5 + list(NodeState))),
        reachable=draw(st.sampled_from([True, True, None, False])),
        excluded=draw(st.sampled_from([None, None, None, "refused"])),
        capacity=capacity(draw(st.integers(0, 10)), draw(st.integers(0, 16)) * GIB, draw(st.integers(0, 8)) * 1000),
        usage=Usage(workspaces, draw(st.integers(0, workspaces)), draw(st.integers(0, 12)) * GIB, 0),
        ports=ports,
        ports_used=draw(st.frozensets(st.integers(19999, 20012), max_size=6)),
        last_port=draw(st.none() | st.integers(19990, 20020)),
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b", "gpu": "1"}])),
        weight=draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        facts=draw(st.none() | st.builds(facts, st.integers(0, 50), st.integers(1, 64))),
        image_present=draw(st.sampled_from([{}, {IMAGE: True}, {IMAGE: False}])),
        containers=[container(user, cluster=None) for user in draw(st.lists(USERS, max_size=2, unique=True))],
    )


@st.composite
def clusters(draw: st.DrawFn) -> ClusterView:
    names = draw(st.lists(st.sampled_from([f"n{number}" for number in range(8)]), max_size=6, unique=True))
    last = draw(st.none() | st.sampled_from([f"n{number}" for number in range(8)]))
    return cluster(*(draw(nodes(name)) for name in names), last_node=last)


REQUESTS = st.builds(
    request,
    user=USERS,
    resources=st.builds(resources, st.integers(0, 4).map(lambda n: n * GIB), st.integers(0, 3000)),
    labels=st.sampled_from([{}, {}, {"zone": "a"}, {"zone": "b"}]),
    pull=st.sampled_from(list(PullPolicy)),
)


def may_take(node: NodeView, wanted: Request) -> bool:
    """The rules once more, written independently of the scheduler and as plainly as possible."""
    free = [p for p in range(node.node.ports.first, node.node.ports.last + 1) if p not in node.ports_used]
    return (
        node.excluded is None
        and node.mark.state is NodeState.READY
        and node.reachable is not False
        and all(node.node.labels.get(key) == value for key, value in wanted.labels.items())
        and node.usage.workspaces + 1 <= node.node.capacity.workspaces
        and node.usage.memory_bytes + wanted.resources.memory_bytes <= node.node.capacity.memory_bytes
        and node.usage.cpus_milli + wanted.resources.cpus_milli <= node.node.capacity.cpus_milli
        and bool(free)
        and not (wanted.pull is PullPolicy.NEVER and node.image_present.get(wanted.image) is False)
        and all(c.name != f"ws-u-{wanted.user}" for c in node.containers)
    )


@given(clusters(), REQUESTS, STRATEGIES)
@settings(max_examples=200)
def test_the_choice_is_feasible_or_every_node_has_a_reason(
    view: ClusterView, wanted: Request, strategy: Strategy
) -> None:
    found = choose(wanted, view, strategy)
    able = {name for name, node in view.nodes.items() if may_take(node, wanted)}
    assert {c.node for c in found.candidates if c.feasible} == able
    assert [c.node for c in found.candidates] == sorted(view.nodes)
    if isinstance(found, Placed):
        assert found.node in able
        node = view.nodes[found.node]
        assert found.port in node.node.ports
        assert found.port not in node.ports_used
        assert found.score == max(c.score for c in found.candidates if c.score is not None)
    else:
        assert not able
        assert all(c.reasons for c in found.candidates)
        assert found.summary().startswith(f"0 of {len(view.nodes)} nodes fit: ")
    assert all(c.score is None or 0 <= c.score <= 1 for c in found.candidates)


@given(clusters(), st.lists(REQUESTS, max_size=15), STRATEGIES)
@settings(max_examples=200)
def test_a_batch_never_oversells_and_never_gives_a_port_twice(
    view: ClusterView, wanted: list[Request], strategy: Strategy
) -> None:
    batch = Batch(view, strategy)
    given_ports: Counter[tuple[str, int]] = Counter()
    for number, one in enumerate(wanted):
        found = batch.place(replace(one, user=f"new{number}"))
        if isinstance(found, Placed):
            given_ports[found.node, found.port] += 1
    assert all(count == 1 for count in given_ports.values())
    for node, port in given_ports:
        assert port not in view.nodes[node].ports_used
    for name, node in batch.view.nodes.items():
        if node is not view.nodes[name]:
            assert node.usage.workspaces <= node.node.capacity.workspaces
            assert node.usage.memory_bytes <= node.node.capacity.memory_bytes
            assert node.usage.cpus_milli <= node.node.capacity.cpus_milli


@given(clusters(), REQUESTS, STRATEGIES, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(view: ClusterView, wanted: Request, strategy: Strategy, random) -> None:  # type: ignore[no-untyped-def]
    names = list(view.nodes)
    random.shuffle(names)
    shuffled = replace(view, nodes={name: view.nodes[name] for name in names})
    assert choose(wanted, shuffled, strategy) == choose(wanted, view, strategy)


@given(clusters(), REQUESTS, STRATEGIES, nodes("n9"), st.sampled_from(["a", "n3x", "z"]))
def test_a_node_that_cannot_changes_nothing_for_the_others(
    view: ClusterView, wanted: Request, strategy: Strategy, extra: NodeView, name: str
) -> None:
    extra = replace(extra, node=replace(extra.node, name=name), excluded="no")
    more = replace(view, nodes={**view.nodes, name: extra})
    before, after = choose(wanted, view, strategy), choose(wanted, more, strategy)
    assert tuple(c for c in after.candidates if c.node != name) == before.candidates
    if isinstance(before, Placed):
        assert isinstance(after, Placed)
        assert (after.node, after.port, after.score) == (before.node, before.port, before.score)
    else:
        assert isinstance(after, Unschedulable)


@given(st.integers(1, 9), st.lists(USERS, unique=True, max_size=40))
def test_spread_of_equal_arrivals_differs_by_at_most_one(count: int, users: list[str]) -> None:
    batch = Batch(cluster(*(f"n{number}" for number in range(count))), Strategy.SPREAD)
    for user in users:
        assert isinstance(batch.place(request(user)), Placed)
    taken = [node.usage.workspaces for node in batch.view.nodes.values()]
    assert max(taken) - min(taken) <= 1


@given(st.sets(st.integers(0, 30), min_size=1, max_size=12), st.integers(31, 99), st.lists(USERS, max_size=40))
def test_hash_moves_users_only_to_the_new_node(numbers: set[int], new: int, users: list[str]) -> None:
    old_view = cluster(*(view(f"n{n}", weight=1 + n % 3) for n in numbers))
    new_view = cluster(*old_view.nodes.values(), view(f"n{new}", weight=2.0))
    for user in users:
        before = choose(request(user), old_view, Strategy.HASH)
        after = choose(request(user), new_view, Strategy.HASH)
        assert isinstance(before, Placed)
        assert isinstance(after, Placed)
        assert after.node in (before.node, f"n{new}")


PROGRAM = """
import json, sys
from tests.builders import cluster, facts, request, view
from wsctl.model import Strategy
from wsctl.scheduler import Batch, rank

names = {f"n{number}" for number in range(20)}
answer = []
for strategy in Strategy:
    batch = Batch(cluster(*(view(name, facts=facts()) for name in names)), strategy)
    for number in range(60):
        found = batch.place(request(f"user{number}"))
        answer.append([strategy, found.node, found.port, found.score])
print(json.dumps(answer))
"""


def test_another_process_with_another_hash_seed_decides_the_same() -> None:
    def run(seed: str) -> object:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first = run("1")
    assert first == run("2") == run("3")


def test_a_thousand_users_on_fifty_nodes_are_decided_within_a_second() -> None:
    import time

    batch = Batch(cluster(*(view(f"n{number}", facts=facts()) for number in range(50))), Strategy.SPREAD)
    started = time.process_time()
    for number in range(1000):
        assert isinstance(batch.place(request(f"user{number}")), Placed)
    assert time.process_time() - started < 1.0


def test_rank_and_choose_agree() -> None:
    now = cluster("a", "b")
    assert rank(request(), now, Strategy.HASH) == choose(request(), now, Strategy.HASH).candidates
