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
from wsctl.moveports import Size, Way
from wsctl.moving import CopyState, KeptCopy, Pass, Road, RoadKind, another_pass
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
class Measured:
    """What is measured of a user's move, also if it takes more than one try. `bytes_stopped`: those copied while nobody
    worked; `source`: where it went from, once it has; `left_out`: what was there and not copied."""

    passes: list[Pass] = field(default_factory=list)
    bytes_stopped: int = 0
    source: str | None = None
    put_aside: str | None = None
    left_out: Size | None = None
    stopped_at: datetime | None = None
    back_at: datetime | None = None

    def facts(self) -> dict[str, object]:
        """What is reported; empty if there was no move. Milliseconds and bytes."""
        found: dict[str, object] = {}
        if self.stopped_at is not None or self.passes:
            found["downtime_ms"] = self._down_ms()
            found["bytes_copied"] = sum(one.bytes for one in self.passes)
            found["bytes_stopped"] = self.bytes_stopped
            found["passes"] = len(self.passes)
        if self.passes:
            road = self.passes[-1].road
            found |= {"road": road.kind.value, "road_why": road.why}
        if self.left_out is not None:
            found |= {"left_out": self.left_out.odd_count, "left_out_names": self.left_out.odd}
        if self.put_aside is not None:
            found["put_aside"] = self.put_aside
        if self.source is not None:
            found["source"] = self.source
        return found

    def _down_ms(self) -> int:
        if self.stopped_at is None or self.back_at is None:
            return 0
        return round((self.back_at - self.stopped_at).total_seconds() * 1000)


@dataclass(slots=True)
class MoveWork:
    """The files' part of one work. `stack` is unwound at its end, whatever that is."""

    hands: Hands
    stack: ExitStack
    check: Callable[[], None]
    measured: Measured = field(default_factory=Measured)
    road: Road = field(default_factory=Road)
    _opened: set[Way] = field(default_factory=set)

    def do(self, step: Step) -> None:
        """The effect of a step on files. Raises `NodeError`, `BackendError`."""
        match step:
            case CheckCopy():
                self.road = self._files.check(self._way(step))
            case PrepareTarget():
                self.measured.put_aside = self._files.prepare(self._way(step)) or self.measured.put_aside
            case CopyPass(final=False):
                self._copy_live(step)
            case CopyPass():
                self._copy_rest(step)
            case VerifyCopy():
                self._verify(step)
            case InstallCopy():
                self._files.install(self._way(step))
                self._opened.discard(self._way(step))
            case KeepSource():
                self._keep(step)
            case _:
                self._clean_up(step)

    def _clean_up(self, step: Step) -> None:
        """What moves have left."""
        store = self.hands.store
        match step:
            case DiscardCopy(sent=True):
                self._files.disarm(step.node, self._root(step.node), step.user)
                store.forget_copy(KeptCopy(step.user, step.node, step.number, CopyState.SENDING))
            case DiscardCopy():
                self._files.discard(step.node, self._root(step.node), step.user, installed=step.installed)
                store.forget_copy(KeptCopy(step.user, step.node, step.number, CopyState.INCOMING))
            case DropCopy():
                copy = KeptCopy(step.user, step.node, step.number, CopyState.KEPT)
                self._files.drop(step.node, self._root(step.node), step.user, copy.name)
                store.forget_copy(copy)
            case _:
                raise AssertionError(f"{type(step).__name__} isn't about files")

    def _keep(self, step: KeepSource) -> None:
        for copy in self.hands.store.kept_copies():
            if (copy.user, copy.node, copy.state) == (step.user, step.node, CopyState.LEAVING):
                root = self._root(step.node)
                # Measured here, and not before: nobody waits for this any more.
                self.measured.left_out = self._files.keep(step.node, root, step.user, copy.name)
                self.hands.store.keep_copy(copy, step.keep_s)

    def _copy_live(self, step: CopyPass) -> None:
        live: list[Pass] = []
        # A stream of everything is no use before the last one, which can only be the same again.
        while self.road.kind is not RoadKind.TAR:
            live.append(self._copy(step))
            is_last = not another_pass(live)
            # What is on the target's disk before the stop needn't be waited for after it.
            self._files.sync(self._way(step), wait=is_last)
            if is_last:
                return
            self.check()

    def _copy_rest(self, step: CopyPass) -> None:
        for left in reversed(range(FINAL_TRIES)):
            try:
                self._copy(step)
            except FilesError:
                if not left:
                    raise
                self.check()
            else:
                return

    def _copy(self, step: CopyPass) -> Pass:
        way, number = self._way(step), len(self.measured.passes) + 1
        if way not in self._opened:
            self._opened.add(way)
            self.stack.callback(self._close, way)
        done = self._files.copy(
            way,
            final=step.final,
            bwlimit=step.bwlimit,
            compress=step.compress,
            progress=lambda size, share: self.hands.told(step.user, number, size, share),
        )
        self.measured.passes.append(done)
        self.measured.bytes_stopped += done.bytes if step.final else 0
        return done

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
