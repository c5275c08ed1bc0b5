"""Starting the user that a request asks for: what `wsctl watch --wake` does with the gateway's wake hook.

Responsible for: listening, one run of the pipeline for each start, and putting the map live after it. Not responsible
for: who is started when (`waker`), nor for the steps of a start (`planner.place`).
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from wsctl.commands.applying import auto_apply
from wsctl.context import App
from wsctl.errors import InventoryError, PartialFailure, UsageError
from wsctl.routes import Mode

if TYPE_CHECKING:
    from wsctl.waker import Waker, Woken

CACHED_S = 1.5
"""In the mode `auth_request` Nginx goes by answers of the last second."""


@contextmanager
def answering(app: App, where: str, say: Callable[[str, str], None], now: Callable[[], float]) -> Iterator[Waker]:
    """The hook, answered in the background while the block runs."""
    from wsctl.routes import check_endpoint
    from wsctl.waker import Waker, WakeServer

    try:
        check_endpoint(where)
    except ValueError as error:
        raise UsageError(f"--wake: {error}", hint="wsctl watch --wake 127.0.0.1:8096") from error
    host, _, port = where.rpartition(":")
    waker = Waker(lambda user: start(app, user), say, now)
    try:
        server = WakeServer((host.strip("[]"), int(port)), waker)
    except OSError as error:
        raise InventoryError(
            f"cannot listen on {where}: {error.strerror or error}", hint="wsctl watch --wake IP:PORT"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="wake-hook", daemon=True)
    thread.start()
    try:
        yield waker
    finally:
        server.shutdown()
        server.server_close()


def start(app: App, user: str) -> Woken:
    """Start the user as `wsctl start` does, with connections of its own: those of a process that runs for months would
    be the ones that broke long ago. Raises what the start raised."""
    from wsctl.commands.life import operation_for
    from wsctl.output import Output
    from wsctl.planner.place import plan_start
    from wsctl.waker import Woken
    from wsctl.workflow import Options, Workflow

    own = App(Output(verbosity=-1, stdout=io.StringIO(), stderr=sys.stderr), app.inventory_file, app.wiring)
    with closing(own):
        operation = operation_for(own, "start", (user,), plan_start)
        try:
            with auto_apply(own, "start", dry_run=False):
                (outcome,) = Workflow(own.world()).run(operation, Options())
                if outcome.error is not None:
                    raise outcome.error
        except PartialFailure:
            return Woken.UNROUTED
        if own.inventory.gateway.mode is Mode.AUTH_REQUEST:
            own.wiring.clock.sleep(CACHED_S)
            return Woken.READY
        is_applied = own.inventory.auto_apply and bool(own.inventory.gateway_hosts)
        return Woken.READY if is_applied else Woken.UNROUTED
