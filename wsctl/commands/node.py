"""`wsctl node …`: the machines.

Responsible for: listing, checking, trusting and marking nodes. Not responsible for: how they are reached (`transport`)
or what a mark means for placing (`scheduler`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import BackendError, NodeUnreachable, PartialFailure, WsctlError
from wsctl.model import ClusterView, NodeState
from wsctl.reports import set_aside, suspicion
from wsctl.text import ago

if TYPE_CHECKING:
    from wsctl.workflow import Outcome

NodeArg = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="A node of the inventory.")]
NodesArg = Annotated[list[str], typer.Argument(metavar="NODE…", show_default=False, help="Nodes of the inventory.")]


@command
def ls(
    app: App,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Ask the nodes, or only the state database.")
    ] = True,
) -> None:
    """List the nodes: state, reachability, load, and why a node isn't ready.

    `suspect`: watchers don't see it well; `aside`: it refused lately. Both get no new users for a while; who lives
    there stays. `seen` is when a watcher saw it well.

    Example:
      wsctl node ls
    """
    from wsctl.output import Column

    view = _view(app, None if probe else ())
    seen = _last_seen(app)
    items = [_node_dict(name, view, seen.get(name)) for name in view.nodes]
    now = app.wiring.clock.now()
    seen_column = Column("last_seen_at", "seen", show=lambda at: ago(at, now) if isinstance(at, datetime) else "-")
    for name, users in sorted(Counter(p.node for p in view.placements.values()).items()):
        if name not in view.nodes:
            app.out.warn(f"{users} users are placed on {name}, which is not in the inventory: wsctl ls --node {name}")
    columns = (
        Column("name"),
        Column("address"),
        Column("state"),
        Column("reachable", show=lambda r: {True: "yes", False: "NO"}.get(bool(r), "-")),
        Column("workspaces", right=True),
        Column("capacity", "cap", show=lambda c: str(c["workspaces"]) if isinstance(c, Mapping) else "-", right=True),
        Column("ports_free", "ports free", right=True),
        *((seen_column,) if seen else ()),
        Column("reason"),
    )
    app.out.rows(items, columns)


@command
def show(app: App, node: NodeArg) -> None:
    """Show one node: its engine, its load and who lives there.

    Example:
      wsctl node show n1
    """
    app.inventory.node(node)
    view = _view(app, (node,))
    seen = view.nodes[node]
    item = _node_dict(node, view, _last_seen(app).get(node))
    facts = seen.facts
    item |= {
        "docker_version": facts.version if facts is not None else None,
        "api_version": facts.api_version if facts is not None else None,
        "engine_cpus": facts.ncpu if facts is not None else None,
        "engine_memory_bytes": facts.memory_bytes if facts is not None else None,
        "containers_running": facts.containers_running if facts is not None else None,
        "changed_at": seen.mark.changed_at,
        "changed_by": seen.mark.changed_by or None,
        "users": [p.user for p in view.placements.values() if p.node == node],
    }
    app.out.record(item)


@command
def check(
    app: App,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE…]", show_default=False, help="Nodes (default: all).")
    ] = None,
) -> None:
    """Check nodes: reach, engine, memory, time, image, disk, inodes, rsync, sshd; with the fix to type.

    Example:
      wsctl node check n1
    """
    from wsctl.findings import CheckStatus
    from wsctl.nodecheck import check_node
    from wsctl.output import Column

    names = list(dict.fromkeys(nodes)) if nodes else list(app.inventory.nodes)
    for name in names:
        app.inventory.node(name)
    from wsctl.transport.fanout import run as fan_out

    app.fleet.warm(names)
    specs = list(app.inventory.classes.values())
    there, fleet, clock = app.inventory.nodes, app.fleet, app.wiring.clock
    results = fan_out(names, lambda name: check_node(there[name], fleet.engine, specs, fleet.commands(name), clock))
    items: list[dict[str, object]] = []
    for name, result in results.items():
        if isinstance(result, WsctlError):
            items.append(
                {"node": name, "check": "reach", "status": "FAIL", "detail": result.message, "fix": result.hint}
            )
        elif isinstance(result, Exception):
            raise result
        else:
            items += [{"node": name, **line.to_dict()} for line in result]
    app.out.rows(items, (Column("node"), Column("check"), Column("status"), Column("detail"), Column("fix")))
    failed = sorted({str(item["node"]) for item in items if item["status"] == CheckStatus.FAIL})
    if failed and len(names) == 1:
        raise NodeUnreachable(failed[0], "has failed checks", hint="see the fixes above")
    if failed:
        raise PartialFailure(f"{len(failed)} of {len(names)} nodes have failed checks", details={"nodes": failed})


@command
def trust(
    app: App,
    node: NodeArg,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="SHA256:…", help="The fingerprint you expect; no question is asked."),
    ] = None,
) -> None:
    """Trust a node's SSH host key: compare the fingerprint with the one on the node's own console first.

    On the node: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

    Example:
      wsctl node trust n1 --fingerprint SHA256:…
    """
    from wsctl.commands.trusting import trust_host_key

    app.inventory.node(node)
    trust_host_key(app, app.fleet, "node", node, fingerprint)


@command
def cordon(
    app: App,
    nodes: NodesArg,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")] = "",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Let no new users onto nodes. Users who live there stay, and may be started there.

    On a node that was given up, what is stale is put aside first.

    Example:
      wsctl node cordon n2 --reason "disk swap on Friday"
    """
    _mark(app, "node cordon", nodes, NodeState.CORDONED, reason, dry_run, request_id)


