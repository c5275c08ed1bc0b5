"""`wsctl serve-routes`: answers Nginx's question of the mode `auth_request`, until it is interrupted.

Responsible for: its options and reading the key. Not responsible for: the answers (`wsctl.endpoint`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import command
from wsctl.context import App
from wsctl.errors import InventoryError, UsageError

if TYPE_CHECKING:
    from wsctl.endpoint import Known

LEAST_KEY_BYTES = 32


@command
def serve_routes(
    app: App,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="IP:PORT", help="Where to listen (default: gateway.endpoint).")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="Let pass only who has a token signed with this key."),
    ] = None,
) -> None:
    """Answer Nginx's question where a user is and who may pass (`gateway.mode: auth_request`). Ends with Ctrl-C.

    Example:
      wsctl serve-routes --key-file /etc/wsctl/token.key
    """
    import gc

    from wsctl.endpoint import RouteBook, RouteServer
    from wsctl.routes import check_endpoint

    gc.enable()  # a command does without; this one runs for months
    where = listen or app.inventory.gateway.endpoint
    try:
        check_endpoint(where)
    except ValueError as error:
        raise UsageError(f"--listen: {error}", hint="wsctl serve-routes --listen 127.0.0.1:8095") from error
    key = None if key_file is None else _key(key_file)
    store = app.store_for_reading
    book = RouteBook(store.route_generation, lambda: _known(app), time.monotonic)
    host, _, port = where.rpartition(":")
    try:
        server = RouteServer((host.strip("[]"), int(port)), book, key, time.time)
    except OSError as error:
        raise InventoryError(
            f"cannot listen on {where}: {error.strerror or error}", hint="wsctl serve-routes --listen IP:PORT"
        ) from error
    app.out.note(f"answering on {where}; who may pass: {'bearers of tokens' if key else 'everybody'}")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            app.out.note("ended")


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise InventoryError(
            f"cannot read the key {path}: {error.strerror or error}", hint="--key-file FILE"
        ) from error
    if len(key) < LEAST_KEY_BYTES:
        raise InventoryError(
            f"the key in {path} is shorter than {LEAST_KEY_BYTES} bytes", hint=f"openssl rand -hex 32 > {path}"
        )
    return key


def _known(app: App) -> Known:
    from wsctl.endpoint import Known
    from wsctl.model import upstream
    from wsctl.routes import routes_of, states_of

    store = app.store_for_reading
    generation = store.route_generation()  # first: what changes in between is read again
    spots = store.spots()[0]
    addresses = {name: node.publish_address for name, node in app.inventory.nodes.items()}
    routes = routes_of(spots, addresses)
    return Known(generation, {r.user: upstream(r.address, r.port) for r in routes}, states_of(spots))
