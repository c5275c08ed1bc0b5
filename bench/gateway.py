"""`gateway`: requests per second through Nginx with very many routes.

Responsible for: what is compared (the mode `map`, the mode `dynamic`, and the same locations written by hand), and its
gates. Not responsible for: rendering (`routes`), starting Nginxes (`edge`), nor for the load, which is wrk's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.edge import free_port, nginx, pinned
from bench.measure import BenchError, Series, alternate, quartiles
from bench.report import Gate, Row
from bench.rig import Rig
from wsctl.routes import GatewaySettings, Mode, Route, render_map
from wsctl.snippet import render_snippet

ROUNDS = 21
COUNT = 1_000_000
HOT = 64
SECONDS = 1
CONNECTIONS = 32
MAP = Gate(0.97, "×", at_most=False)
STATIC = Gate(0.7, "×", at_most=False)
TWICE = Gate(2, "×", at_most=False)

UNKNOWN = '    if ($ws_upstream = "") { return 404; }\n'
PLAIN = '$ws_rest = ""'
"""Parts of the snippet that a location written by hand doesn't have."""

CLIENT = """
local hot, n = {}, 0
init = function(args)
    for i = 0, HOT - 1 do hot[i] = wrk.format("GET", string.format("/ws/user-%07d/x", i * STEP)) end
end
request = function() n = (n + 1) % HOT; return hot[n] end
done = function(summary, latency, requests)
    local bad = summary.errors.connect + summary.errors.read + summary.errors.status + summary.errors.timeout
    io.write(string.format("\\nfigures %d %d %d\\n", summary.requests, summary.duration, bad))
end
"""


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """Over 32 connections, wrk asks for 64 users spread over a map of 1,000,000: through the mode `map`; through one
    location for each of the 64, the same but for the upstream that is written into it; through `dynamic`; and through
    the same location with a static upstream that keeps connections. The upstreams are one Nginx that answers at once.
    All Nginxes have one worker; the gateways have one processor, wrk and the upstreams share the other. Short rounds,
    many: what else the machine does then meets all sides alike."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk isn't installed: apt-get install wrk")
    script = rig.folder / "client.lua"
    script.write_text(CLIENT.replace("HOT", str(HOT)).replace("STEP", str(COUNT // HOT)))
    backend, *ports = [free_port() for _ in range(5)]
    # All of 127/8 leads to the one backend: a million upstreams that are different and all answer.
    routes = [
        Route(f"user-{n:07}", f"127.{n // 62_500 + 1}.{n // 250 % 250}.{n % 250 + 1}", backend) for n in range(COUNT)
    ]
    names = ("literal", "map", "static", "dynamic")
    listen = dict(zip(names, ports, strict=True))
    argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script)]
    with ExitStack() as stack:
        with pinned(1):
            answer = f'server {{ listen {backend}; keepalive_requests 1000000; return 200 "ok"; }}'
            stack.enter_context(nginx(rig.folder / "backend", answer))
        with pinned(0):
            by_map = _mapped(rig.folder / "map", routes, listen)
            stack.enter_context(nginx(rig.folder / "map", *by_map))
            by_lua = _dynamic(rig.folder / "dynamic", routes, listen)
            stack.enter_context(nginx(rig.folder / "dynamic", *by_lua, lua=True))
        sides = {name: lambda _, port=port: _ask(argv, port) for name, port in listen.items()}
        with pinned(1):
            series = alternate("gateway", sides, rounds or ROUNDS)
    return [
        _row(f"requests/s by `map`, {COUNT:,} routes / literal", series, "map", "literal", MAP),
        _row("… by `dynamic` / static, kept alive", series, "dynamic", "static", STATIC),
        _row("… by `dynamic` / by `map`", series, "dynamic", "map", TWICE),
    ]


def _mapped(folder: Path, routes: list[Route], listen: dict[str, int]) -> tuple[str, ...]:
    folder.mkdir()
    settings = GatewaySettings()
    (folder / "map.conf").write_text(render_map(routes, 1, settings))
    snippet = render_snippet(settings)
    (folder / "snippet.conf").write_text(snippet)
    location, _, rest = snippet.partition("# Which map this worker has")
    # As it is written by hand: the prefix is always taken off, and nobody is looked up.
    by_hand = location.replace(UNKNOWN, "").replace(f"if ({PLAIN}) {{ rewrite", "rewrite").replace("break; }", "break;")
    if UNKNOWN in by_hand or PLAIN in by_hand:
        raise BenchError("the snippet isn't what this benchmark takes apart")
    locations = [
        by_hand.replace("$ws_upstream$ws_rest", f"{one.address}:{one.port}").replace("^~ /ws/", f"^~ /ws/{one.user}/")
        for one in routes[:: COUNT // HOT]
    ]
    (folder / "literal.conf").write_text("\n".join(locations) + "# " + rest)
    return (
        f"include {folder}/map.conf;",
        f"server {{ listen {listen['map']}; keepalive_requests 1000000; include {folder}/snippet.conf; }}",
        f"server {{ listen {listen['literal']}; keepalive_requests 1000000; include {folder}/literal.conf; }}",
    )


def _dynamic(folder: Path, routes: list[Route], listen: dict[str, int]) -> tuple[str, ...]:
    folder.mkdir()
    settings = GatewaySettings(mode=Mode.DYNAMIC, map_file=str(folder / "map.conf"))
    (folder / "map.conf").write_text(render_map(routes, 1, settings))
    snippet = render_snippet(settings)
    (folder / "snippet.conf").write_text(snippet)
    written = snippet.replace(UNKNOWN, "").replace("wsctl_dynamic", "static")
    written = re.sub(r"    set_by_lua_block \$ws_\w+ \{\n.*?\n    \}\n", "", written, flags=re.DOTALL)
    written = re.sub(r"\$ws_(state|served)\b", "$ws_user", written)
    (folder / "static.conf").write_text(written)
    return (
        f"include {folder}/map.conf;",
        f"upstream static {{ server 127.0.0.1:{routes[0].port}; keepalive 256; }}",
        f"server {{ listen {listen['dynamic']}; keepalive_requests 1000000; include {folder}/snippet.conf; }}",
        f"server {{ listen {listen['static']}; keepalive_requests 1000000; include {folder}/static.conf; }}",
    )


def _ask(argv: list[str], port: int) -> float:
    """Seconds per request."""
    said = subprocess.run([*argv, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^figures ([0-9]+) ([0-9]+) ([0-9]+)$", said, re.MULTILINE)
    if found is None or found[3] != "0" or found[1] == "0":
        raise BenchError(f"requests failed: {said[-300:]}")
    return int(found[2]) / 1e6 / int(found[1])


def _row(what: str, series: Series, one: str, other: str, gate: Gate) -> Row:
    ratios = series.paired(one, other, lambda a, b: b / a)
    low, high = quartiles(ratios)
    value = median(ratios)
    return Row(
        what=what,
        ours=f"{1 / series.median(one):,.0f}/s",
        floor=f"{1 / series.median(other):,.0f}/s {other}",
        result=f"{value:.2f} ×",
        gate=str(gate),
        met=gate.met(value),
        spread=f"{what}: {low:.2f} to {high:.2f} ×; {series.rounds} rounds",
    )
