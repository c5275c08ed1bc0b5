"""Where a node is and how to log in there, from the inventory and from OpenSSH's own configuration.

Responsible for: one resolved `Target` per host. `ssh -G` reads ~/.ssh/config (with Include, Match, canonical names), so
that wsctl and `ssh` always agree; what the inventory says wins. Not responsible for: connecting (`ssh`, `sessions`).
"""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from wsctl.errors import NodeError, NodeUnreachable
from wsctl.model import SshSettings
from wsctl.transport.host_keys import SSH_PORT

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


class Target(NamedTuple):
    """A host to log in to, fully resolved. `node` is the inventory's node that it serves, for messages.

    `named_key` is the key file that the inventory names: then no other is tried. `jumps` are the hops on the way, in
    order, as `user@host:port`. `agent` is the agent's socket, None for no agent.
    """

    node: str
    host: str
    port: int
    user: str
    named_key: str | None
    key_files: tuple[str, ...]
    identities_only: bool
    agent: str | None
    known_hosts: tuple[str, ...]
    host_key_alias: str | None
    jumps: tuple[str, ...]
    proxy_command: str | None

    @property
    def name(self) -> str:
        """`user@host`, with the port if it isn't 22: what one would give to `ssh`."""
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != SSH_PORT else "")

    @property
    def check_name(self) -> tuple[str, int]:
        """Host and port under which known_hosts is searched. An alias stands for itself, without a port."""
        return (self.host_key_alias, SSH_PORT) if self.host_key_alias else (self.host, self.port)


def resolve(node: str, address: str, settings: SshSettings, timeout_s: float) -> Target:
    """The target for `address`. Raises `NodeUnreachable` when ~/.ssh/config is broken or `ssh -G` hangs."""
    found = _ssh_g(node, address, settings, timeout_s) if settings.config else {}
    named = _expand(settings.identity_file) if settings.identity_file else None
    jump = settings.proxy_jump if settings.proxy_jump is not None else _first(found, "proxyjump")
    # An inventory that names a jump host doesn't want ssh_config's ProxyCommand as well, and the other way round.
    command = None if settings.proxy_jump is not None else _first(found, "proxycommand")
    return Target(
        node=node,
        host=_first(found, "hostname") or address,
        port=settings.port or int(_first(found, "port") or SSH_PORT),
        user=settings.user or _first(found, "user") or getpass.getuser(),
        named_key=named,
        key_files=(named,) if named else tuple(_expand(name) for name in found.get("identityfile", DEFAULT_KEYS)),
        identities_only=named is not None or _first(found, "identitiesonly") == "yes",
        agent=_agent(_first(found, "identityagent")),
        known_hosts=_known_hosts(settings, found),
        host_key_alias=_first(found, "hostkeyalias"),
        jumps=_jumps(jump),
        proxy_command=None if command in (None, "none") else command,
    )


def parse_hop(node: str, spec: str) -> tuple[str, str | None, int | None]:
    """Host, user and port of a hop written `[user@]host[:port]`, `[user@][v6]:port` or `ssh://…`."""
    text = spec.removeprefix("ssh://").rstrip("/")
    user, at, rest = text.rpartition("@")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    else:
        host, port = rest, ""
    if not host or (port and not port.isdecimal()):
        raise NodeUnreachable(node, f"not a jump host: {spec!r}", hint="write user@host:port in proxy_jump")
    return host, user if at and user else None, int(port) if port else None


def _ssh_g(node: str, address: str, settings: SshSettings, timeout_s: float) -> dict[str, list[str]]:
    command = ["ssh", "-G"]
    # Match blocks in the configuration may ask for user and port, so ssh has to know what was decided already.
    if settings.user:
        command += ["-l", settings.user]
    if settings.port:
        command += ["-p", str(settings.port)]
    try:
        done = subprocess.run(  # noqa: S603 - no shell; `--` keeps the address from being an option
            [*command, "--", address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        return {}  # no OpenSSH client here, hence nobody whose configuration could be meant
    except subprocess.TimeoutExpired as error:
        hint = "a `Match exec` in ~/.ssh/config may hang; set `ssh: {config: false}` to do without"
        raise NodeUnreachable(node, f"`ssh -G {address}` gave no answer within {timeout_s:g} s", hint=hint) from error
    except OSError as error:
        raise NodeUnreachable(node, f"can't start ssh to read ~/.ssh/config: {error.strerror}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        hint = "mend ~/.ssh/config, or set `ssh: {config: false}`"
        raise NodeUnreachable(node, f"ssh can't use its configuration: {said[-1] if said else 'no reason'}", hint=hint)
    return parse_ssh_g(done.stdout)


def parse_ssh_g(text: str) -> dict[str, list[str]]:
    """The output of `ssh -G`: keyword to its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value.strip())
    return found


def _first(found: dict[str, list[str]], key: str) -> str | None:
    values = found.get(key)
    return values[0] if values else None


def _expand(name: str) -> str:
    return str(Path(name.replace("%d", str(Path.home()))).expanduser())


def _known_hosts(settings: SshSettings, found: dict[str, list[str]]) -> tuple[str, ...]:
    if settings.known_hosts:
        return (_expand(settings.known_hosts),)
    user = (_first(found, "userknownhostsfile") or " ".join(DEFAULT_KNOWN_HOSTS)).split()
    world = (_first(found, "globalknownhostsfile") or " ".join(GLOBAL_KNOWN_HOSTS)).split()
    return tuple(_expand(name) for name in [*user, *world] if name != "none")


def _agent(configured: str | None) -> str | None:
    if configured == "none":
        return None
    if configured in (None, "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK") or None
    if configured.startswith("$"):
        return os.environ.get(configured[1:].strip("{}")) or None
    return _expand(configured)


def _jumps(value: str | None) -> tuple[str, ...]:
    if value is None or value.strip().lower() in ("", "none"):
        return ()
    return tuple(hop.strip() for hop in value.split(",") if hop.strip())


def expand_proxy_command(target: Target) -> str:
    """The ProxyCommand with its tokens filled in. Raises `NodeError` for a token that isn't supported."""
    values = {"%": "%", "h": target.host, "p": str(target.port), "r": target.user, "n": target.host}
    parts = (target.proxy_command or "").split("%%")
    for index, part in enumerate(parts):
        for token, value in values.items():
            part = part.replace(f"%{token}", value)  # noqa: PLW2901
        if "%" in part:
            raise NodeError(target.node, f"ProxyCommand uses a token that wsctl doesn't know: {target.proxy_command}")
        parts[index] = part
    return "%".join(parts)
