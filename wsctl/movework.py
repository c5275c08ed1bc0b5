"""The effects of a move on files, and what is measured of it.

Responsible for: what each step about files asks of `ports.NodeFiles`, for passes until the rest is small, and for the
facts that a move reports. Not responsible for: placements and containers (`executor`), nor for any decision: when
another pass is worth it says `moving`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from wsctl.errors import FilesError
from wsctl.model import Node
from wsctl.moveports import Way
from wsctl.moving import CopyState, KeptCopy, Pass, another_pass
from wsctl.plan import (
    CheckCopy,
    CopyPass,
    DiscardCopy,
    DropCopy,
    InstallCopy,
    KeepSource,
    PrepareTarget,
    Step,
    VerifyCopy,
)
from wsctl.ports import Clock, NodeFiles, Store

Told = Callable[[str, int, int, float], None]
"""Called while a pass goes on: user, number of the pass, bytes so far, share of the pass that is done (0 to 1)."""


def no_files() -> NodeFiles:
    """For a world without nodes, as in tests of marks and counters."""
    raise AssertionError("a step about files came where no files can be reached")


FINAL_TRIES = 3
"""Something else on the source may delete a file under the last pass; not every time."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What moves work with. `files` is called when files are first touched: most commands never do."""

    nodes: Mapping[str, Node]
    store: Store
    clock: Clock
    files: Callable[[], NodeFiles]
    told: Told = lambda user, number, size, share: None


@dataclass(slots=True)
class MoveWork:
    """The files' part of one work. `stack` is unwound at its end, whatever that is."""

    hands: Hands
    stack: ExitStack
    check: Callable[[], None]
    live: list[Pass] = field(default_factory=list)
    final: list[Pass] = field(default_factory=list)
    put_aside: str | None = None
    stopped_at: datetime | None = None
    back_at: datetime | None = None
    _opened: set[Way] = field(default_factory=set)

    def do(self, step: Step) -> None:
        """The effect of a step on files. Raises `NodeError`, `BackendError`."""
        match step:
            case CheckCopy():
                self._files.check(self._way(step))
            case PrepareTarget():
                self.put_aside = self._files.prepare(self._way(step))
            case CopyPass(final=False):
                self._copy_live(step)
            case CopyPass():
                self._copy_rest(step)
            case VerifyCopy():
                self._verify(step)
            case InstallCopy():
                # No key outlives the copying, whatever happens from here on.
                self._close(self._way(step))
                self._files.install(self._way(step))
            case KeepSource():
                self._keep(step)
            case DiscardCopy():
                self._files.discard(step.node, self._root(step.node), step.user, installed=step.installed)
                self.hands.store.forget_copy(KeptCopy(step.user, step.node, step.number, CopyState.INCOMING))
            case DropCopy():
                copy = KeptCopy(step.user, step.node, step.number, CopyState.KEPT)
                self._files.drop(step.node, self._root(step.node), step.user, copy.name)
                self.hands.store.forget_copy(copy)
            case _:
                raise AssertionError(f"{type(step).__name__} isn't about files")

    def facts(self) -> dict[str, object]:
        """What is reported of the move; empty if there was none. Milliseconds and bytes."""
        if self.stopped_at is None and not self.live and not self.final:
            return {}
        down = 0
        if self.stopped_at is not None and self.back_at is not None:
            down = round((self.back_at - self.stopped_at).total_seconds() * 1000)
        passes = [*self.live, *self.final]
        found: dict[str, object] = {
            "downtime_ms": down,
            "bytes_copied": sum(one.bytes for one in passes),
            "passes": len(passes),
        }
        return found if self.put_aside is None else {**found, "put_aside": self.put_aside}

    def _keep(self, step: KeepSource) -> None:
        for copy in self.hands.store.kept_copies():
            if (copy.user, copy.node, copy.state) == (step.user, step.node, CopyState.LEAVING):
                self._files.keep(step.node, self._root(step.node), step.user, copy.name)
                self.hands.store.keep_copy(copy, step.keep_s)

    def _copy_live(self, step: CopyPass) -> None:
        while True:
            self.live.append(self._copy(step))
            if not another_pass(self.live):
                return
            self.check()

    def _copy_rest(self, step: CopyPass) -> None:
        for left in reversed(range(FINAL_TRIES)):
            try:
                self.final.append(self._copy(step))
            except FilesError:
                if not left:
                    raise
                self.check()
            else:
                return

    def _copy(self, step: CopyPass) -> Pass:
        way, number = self._way(step), len(self.live) + len(self.final) + 1
        if way not in self._opened:
            self._opened.add(way)
            self.stack.callback(self._close, way)
        return self._files.copy(
            way,
            final=step.final,
            bwlimit=step.bwlimit,
            compress=step.compress,
            progress=lambda size, share: self.hands.told(step.user, number, size, share),
        )

    def _close(self, way: Way) -> None:
        if way in self._opened:
            self._opened.discard(way)
            self._files.finish(way)

    def _verify(self, step: VerifyCopy) -> None:
        different = self._files.verify(self._way(step), full=step.full)
        if different:
            raise FilesError(
                step.node,
                f"the copy of {step.user} isn't what is on {step.source}: {len(different)} differences, {different[0]}",
                hint="does something else on the source write there? See `details`, then repeat the command",
                details={"differences": different[:100]},
            )

    def _way(self, step: CheckCopy | PrepareTarget | CopyPass | VerifyCopy | InstallCopy) -> Way:
        return Way(step.user, step.source, step.node, self._root(step.source), self._root(step.node))

    def _root(self, node: str) -> str:
        return self.hands.nodes[node].host_root.rstrip("/")

    @property
    def _files(self) -> NodeFiles:
        return self.hands.files()
