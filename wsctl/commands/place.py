"""`wsctl place`: bring users to run.

Responsible for: its options, reading lists of users, progress. Not responsible for: where users go (`scheduler`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.options import DryRunOpt, ParallelOpt, RequestOpt, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import UsageError
from wsctl.model import ClusterView, Strategy, WorkspaceSpec, is_user_id

if TYPE_CHECKING:
    from wsctl.workflow import Operation

LIST_LIMIT_BYTES = 16 * 1024 * 1024

FromOpt = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE", help="Read user ids from FILE (- for stdin), one a line, # for comments."),
]


@command
def place(
    app: App,
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER…]", show_default=False, help="User ids.")] = None,
    source: FromOpt = None,
    workspace_class: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Workspace class of new users (default: default).")
    ] = None,
    strategy: Annotated[
        Strategy | None, typer.Option("--strategy", help="How to choose among nodes (default: the inventory's).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Allow another node although files of the user remain on one.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show every node with its score or why it can't.")] = False,
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Bring users to run: on their node if they have one, else on the best node.

    Safe to repeat: a running user is left alone (`unchanged`), a stopped one is started on their node, and what a
    crash left half-done is finished.

    Examples:
      wsctl place alice
      wsctl place alice --dry-run --explain
      wsctl place --from users.txt --parallel 12
    """
    from wsctl.commands.present import show_dry_run, show_outcomes
    from wsctl.requests import run
    from wsctl.workflow import Options, Outcome, Workflow

    targets = _targets(users, source)
    operation = operation_for(app, targets, workspace_class, strategy, fresh=fresh, explain=explain)
    world = app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait"))
    request = app.request(request_id, "place", targets, workspace_class=workspace_class, strategy=strategy, fresh=fresh)
    many = source is not None or len(targets) > 1
    progress = app.out.progress(len(targets), "placing") if many and not dry_run else nullcontext(None)
    with progress as bar:
        report: Callable[[Outcome], None] = lambda outcome: bar.advance() if bar is not None else None  # noqa: E731
        outcomes = run(Workflow(world), operation, Options(dry_run=dry_run, report=report), request)
    show = show_dry_run if dry_run else show_outcomes
    with auto_apply(app, "place", dry_run=dry_run):
        show(app, outcomes, explain=explain, many=many)


def operation_for(
    app: App,
    targets: tuple[str, ...],
    workspace_class: str | None,
    strategy: Strategy | None,
    *,
    fresh: bool,
    explain: bool,
) -> Operation:
    """What the pipeline is asked for. Users who are placed keep their class."""
    from wsctl.planner.place import plan_place
    from wsctl.workflow import Operation

    inventory = app.inventory
    chosen = strategy or inventory.strategy
    new_class = inventory.workspace_class(workspace_class or "default")

    def spec(user: str, view: ClusterView) -> WorkspaceSpec:
        placement = view.placements.get(user)
        return new_class if placement is None else inventory.classes.get(placement.workspace_class, new_class)

    return Operation(
        "place",
        targets,
        lambda user, view: plan_place(user, spec(user, view), view, chosen, fresh=fresh),
        spec,
        places=True,
        everyone=explain or chosen is Strategy.LEAST_LOADED,
    )


def _targets(users: list[str] | None, source: str | None) -> tuple[str, ...]:
    if bool(users) == (source is not None):
        raise UsageError("name users, or a list of them with --from, not both", hint="wsctl place --help")
    return check_users(users) if users else read_users(source or "-")


def read_users(source: str) -> tuple[str, ...]:
    """User ids from a file or stdin (`-`). Raises `UsageError` with every bad line, before anything is done."""
    name = "stdin" if source == "-" else source
    try:
        if source == "-":
            data = sys.stdin.buffer.read(LIST_LIMIT_BYTES + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(LIST_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--from: cannot read {name}: {error.strerror}", hint="name a file, or - for stdin") from error
    if len(data) > LIST_LIMIT_BYTES:
        raise UsageError(f"--from: {name} is larger than 16 MiB", hint="split it")
    found, bad = [], []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word and is_user_id(word):
            found.append(word)
        elif word:
            bad.append(f"{name}:{number}: {word[:80]!r} is not a user id")
    if bad:
        raise UsageError(
            f"{len(bad)} lines of {name} are not user ids; nothing was done\n" + "\n".join(bad[:20]),
            hint="user ids: 1 to 63 of a-z 0-9 _ -, beginning and ending with a letter or digit",
            details={"problems": bad[:1000]},
        )
    if not found:
        raise UsageError(f"--from: {name} names no users")
    return tuple(dict.fromkeys(found))
