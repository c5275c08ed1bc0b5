"""What nodes answered during one run: asked at most once each, shared by all threads of a command.

Responsible for asking nodes (in full side by side, or about one user only) and for putting their answers, and what
setbacks taught, into views. Not responsible for: which nodes to ask and what follows from the answers (`workflow`,
`planner`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from wsctl import observe
from wsctl.errors import NodeError
from wsctl.model import ClusterView, NodeState, container_name
from wsctl.ports import EngineFactory
from wsctl.transport.fanout import run as fan_out

ASK_PARALLEL = 16
"""Nodes asked at once: each costs some ms of our own CPU for its handshake, and the rest is waiting."""

ASK_DEADLINE_S = 30.0
"""What one node may take to answer everything; its own requests give up sooner."""


def is_unasked(view: ClusterView, node: str) -> bool:
    """Whether the node could still be asked. One that is marked down isn't: its mark decides, and its timeout would
    only be waited for.
    """
    known = view.nodes.get(node)
    return known is not None and known.reachable is None and known.mark.state is not NodeState.DOWN


def answered(
    view: ClusterView,
    names: Iterable[str],
    engines: EngineFactory,
    images: Collection[str],
    warm: Callable[[Iterable[str]], None],
) -> ClusterView:
    """The view with what these nodes answer in it, for those who look only once."""
    knowledge = Knowledge(engines, images, warm)
    knowledge.ask(view, names)
    return knowledge.applied_to(view)


@dataclass
class Knowledge:
    """`images` are those whose presence matters; `warm` begins to connect to nodes in the background."""

    engines: EngineFactory
    images: Collection[str]
    warm: Callable[[Iterable[str]], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: dict[str, observe.Observation | NodeError] = field(default_factory=dict)
    _blocked: set[tuple[str, int]] = field(default_factory=set)
    _excluded: dict[str, str] = field(default_factory=dict)

    def applied_to(self, view: ClusterView) -> ClusterView:
        """The view with everything in it that is known from this run."""
        with self._lock:
            seen, blocked, excluded = dict(self._seen), set(self._blocked), dict(self._excluded)
        for name, answer in seen.items():
            view = observe.merge(view, name, answer)
        for name, port in blocked:
            view = observe.block_port(view, name, port)
        for name, reason in excluded.items():
            view = observe.exclude(view, name, reason)
        return view

    def ask(self, view: ClusterView, names: Iterable[str], *, down_too: bool = False) -> None:
        """Ask nodes in full, side by side; those that answered before are left out, and (unless `down_too`) those that
        are marked down."""
        wanted = sorted(
            name
            for name in names
            if name not in self._seen and (is_unasked(view, name) or (down_too and name in view.nodes))
        )
        self.warm(wanted)
        answers = fan_out(wanted, self._full, parallel=ASK_PARALLEL, deadline_s=ASK_DEADLINE_S)
        for name, answer in answers.items():
            self._remember(name, answer)

    def ask_about(self, user: str, node: str, image: str, view: ClusterView) -> ClusterView:
        """Ask one node about one user only: what a single command needs, however large the node."""
        self.warm([node])
        answer: observe.Observation | NodeError
        try:
            answer = observe.ask_user(self.engines(node), container_name(user), image)
        except NodeError as error:
            answer = error
        self._remember(node, answer)
        return observe.merge(view, node, answer)

    def ask_again(self, node: str) -> bool:
        """Ask the node anew, in full. False when it doesn't answer, so that nothing more can be decided."""
        try:
            answer = self._full(node)
        except NodeError:
            return False
        self._remember(node, answer)
        return True

    def block_port(self, node: str, port: int) -> None:
        """Something on the node holds the port, as its engine said."""
        with self._lock:
            self._blocked.add((node, port))

    def exclude(self, node: str, reason: str) -> None:
        """The node refused: no new users there for the rest of this run."""
        with self._lock:
            self._excluded.setdefault(node, reason)

    def forget(self) -> None:
        """Forget what nodes answered: time has passed since."""
        with self._lock:
            self._seen.clear()

    def _full(self, name: str) -> observe.Observation:
        return observe.ask_node(self.engines(name), self.images)

    def _remember(self, name: str, answer: observe.Observation | Exception) -> None:
        if not isinstance(answer, (observe.Observation, NodeError)):
            raise answer
        with self._lock:
            self._seen[name] = answer
