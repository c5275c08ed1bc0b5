"""`wsctl backup` and `wsctl restore` for the state: the database of a cluster as one portable file, and back.

Responsible for: their options, confirmations and answers. Not responsible for: the file (`statefile`), nor for what is
read and written in which transaction (`store.portable`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import ConfirmationRequired, Refused, UsageError

if TYPE_CHECKING:
    from wsctl.statefile import StateFile

OutOpt = Annotated[Path, typer.Option("--out", metavar="FILE", show_default=False, help="Where to write it.")]
FromOpt = Annotated[Path, typer.Option("--from", metavar="FILE", show_default=False, help="What to restore from.")]


@command
def backup_state(app: App, out: OutOpt) -> None:
    """Copy the state of the cluster into one file: placements, homes, marks, activity, audit. As of one moment.

    Nothing is changed but the file, which is readable for you alone. A copy that is there already is replaced.

    Example:
      wsctl backup state --out /backup/state.jsonl
    """
    from wsctl.statefile import write

    _not_a_folder(out)
    done = write(app.store_for_reading, out, made_at=app.wiring.clock.now(), made_by=app.who)
    app.out.record(
        {
            "file": str(done.path), "cluster": app.inventory.cluster, "placements": done.counts["placements"],
            "audit_rows": done.counts["audit"], "size_bytes": done.size, "sha256": done.sha256, "action": "written",
        }
    )  # fmt: skip


@command
def restore_state(
    app: App,
    source: FromOpt,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="CLUSTER", help="Replace what the cluster has; its name, instead of typing."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FILE", help="Where what is replaced is saved (default: beside --from)."),
    ] = None,
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write the state of a file into the state database, SQLite or MySQL, in one transaction.

    The cluster must be empty there. What it has is replaced only if you type its name, and is saved before.

    Examples:
      wsctl restore state --from /backup/state.jsonl --dry-run
      wsctl restore state --from /backup/state.jsonl --confirm studio
    """
    from wsctl.requests import items_once
    from wsctl.statefile import StateFile

    _not_a_folder(source)
    if confirm is not None and confirm != app.inventory.cluster:
        raise Refused(f"--confirm {confirm} isn't {app.inventory.cluster}; nothing was changed")
    with StateFile(source) as file:
        if keep is not None and keep.exists() and keep.samefile(source):
            raise UsageError(
                f"--keep {keep} is the file that is restored: what is replaced would take its place",
                hint=f"name another file, such as --keep {source}.replaced",
            )
        file.check(app.inventory.cluster)
        if dry_run:
            has = app.store_for_reading.copy_state(lambda snapshot: sum(snapshot.counts.values()))
            app.out.record(_item(app, file, "would-replace" if has else "would-restore", None))
            return
        request = app.request(request_id, "restore state", [app.inventory.cluster], file=str(source), confirm=confirm)
        way = _Way(confirm, keep, request_id)
        (item,) = items_once(app.world(), request, lambda: [_restore(app, file, way)])
    app.out.record(item)
    app.out.hint("see what differs from the nodes: wsctl reconcile --dry-run")


class _Way:
    """How to go about it."""

    def __init__(self, confirm: str | None, keep: Path | None, request_id: str | None) -> None:
        self.confirm, self.keep, self.request_id = confirm, keep, request_id


def _restore(app: App, file: StateFile, way: _Way) -> dict[str, object]:
    from dataclasses import replace

    from wsctl.audit import Auditor
    from wsctl.plan import Work
    from wsctl.statefile import write
    from wsctl.text import iso

    cluster, store = app.inventory.cluster, app.store
    has = store.copy_state(lambda snapshot: sum(snapshot.counts.values()))
    saved = None
    if has:
        _confirm(app, file, way.confirm)
    with app.leases.acquire([f"cluster:{cluster}"], command="restore state"):
        if has:
            now = app.wiring.clock.now()
            keep = way.keep or file.path.with_name(f"{file.path.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
            saved = write(store, keep, made_at=now, made_by=app.who)
        action = "replaced" if has else "restored"
        trail = Auditor("restore state", app.actor, way.request_id).trail(Work(f"cluster:{cluster}", action), None)
        plan = f"the state of {iso(file.header.made_at)} by {file.header.made_by}, from {file.path}"
        entries = [replace(trail.intent(), plan=plan), trail.done(None)]
        # Both rows in the transaction that is the effect: before it, there is no table to write an intent to.
        store.load_state(
            file.records,
            replaces=saved.identity if saved else None,
            audit=entries,
            keep_request=way.request_id,
        )
    return _item(app, file, action, str(saved.path) if saved else None)


def _confirm(app: App, file: StateFile, confirm: str | None) -> None:
    from wsctl.text import iso

    cluster = app.inventory.cluster
    if confirm is not None:
        return
    question = f"The cluster {cluster} has a state already. It will be replaced by that of {iso(file.header.made_at)}."
    try:
        app.out.typed(question, cluster)
    except ConfirmationRequired as error:
        raise ConfirmationRequired(
            f"the cluster {cluster} isn't empty: replacing its state must be confirmed by its name",
            hint=f"wsctl restore state --from {file.path} --confirm {cluster}",
        ) from error


def _item(app: App, file: StateFile, action: str, saved: str | None) -> dict[str, object]:
    counts = file.header.counts
    return {
        "file": str(file.path), "cluster": app.inventory.cluster, "made_at": file.header.made_at,
        "placements": counts.get("placements", 0), "audit_rows": counts.get("audit", 0), "replaced_file": saved,
        "action": action,
    }  # fmt: skip


def _not_a_folder(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"name a file in it, such as {path / 'state.jsonl'}")
