"""What engines say about containers, as values; and what they are asked to create.

Responsible for: reading untrusted JSON (labels are whatever somebody wrote) without trusting it, and the fixed part of
every container that wsctl creates. Not responsible for: requests (`engine`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from wsctl.model import (
    LABEL_CLUSTER,
    LABEL_GENERATION,
    LABEL_SPEC,
    LABEL_USER,
    Container,
    Resources,
    is_user_id,
)
from wsctl.ports import ContainerSpec
from wsctl.signals import ContainerSigns

CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
)
"""What package managers, web servers and `su` inside a workspace need; none of them reaches out of the container."""

LOGS = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}


def from_listing(said: Mapping[str, Any]) -> Container:
    """A container from `GET /containers/json`."""
    names = said.get("Names") or [""]
    address, port = _published(said.get("Ports") or ())
    return _container(
        said,
        name=str(names[0]),
        state=str(said.get("State") or ""),
        labels=said.get("Labels"),
        image=str(said.get("Image") or ""),
        address=address,
        port=port,
    )


def from_inspection(said: Mapping[str, Any]) -> Container:
    """A container from `GET /containers/{id}/json`. Ports of one that doesn't run are the intended ones."""
    config = said.get("Config") or {}
    bindings = (said.get("HostConfig") or {}).get("PortBindings") or {}
    address, port = None, None
    for binding in (one for many in bindings.values() for one in many or ()):
        if str(binding.get("HostPort") or "").isdecimal():
            address, port = binding.get("HostIp") or None, int(binding["HostPort"])
            break
    return _container(
        said,
        name=str(said.get("Name") or ""),
        state=str((said.get("State") or {}).get("Status") or ""),
        labels=config.get("Labels"),
        image=str(config.get("Image") or ""),
        address=address,
        port=port,
    )


def _container(
    said: Mapping[str, Any], *, name: str, state: str, labels: object, image: str, address: str | None, port: int | None
) -> Container:
    known = labels if isinstance(labels, Mapping) else {}
    user = _text(known.get(LABEL_USER))
    return Container(
        id=str(said.get("Id") or ""),
        name=name.removeprefix("/"),
        state=state,
        cluster=_text(known.get(LABEL_CLUSTER)),
        user=user if user is not None and is_user_id(user) else None,
        generation=_number(known.get(LABEL_GENERATION)),
        spec=_text(known.get(LABEL_SPEC)),
        address=address,
        host_port=port,
        image=image,
        binds=_binds(said.get("Mounts")),
    )


def _binds(mounts: object) -> dict[str, str]:
    """Folders of the node inside of the container; volumes and tmpfs aren't."""
    listed = mounts if isinstance(mounts, list) else []
    found = [one for one in listed if isinstance(one, Mapping) and one.get("Type") == "bind"]
    return {str(one.get("Destination") or ""): str(one.get("Source") or "") for one in found}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    """A label's generation; anything but plain ASCII digits of a sensible length is not one."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    return None


def _published(ports: Iterable[Mapping[str, Any]]) -> tuple[str | None, int | None]:
    for port in ports:
        number = port.get("PublicPort")
        if isinstance(number, int) and number:
            address = port.get("IP")
            return (str(address) if address else None), number
    return None, None


def signs_of(stats: Mapping[str, Any], inspected: Mapping[str, Any]) -> ContainerSigns:
    """Signs of life, from `GET /containers/{id}/stats` and the inspection of a running container."""
    used = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    execs = inspected.get("ExecIDs")
    return ContainerSigns(
        tx_bytes=sent_bytes(stats),
        cpu_ns=used if isinstance(used, int) and used > 0 else None,
        execs=len(execs) if isinstance(execs, list) else 0,
    )


def time_of(text: object) -> datetime | None:
    """A time as engines write it, which has more digits than Python reads; None if there is none."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)", str(text), re.ASCII)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(f"{found[1]}{found[2] or ''}{found[3].replace('Z', '+00:00')}").astimezone(UTC)
    except ValueError:
        return None


def sent_bytes(stats: Mapping[str, Any]) -> int | None:
    """Bytes sent over all networks, from `GET /containers/{id}/stats`; None if the container has none."""
    networks = stats.get("networks")
    if not isinstance(networks, Mapping) or not networks:
        return None
    return sum(int(one.get("tx_bytes") or 0) for one in networks.values())


def to_config(spec: ContainerSpec) -> dict[str, Any]:
    """The body of `POST /containers/create` for a workspace."""
    port = f"{spec.container_port}/tcp"
    return {
        "Image": spec.image,
        "Cmd": list(spec.command) if spec.command is not None else None,
        "Env": [f"{name}={value}" for name, value in sorted(spec.env.items())],
        "Labels": dict(spec.labels),
        "ExposedPorts": {port: {}},
        "HostConfig": {
            **_limits(spec.resources),
            **locked(CAPABILITIES),
            "Binds": [f"{spec.source}:{spec.mount}"],
            "PortBindings": {port: [{"HostIp": spec.address, "HostPort": str(spec.host_port)}]},
        },
    }


def _limits(resources: Resources) -> dict[str, Any]:
    return {
        "Memory": resources.memory_bytes,
        "MemorySwap": resources.memory_bytes,  # memory and swap together: no swap, so the limit means what it says
        "NanoCpus": resources.cpus_milli * 1_000_000,
        "PidsLimit": resources.pids,
    }


def locked(capabilities: tuple[str, ...]) -> dict[str, Any]:
    """The part of HostConfig that no inventory changes."""
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": list(capabilities),
        "SecurityOpt": ["no-new-privileges"],
        # A node that comes back must not start copies that were replaced in the meantime.
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": LOGS,
    }


def to_purge_config(host_root: str, user: str, image: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body for a container that deletes `<host_root>/<user>` and sees nothing but `host_root`. Raises ValueError
    for what isn't a user id: this becomes a path to delete."""
    if not is_user_id(user):
        raise ValueError(f"not a user id: {user!r}")
    return {
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["rm", "-rf", "--", f"/host/{user}"],
        "Cmd": [],
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "HostConfig": {
            **locked(("DAC_OVERRIDE", "FOWNER")),
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            # As a mount, a folder that isn't there is an error; as a bind the engine would make it.
            "Mounts": [{"Type": "bind", "Source": host_root, "Target": "/host"}],
        },
    }


def demultiplex(raw: bytes, tty: bool) -> bytes:
    """The text of a log answer. Without a terminal each piece has a header of eight bytes: stream, length."""
    if tty:
        return raw
    parts: list[bytes] = []
    while len(raw) >= 8:
        length = int.from_bytes(raw[4:8], "big")
        parts.append(raw[8 : 8 + length])
        raw = raw[8 + length :]
    return b"".join(parts)
