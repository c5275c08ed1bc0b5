"""Checking the control side: what wsctl itself stands on, on this machine.

Responsible for: each check with its verdict and the fix to type. Nothing here raises for what it finds. Not responsible
for: nodes (`nodecheck`), for opening what is checked (`context`), nor for output (`commands`).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from wsctl.errors import WsctlError
from wsctl.findings import Check, CheckStatus
from wsctl.inventory import Inventory
from wsctl.model import SshSettings
from wsctl.nodecheck import check_time
from wsctl.ports import Clock, Leases, Store
from wsctl.standbys import FailoverPolicy
from wsctl.text import human_bytes
from wsctl.watchports import Presence

ROOM_BYTES = (100 << 20, 1 << 30)
"""Free space below which it is a FAIL, and a WARN."""

_PROBE = "doctor"


def check_inventory(load: Callable[[], Inventory]) -> tuple[Check, Inventory | None]:
    """Whether the inventory loads, and what it is."""
    try:
        inventory = load()
    except WsctlError as error:
        return Check("inventory", CheckStatus.FAIL, error.message, error.hint or "wsctl inventory check"), None
    text = f"{inventory.path}: cluster {inventory.cluster}, {len(inventory.nodes)} nodes"
    if inventory.warnings:
        first = inventory.warnings[0]
        text = f"{text}; {len(inventory.warnings)} warnings: {first}"
        return Check("inventory", CheckStatus.WARN, text, "wsctl inventory check"), inventory
    return Check("inventory", CheckStatus.OK, text), inventory


def check_state(open_store: Callable[[], Store], clock: Clock) -> list[Check]:
    """Whether the database answers, has the right schema, can be written, and knows what time it is."""
    try:
        store = open_store()
        version = store.schema_version()
        count = len(store.placements_and_damage()[0])
        damaged = len(store.placements_and_damage()[1])
    except WsctlError as error:
        return [_failed("state", error)]
    found = [Check("state", CheckStatus.OK, f"schema version {version}, {count} placements")]
    if damaged:
        found = [Check("state", CheckStatus.FAIL, f"{damaged} rows are damaged", "wsctl reconcile")]
    try:
        store.set_notes(_PROBE, {"write": "probe"}, clock.now())
        store.drop_notes(_PROBE, ["write"])
        found.append(Check("write", CheckStatus.OK, "a row was written and deleted"))
        before = clock.now()
        said = store.database_time()
        found.append(check_time("the database", said, before, clock.now(), "timedatectl set-ntp true   # on both"))
    except WsctlError as error:
        found.append(_failed("write", error))
    return found


def check_coordination(leases: Callable[[], Leases], where: str) -> Check:
    """Whether leases can be asked about."""
    try:
        held = len(leases().ls())
    except WsctlError as error:
        return _failed("coordination", error)
    return Check("coordination", CheckStatus.OK, f"{where}, {held} leases are held")


def check_watchers(inventory: Inventory, presence: Callable[[], Presence]) -> Check:
    """Whether somebody watches over the nodes, where the inventory counts on it."""
    try:
        watchers = sorted({sighting.watcher for sighting in presence().ls() if not sighting.node})
    except WsctlError as error:
        return _failed("watch", error)
    if watchers:
        return Check("watch", CheckStatus.OK, f"{', '.join(watchers)}")
    automatic = inventory.failover.policy is FailoverPolicy.AUTOMATIC
    if inventory.watch.is_wanted or automatic:
        key = "`failover.policy` is automatic" if automatic else "`watch:` is set up"
        text = f"{key}, and no watcher was seen within a minute: nobody notices a node that dies"
        return Check("watch", CheckStatus.WARN, text, "wsctl systemd install watch   # or look: wsctl watch")
    return Check("watch", CheckStatus.OK, "nobody watches, and the inventory doesn't ask for it")


def check_nginx(inventory: Inventory, which: Callable[[str], str | None] = shutil.which) -> Check:
    """Whether this machine has the Nginx that `render-gateway --check` and a local gateway need."""
    local = [name for name, host in inventory.gateway_hosts.items() if host.is_local]
    found = which("nginx") or which("/usr/sbin/nginx")
    if found is not None:
        return Check("nginx", CheckStatus.OK, found)
    if local:
        return Check(
            "nginx", CheckStatus.FAIL, f"not there, and gateway {local[0]} is this machine", "apt install nginx"
        )
    return Check("nginx", CheckStatus.OK, "not on this machine, and no gateway of the inventory is")


def check_ssh(inventory: Inventory, agent: str | None) -> list[Check]:
    """Whether there is something to log in with on the nodes that aren't this machine. `agent` is its socket."""
    settings = {node.ssh for node in inventory.nodes.values() if not node.is_local}
    if not settings:
        return [Check("ssh", CheckStatus.OK, "not needed: the only node is this machine")]
    has_agent = agent is not None and _is_socket(agent)
    found = [_check_key(file) for file in sorted({one.identity_file for one in settings if one.identity_file})]
    if any(one.identity_file is None for one in settings):
        found.append(_check_agent(agent, has_agent=has_agent, ssh=next(iter(settings))))
    return found


def _check_key(file: str) -> Check:
    path = Path(file).expanduser()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as key:
            key.read(1)
    except OSError as error:
        text = f"{path} can't be read: {error.strerror}"
        return Check(
            "ssh", CheckStatus.FAIL, text, f"ssh-keygen -t ed25519 -f {path}   # or name another identity_file"
        )
    if mode & 0o077:
        return Check("ssh", CheckStatus.WARN, f"{path} is open to others (mode {mode:04o})", f"chmod 600 {path}")
    return Check("ssh", CheckStatus.OK, f"{path} can be read")


def _check_agent(agent: str | None, *, has_agent: bool, ssh: SshSettings) -> Check:
    usual = [Path("~/.ssh").expanduser() / f"id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]
    keys = [str(path) for path in usual if os.access(path, os.R_OK)]
    if has_agent:
        return Check("ssh", CheckStatus.OK, f"an agent at {agent}")
    if keys:
        return Check("ssh", CheckStatus.OK, f"{keys[0]} can be read, no agent")
    if ssh.config:
        return Check(
            "ssh", CheckStatus.WARN, "no agent and no usual key; only ~/.ssh/config may name one", "ssh-add -l"
        )
    return Check(
        "ssh", CheckStatus.FAIL, "no agent and no key to log in with", "name an `identity_file` in `defaults.ssh`"
    )


def check_disk(
    folders: list[Path], free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> list[Check]:
    """Whether there is room where wsctl writes on this machine."""
    found = []
    for folder in dict.fromkeys(folders):
        try:
            left = free(folder)
        except OSError as error:
            found.append(Check("disk", CheckStatus.FAIL, f"{folder}: {error.strerror}", f"ls -ld {folder}"))
            continue
        status = (
            CheckStatus.FAIL if left < ROOM_BYTES[0] else CheckStatus.WARN if left < ROOM_BYTES[1] else CheckStatus.OK
        )
        fix = None if status is CheckStatus.OK else f"make room in {folder}"
        found.append(Check("disk", status, f"{folder}: {human_bytes(left)} free", fix))
    return found


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _failed(check: str, error: WsctlError) -> Check:
    return Check(check, CheckStatus.FAIL, error.message, error.hint)
