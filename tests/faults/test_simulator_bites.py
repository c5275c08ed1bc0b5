"""The simulator finds what is broken on purpose: without this, "no violations" would mean nothing.

Each sabotage takes one safeguard away, the smallest part of it that can be taken; the simulator has to notice within
a bounded number of seeds. The other way round, what is politeness only may be taken away without any harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults import sim_faults, sim_world, simulator
from tests.faults.simulator import first_violation
from tests.worlds import copy_of_empty_database
from wsctl import executor
from wsctl.coordination.held import Held
from wsctl.executor import _Run
from wsctl.model import Capacity
from wsctl.moving import Home
from wsctl.plan import PurgeData, Step
from wsctl.planner import life
from wsctl.store.store import SqlStore

SEEDS = 4000
"""So many schedules at most, about half a minute; most sabotages are found in the first few dozen."""

Sabotage = Callable[[pytest.MonkeyPatch], type[SqlStore]]

MANY = "place+two place+three stop+two start+three rm"
"""Where writes of several users come together."""

ENDLESS = Capacity(10**9, 10**18, 10**9)


class Unfenced(SqlStore):
    """Whatever generation a write was decided on, it is taken for the present one."""

    def _now(self, user: str, generation: int) -> int:
        database: Any = self._database
        found = database._real.read(lambda session: self._find(session, user))
        return found.generation if found is not None else generation


class ClaimsAnything(Unfenced):
    def claim(self, user: str, generation: int, *args: Any, **kwargs: Any) -> Any:
        return super().claim(user, self._now(user, generation), *args, **kwargs)


class SettlesAnything(Unfenced):
    def settle(self, user: str, generation: int, *args: Any, **kwargs: Any) -> bool:
        return super().settle(user, self._now(user, generation), *args, **kwargs)


class ReleasesAnything(Unfenced):
    def release(self, user: str, generation: int, **kwargs: Any) -> bool:
        return super().release(user, self._now(user, generation), **kwargs)


class ComparesNothing(ClaimsAnything, SettlesAnything, ReleasesAnything):
    """No write is a compare-and-swap."""


class Oversells(SqlStore):
    """Room is looked at when a node is chosen, and not again when it is taken."""

    def reserve(self, wanted: Any, **kwargs: Any) -> Any:
        return super().reserve(replace(wanted, capacity=ENDLESS), **kwargs)


class OversellsStarts(SqlStore):
    def claim(self, user: str, generation: int, state: Any, capacity: Any = None, **kwargs: Any) -> Any:
        return super().claim(user, generation, state, None, **kwargs)


class GroupsIgnoreGenerations(SqlStore):
    """Alone everybody is checked, together nobody is."""

    def _changes(self, session: Any, changing: Any) -> Any:
        users = [call.user for call in changing]
        now = {user: self._find(session, user) for user in users}
        current = [replace(c, generation=now[c.user].generation, was=None) for c in changing if now[c.user] is not None]
        return super()._changes(session, current if len(current) == len(users) else changing)


class GroupsOversell(SqlStore):
    """Alone everybody asks for room, together nobody does."""

    def _shift_all(self, session: Any, wanted: Any, changing: Any, changes: Any) -> None:
        super()._shift_all(session, [replace(one, capacity=ENDLESS) for one in wanted], changing, changes)


class GivesBackTwice(SqlStore):
    """What a release that is repeated after a lost reply might do."""

    def release(self, user: str, generation: int, **kwargs: Any) -> bool:
        found = self.placement(user)
        done = super().release(user, generation, **kwargs)
        if done and found is not None:
            sql = "UPDATE node_usage SET workspaces = MAX(0, workspaces - 1) WHERE node = ?"
            self._database.apply(sql, (found.node,))
        return done


class ForgetsHomes(SqlStore):
    """Where the files of a removed user are isn't remembered."""

    def release(self, user: str, generation: int, *, keep_home: bool | None, **kwargs: Any) -> bool:
        return super().release(user, generation, keep_home=None, **kwargs)


class ForgetsAnyHome(SqlStore):
    """A purge of files that were left behind forgets where the user's files are, whichever they are by now."""

    def release(self, user: str, generation: int, *, home: Home | None = None, **kwargs: Any) -> bool:
        return super().release(user, generation, home=self.home(user) if home is not None else None, **kwargs)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_Run, "_fence", lambda self, user, home=None: None)


