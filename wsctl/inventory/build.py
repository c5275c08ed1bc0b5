"""Typed values → the inventory: defaults filled in, layers merged, paths made absolute.

Responsible for: what an absent key means, and what overrides what (table < defaults < node; workspace < class).
Not responsible for: whether the result makes sense as a whole (`checks`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wsctl.health import Rules
from wsctl.inventory.kinds import Kind, ListOf, MapOf, Section, Values
from wsctl.inventory.scalars import Text
from wsctl.inventory.settings import (
    BackupSettings,
    FailoverSettings,
    Inventory,
    MoveSettings,
    ReapSettings,
    StateSettings,
    WatchSettings,
)
from wsctl.inventory.table import CLASS, GATEWAY_HOST, NODE, READY, ROOT
from wsctl.inventory.urls import resolve_ca, resolve_state
from wsctl.model import Capacity, Node, Resources, SshSettings, WorkspaceSpec
from wsctl.routes import MAP_FILE, STATUS, GatewayHost, GatewaySettings


def default_values(section: Section) -> Values:
    """What a section is when nobody says anything; keys that must be given are absent."""
    values: Values = {}
    for name, key in section.keys.items():
        if isinstance(key.kind, Section) and key.kind.make is None:
            values[name] = default_values(key.kind)
        elif key.kind is READY:
            values[name] = READY.make({"http": "/"}) if READY.make else None
        elif isinstance(key.kind, MapOf):
            values[name] = {}
        elif key.default is not None and isinstance(key.kind, Text):
            values[name] = key.kind.parse(key.default)
        elif key.default is not None and isinstance(key.kind, ListOf):
            values[name] = tuple(key.kind.item.parse(word) for word in key.default.strip("[]").split(", "))
        elif not key.required:
            values[name] = None
    return values


def overlay(section: Section, base: Values, over: Values) -> Values:
    """`over` on top of `base`: sections and maps key by key, everything else as a whole."""
    merged = dict(base)
    for name, value in over.items():
        kind: Kind = section.keys[name].kind
        if isinstance(kind, Section) and kind.make is None:
            merged[name] = overlay(kind, base[name], value)
        elif isinstance(kind, MapOf):
            merged[name] = {**base[name], **value}
        else:
            merged[name] = value
    return merged


def build(path: Path, values: Values) -> Inventory:
    """The inventory of a file's values, which must be free of problems."""
    files = _Files(path)
    root = overlay(ROOT, default_values(ROOT), {name: values[name] for name in values if name != "nodes"})
    base = root["workspace"]
    classes = {"default": base} | {name: overlay(CLASS, base, own) for name, own in sorted(base["classes"].items())}
    nodes = values["nodes"]
    return Inventory(
        path=path,
        cluster=root["cluster"],
        state=StateSettings(
            url=resolve_state(root["state"], files.resolve), password_file=files.optional(root["state_password_file"])
        ),
        coordination=resolve_ca(root["coordination"], files.resolve) if root["coordination"] else None,
        coordination_password_file=files.optional(root["coordination_password_file"]),
        classes={name: _workspace(name, one) for name, one in classes.items()},
        strategy=root["scheduler"]["strategy"],
        reap=_reap(root["reap"]),
        backup=_backup(root["backup"], files),
        watch=_watch(root["watch"], is_wanted="watch" in values),
        migrate=_migrate(root["migrate"]),
        failover=_failover(root["failover"]),
        requests_keep_s=root["requests"]["keep"],
        gateway=_gateway(root["gateway"], _gateway_hosts(root, files)),
        gateway_hosts=_gateway_hosts(root, files),
        auto_apply=root["gateway"]["auto_apply"],
        nodes={name: _node(name, overlay(NODE, root["defaults"], nodes[name]), files) for name in sorted(nodes)},
    )


class _Files:
    """Makes files of the control host absolute: `~` is the operator's home, the rest is beside the inventory."""

    def __init__(self, path: Path) -> None:
        self._folder = os.path.dirname(os.path.abspath(path))

    def resolve(self, name: str) -> str:
        """The absolute, plain form of a path."""
        return os.path.normpath(os.path.join(self._folder, os.path.expanduser(name)))

    def optional(self, name: str | None) -> str | None:
        """The same, where there may be none."""
        return None if name is None else self.resolve(name)


def _node(name: str, values: Values, files: _Files) -> Node:
    capacity: Values = values["capacity"]
    return Node(
        name=name,
        address=values["address"],
        ports=values["ports"],
        capacity=Capacity(capacity["workspaces"], capacity["memory"], capacity["cpus"]),
        ssh=_ssh(values["ssh"], files),
        docker_socket=values["docker_socket"],
        host_root=values["host_root"],
        storage=values["storage"],
        bind_address=values["bind_address"],
        weight=values["weight"] / 1000,
        max_concurrent_starts=values["max_concurrent_starts"],
        labels=values["labels"],
    )


