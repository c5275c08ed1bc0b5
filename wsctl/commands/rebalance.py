"""`wsctl rebalance`: evens out the load of the nodes.

Responsible for: its options, its one question, and showing the plan and what became of it. Not responsible for: the
moves (`planner.rebalance`), nor for making them (`rebalancer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands import moves
from wsctl.commands.applying import auto_apply
from wsctl.commands.options import DryRunOpt, RequestOpt, WaitOpt, YesOpt, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, UsageError

if TYPE_CHECKING:
    from wsctl.moveports import Size
    from wsctl.planner.migrate import How
    from wsctl.planner.rebalance import Balance
    from wsctl.rebalancer import Rebalanced, RebalanceOptions, Rebalancer


class ByOpt(StrEnum):
    """What is to be even; the values of `planner.By`, which isn't imported for `--help`."""

    LOAD = "load"
    MEMORY = "memory"
    CPUS = "cpus"
    WORKSPACES = "workspaces"


@command
def rebalance(
    app: App,
    target: Annotated[
        str, typer.Option("--target", metavar="PERCENT", help="How far the highest and the lowest load may differ.")
    ] = "10%",
    most: Annotated[int | None, typer.Option("--max-moves", min=1, metavar="N", help="At most so many moves.")] = None,
    by: Annotated[
        ByOpt, typer.Option("--by", help="What counts: the fullest of active users, memory and CPU, or one thing.")
    ] = ByOpt.LOAD,
    only_idle: moves.OnlyIdleOpt = False,
    parallel: moves.AtOnceOpt = 4,
    verify: moves.VerifyOpt = None,
    bwlimit: moves.BwlimitOpt = None,
    compress: moves.CompressOpt = None,
    keep: moves.KeepOpt = None,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Even out the load of the nodes, by as few moves as it takes.

    A load is what is used of a node's capacity times its weight. Cordoned, draining and silent nodes are left alone.
    Idle users are moved rather than others. The plan says what there is to copy, and how many moves it takes at least.

    Examples:
      wsctl rebalance --dry-run
      wsctl rebalance --target 5% --max-moves 20 --only-idle
    """
    from wsctl.requests import items_once

    how = moves.how_of(app, verify, bwlimit, keep, compress=compress)
    options = _options(
        app, _share(target), most, by, only_idle=only_idle, how=how,
        request_id=request_id, dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        _show_dry_run(app, _rebalancer(app, options, parallel, wait, dry_run=True), parallel)
        return
    request = app.request(request_id, "rebalance", [], target=target, most=most, by=by.value, only_idle=only_idle)
    with auto_apply(app, "rebalance", dry_run=False):
        (answer,) = items_once(
            app.world(wait_s=seconds(wait, "--wait")),
            request,
            lambda: [_perform(app, options, parallel, wait, yes=yes)],
            lambda found: not _left(found[0]),
        )
        _show(app, answer)


def _share(text: str) -> float:
    """A percentage, `10%` or `10`, as a share of 1."""
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--target {text!r} isn't a percentage from 0% to 100%", hint="for example --target 10%")
    return share


def _options(
    app: App,
    target: float,
    most: int | None,
    by: ByOpt,
    *,
    only_idle: bool,
    how: How,
    request_id: str | None,
    dry_run: bool,
) -> RebalanceOptions:
    from wsctl.idleness import Idleness
    from wsctl.mover import Rules
    from wsctl.planner.balance import By
    from wsctl.rebalancer import VERB, RebalanceOptions

    idleness = Idleness(app.world(dry_run=dry_run), app.inventory.reap.users, records=not dry_run)
    rules = Rules(VERB, moves.spec_of(app), app.inventory.strategy, how, request_id=request_id)
    return RebalanceOptions(rules, target, idleness, most, By(by.value), only_idle)


def _rebalancer(app: App, options: RebalanceOptions, parallel: int, wait: str, *, dry_run: bool = False) -> Rebalancer:
    from wsctl.rebalancer import Rebalancer

    return Rebalancer(app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait")), options)


def _perform(app: App, options: RebalanceOptions, parallel: int, wait: str, *, yes: bool) -> dict[str, object]:
    from wsctl.rebalancer import Rebalancer

    shown = None if yes else _asked(app, _rebalancer(app, options, parallel, wait), parallel)
    with moves.under_way(app, "rebalance", "rebalancing", parallel, wait) as (world, report, stopping, begin):
        rebalancer = Rebalancer(world, options, report, stopping, begin)
        done = rebalancer.run(shown)
    _say_midway(app, rebalancer)
    return _answer(done)


def _asked(app: App, rebalancer: Rebalancer, parallel: int) -> Balance:
    plan = rebalancer.look()
    _say_midway(app, rebalancer)
    if plan.moves:
        sizes = moves.measure(app, {move.user: move.source for move in plan.moves}, parallel)
        for move in plan.moves:
            app.out.note(move.line())
        _say(app, plan, sizes)
        count = len(plan.moves)
        app.out.confirm(f"Move {count} user{'' if count == 1 else 's'}?", yes=False)
    return plan


# ----------------------------------------------------------------------------------------------------------- showing


def _head(plan: Balance, after: Mapping[str, float]) -> dict[str, object]:
    """What the answer says of the whole."""
    from wsctl.planner.rebalance import spread

    return {
        "target_spread": round(plan.target, 6),
        "spread_before": round(plan.spread_before, 6),
        "spread_after": round(spread(after), 6),
        "moves": len(plan.moves),
        "lower_bound": plan.lower_bound,
        "nodes": [
            {"node": name, "load_before": round(load, 6), "load_after": round(after.get(name, load), 6)}
            for name, load in plan.before.items()
        ],
    }


def _answer(done: Rebalanced) -> dict[str, object]:
    items = []
    for one in done.moved:
        verdict = "busy" if one.fate == "kept" else str(one.fate)
        items.append(moves.moved_item(one, verdict, None))
    return {**_head(done.plan, done.after), "items": items}


def _left(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The moves that weren't made."""
    items = answer["items"]
    return [item for item in items if item["verdict"] not in moves.DONE] if isinstance(items, list) else []


def _show(app: App, answer: Mapping[str, object]) -> None:
    items = answer["items"]
    rows: Sequence[Mapping[str, object]] = items if isinstance(items, list) else []
    if app.out.is_json:
        app.out.record(answer)
    elif rows:
        app.out.rows(rows, moves.columns(planned=False))
    app.out.note(
        f"the loads differ by {_percent(answer['spread_after'])}, before by {_percent(answer['spread_before'])}"
    )
    left = _left(answer)
    if left:
        said = "; ".join(f"{item['user']}: {item['reason']}" for item in left[:3])
        raise PartialFailure(
            f"{len(left)} of {len(rows)} moves weren't made: {said}",
            hint="wsctl rebalance --dry-run   # plans anew from here",
            details={"left": {str(item["user"]): item["reason"] for item in left}},
        )


def _show_dry_run(app: App, rebalancer: Rebalancer, parallel: int) -> None:
    plan = rebalancer.look()
    _say_midway(app, rebalancer)
    sizes = moves.measure(app, {move.user: move.source for move in plan.moves}, parallel)
    items = []
    for move in plan.moves:
        more = moves.size_fields(sizes.get(move.user), rebalancer.options.rules.how)
        reason = "idle" if move.is_idle else None
        items.append(moves.item_of(move.user, move.source, "would-move", target=move.target, reason=reason, **more))
    if app.out.is_json:
        total = sum(size.bytes for size in sizes.values())
        app.out.record({"dry_run": True, **_head(plan, plan.after), "size_bytes": total, "items": items})
        return
    if items:
        app.out.rows(items, moves.columns(planned=True))
    _say(app, plan, sizes)


def _say(app: App, plan: Balance, sizes: Mapping[str, Size]) -> None:
    """What the plan costs and brings, and how far from the least it is."""
    from wsctl.text import human_bytes

    for name, load in plan.before.items():
        app.out.note(f"load of {name}: {_percent(load)} → {_percent(plan.after[name])}")
    now, then, wanted = _percent(plan.spread_before), _percent(plan.spread_after), _percent(plan.target)
    if not plan.moves and plan.is_reached:
        app.out.note(f"nothing to do: the loads differ by {now}, {wanted} is asked for")
        return
    total = human_bytes(sum(size.bytes for size in sizes.values()))
    app.out.note(f"{len(plan.moves)} moves, {total} to copy: the loads differ by {now} now, by {then} afterwards")
    if plan.lower_bound is None:
        app.out.note(f"no moves of those who may be moved reach {wanted}")
    else:
        app.out.note(f"reaching {wanted} takes at least {plan.lower_bound} moves, whatever the plan")
    if not plan.is_reached:
        app.out.warn(f"these moves don't reach {wanted}")


def _say_midway(app: App, rebalancer: Rebalancer) -> None:
    users = rebalancer.midway
    if users:
        names = ", ".join(users[:5]) + ("…" if len(users) > 5 else "")
        app.out.note(f"left out, as a move of theirs has begun: {names}   (if nobody is at it: wsctl reconcile)")


def _percent(share: object) -> str:
    return f"{float(share) * 100:.1f} %" if isinstance(share, (int, float)) else "-"
