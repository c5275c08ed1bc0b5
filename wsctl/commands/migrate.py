"""`wsctl migrate-user`: moves a user, with their files, to another node.

Responsible for: its options, showing sizes, progress and the answer. Not responsible for: the steps
(`planner.migrate`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands import moves
from wsctl.commands.applying import AsItGoes, auto_apply
from wsctl.commands.options import DryRunOpt, RequestOpt, UserArg, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import NodeError, NotFound, UsageError
from wsctl.moveports import Way
from wsctl.moving import Road, RoadKind

if TYPE_CHECKING:
    from wsctl.movework import Told
    from wsctl.output import Progress
    from wsctl.planner.migrate import How
    from wsctl.workflow import Operation, Outcome


@command
def migrate_user(
    app: App,
    user: UserArg,
    to: Annotated[
        str | None, typer.Option("--to", metavar="NODE", help="Where to (default: the scheduler chooses).")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Back to the node that keeps the files of the last move.")
    ] = False,
    verify: moves.VerifyOpt = None,
    bwlimit: moves.BwlimitOpt = None,
    compress: moves.CompressOpt = None,
    keep: moves.KeepOpt = None,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Move a user with their files to another node: copied while they work, stopped only for the rest.

    Until the swap the user belongs to the source, and a failure leaves them running there; from then on to the target.
    The same command finishes what was cut off. The source's copy is put aside for a while, and deleted by `reconcile`.
    What the options don't say, `migrate:` in the inventory does.

    Examples:
      wsctl migrate-user alice --dry-run
      wsctl migrate-user alice --to n2 --bwlimit 50m
      wsctl migrate-user alice --rollback
    """
    from wsctl.requests import run
    from wsctl.workflow import Options, Workflow

    (target,) = check_users([user])
    how = moves.how_of(app, verify, bwlimit, keep, compress=compress)
    if rollback and to is not None:
        raise UsageError("--rollback goes to where the files are kept: it takes no --to")
    back_to = _kept_on(app, target, dry_run=dry_run) if rollback else None
    operation = _operation(app, target, back_to or to, how)
    request = app.request(request_id, "migrate-user", [target], to=to, rollback=rollback)
    progress = nullcontext(None) if dry_run else app.out.progress(100, f"copying {target}")
    with progress as bar:
        told = None if bar is None else _shown_on(bar)
        routed = _unrouted if dry_run else AsItGoes(app, "migrate-user").changed
        world = app.world(dry_run=dry_run, wait_s=seconds(wait, "--wait"), told=told, routed=routed)
        outcomes = run(Workflow(world), operation, Options(dry_run=dry_run), request)
    with auto_apply(app, "migrate-user", dry_run=dry_run):
        if dry_run:
            _show_dry_run(app, outcomes[0], how)
        else:
            _show(app, outcomes[0], rollback=rollback)


def _unrouted() -> None:
    """A dry run changes no route."""


def _shown_on(bar: Progress) -> Told:
    """Moves the bar by what the first pass has done, in hundredths: the passes after it are short."""
    shown = 0

    def told(user: str, number: int, size: int, share: float) -> None:
        nonlocal shown
        while number == 1 and shown < int(share * 100):
            bar.advance()
            shown += 1

    return told


def _operation(app: App, user: str, to: str | None, how: How) -> Operation:
    from wsctl.planner.migrate import plan_migrate, plan_unmove
    from wsctl.workflow import Operation

    spec, strategy = moves.spec_of(app), app.inventory.strategy
    return Operation(
        "migrate-user",
        (user,),
        lambda user, view: plan_migrate(user, spec(user, view), view, to, strategy, how),
        spec,
        places=True,
        undo=lambda user, view: plan_unmove(user, spec(user, view), view),
    )


def _kept_on(app: App, user: str, *, dry_run: bool) -> str:
    """The node that keeps the newest copy of the user's files."""
    store = app.store_for_reading if dry_run else app.store
    placement = store.placement(user)
    kept = [copy for copy in store.kept_copies() if copy.user == user and copy.state in ("leaving", "kept")]
    if placement is None or not kept:
        raise NotFound(f"no node keeps files of {user} that a move left", hint=f"wsctl migrate-user {user} --to NODE")
    return max(kept, key=lambda copy: copy.number).node


def _show_dry_run(app: App, outcome: Outcome, how: How) -> None:
    from wsctl.commands.present import show_dry_run
    from wsctl.plan import CopyPass
    from wsctl.text import human_bytes

    show_dry_run(app, [outcome])
    copies = [step for step in outcome.work.steps if isinstance(step, CopyPass)] if outcome.work is not None else []
    if not copies:
        return
    source, target, user = copies[0].source, copies[0].node, outcome.target
    roots = (app.inventory.nodes[name].host_root.rstrip("/") for name in (source, target))
    try:
        road = app.fleet.files.check(Way(user, source, target, *roots))
    except NodeError as error:
        app.out.warn(f"a copy couldn't be made now: {error.message}")
        return
    _say_road(app, road)
    size = moves.measure(app, {user: source}, 1).get(user)
    if size is not None:
        when = "while nobody works" if road.kind is RoadKind.TAR else f"while {user} works"
        about = f"about {moves.estimate_s(size, how):.0f} s {when}"
        app.out.note(f"{human_bytes(size.bytes)} in {size.files} files; {about}")
        moves.say_odd(app, [size])


def _say_road(app: App, road: Road) -> None:
    """Why files don't go straight from node to node, if they don't."""
    if road.kind is RoadKind.RELAY:
        app.out.warn(f"the files go through this machine: {road.why}")
    elif road.kind is RoadKind.TAR:
        app.out.warn(f"the files go through this machine in one tar stream, while nobody works: {road.why}")


def _show(app: App, outcome: Outcome, *, rollback: bool) -> None:
    from wsctl.output import Column

    if outcome.error is not None:
        raise outcome.error
    placement, facts = outcome.placement, outcome.facts
    node = placement.node if placement is not None else None
    action = "rolled-back" if rollback and outcome.action == "migrated" else outcome.action
    item: dict[str, object] = {
        "user": outcome.target,
        "source": facts.get("source", node),
        "target": node,
        "generation": placement.generation if placement is not None else None,
        "downtime_ms": facts.get("downtime_ms", 0),
        "bytes_copied": facts.get("bytes_copied", 0),
        "passes": facts.get("passes", 0),
        "action": action,
    }
    for warning in outcome.work.warnings if outcome.work is not None else ():
        app.out.warn(warning)
    if "road" in facts:
        item |= {key: facts[key] for key in ("bytes_stopped", "road", "road_why")}
        _say_road(app, Road(RoadKind(str(facts["road"])), str(facts["road_why"])))
    item["left_out"] = facts.get("left_out", 0)
    names = facts.get("left_out_names", ())
    if isinstance(names, tuple):
        moves.say_left_out(app, int(str(item["left_out"])), names)
    if "put_aside" in facts:
        app.out.warn(f"{outcome.target} had other files on {node}: kept there as .wsctl-kept/{facts['put_aside']}")
    if app.out.is_json:
        app.out.record(item)
    else:
        shown = [name for name in item if name not in ("bytes_stopped", "road", "road_why", "left_out")]
        app.out.rows([item], tuple(Column(name) for name in shown))
