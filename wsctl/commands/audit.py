"""`wsctl audit`: what was done, by whom, and whether the record of it is whole.

Responsible for: showing, exporting and checking the audit table. Not responsible for: what is recorded (`workflow`),
nor for how damage is found (`store.chain`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from wsctl.commands.options import command, seconds
from wsctl.context import App
from wsctl.errors import AuditDamaged, UsageError
from wsctl.records import AuditRow

DEFAULT_LIMIT = 50


@command
def audit(
    app: App,
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET…]", show_default=False, help="Users or nodes (default: all).")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only what is younger, such as 12h.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", metavar="ID", help="Only what was done for this request.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="The newest N rows (default: 50; with --export: all)."),
    ] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="Write the rows as JSON Lines (-: stdout).")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the whole table instead: was any row changed or removed?")
    ] = False,
) -> None:
    """Show what was done and by whom, oldest first; export it; or check that nobody has changed the record.

    Keep the digest that --verify prints somewhere else: it alone tells a table that was written anew as a whole.

    Examples:
      wsctl audit alice --since 7d
      wsctl audit --export /backup/audit.jsonl
      wsctl audit --verify
    """
    if verify:
        if targets or any(choice is not None for choice in (since, request_id, limit, export)):
            raise UsageError("--verify checks the whole table: it takes no other choice", hint="wsctl audit --verify")
        _verify(app)
        return
    store = app.store_for_reading
    # By the clock that the rows were written by.
    after = None if since is None else app.clock_of(store).now() - timedelta(seconds=seconds(since, "--since"))
    if limit is None and export is None:
        limit = DEFAULT_LIMIT
    rows = store.audit(targets=targets or None, request_id=request_id, since=after, limit=limit)
    if export is None:
        _show(app, rows)
    else:
        _export(app, rows, export)


def _item(row: AuditRow) -> dict[str, object]:
    entry, actor = row.entry, row.entry.actor
    return {
        "at": row.at, "target": entry.target, "sequence": row.sequence, "kind": entry.kind.value, "verb": entry.verb,
        "action": entry.action, "os_user": actor.os_user, "sudo_user": actor.sudo_user, "ssh_origin": actor.ssh_origin,
        "process": actor.process, "operation": entry.operation, "request_id": entry.request_id, "plan": entry.plan,
        "before": entry.before, "after": entry.after, "detail": entry.detail, "digest": row.digest,
    }  # fmt: skip


def _show(app: App, rows: Sequence[AuditRow]) -> None:
    from wsctl.output import Column

    items = [_item(row) for row in rows]
    if not app.out.is_json:
        items = [item | {"who": str(row.entry.actor)} for item, row in zip(items, rows, strict=True)]
    names = ("at", "target", "verb", "action", "kind", "who", "detail")
    app.out.rows(items, [Column(name) for name in names])


def _export(app: App, rows: Sequence[AuditRow], file: str) -> None:
    from wsctl.text import to_json

    text = "".join(f"{to_json(_item(row))}\n" for row in rows)
    if file == "-":
        app.out.text(text)
        return
    from wsctl.newfile import replace_file

    if os.path.isdir(file):
        raise UsageError(f"--export {file} is a folder", hint=f"--export {Path(file) / 'audit.jsonl'}")
    # It says who did what from where: not for everybody's eyes.
    written = replace_file(Path(file), text, 0o600)
    app.out.record({"file": file, "rows": len(rows), "action": "written" if written else "unchanged"})


def _verify(app: App) -> None:
    store = app.store_for_reading
    problems = store.audit_problems()
    rows, targets, digest = store.audit_figures()
    app.out.record({"rows": rows, "targets": targets, "digest": digest, "result": "damaged" if problems else "ok"})
    if problems:
        raise AuditDamaged(problems, hint="compare with an export that was kept elsewhere, or with a backup")
