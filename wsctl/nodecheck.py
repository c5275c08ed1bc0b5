"""Checking one node, from reach to image: each check with its verdict and the fix to type.

Responsible for: what is checked and what the figures mean. Not responsible for: connecting (`transport`), or for what
is done about a node that fails (operators, `node cordon`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from wsctl.errors import NodeError
from wsctl.model import EngineFacts, Node, PullPolicy, WorkspaceSpec
from wsctl.ports import Engine, EngineFactory
from wsctl.text import human_bytes, human_cpus

OLDEST_API = (1, 41)
"""Docker Engine 20.10, the oldest that wsctl is tested with."""


class CheckStatus(StrEnum):
    """What a check found. WARN doesn't keep the node from working."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    check: str
    status: CheckStatus
    detail: str
    fix: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON and tables."""
        return {**asdict(self), "status": self.status.value}


def check_node(node: Node, engines: EngineFactory, specs: Sequence[WorkspaceSpec]) -> list[Check]:
    """All checks of one node, each depending on those before; what follows a failed reach is left out."""
    try:
        engine = engines(node.name)
        facts = engine.facts()
    except NodeError as error:
        return [Check("reach", CheckStatus.FAIL, error.reason, error.hint)]
    way = "this machine's socket" if node.is_local else f"SSH to {node.address}"
    found = [Check("reach", CheckStatus.OK, f"{way}, ports on {engine.address}"), _check_api(facts)]
    found += [_check_memory(node, facts), _check_cpus(node, facts)]
    found += [_check_image(node, engine, image, specs) for image in sorted({spec.image for spec in specs})]
    return found


def _check_api(facts: EngineFacts) -> Check:
    text = f"Docker {facts.version}, API {facts.api_version}"
    try:
        api = tuple(int(part) for part in facts.api_version.split(".")[:2])
    except ValueError:
        return Check("engine", CheckStatus.WARN, f"{text}: not a version that can be read")
    if api < OLDEST_API:
        return Check("engine", CheckStatus.FAIL, text, "upgrade Docker to 20.10 or newer")
    return Check("engine", CheckStatus.OK, text)


def _check_memory(node: Node, facts: EngineFacts) -> Check:
    offered, there = node.capacity.memory_bytes, facts.memory_bytes
    text = f"capacity {human_bytes(offered)} of {human_bytes(there)}"
    if offered > there:
        return Check("memory", CheckStatus.WARN, text, f"lower nodes.{node.name}.capacity.memory")
    return Check("memory", CheckStatus.OK, text)


def _check_cpus(node: Node, facts: EngineFacts) -> Check:
    offered, there = node.capacity.cpus_milli, facts.ncpu * 1000
    text = f"capacity {human_cpus(offered)} of {human_cpus(there)} cores"
    # Sharing cores is a policy, not a mistake: workspaces rarely work all at once. Tenfold is probably a slip.
    if offered > 10 * there:
        return Check("cpus", CheckStatus.WARN, text, f"lower nodes.{node.name}.capacity.cpus")
    return Check("cpus", CheckStatus.OK, text)


def _check_image(node: Node, engine: Engine, image: str, specs: Sequence[WorkspaceSpec]) -> Check:
    try:
        present = engine.has_image(image)
    except NodeError as error:
        return Check("image", CheckStatus.FAIL, error.reason, error.hint)
    if present:
        return Check("image", CheckStatus.OK, image)
    never = all(spec.pull is PullPolicy.NEVER for spec in specs if spec.image == image)
    status = CheckStatus.FAIL if never else CheckStatus.WARN
    return Check("image", status, f"{image} is not on the node", f"docker pull {image}   # on {node.name}")
