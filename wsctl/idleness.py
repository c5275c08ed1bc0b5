"""Whom a move would disturb: who works right now, or may do so for all that is known.

Responsible for: asking the same question as the reaper, of some users, and for writing down what was seen, so that the
next look has something to compare with. Not responsible for: the verdict (`planner.idle`), nor for stopping anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from wsctl.evidence import Gatherer, Rules
from wsctl.looking import Looker
from wsctl.model import ClusterView, PlacementState
from wsctl.planner.idle import Verdict, judge_idle
from wsctl.workflow import World


class Idleness:
    """Who is idle by the limits of their class, or their own. `records`: what was seen is written down."""

    def __init__(self, world: World, user_limits: Mapping[str, float | None], *, records: bool) -> None:
        # How long somebody has been running says nothing about whether they work.
        classes = {name: replace(spec, max_age_s=None) for name, spec in world.classes.items()}
        self._world = world
        self._rules = Rules(classes, user_limits)
        self._records = records

    def busy(self, view: ClusterView, users: Collection[str], *, thorough: bool = True) -> dict[str, str]:
        """Those of the placed users who aren't known to be idle, with why. Who is stopped is idle; who is being moved
        already is better off when that ends. Unless `thorough`, containers of those are left alone who are known to
        have been active. Raises `BackendError`."""
        world = self._world
        asked = sorted(
            user
            for user in users
            if user in view.placements
            and user not in view.moves
            and view.placements[user].state not in (PlacementState.STOPPED, PlacementState.MIGRATING)
        )
        if not asked:
            return {}
        looker = Looker(world.engines, world.commands)
        gatherer = Gatherer(world.store, world.activity_log, looker, world.clock, self._rules)
        seen = gatherer.gather(view, asked, thorough=thorough, exact=thorough)
        verdicts = [judge_idle(user, view, seen.evidence[user], seen.limits[user], seen.at) for user in asked]
        if self._records:
            gatherer.record(seen, verdicts)
        return {item.user: item.reason for item in verdicts if item.verdict is not Verdict.WOULD_STOP}
