"""What is wrong, user by user, and the steps that put it right.

Responsible for: comparing what is recorded with what was observed, and for the steps of one user. Differences and steps
come from the same examination, so that what is told is what is done. Nothing here deletes: a copy that shouldn't be is
stopped and renamed. Not responsible for: nodes and rows (`drift`), taking containers over (`adopt`), nor for users on
whom somebody acts right now: the caller leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsctl.errors import WsctlError
from wsctl.model import ClusterView, Container, NodeState, Placement, PlacementState, Strategy, WorkspaceSpec
from wsctl.plan import QuarantineContainer, Settle, Step, UnpauseContainer, Work
from wsctl.planner.adopt import adoption, has_their_files
from wsctl.planner.claims import Copy, claims_of, is_set_aside, without
from wsctl.planner.decision import Decision, Located, locate, port_if_taken, set_aside
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.failover import plan_failover
from wsctl.planner.fence import conflicts, steps_about
from wsctl.planner.life import plan_stop
from wsctl.planner.migrate import DAY_S, clean_up, end_move, leaving
from wsctl.planner.place import plan_start
from wsctl.planner.standby import surplus
from wsctl.standbys import FailoverRules

BEGINNING = (PlacementState.RESERVED, PlacementState.STARTING)


@dataclass(frozen=True, slots=True)
class Rules:
    """How far a run may go. `adopt` is the pattern of the names of containers that are taken over (None: none are).

    `named`: the users were named by the operator, which says that they are meant even if the state knows nobody.
    `keep_s`: for how many seconds the files that a move left are kept. `failover`: how far users of nodes that are
    marked down may go on elsewhere, and by which strategy (None: they don't).
    """

    adopt: str | None = None
    named: bool = False
    keep_s: float = DAY_S
    failover: tuple[Strategy, FailoverRules] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong with one user, the steps against it, and why there are none if there should be."""

    differences: tuple[Difference, ...] = ()
    steps: tuple[Step, ...] = ()
    error: WsctlError | None = None

    def __add__(self, other: Found) -> Found:
        return Found(self.differences + other.differences, self.steps + other.steps, self.error or other.error)


def plan_repair(
    user: str, spec: WorkspaceSpec, view: ClusterView, rules: Rules = Rules(), copies: Sequence[Copy] | None = None
) -> Decision:
    """Put right what can be put right safely. `copies` are the user's containers, if the caller knows them."""
    found = examine(user, spec, view, claims_of(user, view, rules.adopt) if copies is None else copies, rules)
    placement = view.placements.get(user)
    generation = placement.generation if placement is not None else 0
    if found.steps:
        return Decision(user, Work(user, "repaired", found.steps, generation))
    if found.error is not None:
        return Decision(user, error=found.error)
    return Decision(user, Work(user, "unchanged", (), generation))


def examine(user: str, spec: WorkspaceSpec, view: ClusterView, copies: Sequence[Copy], rules: Rules = Rules()) -> Found:
    """Compare what is recorded of the user with their containers. Of a user whose row is damaged nothing is known."""
    if user in view.damaged:
        return Found()
    placement = view.placements.get(user)
    awake = Found()
    for copy in copies:
        if is_set_aside(copy.container) and copy.container.is_running:
            detail = f"{copy.container.name} was put aside and runs again"
            awake += _aside(Kind.SHOULD_BE_STOPPED, user, copy, detail, "stopped")
    copies = [copy for copy in copies if not is_set_aside(copy.container)]
    if placement is None:
        return awake + _unplaced(user, spec, view, copies, rules) + _left(user, spec, view, rules)
    if placement.node not in view.nodes:
        return awake + _unknown_node(placement, copies, view)
    return awake + _placed(placement, spec, view, copies, rules) + _left(user, spec, view, rules)


def _left(user: str, spec: WorkspaceSpec, view: ClusterView, rules: Rules) -> Found:
    """What moves, failovers and standbys of the user have left to do about files. Containers in old places are
    differences of their own."""
    placement = view.placements.get(user)
    # A take-over ends a move too.
    ends = () if placement is None or _is_down(placement.node, view) else end_move(user, view)
    steps: list[Step] = [*ends, *leaving(user, view, rules.keep_s), *clean_up(user, view)]
    steps += [step for left in view.left for step in steps_about(left, user, view)]
    steps += surplus(user, spec, view)
    about = [step for step in steps if not isinstance(step, (QuarantineContainer, Settle))]
    found = tuple(Difference(Kind.LEFT_COPY, user, s.node, s.cause, f"{s.verb} {s.text()}") for s in about)
    kept = tuple(step for step in steps if not isinstance(step, QuarantineContainer))
    return Found(found, kept) + Found(conflicts(user, view))


def _aside(kind: Kind, user: str, copy: Copy, detail: str, fix: str = "stopped and renamed; its files stay") -> Found:
    step = set_aside(user, copy.node, kind.value, copy.container)
    return Found((Difference(kind, user, copy.node, detail, fix),), (step,))


# ---- users without a placement


def _unplaced(user: str, spec: WorkspaceSpec, view: ClusterView, copies: Sequence[Copy], rules: Rules) -> Found:
    if rules.adopt is not None:
        wanted = [copy for copy in copies if copy.container.cluster in (view.cluster, None)]
        if not wanted:
            return Found()
        differences, steps = adoption(user, spec, view, wanted)
        return Found(tuple(differences), tuple(steps))
    found = Found()
    empty = not view.placements and not rules.named
    for copy in copies:
        container = copy.container
        if container.cluster != view.cluster:
            continue
        detail = f"{container.name} is in no placement"
        if empty and container.is_running:
            # More likely the wrong database than a cluster in which only leftovers run.
            detail += ", and the state database has no placement at all: is it the right one?"
            fix = f"wsctl reconcile --adopt   # takes it over; wsctl reconcile --user {user}   # puts it aside"
            found += Found((Difference(Kind.ORPHAN, user, copy.node, detail, fix, safe=False),))
        else:
            found += _aside(Kind.ORPHAN, user, copy, detail, "stopped and renamed; --adopt takes it over instead")
    return found


# ---- placed users


def _unknown_node(placement: Placement, copies: Sequence[Copy], view: ClusterView) -> Found:
    """Nothing is concluded from copies elsewhere: a node that was renamed has everybody's own containers."""
    user, node = placement.user, placement.node
    seen = [
        copy.node
        for copy in copies
        if copy.container.cluster == view.cluster and copy.container.generation == placement.container_generation
    ]
    fix = f"add {node} to the inventory again; if it is gone for good: wsctl rm {user} --node-gone"
    if seen:
        fix = f"their container is on {seen[0]}: if that is {node} by a new name, name it {node} again"
    detail = f"placed on {node}, which is not in the inventory"
    return Found((Difference(Kind.UNKNOWN_NODE, user, node, detail, fix, safe=False),))


def _placed(
    placement: Placement, spec: WorkspaceSpec, view: ClusterView, copies: Sequence[Copy], rules: Rules
) -> Found:
    user, node = placement.user, view.nodes[placement.node]
    found, main, outdated = Found(), None, False
    for copy in copies:
        container = copy.container
        if container.cluster != view.cluster:
            continue
        if copy.node != placement.node and not rules.named and (container.generation or 0) > placement.generation:
            found += _newer(placement, copy)
            outdated = True
        elif copy.node != placement.node:
            detail = f"{container.name} is on {copy.node}, the user is placed on {placement.node}"
            found += _aside(Kind.WRONG_NODE, user, copy, detail)
        elif container.name != placement.container:
            detail = f"{container.name} is a second container of the user"
            found += _aside(Kind.DUPLICATE, user, copy, detail)
            view = without(view, copy.node, container)
        else:
            main = container
    if outdated or not node.reachable or node.mark.state is NodeState.DOWN:
        # Of a silent node, what runs there is unknown; that is said once, of the node.
        return found if outdated or node.reachable else found + _failed_over(placement, spec, view, rules)
    if main is not None and (main.user != user or main.generation != placement.container_generation):
        says = f"generation {main.generation}" if main.user == user else f"the labels of {main.user or 'nobody'}"
        detail = f"{main.name} has {says}, not generation {placement.container_generation} of {user}"
        found += _aside(Kind.STALE_GENERATION, user, Copy(placement.node, main), detail)
        view, stale = without(view, placement.node, main), True
    else:
        stale = False
    taken_over, view = _interrupted_adoption(placement, spec, view, copies, rules)
    return found + taken_over + _own(placement, spec, view, stale=stale)


def _is_down(node: str, view: ClusterView) -> bool:
    return node in view.nodes and view.nodes[node].mark.state is NodeState.DOWN


def _failed_over(placement: Placement, spec: WorkspaceSpec, view: ClusterView, rules: Rules) -> Found:
    """The user of a node that was marked down, and doesn't answer: a failover that wasn't finished, or couldn't be."""
    user, node = placement.user, placement.node
    if rules.failover is None or not _is_down(node, view):
        return Found()
    finding = Difference(Kind.FAILED_NODE, user, node, f"{node} is marked down", "goes on on another node")
    return _decided(finding, plan_failover(user, spec, view, node, *rules.failover))


def _newer(placement: Placement, copy: Copy) -> Found:
    """A generation that the database hasn't reached: more likely it was restored from a backup than that the label is
    forged, and then the user's newest files are with that container."""
    user, generation = placement.user, copy.container.generation
    detail = (
        f"{copy.container.name} is on {copy.node} with generation {generation}; recorded are {placement.node} and "
        f"{placement.generation}: was the database restored from an older backup?"
    )
    fix = f"if {placement.node} is right: wsctl reconcile --user {user}   # puts the copy aside"
    return Found((Difference(Kind.WRONG_NODE, user, copy.node, detail, fix, safe=False),))


def _interrupted_adoption(
    placement: Placement, spec: WorkspaceSpec, view: ClusterView, copies: Sequence[Copy], rules: Rules
) -> tuple[Found, ClusterView]:
    """A placement that is just beginning may be an adoption that was cut off: then the old container is still there."""
    found, user, node = Found(), placement.user, view.nodes[placement.node]
    if rules.adopt is None or placement.state not in BEGINNING:
        return found, view
    for copy in copies:
        theirs = has_their_files(user, spec, node, copy.container)
        if copy.node == placement.node and copy.container.cluster is None and theirs:
            found += _aside(Kind.UNMANAGED, user, copy, f"{copy.container.name} was being adopted")
            view = without(view, copy.node, copy.container)
    return found, view


def _own(placement: Placement, spec: WorkspaceSpec, view: ClusterView, *, stale: bool) -> Found:
    """The user's own container on their node. `stale`: the copy that stood in its place was dealt with."""
    user, node = placement.user, placement.node
    located = locate(user, view)
    if isinstance(located, WsctlError):
        # The node answers and the row is whole, so only the name can be in the way.
        fix = located.hint or ""
        return Found((Difference(Kind.FOREIGN_NAME, user, node, located.message, fix, safe=False),), error=located)
    judged = _judge(located)
    if judged is None:
        return Found()
    kind, detail, fix = judged
    finding = Difference(kind, user, node, detail, fix)
    simple = _without_start(finding, placement, view)
    if simple is not None:
        return simple
    squatter = _squatter(placement, view)
    if squatter is not None:
        detail = f"{squatter.name} runs on the files of {user} and isn't ours"
        fix = f"wsctl reconcile --adopt --adopt-name NAME   # or stop it on {node}"
        return Found((_unsafe(finding, fix), Difference(Kind.UNMANAGED, user, node, detail, fix, safe=False)))
    found = Found()
    container = located.container
    in_the_way = container is not None and (kind is Kind.WRONG_PORT or isinstance(port_if_taken(located), int))
    if container is not None and in_the_way and container.state != "created":
        # One that never ran has nothing in it: `plan_start` removes it itself.
        found = Found(steps=(set_aside(user, node, kind.value, container),))
        view = without(view, node, container)
    decided = _decided(finding, plan_start(user, spec, view))
    if decided.error is not None:
        return decided
    return found + (replace(decided, differences=()) if stale and kind is Kind.MISSING else decided)


def _without_start(finding: Difference, placement: Placement, view: ClusterView) -> Found | None:
    """What is done about a difference that is mended without a start; None if it isn't one."""
    user, cause = placement.user, finding.kind.value
    if placement.state in (PlacementState.STOPPED, PlacementState.STOPPING):
        return _decided(finding, plan_stop(user, view, cause=cause))
    if finding.kind is Kind.PAUSED:
        return Found((finding,), (UnpauseContainer(user, placement.node, cause),))
    return None


def _unsafe(finding: Difference, fix: str) -> Difference:
    """The same difference, left to an operator."""
    return replace(finding, fix=fix, safe=False)


def _decided(finding: Difference, decision: Decision) -> Found:
    if decision.error is not None:
        fix = f"{decision.error.message}; {decision.error.hint}" if decision.error.hint else decision.error.message
        return Found((_unsafe(finding, fix),), error=decision.error)
    return Found((finding,), decision.work.steps if decision.work is not None else ())


def _squatter(placement: Placement, view: ClusterView) -> Container | None:
    """A container that isn't ours and runs on the user's files, while their first own one is only being made."""
    if placement.state not in BEGINNING:
        return None
    node = view.nodes[placement.node]
    path = node.node.data_path(placement.user)
    return next(
        (c for c in node.containers if c.cluster is None and c.is_running and path in c.binds.values()),
        None,
    )


def _judge(located: Located) -> tuple[Kind, str, str] | None:
    """What is wrong with the user's own container: kind, detail, fix. None: nothing is."""
    state, container = located.placement.state, located.container
    if state is PlacementState.STOPPED:
        return (Kind.SHOULD_BE_STOPPED, "recorded as stopped, and runs", "stopped") if located.is_running else None
    wrong_port = _wrong_port(located)
    if wrong_port is not None and state is not PlacementState.STOPPING:
        return Kind.WRONG_PORT, wrong_port, "put aside and made anew"
    if state is not PlacementState.RUNNING:
        end = "stopped" if state is PlacementState.STOPPING else "brought to run, or given back if its node refuses"
        return Kind.HALF_DONE, f"recorded as {state}, and nobody is acting on it", end
    if container is None:
        return Kind.MISSING, f"its container is not on {located.placement.node}", "made anew on the user's files"
    if located.is_running and container.state == "paused":
        return Kind.PAUSED, "its container is paused, and nobody is acting on it", "let go on"
    return None if located.is_running else (Kind.NOT_RUNNING, f"its container is {container.state}", "started")


def _wrong_port(located: Located) -> str | None:
    container, port = located.container, located.placement.host_port
    if container is None or not located.is_running or container.host_port == port:
        return None
    where = f"on port {container.host_port}" if container.host_port is not None else "on no port"
    return f"published {where}, recorded on {port}"
