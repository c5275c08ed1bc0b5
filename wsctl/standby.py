"""Keeping standby copies up to date: chooses whose and where, and copies, a few at once.

Responsible for the order that makes an interrupted copying harmless: recorded before it begins, made beside the older
copy, put in its place when it is complete, recorded as complete after that. So the record never says more than is
there. Not responsible for: the choice (`planner.standby`), the copying (`transport.standby_files`).

A user's lease isn't taken: copying takes long, and nobody must wait for it. Whoever moves, removes or fails a user over
meanwhile wins: the copy then isn't recorded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from wsctl import observe
from wsctl.errors import LeaseHeld, NodeError, WsctlError
from wsctl.model import ClusterView, Strategy, spec_of
from wsctl.moveports import Way
from wsctl.planner.standby import Errand, is_due, neighbours_of, plan_standby, wants
from wsctl.standbys import Standby
from wsctl.transport.fanout import run as fan_out
from wsctl.workflow import NO_DEADLINE_S, Workflow, World


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How a run goes about it. `users` limits it, and has theirs copied even if they aren't due; else copies are made
    anew that are `every_s` seconds old. `parallel` at once, each with at most `bwlimit` bytes a second."""

    strategy: Strategy
    users: Sequence[str] | None = None
    every_s: float = 300.0
    parallel: int = 2
    bwlimit: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one user's copy. `action`: `synced`, `would-sync`, `unchanged` (overtaken) or `failed`.
    `bytes` were copied in `seconds`."""

    user: str
    source: str
    node: str | None
    action: str
    as_of: datetime | None = None
    bytes: int = 0
    seconds: float = 0.0
    reason: str = ""
    error: WsctlError | None = None


class Keeper:
    """One run over the standby copies."""

    def __init__(self, world: World, options: SyncOptions) -> None:
        self._world = world
        self._options = options

    def run(self, report: Callable[[Synced], None] = lambda done: None) -> list[Synced]:
        """Bring up to date what is due, the oldest first; one result for each user who wants a copy and is due."""
        view = self._look()
        errands = self._errands(view)
        if self._options.dry_run:
            return [_planned(errand) for errand in errands]
        by_user = {errand.user: errand for errand in errands}

        def work(user: str) -> Synced:
            done = self._sync(by_user[user])
            report(done)
            return done

        found = fan_out(by_user, work, parallel=self._options.parallel, deadline_s=NO_DEADLINE_S)
        for result in found.values():
            if isinstance(result, Exception):
                raise result
        return [result for result in found.values() if isinstance(result, Synced)]

    def _look(self) -> ClusterView:
        """The state database, and which nodes answer."""
        world = self._world
        knowledge = Workflow(world).knowledge
        view = observe.snapshot(world.cluster, world.nodes, world.store)
        if any(wants(p, spec_of(world.classes, p), view) for p in view.placements.values()):
            knowledge.ask(view, view.nodes)
        return knowledge.applied_to(view)

    def _errands(self, view: ClusterView) -> list[Errand]:
        """The copies to be made, the most urgent first; each choice sees the ones before it."""
        options, now, classes = self._options, self._world.clock.now(), self._world.classes
        due = []
        for user, placement in view.placements.items():
            wanted = options.users is None or user in options.users
            if not wanted or not wants(placement, spec_of(classes, placement), view):
                continue
            copies = view.standbys.get(user, ())
            if options.users is not None or is_due(placement, copies, now, options.every_s):
                newest = max((copy.as_of for copy in copies if copy.as_of is not None), default=None)
                due.append((newest is not None, newest or now, user))
        errands, neighbours = [], neighbours_of(view)
        for _, _, user in sorted(due):
            spec = spec_of(classes, view.placements[user])
            errand = plan_standby(user, spec, view, options.strategy, neighbours)
            if errand.node is not None:
                neighbours[errand.node, errand.source] += 1
            errands.append(errand)
        return errands

    def _sync(self, errand: Errand) -> Synced:
        done = _planned(errand)
        if errand.node is None:
            return replace(done, action="failed", error=NodeError(errand.source, errand.why))
        try:
            with self._world.leases.acquire([f"standby:{errand.user}"], command="standby sync") as held:
                return self._copy(errand, errand.node, held.check)
        except LeaseHeld as error:
            return replace(done, action="unchanged", reason=error.message)
        except WsctlError as error:
            return replace(done, action="failed", error=error)

    def _copy(self, errand: Errand, node: str, check: Callable[[], None]) -> Synced:
        world, user, files = self._world, errand.user, self._world.standbys()
        placement = world.store.begin_standby(user, node, errand.source)
        done = _planned(errand)
        if placement is None:
            return replace(done, action="unchanged", reason=f"{user} isn't on {errand.source} any more")
        way = Way(user, errand.source, node, self._root(errand.source), self._root(node))
        as_of, began = world.clock.now(), time.monotonic()
        try:
            mark = files.begin(way)
            check()
            brought = files.bring(way, bwlimit=self._options.bwlimit)
        finally:
            files.finish(way)
        check()
        size = files.complete(way, mark)
        copy = Standby(user, node, errand.source, placement.generation, mark.at, as_of, bytes=size)
        if not world.store.finish_standby(copy):
            return self._overtaken(done, node)
        self._drop_others(user, node)
        seconds = time.monotonic() - began
        return replace(done, action="synced", as_of=as_of, bytes=brought.bytes, seconds=seconds)

    def _overtaken(self, done: Synced, node: str) -> Synced:
        """Somebody moved or removed the user: a copy that isn't recorded any more mustn't stay."""
        world = self._world
        if not any(copy.node == node for copy in world.store.standbys(done.user)):
            world.standbys().drop(node, self._root(node), done.user)
        return replace(done, action="unchanged", reason="they were moved or removed meanwhile")

    def _drop_others(self, user: str, node: str) -> None:
        """Delete copies on nodes that aren't the chosen one any more, now that there is a newer one."""
        world = self._world
        for copy in world.store.standbys(user):
            if copy.node != node and copy.node in world.nodes:
                with contextlib.suppress(NodeError):  # the next run tries again
                    world.standbys().drop(copy.node, self._root(copy.node), user)
                    world.store.forget_standby(user, copy.node)

    def _root(self, node: str) -> str:
        return self._world.nodes[node].host_root.rstrip("/")


def _planned(errand: Errand) -> Synced:
    action = "would-sync" if errand.node is not None else "failed"
    error = None if errand.node is not None else NodeError(errand.source, errand.why)
    return Synced(errand.user, errand.source, errand.node, action, error=error)