def _ssh(values: Values, files: _Files) -> SshSettings:
    return SshSettings(
        user=values["user"],
        port=values["port"],
        identity_file=files.optional(values["identity_file"]),
        known_hosts=files.optional(values["known_hosts"]),
        proxy_jump=values["proxy_jump"],
        config=values["config"],
    )


def _workspace(name: str, values: Values) -> WorkspaceSpec:
    return WorkspaceSpec(
        name=name,
        image=values["image"],
        resources=Resources(values["memory"], values["cpus"], values["pids"]),
        container_port=values["container_port"],
        mount=values["mount"],
        command=values["command"],
        env=values["env"],
        idle_after_s=values["idle_after"],
        max_age_s=values["max_age"],
        busy_bytes=values["busy_bytes"],
        busy_connections={"auto": None, "always": True, "never": False}[values["busy_connections"]],
        busy_cpus=None if values["busy_cpus"] is None else values["busy_cpus"] / 1000,
        ready=values["ready"],
        pull=values["pull"],
        standby=values["standby"],
        labels=values["labels"],
    )


def _migrate(values: Values) -> MoveSettings:
    return MoveSettings(values["keep"], values["bandwidth"], values["compress"], values["verify"] == "full")


def _reap(values: Values) -> ReapSettings:
    return ReapSettings(
        notice_s=values["notice"],
        hook=values["hook"],
        url=values["url"],
        timeout_s=values["timeout"],
        users=values["users"],
    )


def _backup(values: Values, files: _Files) -> BackupSettings:
    keep: Values = values["keep"]
    return BackupSettings(
        repository=values["repository"],
        password_file=files.optional(values["password_file"]),
        env_file=files.optional(values["env_file"]),
        keep=(keep["last"], keep["daily"], keep["weekly"], keep["monthly"]),
    )


def _watch(values: Values, *, is_wanted: bool) -> WatchSettings:
    rules = Rules(
        interval_s=values["interval"],
        suspect_after_s=values["suspect_after"],
        down_after_s=values["down_after"],
        misses=values["misses"],
        alarm_percent=values["alarm_percent"],
        alarm_least=values["alarm_least"],
    )
    return WatchSettings(rules, values["set_aside"], values["wake"], is_wanted)


def _failover(values: Values) -> FailoverSettings:
    return FailoverSettings(
        policy=values["policy"],
        loss=values["accept_data_loss"],
        max_age_s=values["max_age"],
        every_s=values["sync_every"],
        parallel=values["sync_parallel"],
        bwlimit=values["sync_bwlimit"],
    )


def _gateway(values: Values, hosts: Mapping[str, GatewayHost]) -> GatewaySettings:
    return GatewaySettings(
        path_prefix=values["path_prefix"],
        strip_prefix=values["strip_prefix"],
        auth_request=values["auth_request"],
        read_timeout_s=values["read_timeout"],
        connect_timeout_s=values["connect_timeout"],
        max_body_bytes=values["max_body_size"],
        mode=values["mode"],
        host_suffix=values["host_suffix"],
        node_domain=values["node_domain"],
        wake=values["wake"],
        endpoint=values["endpoint"],
        # The one that all have; `checks` wants that where it matters.
        map_file=next((host.map_file for host in hosts.values()), MAP_FILE),
    )


def _gateway_hosts(root: Values, files: _Files) -> dict[str, GatewayHost]:
    """The gateways by name. They are reached as nodes are, unless they say otherwise."""
    defaults = {**default_values(GATEWAY_HOST), "ssh": root["defaults"]["ssh"]}
    found: dict[str, GatewayHost] = {}
    for name, own in sorted(root["gateway"]["hosts"].items()):
        values = overlay(GATEWAY_HOST, defaults, own)
        found[name] = GatewayHost(
            name=name,
            address=values["address"],
            ssh=_ssh(values["ssh"], files),
            map_file=values["map_file"],
            test=values["test"],
            reload=values["reload"],
            status_url=_status_url(values["status_url"], root["gateway"]["path_prefix"]),
        )
    return found


def _status_url(given: str | None, prefix: str) -> str:
    """The URL with its path, which is the status location's unless it is said."""
    url = given or "http://127.0.0.1"
    if url.startswith("unix:"):
        return url if url.count(":") > 1 else f"{url}:{prefix}{STATUS}"
    return url if url.count("/") > 2 else f"{url}{prefix}{STATUS}"
