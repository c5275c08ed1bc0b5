"""Inventory → plain data and YAML: everything resolved, every default said.

Responsible for: `wsctl inventory show`, so that loading what it prints gives the same inventory (in any folder).
Not responsible for: layout of tables (`output`). There are no secrets in an inventory, so none are shown.
"""

from __future__ import annotations

from typing import Any

from wsctl.inventory.scalars import duration_text, size_text
from wsctl.inventory.settings import (
    BackupSettings,
    FailoverSettings,
    Inventory,
    MoveSettings,
    ReapSettings,
    WatchSettings,
)
from wsctl.model import Node, ReadyProbe, SshSettings, WorkspaceSpec
from wsctl.routes import GatewayHost, GatewaySettings
from wsctl.text import UNSAFE

Data = dict[str, Any]


def effective(inventory: Inventory) -> Data:
    """The inventory as JSON and YAML can say it, in the keys of the file; `defaults` have gone into the nodes."""
    others = {name: _workspace(spec) for name, spec in sorted(inventory.classes.items()) if name != "default"}
    return {
        "version": 1,
        "cluster": inventory.cluster,
        "state": inventory.state.url,
        "state_password_file": inventory.state.password_file,
        "coordination": inventory.coordination,
        "coordination_password_file": inventory.coordination_password_file,
        "workspace": {**_workspace(inventory.workspace), "classes": others},
        "scheduler": {"strategy": str(inventory.strategy)},
        "failover": _failover(inventory.failover),
        "reap": _reap(inventory.reap),
        "watch": _watch(inventory.watch),
        "migrate": _migrate(inventory.migrate),
        "requests": {"keep": duration_text(inventory.requests_keep_s)},
        "backup": _backup(inventory.backup),
        "gateway": {
            **_gateway(inventory.gateway),
            "auto_apply": inventory.auto_apply,
            "hosts": {name: _gateway_host(host) for name, host in inventory.gateway_hosts.items()},
        },
        "nodes": {name: _node(node) for name, node in inventory.nodes.items()},
    }


def render_effective_yaml(inventory: Inventory) -> str:
    """`effective` as YAML text, in the table's order.

    Letters of all scripts stay readable, unless there is anything that a terminal would obey or YAML would fold (a
    control character, a line separator): then everything beyond ASCII is escaped.
    """
    data = effective(inventory)
    text = _dump(data, unicode=True)
    return _dump(data, unicode=False) if UNSAFE.search(text.replace("\n", "")) or "\ufeff" in text else text


def _dump(data: Data, *, unicode: bool) -> str:
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        data, Dumper=dumper, sort_keys=False, allow_unicode=unicode, width=120, default_flow_style=False
    )
    return text


def _number(milli: int) -> int | float:
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


def _ssh(ssh: SshSettings) -> Data:
    return {
        "user": ssh.user,
        "port": ssh.port,
        "identity_file": ssh.identity_file,
        "known_hosts": ssh.known_hosts,
        "proxy_jump": ssh.proxy_jump,
        "config": ssh.config,
    }


def _node(node: Node) -> Data:
    return {
        "address": node.address,
        "ssh": _ssh(node.ssh),
        "docker_socket": node.docker_socket,
        "host_root": node.host_root,
        "storage": node.storage,
        "bind_address": node.bind_address,
        "ports": f"{node.ports.first}-{node.ports.last}",
        "capacity": {
            "workspaces": node.capacity.workspaces,
            "memory": size_text(node.capacity.memory_bytes),
            "cpus": _number(node.capacity.cpus_milli),
        },
        "weight": _number(round(node.weight * 1000)),
        "max_concurrent_starts": node.max_concurrent_starts,
        "labels": dict(sorted(node.labels.items())),
    }


