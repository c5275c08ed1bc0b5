"""The effects of surviving a dead node on files, and what is reported of them.

Responsible for: what each of these steps asks of `ports.StandbyFiles` and records about copies. Not responsible for:
placements and containers (`executor`), nor for any decision (`planner.failover`, `planner.fence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from wsctl.failsteps import DropLeft, DropStandby, Fenced, KeepLeft, PromoteStandby, RestoreBackup
from wsctl.model import Node
from wsctl.plan import Step
from wsctl.ports import NodeFiles, StandbyFiles, Store
from wsctl.standbys import LeftFiles, LeftState


def no_standbys() -> StandbyFiles:
    """For a world without nodes, as in tests of marks and counters."""
    raise AssertionError("a step about standby copies came where no files can be reached")


Restoring = Callable[[str, str, str], str | None]
"""Puts a snapshot (its id, the last word) in the place of a user's files on a node: node, user, snapshot. Answers where
what was there is now, None if nothing was."""


def no_backups(node: str, user: str, snapshot: str) -> str | None:
    """For a world without a repository of backups."""
    raise AssertionError("a step about backups came where there are none")


@dataclass(slots=True)
class FailWork:
    """The part of one work that is about a dead node. `facts` is what is reported."""

    nodes: Mapping[str, Node]
    store: Store
    files: Callable[[], NodeFiles]
    standbys: Callable[[], StandbyFiles]
    restoring: Restoring = no_backups
    facts: dict[str, object] = field(default_factory=dict)

    def do(self, step: Step) -> None:
        """The effect of a step. Raises `NodeError`, `BackendError`."""
        match step:
            case PromoteStandby():
                self._has(step.as_of, self.standbys().promote(step.node, self._root(step.node), step.user))
            case RestoreBackup():
                self._has(step.at, self.restoring(step.node, step.user, step.snapshot))
            case DropStandby():
                self.standbys().drop(step.node, self._root(step.node), step.user)
                self.store.forget_standby(step.user, step.node)
            case KeepLeft():
                self._keep(step)
            case DropLeft():
                for left in self._left(step):
                    self.files().drop(step.node, self._root(step.node), step.user, left.name)
                    self.store.forget_left(left)
            case Fenced():
                for left in self._left(step):
                    self.store.forget_left(left)
            case _:
                raise AssertionError(f"{type(step).__name__} isn't about a dead node")

    def _has(self, as_of: datetime | None, aside: str | None) -> None:
        self.facts["data_as_of"] = as_of
        if aside is not None:
            self.facts["put_aside"] = aside

    def _keep(self, step: KeepLeft) -> None:
        for left in self._left(step):
            newer = self.standbys().keep_left(step.node, self._root(step.node), left)
            state = LeftState.CONFLICT if newer.files > 0 else LeftState.KEPT
            self.store.keep_left(replace(left, state=state, newer_files=newer.files, newer_bytes=newer.bytes))

    def _left(self, step: KeepLeft | DropLeft | Fenced) -> list[LeftFiles]:
        key = (step.user, step.node, step.generation)
        return [left for left in self.store.left_files() if (left.user, left.node, left.generation) == key]

    def _root(self, node: str) -> str:
        return self.nodes[node].host_root.rstrip("/")
