"""`wsctl node drain`: moves everybody off a node.

Responsible for: its options, its one question, and showing what became of each user. Not responsible for: the order of
things (`drainer`), nor for who goes where (`planner.drain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands import moves
from wsctl.commands.applying import auto_apply
from wsctl.commands.node import NodeArg
from wsctl.commands.options import DryRunOpt, RequestOpt, WaitOpt, YesOpt, command, seconds
from wsctl.context import App
from wsctl.errors import PartialFailure, Unschedulable, UsageError

if TYPE_CHECKING:
    from wsctl.drainer import Drained, Drainer, DrainOptions, Prospect
    from wsctl.moveports import Size
    from wsctl.planner.migrate import How
    from wsctl.planner.relocation import Within

Item = dict[str, object]


@command
def drain(
    app: App,
    node: NodeArg,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="NODE", help="Only to these nodes (also as a,b,c).")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only to nodes with this label.")
    ] = None,
    parallel: moves.AtOnceOpt = 4,
    only_idle: moves.OnlyIdleOpt = False,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="DURATION", help="After so long no further move begins; begun ones finish."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Move those who have room elsewhere, although others haven't.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")] = "",
    verify: moves.VerifyOpt = None,
    bwlimit: moves.BwlimitOpt = None,
    compress: moves.CompressOpt = None,
    keep: moves.KeepOpt = None,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Move everybody off a node, stopped users too, and let nobody new onto it.

    Nobody is moved unless there is room for all. Ctrl-C lets begun moves finish (twice: at once); the same command goes
    on where it was. Done is: nobody is placed there, nothing of the cluster runs there. `node uncordon` ends it.

    Examples:
      wsctl node drain n2 --dry-run
      wsctl node drain n2 --reason "new kernel" --yes
      wsctl node drain n2 --only-idle --deadline 2h --label zone=b
    """
    from wsctl.requests import items_once

    app.inventory.node(node)
    options = _options(
        app, node, _within(app, node, to, label), how=moves.how_of(app, verify, bwlimit, keep, compress=compress),
        only_idle=only_idle, deadline=deadline, partial=partial, reason=reason, request_id=request_id, dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        _show_dry_run(app, _drainer(app, options, parallel, wait, dry_run=True), parallel)
        return
    request = app.request(
        request_id, "node drain", [node], to=to, label=label, only_idle=only_idle, partial=partial, deadline=deadline
    )
    with auto_apply(app, "node drain", dry_run=False):
        items = items_once(
            app.world(wait_s=seconds(wait, "--wait")),
            request,
            lambda: _perform(app, options, parallel, wait, yes=yes),
            lambda found: all(item["verdict"] in moves.DONE for item in found),
        )
        _show(app, node, items)


def _within(app: App, node: str, to: list[str] | None, label: list[str] | None) -> Within:
    from wsctl.planner.relocation import Within

    names = tuple(dict.fromkeys(name for one in to or () for name in one.split(",") if name))
    for name in names:
        app.inventory.node(name)
    if names == (node,):
        raise UsageError(f"--to {node} is the node that is to be emptied")
    labels = {}
    for one in label or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"--label {one!r} isn't KEY=VALUE", hint="for example --label zone=b")
        labels[key] = value
    return Within(names, labels)


def _options(
    app: App,
    node: str,
    within: Within,
    *,
    how: How,
    only_idle: bool,
    deadline: str | None,
    partial: bool,
    reason: str,
    request_id: str | None,
    dry_run: bool,
) -> DrainOptions:
    from wsctl.drainer import VERB, DrainOptions
    from wsctl.idleness import Idleness
    from wsctl.mover import Rules

    idleness = None
    if only_idle:
        idleness = Idleness(app.world(dry_run=dry_run), app.inventory.reap.users, records=not dry_run)
    rules = Rules(VERB, moves.spec_of(app), app.inventory.strategy, how, within, request_id=request_id)
    return DrainOptions(
        node,
        rules,
        deadline_s=None if deadline is None else seconds(deadline, "--deadline"),
        idleness=idleness,
        partial=partial,
        reason=reason,
    )


def _drainer(app: App, options: DrainOptions, parallel: int, wait: str, *, dry_run: bool = False) -> Drainer:
    from wsctl.drainer import Drainer

    return Drainer(app.world(dry_run=dry_run, parallel=parallel, wait_s=seconds(wait, "--wait")), options)


# ----------------------------------------------------------------------------------------------------------- doing it


def _perform(app: App, options: DrainOptions, parallel: int, wait: str, *, yes: bool) -> list[Item]:
    from wsctl.drainer import Drainer

    shown = None if yes else _asked(app, _drainer(app, options, parallel, wait), parallel)
    with moves.under_way(app, "node drain", f"draining {options.node}", parallel, wait) as (
        world,
        report,
        stopping,
        begin,
    ):
        drainer = Drainer(world, options, report, stopping, begin)
        drained = drainer.run(shown)
    _say_files(app, options.node, drained)
    return _items(app, drainer, drained)


def _asked(app: App, drainer: Drainer, parallel: int) -> Prospect:
    """What was looked at and agreed to."""
    prospect, options = drainer.look(), drainer.options
    _refuse(prospect, options)
    going = _going(prospect)
    if going:
        sizes = moves.measure(app, {user: source for user, source, _ in going}, parallel)
        for user, source, target in going:
            size = f" ({_human(sizes[user].bytes)})" if user in sizes else ""
            app.out.note(f"~ move     {user} from {source} to {target}{size}")
        for user, why in prospect.busy.items():
            app.out.note(f"! stays    {user}: {why}")
        _say_total(app, sizes, len(going), options, parallel)
        app.out.confirm(f"Move {_users(len(going))} off {options.node}?", yes=False)
    return prospect