def _workspace(spec: WorkspaceSpec) -> Data:
    return {
        "image": spec.image,
        "command": None if spec.command is None else list(spec.command),
        "container_port": spec.container_port,
        "mount": spec.mount,
        "env": dict(sorted(spec.env.items())),
        "memory": size_text(spec.resources.memory_bytes),
        "cpus": _number(spec.resources.cpus_milli),
        "pids": spec.resources.pids,
        "idle_after": None if spec.idle_after_s is None else duration_text(spec.idle_after_s),
        "max_age": None if spec.max_age_s is None else duration_text(spec.max_age_s),
        "busy_bytes": spec.busy_bytes,
        "busy_connections": {None: "auto", True: "always", False: "never"}[spec.busy_connections],
        "busy_cpus": None if spec.busy_cpus is None else _number(round(spec.busy_cpus * 1000)),
        "ready": _ready(spec.ready),
        "standby": spec.standby,
        "pull": str(spec.pull),
        "labels": dict(sorted(spec.labels.items())),
    }


def _migrate(moves: MoveSettings) -> Data:
    return {
        "keep": duration_text(moves.keep_s),
        "bandwidth": None if moves.bandwidth is None else size_text(moves.bandwidth),
        "compress": moves.compress,
        "verify": "full" if moves.verify_full else "sample",
    }


def _reap(reap: ReapSettings) -> Data:
    return {
        "notice": duration_text(reap.notice_s),
        "hook": None if reap.hook is None else list(reap.hook),
        "url": reap.url,
        "timeout": duration_text(reap.timeout_s),
        "users": {user: "never" if s is None else duration_text(s) for user, s in sorted(reap.users.items())},
    }


def _backup(backup: BackupSettings) -> Data:
    last, daily, weekly, monthly = backup.keep
    return {
        "repository": backup.repository,
        "password_file": backup.password_file,
        "env_file": backup.env_file,
        "keep": {"last": last, "daily": daily, "weekly": weekly, "monthly": monthly},
    }


def _watch(watch: WatchSettings) -> Data:
    rules = watch.rules
    return {
        "interval": duration_text(rules.interval_s),
        "suspect_after": duration_text(rules.suspect_after_s),
        "down_after": duration_text(rules.down_after_s),
        "misses": rules.misses,
        "alarm_percent": rules.alarm_percent,
        "alarm_least": rules.alarm_least,
        "set_aside": duration_text(watch.set_aside_s),
        "wake": watch.wake,
    }


def _failover(failover: FailoverSettings) -> Data:
    return {
        "policy": str(failover.policy),
        "accept_data_loss": str(failover.loss),
        "max_age": None if failover.max_age_s is None else duration_text(failover.max_age_s),
        "sync_every": duration_text(failover.every_s),
        "sync_parallel": failover.parallel,
        "sync_bwlimit": None if failover.bwlimit is None else size_text(failover.bwlimit),
    }


def _ready(probe: ReadyProbe | None) -> Data | None:
    if probe is None:
        return None
    what: Data = {"tcp": True} if probe.http_path is None else {"http": probe.http_path}
    return what | {"timeout": duration_text(probe.timeout_s)}


def _gateway(gateway: GatewaySettings) -> Data:
    return {
        "mode": str(gateway.mode),
        "host_suffix": gateway.host_suffix,
        "node_domain": gateway.node_domain,
        "endpoint": gateway.endpoint,
        "path_prefix": gateway.path_prefix,
        "strip_prefix": gateway.strip_prefix,
        "auth_request": gateway.auth_request,
        "wake": gateway.wake,
        "read_timeout": duration_text(gateway.read_timeout_s),
        "connect_timeout": duration_text(gateway.connect_timeout_s),
        "max_body_size": size_text(gateway.max_body_bytes),
    }


def _gateway_host(host: GatewayHost) -> Data:
    return {
        "address": host.address,
        "ssh": _ssh(host.ssh),
        "map_file": host.map_file,
        "test": list(host.test),
        "reload": list(host.reload),
        "status_url": host.status_url,
    }
