"""How placements and outcomes are shown: the JSON of the contract, the columns of the tables, the errors of batches.

Responsible for: turning values into dictionaries for `output`. Not responsible for: layout (`output`), nor any verb.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from wsctl.context import App
from wsctl.errors import PartialFailure, WsctlError
from wsctl.model import Activity, Placement
from wsctl.output import Column, ago
from wsctl.standbys import Standby

if TYPE_CHECKING:
    from wsctl.workflow import Outcome

PLACEMENT_COLUMNS = (
    Column("user"),
    Column("node"),
    Column("address"),
    Column("host_port", "port", right=True),
    Column("state"),
    Column("generation", "gen", right=True),
)


def activity_column(now: datetime) -> Column:
    """When a user was last active, as an age."""
    return Column("last_active_at", "active", show=lambda at: ago(at if isinstance(at, datetime) else None, now))


def placement_dict(placement: Placement, activity: Activity | None, prefix: str) -> dict[str, object]:
    """A placement as in the contract."""
    return {
        "user": placement.user,
        "node": placement.node,
        "address": placement.address,
        "host_port": placement.host_port,
        "container": placement.container,
        "state": placement.state.value,
        "generation": placement.generation,
        "last_active_at": activity.last_active_at if activity is not None else None,
        "url_path": f"{prefix}{placement.user}/",
    }


def newest_copies(copies: Iterable[Standby]) -> dict[str, Standby]:
    """The newest complete standby copy of each user who has one."""
    complete = [copy for copy in copies if copy.as_of is not None]
    return {copy.user: copy for copy in sorted(complete, key=lambda copy: str(copy.as_of))}


def standby_dict(copy: Standby | None, now: datetime) -> dict[str, object]:
    """Where a user's standby copy is and how old it is; seconds."""
    as_of = copy.as_of if copy is not None else None
    return {
        "standby_node": copy.node if copy is not None else None,
        "standby_as_of": as_of,
        "standby_age_s": None if as_of is None else round((now - as_of).total_seconds(), 1),
    }


def error_dict(error: WsctlError) -> dict[str, object]:
    """An error inside an answer about many targets."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def error_text(error: object) -> str:
    """The same in a table."""
    return str(error["message"]) if isinstance(error, Mapping) else ""


def show_outcomes(app: App, outcomes: Sequence[Outcome], *, explain: bool = False, many: bool = False) -> None:
    """The answer of a verb on users: one object for one user, a list for many.

    Raises the target's own error for one user, `PartialFailure` if any of many failed (after showing all).
    """
    if len(outcomes) == 1 and not many:
        _show_one(app, outcomes[0], explain=explain)
        return
    items = [_item(app, outcome, explain=explain) for outcome in outcomes]
    columns = (*PLACEMENT_COLUMNS, Column("action"), Column("error", show=error_text))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    app.out.rows(items, columns if failed else columns[:-1])
    for outcome in failed[:3]:
        if outcome.error is not None and outcome.error.hint:
            app.out.hint(f"{outcome.target}: {outcome.error.hint}")
    raise_if_failed(failed, len(outcomes))


def raise_if_failed(failed: Sequence[Outcome], total: int) -> None:
    """`PartialFailure` naming how many failed and with which codes, unless none did."""
    if failed:
        codes = sorted({outcome.error.code for outcome in failed if outcome.error is not None})
        raise PartialFailure(
            f"{len(failed)} of {total} failed ({', '.join(codes)}); the others are done",
            hint="run the same command again: what is done stays done",
            details={"failed": [outcome.target for outcome in failed]},
        )


def show_dry_run(app: App, outcomes: Sequence[Outcome], *, explain: bool = False, many: bool = False) -> None:
    """The plan of a dry run, and the errors that doing it would meet, as if it had been done."""
    from wsctl.plan import Plan

    works = tuple(outcome.work for outcome in outcomes if outcome.work is not None)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed and len(outcomes) == 1 and not many:
        if explain:
            show_explanation(app, outcomes[0].explain)
        raise failed[0].error or PartialFailure("failed")
    plan = Plan(works, tuple(f"{o.target}: {o.error.message}" for o in failed if o.error is not None))
    app.out.plan(plan, dry_run=True)
    if explain and not app.out.is_json:
        for outcome in outcomes:
            show_explanation(app, outcome.explain)
    raise_if_failed(failed, len(outcomes))


def show_explanation(app: App, explain: Mapping[str, object]) -> None:
    """Every node with its score, or why it can't. Not in JSON, where it is a field of the answer."""
    if app.out.is_json or not explain:
        return
    items = [{"node": node, **(facts if isinstance(facts, Mapping) else {})} for node, facts in explain.items()]
    app.out.rows(
        items,
        (
            Column("node"),
            Column("feasible", "fits"),
            Column("score", show=lambda s: f"{s:.3f}" if isinstance(s, float) else "-", right=True),
            Column("reasons"),
        ),
    )


def _show_one(app: App, outcome: Outcome, *, explain: bool) -> None:
    if outcome.error is not None:
        if explain:
            show_explanation(app, outcome.explain)
        raise outcome.error
    item = _item(app, outcome, explain=explain)
    _warn(app, outcome)
    if app.out.is_json:
        app.out.record(item)
        return
    if outcome.placement is None:
        app.out.record({"user": outcome.target, "action": outcome.action})
    else:
        app.out.rows([item], (*PLACEMENT_COLUMNS, Column("action"), Column("url_path", "path")))
    if explain:
        show_explanation(app, outcome.explain)


def _item(app: App, outcome: Outcome, *, explain: bool) -> dict[str, object]:
    item: dict[str, object] = {"user": outcome.target}
    if outcome.placement is not None:
        activity = app.activity.recorded([outcome.target]).activity.get(outcome.target)
        item = placement_dict(outcome.placement, activity, app.inventory.gateway.path_prefix)
    item["action"] = outcome.action
    if outcome.ready_ms is not None:
        item["ready_ms"] = round(outcome.ready_ms)
    if outcome.work is not None and outcome.work.warnings:
        item["warnings"] = list(outcome.work.warnings)
    if outcome.error is not None:
        item["error"] = error_dict(outcome.error)
    if explain:
        item["explain"] = dict(outcome.explain)
    return item


def _warn(app: App, outcome: Outcome) -> None:
    for warning in outcome.work.warnings if outcome.work is not None else ():
        app.out.warn(warning)
