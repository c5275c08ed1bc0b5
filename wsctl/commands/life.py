"""`wsctl start`, `stop`, `restart` and `rm`: the life of placed users' workspaces.

Responsible for: their options and confirmations. Not responsible for: the steps (`planner.life`, `planner.place`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.options import (
    DryRunOpt,
    ParallelOpt,
    RequestOpt,
    UsersArg,
    WaitOpt,
    YesOpt,
    check_users,
    command,
    seconds,
)
from wsctl.context import App
from wsctl.errors import ConfirmationRequired, Refused, UsageError
from wsctl.model import ClusterView, WorkspaceSpec, spec_of
from wsctl.plan import Plan
from wsctl.planner.decision import Decision
from wsctl.planner.life import plan_abandon, plan_remove, plan_restart, plan_stop
from wsctl.planner.place import plan_start

if TYPE_CHECKING:
    from wsctl.workflow import Operation


class Way(NamedTuple):
    """The options of a verb that say how it is gone about; `parameters` are those that change what is done."""

    parallel: int
    wait: str
    dry_run: bool
    request_id: str | None
    parameters: Mapping[str, object] = {}


@command
def start(
    app: App,
    users: UsersArg,
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Start the workspaces of placed users, on their nodes. Users without a placement need `wsctl place`.

    Example:
      wsctl start alice
    """
    _run(app, "start", users, plan_start, Way(parallel, wait, dry_run, request_id))


@command
def stop(
    app: App,
    users: UsersArg,
    grace: Annotated[str, typer.Option("--grace", metavar="DURATION", help="Between SIGTERM and SIGKILL.")] = "10s",
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Stop workspaces. Files, placement and port stay; memory and CPU are given back.

    Example:
      wsctl stop alice bob
    """
    grace_s = seconds(grace, "--grace")
    way = Way(parallel, wait, dry_run, request_id, {"grace_s": grace_s})
    _run(app, "stop", users, lambda user, spec, view: plan_stop(user, view, grace_s=grace_s), way)


@command
def restart(
    app: App,
    users: UsersArg,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Make the container anew from the present spec; the files stay.")
    ] = False,
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Stop and start workspaces.

    Example:
      wsctl restart alice --recreate
    """

    def decide(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
        return plan_restart(user, spec, view, recreate=recreate)

    _run(app, "restart", users, decide, Way(parallel, wait, dry_run, request_id, {"recreate": recreate}))


@command
def rm(
    app: App,
    users: UsersArg,
    purge_data: Annotated[
        bool, typer.Option("--purge-data", help="Delete the user's files too, for good. Asks for the user's name.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="USER", help="The user's name, instead of typing it.")
    ] = None,
    node_gone: Annotated[
        bool,
        typer.Option("--node-gone", help="The user's node isn't in the inventory any more: remove the placement only."),
    ] = False,
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Remove workspaces: container and placement. The files stay on the node, and the next `place` goes there.

    Of a user whose node was taken out of the inventory, nothing is removed without --node-gone, and then only what is
    recorded: if the machine still runs, so does the container there.

    Examples:
      wsctl rm alice --yes
      wsctl rm alice --purge-data --confirm alice
    """
    targets = check_users(users)
    if purge_data and len(targets) != 1:
        raise UsageError("--purge-data takes one user at a time", hint=f"wsctl rm {targets[0]} --purge-data")
    if purge_data and node_gone:
        raise UsageError("--purge-data can't delete anything on a node that is gone", hint="leave one of the two out")

    def ask(plan: Plan) -> None:
        if not purge_data and not yes:
            names = ", ".join(targets[:5]) + ("…" if len(targets) > 5 else "")
            app.out.plan(plan, dry_run=False)
            app.out.confirm(f"Remove {names}? The files stay.", yes=False)
        elif purge_data and confirm is None:
            app.out.plan(plan, dry_run=False)
            _typed(app, targets[0])
        elif purge_data and confirm != targets[0]:
            raise Refused(f"--confirm {confirm} isn't {targets[0]}; nothing was changed")

    def decide(user: str, spec: WorkspaceSpec, view: ClusterView) -> Decision:
        return plan_abandon(user, view) if node_gone else plan_remove(user, spec, view, purge=purge_data)

    chosen = {"purge_data": purge_data, **({"node_gone": True} if node_gone else {})}
    _run(app, "rm", users, decide, Way(parallel, wait, dry_run, request_id, chosen), ask)


def _typed(app: App, user: str) -> None:
    try:
        app.out.typed(f"All files of {user} will be deleted for good.", user)
    except ConfirmationRequired as error:
        raise ConfirmationRequired(
            f"deleting the files of {user} must be confirmed by their name",
            hint=f"wsctl rm {user} --purge-data --confirm {user}",
        ) from error


def operation_for(
    app: App, verb: str, targets: tuple[str, ...], decide: Callable[[str, WorkspaceSpec, ClusterView], Decision]
) -> Operation:
    """What the pipeline is asked for: a decision about each user, by the spec of their class."""
    from wsctl.workflow import Operation

    classes = app.inventory.classes

    def spec(user: str, view: ClusterView) -> WorkspaceSpec:
        return spec_of(classes, view.placements.get(user))

    return Operation(verb, targets, lambda user, view: decide(user, spec(user, view), view), spec)


def _run(
    app: App,
    verb: str,
    users: list[str],
    decide: Callable[[str, WorkspaceSpec, ClusterView], Decision],
    way: Way,
    confirm: Callable[[Plan], None] | None = None,
) -> None:
    from wsctl.commands.present import show_dry_run, show_outcomes
    from wsctl.requests import run
    from wsctl.workflow import Options, Workflow

    targets = check_users(users)
    operation = operation_for(app, verb, targets, decide)
    request = app.request(way.request_id, verb, targets, **way.parameters)
    world = app.world(dry_run=way.dry_run, parallel=way.parallel, wait_s=seconds(way.wait, "--wait"))
    outcomes = run(Workflow(world), operation, Options(dry_run=way.dry_run, confirm=confirm), request)
    show = show_dry_run if way.dry_run else show_outcomes
    with auto_apply(app, verb, dry_run=way.dry_run):
        show(app, outcomes)
