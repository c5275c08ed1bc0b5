"""`wsctl reconcile`: finds what differs between the state, the nodes and the map, and repairs what is safe.

Responsible for: its options, its one question, and showing what became of each difference. Not responsible for: finding
and repairing (`reconciler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, ParallelOpt, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, UsageError
from wsctl.model import CONTAINER_PREFIX
from wsctl.plan import Plan, Reserve

if TYPE_CHECKING:
    from wsctl.published import PublishedMap
    from wsctl.reconciler import Picture, Repair


@command
def reconcile(
    app: App,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="USER", help="Only these users.")] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over containers that are in no placement. Asks, unless --yes.")
    ] = False,
    adopt_name: Annotated[
        str,
        typer.Option("--adopt-name", metavar="TEMPLATE", help="Names of containers to adopt; {user} is the user id."),
    ] = f"{CONTAINER_PREFIX}{{user}}",
    map_file: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="A published route map to compare and write anew.")
    ] = None,
    parallel: ParallelOpt = 8,
    wait: WaitOpt = "0",
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Compare state, containers, ports, counters and the map over the whole cluster; repair what is safe.

    Nothing is deleted: copies that shouldn't be are stopped and renamed. Exit code 9 if differences are left, or nodes
    didn't answer.

    Examples:
      wsctl reconcile --dry-run
      wsctl reconcile --map /etc/nginx/conf.d/wsctl-map.conf
      wsctl reconcile --adopt --adopt-name 'jupyter-{user}'
    """
    from wsctl.planner import Rules
    from wsctl.reconciler import Reconciler, Repair

    if adopt_name.count("{user}") != 1:
        raise UsageError(f"--adopt-name {adopt_name!r} must have {{user}} in it once", hint="--adopt-name 'ws-{user}'")
    users = check_users(user) if user else None
    world = app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait"))
    rules = Rules(adopt=adopt_name if adopt else None, named=users is not None)
    reconciler = Reconciler(world, rules=rules, users=users, published=_published(app, map_file))
    picture = reconciler.look()
    for busy in picture.busy:
        app.out.detail(f"{busy}: somebody is acting on this user; left out")
    plan = reconciler.plan(picture)
    if picture.differences:
        app.out.plan(plan, dry_run=False)
    if dry_run:
        repairs = [Repair(difference) for difference in picture.differences]
    else:
        adopts = adopt and any(isinstance(step, Reserve) for step in plan)
        repairs = reconciler.repair(picture, _asking(app, yes=yes) if adopts else None)
    _show(app, repairs)
    _raise_if_left(repairs, picture, dry_run=dry_run)


def _asking(app: App, *, yes: bool) -> Callable[[Plan], None]:
    def ask(plan: Plan) -> None:
        names = [step.user for step in plan if isinstance(step, Reserve)]
        shown = ", ".join(names[:5]) + ("…" if len(names) > 5 else "")
        app.out.confirm(f"Adopt {shown}? Each container is stopped and made anew on the same files.", yes=yes)

    return ask


def _published(app: App, path: Path | None) -> PublishedMap | None:
    from wsctl.published import PublishedMap

    if path is None:
        return None
    if path.is_dir():
        raise UsageError(f"--map {path} is a folder", hint=f"--map {path / 'wsctl-map.conf'}")
    addresses = {name: node.publish_address for name, node in app.inventory.nodes.items()}
    return PublishedMap(path, app.inventory.gateway, addresses)


def _show(app: App, repairs: Sequence[Repair]) -> None:
    from wsctl.commands.present import error_dict
    from wsctl.output import Column

    items = []
    for repair in repairs:
        found = repair.difference
        item: dict[str, object] = {
            "kind": found.kind.value,
            "user": found.user,
            "node": found.node,
            "detail": found.detail,
            "fix": found.fix,
            "repaired": repair.repaired,
        }
        if repair.error is not None:
            item["error"] = error_dict(repair.error)
        items.append(item)
    columns = [Column(key) for key in ("kind", "user", "node", "detail", "fix", "repaired")]
    if items or app.out.is_json:
        app.out.rows(items, columns)
    else:
        app.out.note("nothing differs")
    for repair in repairs:
        if repair.error is not None:
            app.out.note(f"{repair.difference.user or repair.difference.node or 'map'}: {repair.error.message}")


def _raise_if_left(repairs: Sequence[Repair], picture: Picture, *, dry_run: bool) -> None:
    left = [repair.difference for repair in repairs if not repair.repaired]
    if not left:
        return
    kinds = ", ".join(sorted({difference.kind.value for difference in left}))
    safe = sum(difference.safe for difference in left)
    hint = "wsctl reconcile   # repairs what is safe" if dry_run and safe else "see `fix` of each"
    raise PartialFailure(f"{len(left)} of {len(repairs)} differences are left ({kinds})", hint=hint)