@command
def uncordon(
    app: App, nodes: NodesArg, request_id: RequestOpt = None, dry_run: DryRunOpt = False, yes: YesOpt = False
) -> None:
    """Let new users onto nodes again. What was reported against them is forgotten too.

    On a node that was given up, what is stale is put aside first.

    Example:
      wsctl node uncordon n2
    """
    _mark(app, "node uncordon", nodes, NodeState.READY, "", dry_run, request_id)


def _mark(
    app: App, verb: str, nodes: list[str], state: NodeState, reason: str, dry_run: bool, request_id: str | None
) -> None:
    from wsctl.commands.present import error_dict, error_text, raise_if_failed, show_dry_run
    from wsctl.fencing import Readmission, mark_all
    from wsctl.output import Column
    from wsctl.planner.life import plan_mark
    from wsctl.requests import items_once

    targets = tuple(dict.fromkeys(nodes))
    for name in targets:
        app.inventory.node(name)
    world = app.world(dry_run=dry_run)
    asked = Readmission("", lambda node, view: plan_mark(node, state, reason, view), verb, request_id)
    if dry_run:
        show_dry_run(app, mark_all(world, targets, asked, dry_run=True))
        return
    failed: list[Outcome] = []

    def run() -> list[dict[str, object]]:
        outcomes = mark_all(
            world, targets, asked, report=lambda node, done: app.out.note(f"{done.target}: {done.action} on {node}")
        )
        failed.extend(outcome for outcome in outcomes if outcome.error is not None)
        if len(outcomes) == 1 and outcomes[0].error is not None:
            raise outcomes[0].error
        marks = world.store.marks()
        states = {name: marks[name].state if name in marks else NodeState.READY for name in targets}
        return [
            {"name": o.target, "state": states[o.target].value, "action": o.action}
            | ({"error": error_dict(o.error)} if o.error is not None else {})
            for o in outcomes
        ]

    request = app.request(request_id, verb, targets, state=state, reason=reason)
    items = items_once(world, request, run, lambda items: not failed)
    columns = (Column("name"), Column("state"), Column("action"), Column("error", show=error_text))
    app.out.rows(items, columns if failed else columns[:-1])
    raise_if_failed(failed, len(items))


def _view(app: App, names: tuple[str, ...] | None) -> ClusterView:
    """The state database, with the answers of the named nodes (None: all) in it."""
    from wsctl import observe
    from wsctl.errors import NodeError
    from wsctl.transport.fanout import run as fan_out

    inventory = app.inventory
    view = observe.snapshot(inventory.cluster, inventory.nodes, app.store_for_reading)
    wanted = list(inventory.nodes) if names is None else list(names)
    if not wanted:
        return view
    app.fleet.warm(wanted)
    answers = fan_out(wanted, lambda name: observe.ask_node(app.fleet.engine(name), ()))
    for name, answer in answers.items():
        if not isinstance(answer, (observe.Observation, NodeError)):
            raise answer
        view = observe.merge(view, name, answer)
    return view


def _last_seen(app: App) -> dict[str, datetime]:
    """When watchers saw the nodes well; nothing if that can't be asked: it is no reason to show nothing else."""
    try:
        sightings = app.presence_for_reading.ls()
    except BackendError as error:
        app.out.detail(f"when the nodes were seen isn't known: {error.message}")
        return {}
    now, ages = app.wiring.clock.now(), dict[str, float]()
    for _, node, (well_s, _) in sightings:
        if well_s is not None:
            ages[node] = min(well_s, ages.get(node, well_s))
    return {node: now - timedelta(seconds=age) for node, age in ages.items()}


def _node_dict(name: str, view: ClusterView, seen_at: datetime | None) -> dict[str, object]:
    node = view.nodes[name]
    moving = sum(move.source == name for move in view.moves.values())
    left = sum(placement.node == name for placement in view.placements.values())
    progress = f"{left} left, {moving} of them on their way" if node.mark.state is NodeState.DRAINING else ""
    capacity, usage = node.node.capacity, node.usage
    suspect, aside = suspicion(node.reports), set_aside(node.reports)
    state = node.mark.state.value
    if node.mark.state is NodeState.READY and (suspect or aside):
        state = "suspect" if suspect else "aside"
    against = [report.reason for report in (suspect, aside) if report is not None]
    error = node.error if node.reachable is False and str(node.error) not in " ".join(against) else None
    parts = (node.mark.reason, progress, *against, error)
    reason = "; ".join(part for part in parts if part) or None
    return {
        "name": name,
        "address": node.node.address,
        "state": state,
        "reachable": node.reachable,
        "workspaces": usage.workspaces,
        "moving": moving,
        "active": usage.active,
        "capacity": {
            "workspaces": capacity.workspaces,
            "memory_bytes": capacity.memory_bytes,
            "cpus": capacity.cpus_milli / 1000,
        },
        "used": {"memory_bytes": usage.memory_bytes, "cpus": usage.cpus_milli / 1000},
        "ports_free": node.ports_free,
        "labels": dict(node.node.labels),
        "last_seen_at": seen_at or (suspect.seen_at if suspect is not None else None),
        "reason": reason,
    }
