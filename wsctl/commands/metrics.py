"""`wsctl metrics`: figures of the cluster for Prometheus.

Responsible for: looking, and where the text goes. Not responsible for: the figures (`wsctl.metrics`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl import __version__
from wsctl.commands.options import command
from wsctl.context import App
from wsctl.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsctl.model import LeaseInfo


@command
def metrics(
    app: App,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write there in one step, for node_exporter's textfile collector."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Ask the nodes, or only the state database.")
    ] = True,
) -> None:
    """Print figures of the cluster in Prometheus' text format: placements, nodes, leases, activity. No user is named.

    Nodes that don't answer are figures too, and no failure of this command. When the state database can't be asked, a
    file that is there stays: `wsctl_metrics_timestamp_seconds` says how old it is.

    Examples:
      wsctl metrics
      wsctl metrics --out /var/lib/wsctl/metrics/wsctl.prom
    """
    from wsctl import observe
    from wsctl.knowledge import answered
    from wsctl.metrics import Figures, render
    from wsctl.newfile import PUBLIC, replacing

    store, inventory = app.store_for_reading, app.inventory
    clock = app.clock_of(store)
    began = clock.now()
    view = observe.snapshot(inventory.cluster, inventory.nodes, store)
    if probe:
        view = answered(view, view.nodes, app.fleet.engine, (), app.fleet.warm)
    recorded, leases, now = app.activity_for_reading.recorded(), _leases(app), clock.now()
    figures = Figures(__version__, view, recorded, leases, now, (now - began).total_seconds())
    text = render(figures)
    if out is None:
        app.out.text(text)
        return
    with replacing(out, PUBLIC) as file:
        file.write(text.encode("utf-8"))
    app.out.record({"file": str(out), "lines": text.count("\n"), "action": "written"})


def _leases(app: App) -> Sequence[LeaseInfo] | None:
    """Who holds what; None if that can't be asked, which is a figure of its own."""
    try:
        return app.leases_for_reading.ls()
    except BackendError as error:
        app.out.warn(error.message)
        return None
