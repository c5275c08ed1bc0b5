"""`wsctl render-gateway`: the Nginx route map and its snippet, written to a file or put live on the gateways.

Responsible for: its options and what goes together, and how results and differences are shown. Not responsible for: the
texts (`routes`), checking and writing them (`nginx`, `newfile`), putting live (`gateway`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import DryRunOpt, RequestOpt, WaitOpt, YesOpt, command, seconds
from wsctl.context import App
from wsctl.errors import UsageError, WsctlError

if TYPE_CHECKING:
    from wsctl.gateway import Applied, ApplyOptions
    from wsctl.requests import Request

DIFF_LINES = 200
"""So many differences are shown on a terminal; a pipe and JSON get all."""

OTHER_SNIPPET = (
    "the snippet that Nginx includes isn't the one of this inventory and version: "
    "wsctl render-gateway --snippet, put it there and reload"
)
SIGNS = {"added": "+", "removed": "-", "moved": "~", "page": "p", "settings": "*"}


@command
def render_gateway(
    app: App,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Where to write the map (-: stdout, the default).")
    ] = None,
    snippet: Annotated[
        bool, typer.Option("--snippet", help="The server-level part instead, which is included once.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Have the real `nginx -t` of this machine read it before it goes anywhere.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show whose route differs from what is live on the gateways, or in --out.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Put the map live on every gateway of the inventory, and confirm it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --apply: replace a map that was edited by hand or is newer, too.")
    ] = False,
    wait: WaitOpt = "10s",
    request_id: RequestOpt = None,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write the Nginx route map: which user is at which address and port. The same placements give the same bytes.

    Users on nodes that don't answer stay in the map. A file that is current isn't written again, and a gateway that
    serves the map already isn't reloaded.

    Examples:
      wsctl render-gateway --diff
      wsctl render-gateway --apply
      wsctl render-gateway --snippet > /etc/nginx/snippets/wsctl.conf
      wsctl render-gateway --out /etc/nginx/conf.d/00-wsctl-map.conf --check && nginx -s reload
    """
    _check_options(out, snippet=snippet, check=check, diff=diff, apply=apply, force=force)
    if request_id is not None and not apply:
        raise UsageError("--request-id belongs to --apply", hint="wsctl render-gateway --apply --request-id ID")
    if diff:
        _diff(app, None if out is None else Path(out))
    elif apply:
        from wsctl.gateway import ApplyOptions

        if check:
            _check(app)
        options = ApplyOptions(force=force, dry_run=dry_run, wait_s=seconds(wait, "--wait"))
        _apply(app, options, None if dry_run else app.request(request_id, "render-gateway", ["--apply"], force=force))
    else:
        _render(app, out, snippet=snippet, check=check, dry_run=dry_run)


def _check_options(out: str | None, *, snippet: bool, check: bool, diff: bool, apply: bool, force: bool) -> None:
    if apply and (out is not None or snippet or diff):
        raise UsageError("--apply goes with neither --out, --snippet nor --diff", hint="wsctl render-gateway --apply")
    if diff and (snippet or check):
        raise UsageError("--diff goes with neither --snippet nor --check", hint="wsctl render-gateway --diff")
    if diff and out == "-":
        raise UsageError("--diff compares with a file, not with stdout", hint="wsctl render-gateway --diff --out FILE")
    if force and not apply:
        raise UsageError("--force belongs to --apply", hint="wsctl render-gateway --apply --force")


def _render(app: App, out: str | None, *, snippet: bool, check: bool, dry_run: bool) -> None:
    from wsctl.commands.applying import render
    from wsctl.nginx import check as nginx_check
    from wsctl.snippet import render_snippet

    snippet_text = render_snippet(app.inventory.gateway)
    wanted = None if snippet and not check else render(app, app.store_for_reading)
    if check and wanted is not None:
        nginx_check(wanted.text, snippet_text)
    text = snippet_text if snippet or wanted is None else wanted.text
    if out == "-" or (out is None and not check):
        app.out.text(text)
        return
    item: dict[str, object] = {"file": out}
    if wanted is not None and not snippet:
        item |= {"routes": wanted.count, "generation": wanted.generation}
    item["checked"] = check
    if out is None:
        app.out.record({**item, "action": "checked"})
        return
    app.out.record({**item, "action": _write(Path(out), text, dry_run=dry_run)})


