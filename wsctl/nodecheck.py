"""Checking one node, from reach to image: each check with its verdict and the fix to type.

Responsible for: what is checked and what the figures mean. Not responsible for: connecting (`transport`), or for what
is done about a node that fails (operators, `node cordon`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from wsctl.errors import NodeError
from wsctl.findings import Check, CheckStatus
from wsctl.machinecheck import check_machine
from wsctl.model import EngineFacts, Node, PullPolicy, WorkspaceSpec
from wsctl.ports import Clock, Commands, Engine, EngineFactory
from wsctl.text import human_bytes, human_cpus

OLDEST_API = (1, 41)
"""Docker Engine 20.10, the oldest that wsctl is tested with."""

SKEW_S = (2.0, 60.0)
"""Seconds that a clock may be off before it is a WARN, and a FAIL. Nothing here is decided by a node's clock, but
certificates and whoever compares logs depend on it."""


def check_node(
    node: Node, engines: EngineFactory, specs: Sequence[WorkspaceSpec], commands: Commands, clock: Clock
) -> list[Check]:
    """All checks of one node, each depending on those before; what follows a failed reach is left out."""
    try:
        engine = engines(node.name)
        before = clock.now()
        facts = engine.facts()
        after = clock.now()
    except NodeError as error:
        return [Check("reach", CheckStatus.FAIL, error.reason, error.hint)]
    way = "this machine's socket" if node.is_local else f"SSH to {node.address}"
    found = [Check("reach", CheckStatus.OK, f"{way}, ports on {engine.address}"), _check_api(facts)]
    found += [_check_memory(node, facts), _check_cpus(node, facts)]
    found += [
        check_time("its engine", facts.system_time, before, after, f"timedatectl set-ntp true   # on {node.name}")
    ]
    found += [_check_image(node, engine, image, specs) for image in sorted({spec.image for spec in specs})]
    return found + check_machine(node, commands)


def check_time(whose: str, said: datetime | None, before: datetime, after: datetime, fix: str) -> Check:
    """A clock that was read between `before` and `after` of ours. What lies in between counts as right."""
    if said is None:
        return Check("time", CheckStatus.WARN, f"{whose} doesn't say what time it is")
    ahead = (said - after).total_seconds()
    behind = (before - said).total_seconds()
    off = max(ahead, behind, 0.0)
    text = f"{whose} is {off:.1f} s {'ahead of' if ahead > behind else 'behind'} this machine"
    if off < SKEW_S[0]:
        return Check("time", CheckStatus.OK, f"{whose} has this machine's time, within {max(off, 0.1):.1f} s")
    return Check("time", CheckStatus.FAIL if off >= SKEW_S[1] else CheckStatus.WARN, text, fix)


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
