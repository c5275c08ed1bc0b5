"""Figures of the cluster as Prometheus reads them.

Responsible for: which figures there are, and the text format. Pure: values in, text out. Not responsible for: looking
(`observe`), nor for where the text goes (`commands.metrics`).

No figure bears a user's name: a cluster has more users than a time series database wants series.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from wsctl.model import ClusterView, LeaseInfo, NodeState, NodeView, PlacementState
from wsctl.ports import Recorded

WITHIN = {"5m": 300.0, "1h": 3600.0, "1d": 86400.0, "7d": 604800.0}
"""Users who were active within these are counted."""

QUANTILES = (0.0, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is told. `leases` are None if they couldn't be asked, `took_s` is how long looking took."""

    version: str
    view: ClusterView
    recorded: Recorded
    leases: Sequence[LeaseInfo] | None
    now: datetime
    took_s: float


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric: its name, what it means, and a value for each set of labels."""

    name: str
    about: str
    samples: Iterable[tuple[Mapping[str, str], float]]


def render(figures: Figures) -> str:
    """The text format, version 0.0.4. Byte-stable for the same figures."""
    lines: list[str] = []
    for family in _families(figures):
        lines += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} gauge"]
        lines += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples]
    return "\n".join(lines) + "\n"


def _families(figures: Figures) -> Iterator[_Family]:
    view = figures.view
    yield _Family("wsctl_info", "Version and cluster.", [({"cluster": view.cluster, "version": figures.version}, 1)])
    states = Counter((p.node, p.state) for p in view.placements.values())
    names = sorted({*view.nodes, *(node for node, _ in states)})
    yield _Family(
        "wsctl_placements",
        "Placements by node and state.",
        [({"node": name, "state": state.value}, states[name, state]) for name in names for state in PlacementState],
    )
    yield _Family("wsctl_placements_damaged", "Placements that can't be read.", [({}, len(view.damaged))])
    yield from _of_nodes(sorted(view.nodes.items()))
    if figures.leases is not None:
        kinds = Counter({"user": 0, **Counter(lease.name.partition(":")[0] for lease in figures.leases)})
        yield _Family("wsctl_leases", "Leases held now, by kind.", [({"kind": k}, n) for k, n in sorted(kinds.items())])
    up = figures.leases is not None
    yield _Family("wsctl_coordination_up", "Whether leases could be asked for.", [({}, up)])
    yield from _of_activity(figures)
    yield _Family("wsctl_metrics_timestamp_seconds", "When this was made.", [({}, figures.now.timestamp())])
    yield _Family("wsctl_metrics_duration_seconds", "How long looking took.", [({}, figures.took_s)])


def _of_nodes(nodes: Sequence[tuple[str, NodeView]]) -> Iterator[_Family]:
    def each(name: str, about: str, value: Mapping[str, float]) -> _Family:
        return _Family(name, about, [({"node": node}, value[node]) for node, _ in nodes if node in value])

    asked = {name: float(node.reachable) for name, node in nodes if node.reachable is not None}
    yield each("wsctl_node_reachable", "Whether the node's engine answered; absent if it wasn't asked.", asked)
    yield _Family(
        "wsctl_node_state",
        "1 for the state that the node is marked with.",
        [({"node": n, "state": s.value}, node.mark.state is s) for n, node in nodes for s in NodeState],
    )
    running = {n: float(node.facts.containers_running) for n, node in nodes if node.facts is not None}
    yield each("wsctl_node_containers_running", "Containers that run on the node, whosever they are.", running)
    kinds: tuple[tuple[str, str, dict[str, float]], ...] = (
        ("wsctl_node_workspaces", "Placements on the node.", {n: v.usage.workspaces for n, v in nodes}),
        ("wsctl_node_workspaces_capacity", "Most of them.", {n: v.node.capacity.workspaces for n, v in nodes}),
        ("wsctl_node_memory_taken_bytes", "Memory of those not stopped.", {n: v.usage.memory_bytes for n, v in nodes}),
        ("wsctl_node_memory_capacity_bytes", "Most of it.", {n: v.node.capacity.memory_bytes for n, v in nodes}),
        ("wsctl_node_cpus_taken", "Cores of those not stopped.", {n: v.usage.cpus_milli / 1000 for n, v in nodes}),
        ("wsctl_node_cpus_capacity", "Most of them.", {n: v.node.capacity.cpus_milli / 1000 for n, v in nodes}),
    )
    for name, about, value in kinds:
        yield each(name, about, value)


def _of_activity(figures: Figures) -> Iterator[_Family]:
    recorded, now = figures.recorded, figures.now
    running = {user for user, p in figures.view.placements.items() if p.state is PlacementState.RUNNING}
    ages = sorted(
        max(0.0, (now - one.last_active_at).total_seconds())
        for user, one in recorded.activity.items()
        if user in running
    )
    yield _Family(
        "wsctl_users_active",
        "Running users who were active within a time.",
        [({"within": name}, sum(age <= limit for age in ages)) for name, limit in WITHIN.items()],
    )
    yield _Family(
        "wsctl_last_activity_age_seconds",
        "How long ago running users were active, from the last to the first (1).",
        [({"quantile": f"{q:g}"}, ages[round(q * (len(ages) - 1))]) for q in QUANTILES if ages],
    )
    yield _Family("wsctl_activity_up", "Whether all recorded activity could be read.", [({}, recorded.doubt is None)])
    if recorded.since is not None:
        about = "Since when activity is recorded without a gap."
        yield _Family("wsctl_activity_since_timestamp_seconds", about, [({}, recorded.since.timestamp())])


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return re.sub(r'[\\"\n]', lambda found: {"\\": r"\\", '"': r"\"", "\n": r"\n"}[found.group()], text)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
