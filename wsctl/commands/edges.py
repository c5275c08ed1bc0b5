"""`wsctl gateway …`: the machines whose Nginx gets the route map.

Responsible for: listing them with what they serve, and trusting their host keys. Not responsible for: putting maps live
(`commands.gateway`), nor for how they are reached (`transport.gateways`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import command
from wsctl.context import App
from wsctl.errors import WsctlError

if TYPE_CHECKING:
    from wsctl.frontends import Gateway
    from wsctl.livemap import Wanted

GatewayArg = Annotated[
    str, typer.Argument(metavar="GATEWAY", show_default=False, help="A gateway of `gateway.hosts` in the inventory.")
]


@command
def ls(app: App) -> None:
    """List the gateways: which map each has, which one its workers serve, and whether that is the right one.

    Example:
      wsctl gateway ls
    """
    from wsctl.commands.applying import need_hosts, render
    from wsctl.output import Column
    from wsctl.transport.fanout import run as fan_out

    names = need_hosts(app)
    wanted = render(app, app.store_for_reading)
    gateways = app.gateways
    found = fan_out(names, lambda name: _look(gateways.gateway(name), wanted), deadline_s=120)
    items: list[dict[str, object]] = []
    for name, answer in found.items():
        if isinstance(answer, Exception) and not isinstance(answer, WsctlError):
            raise answer
        told = _unknown(answer) if isinstance(answer, WsctlError) else answer
        items.append({"name": name, "address": app.inventory.gateway_hosts[name].address, **told})
    columns = [Column("name"), Column("address"), Column("state")]
    columns += [Column(key, right=True) for key in ("routes", "generation", "serves")]
    app.out.rows(items, [*columns, Column("reason")])


@command
def trust(
    app: App,
    gateway: GatewayArg,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="SHA256:…", help="The fingerprint you expect; no question is asked."),
    ] = None,
) -> None:
    """Trust a gateway's SSH host key: compare the fingerprint with the one on the gateway's own console first.

    On the gateway: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub

    Example:
      wsctl gateway trust edge --fingerprint SHA256:…
    """
    from wsctl.commands.applying import need_hosts
    from wsctl.commands.trusting import trust_host_key

    need_hosts(app)
    trust_host_key(app, app.gateways, "gateway", gateway, fingerprint)


def _look(gateway: Gateway, wanted: Wanted) -> dict[str, object]:
    """What a gateway has and serves. Raises `NodeError`."""
    from wsctl.commands.gateway import OTHER_SNIPPET
    from wsctl.livemap import Verdict, decide, parse_served
    from wsctl.routes import parse_header

    live = gateway.read()
    said = gateway.status()
    served = parse_served(said.words) if said.ok else None
    header = parse_header(live.text or "")
    verdict = decide(live.text, served, wanted)
    states = {Verdict.UNCHANGED: "current", Verdict.RELOAD: "not-loaded", Verdict.REPLACE: "stale"}
    reason = None
    if served is None:
        reason = "Nginx tells no generation of a map" if said.ok else said.words
    elif wanted.snippet not in (None, served.snippet):
        reason = OTHER_SNIPPET
    return {
        "state": "none" if not live.text else states.get(verdict, verdict.value),
        "routes": None if header is None else header.count,
        "generation": None if header is None else header.generation,
        "serves": None if served is None else served.generation,
        "reason": reason,
    }


def _unknown(error: WsctlError) -> dict[str, object]:
    nothing = dict.fromkeys(("routes", "generation", "serves"))
    return {"state": "unknown", **nothing, "reason": f"{error.message}{f'; {error.hint}' if error.hint else ''}"}
