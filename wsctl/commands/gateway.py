"""`wsctl render-gateway`: the Nginx route map and its snippet.

Responsible for: reading the placements and handing the texts on. Not responsible for: the texts (`routes`), checking
and writing them (`nginx`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wsctl.commands.options import DryRunOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import BackendError, UsageError


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
        bool, typer.Option("--check", help="Have the real `nginx -t` read it before it is written.")
    ] = False,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write the Nginx route map: which user is at which address and port. The same placements give the same bytes.

    Users on nodes that don't answer stay in the map. A file that is current isn't written again.

    Examples:
      wsctl render-gateway --out /etc/nginx/conf.d/wsctl-map.conf --check && nginx -s reload
      wsctl render-gateway --snippet > /etc/nginx/snippets/wsctl.conf
    """
    from wsctl.nginx import check as nginx_check
    from wsctl.routes import render_snippet

    settings = app.inventory.gateway
    snippet_text = render_snippet(settings)
    text, routes, generation = (snippet_text, 0, 0) if snippet and not check else _map(app)
    if check:
        nginx_check(text, snippet_text)
    if snippet:
        text = snippet_text
    to_stdout = out == "-" or (out is None and not check)
    if to_stdout:
        app.out.text(text)
        return
    item: dict[str, object] = {"file": out}
    if not snippet:
        item |= {"routes": routes, "generation": generation}
    item["checked"] = check
    if out is None:
        app.out.record({**item, "action": "checked"})
        return
    app.out.record({**item, "action": _write(Path(out), text, dry_run=dry_run)})


def _map(app: App) -> tuple[str, int, int]:
    from wsctl.routes import render_map, routes_of

    store = app.store_for_reading
    # The generation is read first: if a placement changes in between, the map is newer than it says, never older.
    generation = store.route_generation()
    addresses = {name: node.publish_address for name, node in app.inventory.nodes.items()}
    routes = routes_of(store.placements(), addresses)
    try:
        return render_map(routes, generation, prefix=app.inventory.gateway.path_prefix), len(routes), generation
    except ValueError as error:
        raise BackendError(
            f"the state database holds a placement that must not reach Nginx: {error}",
            hint="wsctl ls   # then correct or remove that row; nothing was written",
        ) from error


def _write(path: Path, text: str, *, dry_run: bool) -> str:
    from wsctl.nginx import current, replace_file

    if os.path.isdir(path):
        raise UsageError(f"--out {path} is a folder", hint=f"--out {path / 'wsctl-map.conf'}")
    if dry_run:
        return "unchanged" if current(path) == text.encode("utf-8") else "would-write"
    return "written" if replace_file(path, text) else "unchanged"
