"""Making the state database, the nodes and the published map say the same: looks, has it compared, and has it repaired.

Responsible for: looking at the whole cluster, leaving out users on whom somebody acts right now, and repairing through
the one pipeline, under each user's lease and after a second look. Not responsible for: what is wrong and what helps
(`planner.reconcile`), the effects (`executor`), what dead callers left (`departed`), the map's text (`published`), nor
for asking anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wsctl import observe
from wsctl.audit import Auditor
from wsctl.departed import Departed
from wsctl.errors import LeaseHeld, WsctlError
from wsctl.fencing import Readmission, readmit
from wsctl.model import ClusterView, Container, LeaseInfo, Usage, WorkspaceSpec, spec_of
from wsctl.plan import Plan, Work
from wsctl.planner.claims import Copy, all_claims
from wsctl.planner.decision import Decision
from wsctl.planner.departed import USER_LEASE
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.drift import differences
from wsctl.planner.fence import conflicts
from wsctl.planner.reconcile import Rules, plan_repair
from wsctl.published import PublishedMap
from wsctl.text import clean
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

LEFT = (Kind.LEFT_LEASE, Kind.LEFT_REQUEST)


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of a difference; `error` is why it could not be repaired although it is safe to."""

    difference: Difference
    repaired: bool = False
    error: WsctlError | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """What one look at the cluster found. `busy` are users on whom somebody acts: nothing is wrong with them yet."""

    differences: tuple[Difference, ...]
    busy: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Users for whom there is something to do."""
        users = {d.user for d in self.differences if d.safe and d.kind not in LEFT}
        return tuple(sorted(user for user in users if user is not None))


class Reconciler:
    """One run. `users` limits it (None: everybody and everything), `published` is the map file to compare, `is_gone`
    says of a lease's holder that it was a process of this machine and is no more."""

    def __init__(
        self,
        world: World,
        *,
        rules: Rules = Rules(),  # noqa: B008 - a frozen value
        users: Sequence[str] | None = None,
        published: PublishedMap | None = None,
        request_id: str | None = None,
        is_gone: Callable[[str], bool] = lambda holder: False,
    ) -> None:
        self._world = world
        self._departed = Departed(world, is_gone, request_id)
        self._rules = rules
        self._users = users
        self._published = published
        self._request_id = request_id
        self._workflow = Workflow(world)
        self._claims: tuple[list[tuple[Container, ...]], dict[str, list[Copy]]] = ([], {})

    def look(self) -> Picture:
        """Ask every node once, and compare. The database is read before and after: who changed meanwhile is busy."""
        world, known = self._world, self._workflow.knowledge
        held = world.leases.ls()
        left = self._departed.look(held, self._users)
        busy = self._leased(held)
        before = self._snapshot()
        known.ask(before, before.nodes, down_too=True)
        view = known.applied_to(self._snapshot())
        users = {*before.placements, *view.placements}
        busy |= self._leased(world.leases.ls()) | {
            u for u in users if before.placements.get(u) != view.placements.get(u)
        }
        found = differences(view, self._spec, self._rules, users=self._users, leave_out=busy)
        counted = {name: node.usage for name, node in before.nodes.items()}
        found = [d for d in found if d.kind is not Kind.WRONG_COUNT or _still(d, counted, view)]
        if self._published is not None:
            stale = self._published.stale(world.store)
            found += [stale.difference] if stale is not None else []
        found += left
        concerned = busy if self._users is None else busy & set(self._users)
        return Picture(tuple(found), tuple(sorted(concerned)))

    def plan(self, picture: Picture) -> Plan:
        """What `repair` would do, and what it would leave to operators."""
        outcomes = self._workflow.run(self._operation(picture), Options(dry_run=True)) if picture.targets else []
        notes = [
            clean(f"{d.kind} {d.user or d.node or _WHAT[d.kind]}: {d.detail}; {d.fix}")
            for d in picture.differences
            if not d.safe or d.user is None or d.kind in LEFT
        ]
        return Plan(tuple(o.work for o in outcomes if o.work is not None), tuple(notes))

    def repair(self, picture: Picture, confirm: Callable[[Plan], None] | None = None) -> list[Repair]:
        """Repair what is safe; what became of each difference, in the order of the picture.

        A difference that the second look doesn't find any more is left out. `confirm` as in `workflow.Options`.
        """
        miscounted = [d for d in picture.differences if d.kind is Kind.WRONG_COUNT]
        counted: list[Repair | None] = []
        broken: list[Repair | None] = []

        def begin(plan: Plan) -> None:
            if confirm is not None:
                confirm(plan)
            # Before everything: in what dead callers hold, nobody can be repaired.
            broken.extend(self._break(d) for d in picture.differences if d.kind is Kind.LEFT_LEASE)
            # Before the users: a node that only seems full takes nobody.
            counted.extend(self._recount(difference) for difference in miscounted)

        outcomes = self._repair_users(picture, begin, asks=confirm is not None)
        rest = [
            d for d in picture.differences if d.kind not in (Kind.WRONG_COUNT, Kind.STALE_ROUTE, Kind.RETURNED, *LEFT)
        ]
        repairs = [_became(d, outcomes.get(d.user or "")) for d in rest]
        repairs += [self._readmit(d) for d in picture.differences if d.kind is Kind.RETURNED]
        repairs += counted + broken
        repairs += [Repair(found) for found in self._new_conflicts(picture)]
        unsettled = {repair.difference.user or "" for repair in repairs if repair is not None and not repair.repaired}
        requests = [d for d in picture.differences if d.kind is Kind.LEFT_REQUEST]
        repairs += [self._end(difference, unsettled | set(picture.busy)) for difference in requests]
        if self._published is not None:
            repairs.append(self._publish(self._published))
        return [repair for repair in repairs if repair is not None]

    def _repair_users(self, picture: Picture, begin: Callable[[Plan], None], *, asks: bool) -> dict[str, Outcome]:
        operation = self._operation(picture)
        if asks and picture.targets:
            ran = self._workflow.run(operation, Options(confirm=begin, request_id=self._request_id))
        else:
            begin(Plan())
            # Under the leases everything is looked at anew; with a question in between the pipeline does that itself.
            self._workflow.knowledge.forget()
            ran = self._workflow.run(operation, Options(request_id=self._request_id)) if picture.targets else []
        return {outcome.target: outcome for outcome in ran}

    def _operation(self, picture: Picture) -> Operation:
        def decide(user: str, view: ClusterView) -> Decision:
            return plan_repair(user, self._spec(user, view), view, self._rules, self._copies(user, view))

        everybody = tuple(self._world.nodes)
        return Operation(
            "reconcile", picture.targets, decide, self._spec, places=True, everyone=True, asks_too=everybody
        )

    def _spec(self, user: str, view: ClusterView) -> WorkspaceSpec:
        return spec_of(self._world.classes, view.placements.get(user))

    def _copies(self, user: str, view: ClusterView) -> list[Copy]:
        """The user's copies; found out once for all users, as long as the nodes' answers are the same."""
        answers = [node.containers for node in view.nodes.values()]
        known, claims = self._claims
        if len(known) != len(answers) or any(a is not b for a, b in zip(known, answers, strict=True)):
            claims = all_claims(view, self._rules.adopt)
            self._claims = answers, claims
        return claims.get(user, [])

    def _snapshot(self) -> ClusterView:
        return observe.snapshot(self._world.cluster, self._world.nodes, self._world.store)

    def _leased(self, held: Sequence[LeaseInfo]) -> set[str]:
        """Users on whom somebody who lives acts."""
        names = (lease.name for lease in held if not self._departed.is_dead(lease))
        return {name.removeprefix(USER_LEASE) for name in names if name.startswith(USER_LEASE)}

    def _break(self, difference: Difference) -> Repair | None:
        if not difference.safe:
            return Repair(difference)
        return Repair(difference, repaired=True) if self._departed.break_lease(difference) else None

    def _end(self, difference: Difference, unsettled: set[str]) -> Repair:
        return Repair(difference, repaired=self._departed.end_request(difference, unsettled))

    def _recount(self, difference: Difference) -> Repair | None:
        world, node = self._world, difference.node or ""
        trail = Auditor("reconcile", world.actor, self._request_id).trail(Work(node, "recounted"), None)
        if not world.store.recount(node, audit=[trail.intent(), trail.done(None)]):
            return None
        return Repair(difference, repaired=True)

    def _new_conflicts(self, picture: Picture) -> list[Difference]:
        """What came out while files on a node that failed were put aside: nobody should hear of it a run later."""
        if not any(difference.kind in (Kind.RETURNED, Kind.LEFT_COPY) for difference in picture.differences):
            return []
        view = self._snapshot()
        users = sorted({left.user for left in view.left if self._users is None or left.user in self._users})
        found = [difference for user in users for difference in conflicts(user, view)]
        return [difference for difference in found if difference not in picture.differences]

    def _readmit(self, difference: Difference) -> Repair:
        """The node as it must be before it may be used again; its users were looked after."""
        if not difference.safe:
            return Repair(difference)
        asked = Readmission(difference.node or "", verb="reconcile", request_id=self._request_id)
        try:
            readmit(self._world, asked)
        except WsctlError as error:
            return Repair(difference, error=error)
        return Repair(difference, repaired=True)

    def _publish(self, published: PublishedMap) -> Repair | None:
        """The map as it must be after all repairs."""
        stale = published.stale(self._world.store)
        if stale is None:
            return None
        try:
            published.write(stale.wanted)
        except WsctlError as error:
            return Repair(stale.difference, error=error)
        return Repair(stale.difference, repaired=True)


_WHAT = {Kind.STALE_ROUTE: "the map", Kind.LEFT_LEASE: "nobody", Kind.LEFT_REQUEST: "several users"}
"""What a difference is about that is about no user and no node."""


def _still(difference: Difference, before: Mapping[str, Usage], view: ClusterView) -> bool:
    """Whether a counter is as it was at the first read: one that moves belongs to somebody who is writing."""
    node = difference.node or ""
    return before[node] == view.nodes[node].usage


def _became(difference: Difference, outcome: Outcome | None) -> Repair | None:
    if not difference.safe or outcome is None:
        return Repair(difference)
    if isinstance(outcome.error, LeaseHeld):
        return None
    if outcome.error is not None:
        return Repair(difference, error=outcome.error)
    return Repair(difference, repaired=True) if outcome.action == "repaired" else None