def _write(path: Path, text: str, *, dry_run: bool) -> str:
    from wsctl.newfile import current, replace_file

    if os.path.isdir(path):
        raise UsageError(f"--out {path} is a folder", hint=f"--out {path / 'wsctl-map.conf'}")
    if dry_run:
        return "unchanged" if current(path) == text.encode("utf-8") else "would-write"
    return "written" if replace_file(path, text) else "unchanged"


def _check(app: App) -> None:
    from wsctl.commands.applying import render
    from wsctl.nginx import check as nginx_check
    from wsctl.snippet import render_snippet

    nginx_check(render(app, app.store_for_reading).text, render_snippet(app.inventory.gateway))


def _apply(app: App, options: ApplyOptions, request: Request | None) -> None:
    from wsctl.commands.applying import apply, need_hosts, raise_if_any_failed
    from wsctl.output import Column
    from wsctl.requests import items_once

    need_hosts(app)
    failures: list[tuple[str, WsctlError]] = []

    def produce() -> list[dict[str, object]]:
        results = apply(app, options)
        failures.extend((one.gateway, one.error) for one in results if one.error is not None)
        return [_item(one) for one in results]

    # Without an id nothing of the shared state is written, and a dry run doesn't even make the database.
    items = (
        produce()
        if request is None
        else items_once(app.world(wait_s=options.wait_s), request, produce, lambda items: not failures)
    )
    columns = [Column("gateway"), Column("action")]
    columns += [Column(key, right=True) for key in ("generation", "routes", "reload_ms", "confirm_ms")]
    if len(items) > 1 or not failures:
        app.out.rows(items, columns)
        for failed, error in failures if len(items) > 1 else []:
            if error.hint:
                app.out.hint(f"{failed}: {error.hint}")
    for item in items:
        if item.get("snippet_current") is False:
            app.out.warn(f"{item['gateway']}: {OTHER_SNIPPET}")
    raise_if_any_failed(failures, len(items))


def _item(one: Applied) -> dict[str, object]:
    from wsctl.commands.present import error_dict

    return {
        "gateway": one.gateway,
        "action": one.action,
        "generation": one.generation,
        "routes": one.routes,
        "reload_ms": one.reload_ms,
        "confirm_ms": one.confirm_ms,
        "snippet_current": one.snippet_current,
        "error": None if one.error is None else error_dict(one.error),
    }


def _diff(app: App, path: Path | None) -> None:
    from wsctl.commands.applying import raise_if_any_failed, render
    from wsctl.livemap import differences
    from wsctl.output import Column
    from wsctl.routes import is_intact

    found, failed = _live_texts(app, path)
    wanted = render(app, app.store_for_reading)
    items: list[dict[str, object]] = []
    for name, text in found.items():
        if text and not is_intact(text):
            app.out.warn(f"{name}: the live map isn't as wsctl wrote it: --apply wants --force")
        items += [
            {"gateway": name, "user": one.user, "change": one.change.value, "from": one.before, "to": one.after}
            for one in differences(text or "", wanted)
        ]
    for other in dict.fromkeys(str(item["gateway"]) for item in items if item["change"] == "settings"):
        app.out.note(f"{other}: the live map was made with other settings, so the snippet may be an older one too")
    shown = items if app.out.is_json or not app.out.is_terminal else items[:DIFF_LINES]
    sign = Column("change", show=lambda change: SIGNS[str(change)])
    app.out.rows(shown, (Column("gateway"), sign, Column("user"), Column("from"), Column("to")))
    if len(shown) < len(items):
        app.out.note(f"… and {len(items) - len(shown)} more; -o json has all")
    raise_if_any_failed(failed, len(found) + len(failed))


def _live_texts(app: App, path: Path | None) -> tuple[dict[str, str | None], list[tuple[str, WsctlError]]]:
    """The map at `path`, or on each gateway (None: there is none), and who couldn't be read."""
    from wsctl.commands.applying import need_hosts
    from wsctl.newfile import current
    from wsctl.transport.fanout import run as fan_out

    if path is not None:
        data = current(path)
        return {str(path): None if data is None else data.decode("utf-8", "surrogateescape")}, []
    names = need_hosts(app)
    gateways = app.gateways
    answers = fan_out(names, lambda name: gateways.gateway(name).read().text, deadline_s=120)
    found: dict[str, str | None] = {}
    failed: list[tuple[str, WsctlError]] = []
    for name, answer in answers.items():
        if isinstance(answer, WsctlError):
            failed.append((name, answer))
        elif isinstance(answer, Exception):
            raise answer
        else:
            found[name] = answer
    return found, failed
