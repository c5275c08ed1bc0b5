"""Looking at containers for signs of life: a whole node by one command, or one container by its engine.

Responsible for: how many requests that takes. A first look over everybody takes one command a node; where no command
can be run, the engine is asked about a few containers in each run, whoever wasn't for longest first. The exact look at
one user, right before a stop, always asks the engine. Not responsible for: what the signs mean (`planner.idle`).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from wsctl.errors import NodeError
from wsctl.model import ClusterView
from wsctl.nodelook import Reading, look_at_node
from wsctl.ports import Commands, EngineFactory
from wsctl.signals import ContainerSigns
from wsctl.transport.fanout import run as fan_out

LOOKS_PER_RUN = 32
"""Containers of one node that its engine is asked about in one run. More would let the number of requests grow with
the users; who isn't looked at in this run stays, and is in a later one."""

LOOKS_PER_NODE = 16
"""Containers of one node asked at once. Docker before 23 answers only at its collector's next tick, up to a second
later, but then all of them together."""

NODES_AT_ONCE = 64
LOOKS_AT_ONCE = 256

_LATER = f"idle by the records; its container is looked at in a later run ({LOOKS_PER_RUN} a node in each)"
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one user's container. `signs` are None if they can't be read; `visits` are the open connections
    by port inside (None: can't be seen, for the reason `blind`; `failed`: one that won't last). `unasked`: why the
    container wasn't looked at."""

    container_id: str
    signs: ContainerSigns | None = None
    visits: Mapping[int, int] | None = None
    blind: str | None = None
    failed: bool = False
    unasked: str | None = None


class Looker:
    """Looks at containers through engines and, where there are any, commands."""

    def __init__(self, engines: EngineFactory, commands: Callable[[str], Commands] | None) -> None:
        self._engines = engines
        self._commands = commands

    def look(
        self, view: ClusterView, users: Collection[str], last_seen: Mapping[str, datetime], *, exact: bool
    ) -> dict[str, Look]:
        """A look at each of the users whose container runs on a node that answers. `exact`: by the engine, all of them.

        A node that stops answering now is no failure: nothing is seen of its users then.
        """
        homes = {
            user: (view.placements[user].node, container.id)
            for user in users
            if (node := view.nodes.get(view.placements[user].node)) is not None
            and (container := node.container_of(user)) is not None
            and container.is_running
        }
        by_node: dict[str, list[str]] = defaultdict(list)
        for node_name, container_id in homes.values():
            by_node[node_name].append(container_id)
        said = {name: _result(one) for name, one in self._read_nodes(by_node).items()}
        seen = {user: self._by_shell(container_id, said[node]) for user, (node, container_id) in homes.items()}
        left = {user: home for user, home in homes.items() if exact or seen[user].signs is None}
        asked = list(left) if exact else _some(left, last_seen)
        signs = self._ask_engines({user: left[user] for user in asked})
        found = {}
        for user, one in seen.items():
            own = signs.get(user, one.signs)
            later = _LATER if user in left and user not in signs else None
            found[user] = Look(one.container_id, own, one.visits, one.blind, one.failed, later)
        return found

    def _read_nodes(self, by_node: Mapping[str, list[str]]) -> Mapping[str, object]:
        """What the shell of each node says of its containers, or why nothing."""
        commands = self._commands
        if commands is None:
            return dict.fromkeys(by_node, "no commands may be run there")
        return fan_out(by_node, lambda name: look_at_node(commands(name), by_node[name]), parallel=NODES_AT_ONCE)

    @staticmethod
    def _by_shell(container_id: str, said: Mapping[str, Reading] | str | NodeError) -> Look:
        if isinstance(said, NodeError):
            return Look(container_id, blind=said.reason, failed=True)
        if isinstance(said, str):
            return Look(container_id, blind=said)
        reading = said.get(container_id)
        if reading is None:
            return Look(container_id, blind="its processes can't be seen there")
        whole = reading.tx_bytes is not None and reading.cpu_ns is not None
        signs = ContainerSigns(reading.tx_bytes, reading.cpu_ns, reading.execs) if whole else None
        return Look(container_id, signs, reading.connections)

    def _ask_engines(self, homes: Mapping[str, tuple[str, str]]) -> dict[str, ContainerSigns | None]:
        order, nodes = _in_turn({user: node for user, (node, _) in homes.items()})

        def read(user: str) -> ContainerSigns | None:
            node, container_id = homes[user]
            return self._engines(node).signs(container_id)

        found = fan_out(order, read, parallel=min(LOOKS_AT_ONCE, LOOKS_PER_NODE * nodes))
        for result in found.values():
            # A node that stops answering now makes its users unknown, which keeps them; anything else is a bug.
            if isinstance(result, Exception) and not isinstance(result, NodeError):
                raise result
        return {user: one if isinstance(one, ContainerSigns) else None for user, one in found.items()}


def _result(said: object) -> Mapping[str, Reading] | str | NodeError:
    if isinstance(said, (Mapping, str, NodeError)):
        return said
    if isinstance(said, Exception):
        raise said
    raise TypeError(f"not a look: {said!r}")


def _some(homes: Mapping[str, tuple[str, str]], last_seen: Mapping[str, datetime]) -> list[str]:
    """Of each node's users, those who weren't looked at for longest."""
    by_node: dict[str, list[str]] = defaultdict(list)
    for user in sorted(homes, key=lambda user: (last_seen.get(user, _NEVER), user)):
        by_node[homes[user][0]].append(user)
    return [user for users in by_node.values() for user in users[:LOOKS_PER_RUN]]


def _in_turn(homes: Mapping[str, str]) -> tuple[list[str], int]:
    """The users so that nodes take turns, and how many nodes there are."""
    by_node: dict[str, list[str]] = defaultdict(list)
    for user, node in homes.items():
        by_node[node].append(user)
    rounds: Iterable[tuple[str | None, ...]] = itertools.zip_longest(*by_node.values())
    return [user for users in rounds for user in users if user is not None], len(by_node)
