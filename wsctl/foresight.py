"""What decisions amount to before anything is done: the plan, the nodes it depends on, the view afterwards.

Responsible for: these, as values. Not responsible for: deciding (`planner`), nor for when what is asked (`workflow`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsctl.errors import PlanChanged, WsctlError
from wsctl.failsteps import DropLeft, DropStandby, KeepLeft, TakeOver
from wsctl.model import ClusterView, Placement
from wsctl.plan import BeginMove, DiscardCopy, DropCopy, KeepSource, Plan, Reserve
from wsctl.planner.decision import Decision
from wsctl.scheduler import with_placement


def is_anothers(placement: Placement | None, ours: Placement | None) -> bool:
    """Whether somebody else has claimed, or made anew, the placement that we left as `ours`."""
    return placement is not None and (ours is None or placement.generation != ours.generation)


def plan_of(decisions: Sequence[Decision]) -> Plan:
    """The plan of several decisions, with what can't be done as notes."""
    works = tuple(decision.work for decision in decisions if decision.work is not None)
    errors = tuple(f"{decision.target}: {decision.error.message}" for decision in decisions if decision.error)
    return Plan(works, errors)


def same_plan(shown: Plan, now: Plan, busy: Mapping[str, WsctlError]) -> None:
    """Refuse when what would be done isn't what was confirmed; users who became busy just drop out."""
    confirmed = {work.target: [step.line() for step in work.steps] for work in shown.works}
    for work in now.works:
        if work.target not in busy and [step.line() for step in work.steps] != confirmed.get(work.target, []):
            raise PlanChanged(
                f"what would be done for {work.target} changed since the plan was shown; nothing was done",
                hint="run the command again",
                details={"plan": now.render().splitlines()},
            )


def reserve_step(decision: Decision) -> Reserve | BeginMove | TakeOver | None:
    """The step that takes room and a port, if there is one."""
    steps = decision.work.steps if decision.work is not None else ()
    return next((step for step in steps if isinstance(step, (Reserve, BeginMove, TakeOver))), None)


def has_taken(step: Reserve | BeginMove | TakeOver, now: Placement | None) -> bool:
    """Whether the room and the port of the step are counted in a view that has the user's placement `now`."""
    return now is not None and (isinstance(step, Reserve) or now.generation > step.generation)


def nodes_of(decision: Decision) -> list[str]:
    """The nodes that the decision depends on, besides the user's own: where they would go, or where copies are."""
    if decision.work is None:
        return []
    kinds = (Reserve, BeginMove, TakeOver, KeepSource, DiscardCopy, DropCopy, DropStandby, KeepLeft, DropLeft)
    return [step.node for step in decision.work.steps if isinstance(step, kinds)]


def as_planned(view: ClusterView, decision: Decision) -> ClusterView:
    """The view as it will be once the decision is carried out, for those decided after it."""
    step = reserve_step(decision)
    if step is None:
        return view
    active = step.is_active if isinstance(step, BeginMove) else True
    return with_placement(view, step.user, step.node, step.port, step.resources, active=active)