def fencing_off(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    no_fence(patch)
    return ComparesNothing


def a_plain_lock_instead(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    """As with redis-py's Lock: taken before, given back after, and nobody looks in between."""
    patch.setattr(Held, "check", lambda self: None)
    only_leases_in("redis", patch)
    return fencing_off(patch)


def only_leases_in(place: str, patch: pytest.MonkeyPatch) -> None:
    """All schedules keep their leases there."""
    patch.setattr(sim_world, "LEASES_IN", {place: 1})


def only_sleepers(patch: pytest.MonkeyPatch) -> None:
    """Nobody keeps leases, and all that goes wrong is that controllers are paused: for what takes much to happen
    while one sleeps."""
    only_leases_in("nothing", patch)
    pauses = (sim_faults.Kind.PAUSED_BEFORE, sim_faults.Kind.PAUSED_AFTER)
    patch.setattr(sim_faults, "AT", dict.fromkeys(sim_faults.AT, pauses))
    patch.setattr(sim_faults, "RATES", (max(sim_faults.RATES),))


def effects_not_fenced(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    no_fence(patch)
    return SqlStore


def homes_not_compared(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    """A purge of files that were left behind, fenced as if all users without a placement had the same files."""
    fence = _Run._fence
    patch.setattr(_Run, "_fence", lambda self, user, home=None: fence(self, user))
    only_sleepers(patch)
    return ForgetsAnyHome


def purge_not_fenced(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    patch.setattr(executor, "FENCED", tuple(step for step in executor.FENCED if step is not PurgeData))
    return SqlStore


def no_claims(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    """Effects without an intent that was written first."""

    def nothing(self: _Run, step: Step) -> None: ...

    patch.setattr(_Run, "_claim", nothing)
    return SqlStore


def ports_not_unique(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    """The schema without its unique key on ports."""

    def copy(now: Any) -> Any:
        database, version = copy_of_empty_database(now)
        connection = database._connection
        ((sql,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'placements'").fetchall()
        without = sql.replace("UNIQUE (cluster, node, host_port)", "CHECK (host_port > 0)")
        assert without != sql
        connection.execute("DROP TABLE placements")
        connection.execute(without)
        return database, version

    patch.setattr(sim_world, "copy_of_empty_database", copy)
    return SqlStore


def stopped_claimed_as_stopping(patch: pytest.MonkeyPatch) -> type[SqlStore]:
    """A fault that the simulator found: removing a stopped workspace took its memory again, from nobody."""
    patch.setattr(life, "_on_the_way_down", lambda placement: life.PlacementState.STOPPING)
    return SqlStore


def store(kind: type[SqlStore]) -> Sabotage:
    return lambda patch: kind


SABOTAGES: dict[str, tuple[Sabotage, str]] = {
    "fencing switched off": (fencing_off, ""),
    "a plain Redis lock instead of fencing": (a_plain_lock_instead, ""),
    "claim ignores the generation": (store(ClaimsAnything), ""),
    "settle ignores the generation": (store(SettlesAnything), ""),
    "release ignores the generation": (store(ReleasesAnything), "place rm"),
    "containers are touched without a fence": (effects_not_fenced, ""),
    "files are purged without a fence": (purge_not_fenced, "place purge"),
    "effects without a claim": (no_claims, ""),
    "a purge of left files doesn't say which": (homes_not_compared, "place rm purge"),
    "room isn't checked when it is taken": (store(Oversells), "place rm"),
    "room isn't checked when a stopped one comes back": (store(OversellsStarts), "place stop start"),
    "writes that go together ignore generations": (store(GroupsIgnoreGenerations), MANY),
    "writes that go together oversell": (store(GroupsOversell), MANY),
    "ports aren't unique": (ports_not_unique, "place"),
    "a release gives back twice": (store(GivesBackTwice), ""),
    "homes are forgotten": (store(ForgetsHomes), ""),
    "a stopped one is claimed as stopping": (stopped_claimed_as_stopping, "place stop rm"),
}
"""What is taken away, and the verbs to look for it with (none: all; what is rare is looked for where it may be)."""


RARE = {
    "a plain Redis lock instead of fencing": 230,
    "release ignores the generation": 290,
    "containers are touched without a fence": 380,
    "a purge of left files doesn't say which": 700,
}
"""Where to begin with what takes long to be found from the start."""


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_missing_safeguard_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage, verbs = SABOTAGES[name]
    begin, words = RARE.get(name, 0), [verb.replace("+", " ") for verb in verbs.split()]
    broken = first_violation(range(begin, begin + SEEDS), store=sabotage(monkeypatch), verbs=words)
    assert broken is not None, f"not found in {SEEDS} schedules"
    print(f"seed {broken.seed}: {broken.violations[0]}")


@pytest.mark.parametrize("place", ["redis", "rows", "nothing"])
def test_leases_are_politeness_only(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever leases are kept, and even if nobody keeps any."""
    only_leases_in(place, monkeypatch)
    assert first_violation(range(300)) is None


def test_a_repair_that_does_nothing_is_found() -> None:
    results = (simulator.play(seed, settle=lambda simulated: None) for seed in range(200))
    assert any("was left" in text for result in results for text in result.violations)


def test_a_purge_that_sleeps_deletes_no_newer_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedules in which the sabotage above is found, with nothing taken away."""
    only_sleepers(monkeypatch)
    assert first_violation(range(100), verbs=["place", "rm", "purge"]) is None
