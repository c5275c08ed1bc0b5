"""A wsctl inventory for a lab, as text.

Not here: reading inventories; that is wsctl's own work, and the lab doesn't know wsctl.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.view import LabView


def inventory_text(lab: LabView, *, state: str, coordination: str | None, ready: str) -> str:
    """YAML by hand: the lab needs no package beyond Python itself. JSON strings are YAML strings."""
    head = ["version: 1", f"cluster: {json.dumps(lab.name)}", f"state: {json.dumps(state)}"]
    if state.startswith("mysql"):
        head.append(f"state_password_file: {json.dumps(str(lab.mysql_password_file))}")
    if coordination:
        head.append(f"coordination: {json.dumps(coordination)}")
    host_root = next(iter(lab.nodes.values())).host_root
    nodes = [f"  {node.name}: {{address: {node.address}}}" for node in lab.nodes.values()]
    body = f"""\
defaults:
  ssh:
    user: root
    identity_file: {json.dumps(str(lab.ssh_key))}
    known_hosts: {json.dumps(str(lab.known_hosts))}
    config: false
  host_root: {host_root}
  ports: 20000-20999
  capacity: {{workspaces: 100, memory: 16g, cpus: 64}}
workspace:
  image: {lab.image}
  pull: never
  memory: 64m
  cpus: 0.5
  pids: 64
  ready: {ready}
nodes:
"""
    return "\n".join(head) + "\n" + body + "\n".join(nodes) + "\n"
