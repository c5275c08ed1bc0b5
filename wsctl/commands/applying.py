"""The route map of the moment, and putting it live: what `render-gateway` and the verbs that apply at their end share.

Responsible for: rendering from the state database, handing the work to `gateway`, and the error that the results amount
to. Not responsible for: the work itself (`wsctl.gateway`), nor how the results look (`commands.gateway`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from wsctl.context import App
from wsctl.errors import BackendError, InventoryError, NodeError, PartialFailure, Refused, UsageError, WsctlError

if TYPE_CHECKING:
    from wsctl.gateway import Applied, ApplyOptions
    from wsctl.livemap import Wanted
    from wsctl.store.store import SqlStore

AUTO_WAIT_S = 30.0
"""How long a verb waits for somebody else's apply: theirs may have begun before our change."""


def render(app: App, store: SqlStore) -> Wanted:
    """The map of the placements as they are now. Raises `BackendError` for a row that must not reach Nginx."""
    from wsctl.livemap import wanted_map
    from wsctl.routes import render_map, routes_of, states_of
    from wsctl.snippet import snippet_digest

    # The generation is read first: if a placement changes in between, the map is newer than it says, never older.
    generation = store.route_generation()
    addresses = {name: node.publish_address for name, node in app.inventory.nodes.items()}
    spots, damaged = store.spots()
    if damaged:
        raise BackendError(
            f"the state database holds a placement that must not reach Nginx: {damaged[0].problem}",
            hint="correct that row by hand, or restore a backup; nothing was written",
        )
    try:
        text = render_map(routes_of(spots, addresses), generation, app.inventory.gateway, states_of(spots))
        return replace(wanted_map(text), snippet=snippet_digest(app.inventory.gateway))
    except ValueError as error:
        raise BackendError(
            f"the state database holds a placement that must not reach Nginx: {error}",
            hint="wsctl ls   # then correct or remove that row; nothing was written",
        ) from error


def need_hosts(app: App) -> list[str]:
    """The gateways' names. Raises `InventoryError` if there are none."""
    names = list(app.inventory.gateway_hosts)
    if not names:
        raise InventoryError(
            "the inventory names no gateway, so nothing can be put live",
            hint="add it: gateway: {hosts: {edge: {address: local}}}",
        )
    return names


def apply(app: App, options: ApplyOptions) -> list[Applied]:
    """Put the map live on every gateway of the inventory; one result each, failures included."""
    from wsctl.gateway import Applier

    names = need_hosts(app)
    # Opened here and not by whichever thread comes first.
    store = app.store_for_reading if options.dry_run else app.store
    leases = app.leases_for_reading if options.dry_run else app.leases
    gateways = app.gateways
    return Applier(gateways.gateway, lambda: render(app, store), leases, app.wiring.clock, options).run(names)


def raise_if_any_failed(failures: Sequence[tuple[str, WsctlError]], total: int) -> None:
    """The only gateway's own error, `PartialFailure` if some of several failed, nothing if none did."""
    if not failures:
        return
    if total == 1:
        raise failures[0][1]
    said = "; ".join(f"{name}: {_reason(error)}" for name, error in failures[:3])
    raise PartialFailure(
        f"{len(failures)} of {total} gateways failed: {said}",
        hint="the next `wsctl render-gateway --apply` catches up",
        details={"failed": [name for name, _ in failures]},
    )


@contextmanager
def auto_apply(app: App, verb: str, *, dry_run: bool) -> Iterator[None]:
    """Around the answer of a verb that changed placements: afterwards the map is put live, if the inventory says
    `gateway.auto_apply`, also when some of the verb's targets failed.

    The placements stand whatever becomes of that: a gateway that fails is a warning, and exit code 9 unless the verb
    has an error of its own.
    """
    wanted = app.inventory.auto_apply and bool(app.inventory.gateway_hosts) and not dry_run
    try:
        yield
    except (UsageError, InventoryError, BackendError, Refused):
        raise  # nothing was done, or nothing can be known
    except WsctlError:
        if wanted:
            _apply_quietly(app, verb)
        raise
    if wanted:
        failed = _apply_quietly(app, verb)
        if failed:
            raise PartialFailure(
                f"done, but {len(failed)} of {len(app.inventory.gateway_hosts)} gateways don't route to it yet",
                hint="the next `wsctl render-gateway --apply` catches up",
                details={"gateways": {name: error.message for name, error in failed}},
            )


class AsItGoes:
    """Puts the map live while a verb goes on changing placements, if the inventory says `gateway.auto_apply`: whoever
    was moved is routed at once, and not when the last one has moved. Changes that come while an apply is under way are
    in the next one, all together. A failure isn't told here: the apply at the end of the verb repeats it.
    """

    def __init__(self, app: App, verb: str) -> None:
        self._app = app
        self._verb = verb
        self._lock = threading.Lock()
        self._is_stale = self._is_applying = False
        self._wanted = app.inventory.auto_apply and bool(app.inventory.gateway_hosts)
        if self._wanted:
            # Opened here and not by whichever thread comes first.
            _ = app.store, app.leases, app.gateways

    def changed(self) -> None:
        """A placement has changed: returns when it is live, or when another thread is going to see to that."""
        if not self._wanted:
            return
        with self._lock:
            self._is_stale = True
            if self._is_applying:
                return
            self._is_applying = True
        while self._goes_on():
            with contextlib.suppress(WsctlError):
                apply(self._app, _options(self._verb))

    def _goes_on(self) -> bool:
        with self._lock:
            stale, self._is_stale = self._is_stale, False
            self._is_applying = stale
            return stale


def _apply_quietly(app: App, verb: str) -> list[tuple[str, WsctlError]]:
    try:
        results = apply(app, _options(verb))
    except WsctlError as error:
        failed = [(name, error) for name in app.inventory.gateway_hosts]
    else:
        failed = [(one.gateway, one.error) for one in results if one.error is not None]
    for name, why in failed:
        app.out.warn(f"gateway {name}: {_reason(why)}")
    return failed


def _options(verb: str) -> ApplyOptions:
    from wsctl.gateway import ApplyOptions

    return ApplyOptions(wait_s=AUTO_WAIT_S, command=f"{verb} (auto_apply)")


def _reason(error: WsctlError) -> str:
    return error.reason if isinstance(error, NodeError) else error.message
