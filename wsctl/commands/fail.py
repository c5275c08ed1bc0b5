"""`wsctl node fail`: gives a dead node up, so that its users go on elsewhere.

Responsible for: its options, the question, showing what became of each user. Not responsible for: the order of things
(`wsctl.failover`), where users go and with which files (`planner.failover`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.applying import AsItGoes, auto_apply
from wsctl.commands.failing import rules_of
from wsctl.commands.options import DryRunOpt, ParallelOpt, RequestOpt, WaitOpt, YesOpt, check_users, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, Refused
from wsctl.plan import Plan

if TYPE_CHECKING:
    from wsctl.failover import Failover
    from wsctl.workflow import Outcome

NodeArg = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="The node that is dead.")]


@command
def fail(
    app: App,
    node: NodeArg,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")] = "",
    user: Annotated[list[str] | None, typer.Option("--user", metavar="USER", help="Only these users.")] = None,
    accept_data_loss: Annotated[
        bool,
        typer.Option("--accept-data-loss", help="Who has no copy elsewhere goes on from the backup, or without files."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although the node answers; its containers are stopped first.")
    ] = False,
    parallel: ParallelOpt = 16,
    wait: WaitOpt = "2s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Give a dead node up: its users go on elsewhere, with shared storage or from their standby copies.

    Who has no copy stays down until the node is back; with --accept-data-loss they go on from the newest backup, or
    without files. Says for each user how old their files
    are. Refuses if the node answers. The same command, or `reconcile`, finishes what was cut off. When the node is
    back, `reconcile` or `node uncordon` puts aside what is stale there.

    Examples:
      wsctl node fail n1 --dry-run
      wsctl node fail n1 --reason "no power in rack 4" --yes
    """
    from wsctl.failover import Failover, answers, fail_over
    from wsctl.requests import items_once

    app.inventory.node(node)
    users = check_users(user) if user else None
    alive = answers(app.fleet.engine, node)
    if alive and not force:
        raise Refused(
            f"{node} answers: users may be working there; nothing was changed",
            hint=f"wsctl node check {node}; to give it up all the same: wsctl node fail {node} --force",
            details={"node": node},
        )
    world = app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait"))
    now = world.clock.now()
    rules = rules_of(app, [node], now, accept_loss=accept_data_loss)
    asked = Failover(node, rules, app.inventory.strategy, reason, users, alive, request_id)
    if dry_run or not yes:
        _show_plan(app, asked, dry_run=dry_run, parallel=parallel)
        if dry_run:
            return
        app.out.confirm(f"Give up {node}? Its users go on as shown.", yes=False)
    request = app.request(request_id, "node fail", [node], users=users, accept_data_loss=accept_data_loss)
    with auto_apply(app, "node fail", dry_run=False):
        live = AsItGoes(app, "node fail")
        asked = replace(asked, report=lambda outcome: live.changed())

        def run() -> list[dict[str, object]]:
            return [_item(outcome, node, now) for outcome in fail_over(world, asked)]

        items = items_once(world, request, run, lambda items: all("error" not in item for item in items))
        _show(app, items, node)


def _show_plan(app: App, asked: Failover, *, dry_run: bool, parallel: int) -> None:
    from wsctl.failover import would_fail_over

    outcomes = would_fail_over(app.world(dry_run=True, parallel=parallel), asked)
    works = tuple(outcome.work for outcome in outcomes if outcome.work is not None)
    notes = tuple(outcome.error.message for outcome in outcomes if outcome.error is not None)
    app.out.plan(Plan(works, notes), dry_run=dry_run)


def _item(outcome: Outcome, failed: str, now: datetime) -> dict[str, object]:
    from wsctl.commands.present import error_dict
    from wsctl.errors import NoCopy

    placement, facts = outcome.placement, outcome.facts
    as_of = facts.get("data_as_of")
    item: dict[str, object] = {
        "user": outcome.target,
        "source": failed,
        "target": placement.node if placement is not None else None,
        "state": placement.state.value if placement is not None else None,
        "generation": placement.generation if placement is not None else None,
        "data_as_of": as_of,
        "data_age_s": round((now - as_of).total_seconds(), 1) if isinstance(as_of, datetime) else None,
        "ready_ms": round(outcome.ready_ms) if outcome.ready_ms is not None else None,
        "action": outcome.action,
    }
    if outcome.work is not None and outcome.work.warnings:
        item["warnings"] = list(outcome.work.warnings)
    if outcome.error is not None:
        item["action"] = "left-down" if isinstance(outcome.error, NoCopy) else "failed"
        item["error"] = error_dict(outcome.error)
    return item


def _show(app: App, items: Sequence[Mapping[str, object]], node: str) -> None:
    from wsctl.output import Column
    from wsctl.text import human_duration

    columns = (
        Column("user"),
        Column("target"),
        Column("state"),
        Column("data_age_s", "files are", show=lambda s: f"{human_duration(s)} old" if isinstance(s, float) else "-"),
        Column("action"),
        Column("error", show=lambda e: str(e["message"]) if isinstance(e, Mapping) else ""),
    )
    app.out.rows([dict(item) for item in items], columns if any("error" in i for i in items) else columns[:-1])
    for item in items:
        warnings = item.get("warnings")
        for warning in warnings if isinstance(warnings, list) else ():
            app.out.warn(str(warning))
    down = [item["user"] for item in items if item["action"] == "left-down"]
    failed = [item["user"] for item in items if item["action"] == "failed"]
    if not down and not failed:
        return
    parts = [f"{len(down)} of {len(items)} users of {node} stay down"] if down else []
    parts += [f"{len(failed)} failed"] if failed else []
    hint = f"wsctl node fail {node} --yes   # again, for those that failed" if failed else f"bring {node} back"
    raise PartialFailure("; ".join(parts), hint=hint, details={"left_down": down, "failed": failed})
