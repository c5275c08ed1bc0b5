"""The text of an inventory to start from.

Responsible for: what `wsctl init` writes. Not responsible for: where, nor for asking anybody (`commands.init`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from wsctl.errors import UsageError
from wsctl.inventory.loading import parse
from wsctl.inventory.names import parse_address, parse_image, parse_name
from wsctl.inventory.problems import quote
from wsctl.inventory.scalars import size_text
from wsctl.model import Capacity

_TEXT = """\
# The inventory of one wsctl cluster. Every key: `wsctl inventory schema`, or docs/reference/inventory.md.
# After a change: `wsctl inventory check`.
version: 1
cluster: {cluster:<22} # a label on every container: choose it once
state: sqlite:///wsctl.db       # beside this file; later e.g. mysql://wsctl@db:3306/wsctl

workspace:                      # the container every user gets
  image: {image}
  container_port: 8080
  mount: /workspace             # where the user's files appear inside
  memory: 2g
  cpus: 1
  idle_after: 30m               # `wsctl reap-idle` stops it after this long without activity; null: never
  ready: {{http: /, timeout: 30s}} # or {{tcp: true}}

defaults:                       # any key of a node
  host_root: /srv/workspaces    # users' files: <host_root>/<user>
  ports: 20000-29999
  capacity: {{workspaces: {workspaces}, memory: {memory}, cpus: {cpus}}}{capacity_note}
{ssh}
nodes:
{nodes}
"""
_SSH = "  # ssh: {{user: wsctl, identity_file: ~/.ssh/id_ed25519}}   # otherwise as your ssh does\n"
_NODE_NOTE = "  # n1: {address: 10.0.0.11, labels: {zone: a}}    # another machine, reached by SSH\n"


def starter(
    nodes: Mapping[str, str] | None = None,
    *,
    cluster: str = "main",
    image: str = "studio/workspace:1",
    capacity: Capacity | None = None,
) -> str:
    """An inventory of `nodes` (name → address), or without any, of this machine alone.

    `capacity` is what each node has, as far as the caller knows; None leaves a guess with a note. Raises
    `UsageError` for a name, address or image that `load` would refuse.
    """
    chosen = dict(nodes or {"here": "local"})
    _check("cluster", cluster, parse_name)
    _check("image", image, parse_image)
    for name, address in chosen.items():
        _check("node name", name, parse_name)
        _check("address", address, parse_address)
    remote = any(address != "local" for address in chosen.values())
    lines = "".join(f"  {name}: {{address: {_scalar(address)}}}\n" for name, address in chosen.items())
    guess = capacity or Capacity(workspaces=100, memory_bytes=16 * 1024**3, cpus_milli=8000)
    text = _TEXT.format(
        cluster=cluster,
        image=_scalar(image),
        workspaces=guess.workspaces,
        memory=size_text(guess.memory_bytes),
        cpus=f"{guess.cpus_milli / 1000:g}",
        capacity_note="" if capacity else "  # for all workspaces of a node: say what yours have",
        ssh=_SSH.format() if remote else "",
        nodes=(lines if remote else lines + _NODE_NOTE).rstrip("\n"),
    )
    parse(text, Path("inventory.yaml"))
    return text


def _check(what: str, text: str, parse_text: Callable[[str], str]) -> None:
    """Before anything is put into the file's text: it must not be able to add a line to it."""
    try:
        parse_text(text)
    except ValueError as error:
        reason = str(error) or f"can't be used as {what}"
        raise UsageError(f"{what} {quote(text)} {reason}", hint="wsctl init --help") from error


def _scalar(text: str) -> str:
    """A checked text as YAML: in quotes where it could be read as something else."""
    return text if re.fullmatch(r"[a-z0-9.-]+", text) and text != "null" else f'"{text}"'
