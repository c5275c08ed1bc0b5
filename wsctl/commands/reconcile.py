"""`wsctl reconcile`: finds what differs between the state, the nodes and the map, and repairs what is safe.

Responsible for: its options, its one question, and showing what became of each difference. Not responsible for: finding
and repairing (`reconciler`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.applying import auto_apply
from wsctl.commands.failing import rules_of
from wsctl.commands.options import DryRunOpt, ParallelOpt, RequestOpt, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, UsageError
from wsctl.model import CONTAINER_PREFIX, NodeState
from wsctl.plan import Plan, Reserve

if TYPE_CHECKING:
    from wsctl.planner.reconcile import Rules
    from wsctl.published import PublishedMap
    from wsctl.reconciler import Reconciler, Repair
    from wsctl.workflow import World


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
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Compare state, containers, ports, counters, leases, requests and the map over the cluster; repair what is safe.

    Nothing is deleted: copies that shouldn't be are stopped and renamed. Exit code 9 if differences are left, or nodes
    didn't answer.

    Examples:
      wsctl reconcile --dry-run
      wsctl reconcile --map /etc/nginx/conf.d/wsctl-map.conf
      wsctl reconcile --adopt --adopt-name 'jupyter-{user}'
    """
    from wsctl.origin import is_gone
    from wsctl.reconciler import Reconciler
    from wsctl.requests import items_once

    if adopt_name.count("{user}") != 1:
        raise UsageError(f"--adopt-name {adopt_name!r} must have {{user}} in it once", hint="--adopt-name 'ws-{user}'")
    users = check_users(user) if user else None
    template = adopt_name if adopt else None
    request = app.request(request_id, "reconcile", users or (), adopt=template, map=map_file and str(map_file))
    world = app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait"))
    reconciler = Reconciler(
        world,
        rules=_rules(app, world, template, named=users is not None),
        users=users,
        published=_published(app, map_file),
        request_id=request_id,
        is_gone=is_gone,
    )

    def run() -> list[dict[str, object]]:
        return [_item(repair) for repair in _run(app, reconciler, adopts=adopt, dry_run=dry_run, yes=yes)]

    items = items_once(world, None if dry_run else request, run, lambda items: all(item["repaired"] for item in items))
    with auto_apply(app, "reconcile", dry_run=dry_run):
        _show(app, items)
        _raise_if_left(items, dry_run=dry_run)


def _rules(app: App, world: World, template: str | None, *, named: bool) -> Rules:
    """How far this run may go, as the inventory has it."""
    from wsctl.planner.reconcile import Rules

    inventory = app.inventory
    down = [name for name, mark in world.store.marks().items() if mark.state is NodeState.DOWN]
    failover = (inventory.strategy, rules_of(app, down, world.clock.now()))
    return Rules(adopt=template, named=named, keep_s=inventory.migrate.keep_s, failover=failover)


def _run(app: App, reconciler: Reconciler, *, adopts: bool, dry_run: bool, yes: bool) -> list[Repair]:
    from wsctl.reconciler import Repair

    picture = reconciler.look()
    for busy in picture.busy:
        app.out.detail(f"{busy}: somebody is acting on this user; left out")
    plan = reconciler.plan(picture)
    if picture.differences:
        app.out.plan(plan, dry_run=False)
    if dry_run:
        return [Repair(difference) for difference in picture.differences]
    asks = adopts and any(isinstance(step, Reserve) for step in plan)
    return reconciler.repair(picture, _asking(app, yes=yes) if asks else None)


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


def _item(repair: Repair) -> dict[str, object]:
    from wsctl.commands.present import error_dict

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
    return item


def _show(app: App, items: Sequence[Mapping[str, object]]) -> None:
    from wsctl.output import Column

    columns = [Column(key) for key in ("kind", "user", "node", "detail", "fix", "repaired")]
    if items or app.out.is_json:
        app.out.rows(items, columns)
    else:
        app.out.note("nothing differs")
    for item in items:
        error = item.get("error")
        if isinstance(error, Mapping):
            app.out.note(f"{item['user'] or item['node'] or 'map'}: {error['message']}")


def _raise_if_left(items: Sequence[Mapping[str, object]], *, dry_run: bool) -> None:
    left = [item for item in items if not item["repaired"]]
    if not left:
        return
    kinds = ", ".join(sorted({str(item["kind"]) for item in left}))
    hint = "see `fix` of each" if not dry_run else "wsctl reconcile   # repairs what is safe; see `fix` of the others"
    raise PartialFailure(f"{len(left)} of {len(items)} differences are left ({kinds})", hint=hint)