def _refuse(prospect: Prospect, options: DrainOptions) -> None:
    from wsctl.planner.drain import no_room, without_room

    if without_room(prospect.decisions) and not options.partial:
        raise no_room(options.node, prospect.decisions)


def _going(prospect: Prospect) -> list[tuple[str, str, str]]:
    """User, source and target of each planned move."""
    from wsctl.planner.relocation import begins

    steps = [begins(decision) for decision in prospect.decisions]
    return [(step.user, step.source, step.node) for step in steps if step is not None]


# ----------------------------------------------------------------------------------------------------------- showing


def _items(app: App, drainer: Drainer, drained: Drained) -> list[Item]:
    node, root = drainer.options.node, app.inventory.nodes[drainer.options.node].host_root.rstrip("/")
    kept = {copy.user: f"{root}/.wsctl-kept/{copy.name}" for copy in drained.kept if copy.state == "kept"}
    items = []
    for one in drained.moved:
        user = one.errand.user
        verdict = str(one.fate)
        if verdict == "kept":
            verdict = "busy" if drainer.is_busy(user) else "late"
        items.append(moves.moved_item(one, verdict, kept.get(user) if verdict == "moved" else None))
    for user in drained.arriving:
        why = "a move is bringing them here: wsctl lease ls; if nobody is at it, wsctl reconcile"
        items.append(moves.item_of(user, node, "arriving", reason=why))
    for thing in drained.leftovers:
        why = f"{thing.name} runs there and is in no placement there: wsctl reconcile"
        items.append(moves.item_of(thing.user, node, "orphan", reason=why))
    if drained.silent is not None:
        items.append(moves.item_of(None, node, "unknown", reason=drained.silent.message))
    return items


def _say_files(app: App, node: str, drained: Drained) -> None:
    """What stays on the node's disk, although nobody lives there."""
    copies = {copy.user for copy in drained.kept}
    if copies:
        app.out.note(f"{node} keeps copies of {_users(len(copies))} who left; `wsctl reconcile` deletes them in time")
    if drained.homes:
        names = ", ".join(drained.homes[:5]) + ("…" if len(drained.homes) > 5 else "")
        app.out.note(f"{node} still has the files of {_users(len(drained.homes))} without a placement: {names}")


def _show(app: App, node: str, items: Sequence[Mapping[str, object]]) -> None:
    left = [item for item in items if item["verdict"] not in moves.DONE]
    if items or app.out.is_json:
        app.out.rows(items, moves.columns(planned=False))
    _raise_if_left(node, left, len(items))
    app.out.note(f"{node} is empty: nobody is placed there, and nothing of the cluster runs there")


def _raise_if_left(node: str, left: Sequence[Mapping[str, object]], total: int) -> None:
    """Exit 7 if there was no room for anybody, 9 if anything else is left."""
    if not left:
        return
    verdicts = [str(item["verdict"]) for item in left]
    details = {"node": node, "left": {str(item["user"] or "-"): item["reason"] for item in left}}
    if len(left) == total and set(verdicts) == {"no-room"}:
        raise Unschedulable(f"no room was found elsewhere for anybody on {node}", hint="wsctl node ls", details=details)
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in sorted(set(verdicts)))
    raise PartialFailure(
        f"{node} isn't empty: {counts}",
        hint=f"wsctl node drain {node}   # goes on with who is left; wsctl node uncordon {node} ends it",
        details=details,
    )


def _show_dry_run(app: App, drainer: Drainer, parallel: int) -> None:
    prospect, options = drainer.look(), drainer.options
    going = {user: (source, target) for user, source, target in _going(prospect)}
    sizes = moves.measure(app, {user: source for user, (source, _) in going.items()}, parallel)
    items = []
    for user, (source, target) in going.items():
        more = moves.size_fields(sizes.get(user), options.rules.how)
        items.append(moves.item_of(user, source, "would-move", target=target, **more))
    items += [moves.item_of(user, options.node, "busy", reason=why) for user, why in prospect.busy.items()]
    items += _would_stay(prospect, options.node, set(going))
    app.out.rows(items, moves.columns(planned=True))
    for decision in prospect.decisions:
        for step in decision.work.steps if decision.work is not None else ():
            app.out.detail(step.line())
    if going:
        moves.say_odd(app, sizes.values())
        _say_total(app, sizes, len(going), options, parallel)
    _refuse(prospect, options)
    _raise_if_left(options.node, [item for item in items if item["verdict"] != "would-move"], len(items))


def _would_stay(prospect: Prospect, node: str, going: set[str]) -> list[Item]:
    """Those who can't be moved, and those whose move is only to be finished."""
    from wsctl.planner.drain import without_room

    full = {decision.target for decision in without_room(prospect.decisions)}
    items = []
    for decision in prospect.decisions:
        user, error = decision.target, decision.error
        if user in going:
            continue
        if error is not None:
            items.append(moves.item_of(user, node, "no-room" if user in full else "failed", reason=error.message))
        else:
            items.append(moves.item_of(user, node, "would-move", reason="their move is finished"))
    return items


def _say_total(app: App, sizes: Mapping[str, Size], users: int, options: DrainOptions, parallel: int) -> None:
    total, files = sum(size.bytes for size in sizes.values()), sum(size.files for size in sizes.values())
    limit = options.rules.how.bwlimit
    rate = moves.ASSUMED_BYTES_S if limit is None else min(moves.ASSUMED_BYTES_S, limit * min(parallel, users))
    app.out.note(f"{_users(users)}, {_human(total)} in {files} files; about {total / rate:.0f} s, {parallel} at a time")


def _human(count: float) -> str:
    from wsctl.text import human_bytes

    return human_bytes(count)


def _users(count: int) -> str:
    return f"{count} user{'' if count == 1 else 's'}"
