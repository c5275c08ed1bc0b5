"""Rules between keys: what each value can't know alone.

Responsible for: problems (the same machine twice, no nodes) and warnings (allowed, but probably not meant).
Not responsible for: single values (`reader`), nor for anything that needs a network (`node check`, `doctor`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from wsctl.inventory.document import Scalar, Table, Value
from wsctl.inventory.kinds import Values
from wsctl.inventory.problems import Problems, join
from wsctl.inventory.settings import Inventory
from wsctl.model import Node, WorkspaceSpec
from wsctl.routes import Mode


def descend(tree: Value | None, *path: str) -> tuple[Scalar, Value] | None:
    """The entry at a key path, if the file has one."""
    entry: tuple[Scalar, Value] | None = None
    for step in path:
        if not isinstance(tree, Table) or step not in tree.entries:
            return None
        entry = tree.entries[step]
        tree = entry[1]
    return entry


def check_nodes_given(tree: Value, values: Values, problems: Problems) -> None:
    """An inventory without a node can do nothing."""
    entry = descend(tree, "nodes")
    if entry is not None and values.get("nodes") == {} and not len(problems):
        problems.add(entry[0], "nodes", "empty, expected at least one node such as `here: {address: local}`")


def check_machines(inventory: Inventory, tree: Value, problems: Problems) -> None:
    """One engine under two names would be filled twice. Two port ranges of one engine may be told apart."""
    engines: dict[tuple[Any, ...], list[Node]] = {}
    for node in inventory.nodes.values():
        way = () if node.is_local else (node.ssh.port or 22, node.ssh.proxy_jump)
        engines.setdefault((node.address.lower(), node.docker_socket, *way), []).append(node)
    for nodes in engines.values():
        nodes.sort(key=lambda node: (node.ports.first, node.name))
        for one, other in pairwise(nodes):
            if other.ports.first <= one.ports.last:
                first, second = sorted((one.name, other.name))
                _same_machine(first, second, tree, problems)


def check_gateways(inventory: Inventory, tree: Value, problems: Problems) -> None:
    """One map file under two names would be replaced by two applies at once."""
    seen: dict[tuple[Any, ...], str] = {}
    for name, host in inventory.gateway_hosts.items():
        way = () if host.is_local else (host.ssh.port or 22, host.ssh.proxy_jump)
        first = seen.setdefault((host.address.lower(), host.map_file, *way), name)
        entry = descend(tree, "gateway", "hosts", name)
        if first != name and entry is not None:
            what = f"the same map file as of gateway {first!r}, expected each one once"
            problems.add(entry[0], join("gateway.hosts", name), what)


def check_notice(inventory: Inventory, tree: Value, problems: Problems) -> None:
    """One notice, by one way."""
    entry = descend(tree, "reap", "url")
    if entry is not None and inventory.reap.hook is not None and inventory.reap.url is not None:
        problems.add(entry[0], "reap.url", "both hook and url, expected one of them")


def check_watch(inventory: Inventory, tree: Value, problems: Problems) -> None:
    """Who goes by single looks, or lets no time pass between suspect and down, can't tell a dead node from a slow one,
    nor one that died from many that vanished one after the other."""
    rules = inventory.watch.rules
    for key, value, low, other in (
        ("suspect_after", rules.suspect_after_s, rules.interval_s, "interval"),
        ("down_after", rules.down_after_s, 2 * rules.suspect_after_s, "suspect_after"),
    ):
        entry = descend(tree, "watch", key) or descend(tree, "watch", other)
        if value < low and entry is not None:
            times = "twice " if key == "down_after" else ""
            problems.add(entry[0], f"watch.{key}", f"too short, expected at least {times}{other}")


def check_gateway_mode(inventory: Inventory, tree: Value, problems: Problems) -> None:
    """A mode of routing needs its key."""
    gateway = inventory.gateway
    entry = descend(tree, "gateway", "mode")
    needs = {Mode.HOST: ("host_suffix", ".ws.example.org"), Mode.REDIRECT: ("node_domain", '"{node}.ws.example.org"')}
    if entry is not None and gateway.mode is Mode.DYNAMIC:
        files = {host.map_file for host in inventory.gateway_hosts.values()}
        if len(files) > 1:
            problems.add(entry[0], "gateway.mode", "dynamic needs one map_file for all gateways")
    if entry is None or gateway.mode not in needs:
        return
    key, example = needs[gateway.mode]
    if getattr(gateway, key) is None:
        problems.add(entry[0], "gateway.mode", f"{gateway.mode} needs {key}, such as `{key}: {example}`")


def _same_machine(first: str, second: str, tree: Value, problems: Problems) -> None:
    entry = descend(tree, "nodes", second)
    if entry is not None:
        what = f"the same machine as node {first!r} (address, socket and ports), expected each machine once"
        problems.add(entry[0], join("nodes", second), what)


def warnings(inventory: Inventory, tree: Value, problems: Problems) -> Iterator[str]:
    """What an operator may want to know before it hurts; the caller shows or ignores it."""
    yield from _loose_files(inventory)
    yield from _assumed_capacity(inventory, tree)
    yield from _few_ports(inventory)
    yield from _hidden_nodes(tree, problems)
    for spec in inventory.classes.values():
        yield from _homeless(spec, inventory.nodes)


def _loose_files(inventory: Inventory) -> Iterator[str]:
    files = {
        "state_password_file": inventory.state.password_file,
        "coordination_password_file": inventory.coordination_password_file,
    }
    for key, name in files.items():
        if name is None:
            continue
        try:
            mode = stat.S_IMODE(os.stat(name).st_mode)
        except OSError:  # whoever needs the password says so; many commands don't
            continue
        if mode & 0o077:
            yield f"{key}: {name} is open to other users (mode {mode:04o}); run `chmod 600 {name}`"


def _assumed_capacity(inventory: Inventory, tree: Value) -> Iterator[str]:
    for what in ("memory", "cpus"):
        if descend(tree, "defaults", "capacity", what):
            continue
        silent = [name for name in inventory.nodes if not descend(tree, "nodes", name, "capacity", what)]
        if silent:
            capacity = inventory.nodes[silent[0]].capacity
            assumed = f"{capacity.memory_bytes // 1024**3}g" if what == "memory" else f"{capacity.cpus_milli // 1000}"
            yield f"capacity.{what} isn't said for {_some(silent)}; {assumed} is assumed, whatever the machine has"


def _few_ports(inventory: Inventory) -> Iterator[str]:
    short = [node.name for node in inventory.nodes.values() if len(node.ports) < node.capacity.workspaces]
    if short:
        yield f"ports: {_some(short)} can have more workspaces than ports; the ports will run out first"


def _hidden_nodes(tree: Value, problems: Problems) -> Iterator[str]:
    entry = descend(tree, "nodes")
    if entry is None or not isinstance(entry[1], Table):
        return
    for name, (at, value) in entry[1].entries.items():
        if name.startswith("x-") and isinstance(value, Table) and "address" in value.entries:
            yield f"{problems.where(at)}: {join('nodes', name)} is not a node: names that begin with x- are ignored"


def _homeless(spec: WorkspaceSpec, nodes: Mapping[str, Node]) -> Iterator[str]:
    labelled = [node for node in nodes.values() if spec.labels.items() <= node.labels.items()]
    if not labelled:
        yield f"workspace class {spec.name!r}: no node has the labels it asks for"
        return
    need = spec.resources
    if not any(
        need.memory_bytes <= node.capacity.memory_bytes and need.cpus_milli <= node.capacity.cpus_milli
        for node in labelled
    ):
        yield f"workspace class {spec.name!r}: no node has the memory and cores for even one"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
