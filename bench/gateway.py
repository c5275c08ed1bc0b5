"""`gateway`: requests per second through Nginx with very many routes.

Responsible for: three Nginxes (a backend, the mode `map` and the mode `dynamic`, one worker each), what is compared,
and its gates. Not responsible for: rendering (`routes`), nor for the load, which is wrk's.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.measure import BenchError, Series, alternate, quartiles
from bench.report import Gate, Row
from bench.rig import Rig
from wsctl.nginx import SEARCHED, lua_modules
from wsctl.routes import GatewaySettings, Mode, Route, render_map
from wsctl.snippet import render_snippet

ROUNDS = 7
COUNT = 1_000_000
HOT = 64
SECONDS = 3
CONNECTIONS = 32
MAP = Gate(0.97, "×", at_most=False)
STATIC = Gate(0.7, "×", at_most=False)
TWICE = Gate(2, "×", at_most=False)

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
    """Over 32 connections, wrk asks for 64 users spread over a map of 1,000,000: through the mode `map`, through the
    same location with the upstream written into it, through `dynamic`, and through the same location with a static
    upstream that keeps connections. The upstreams are one Nginx that answers at once; all Nginxes have one worker."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk isn't installed: apt-get install wrk")
    script = rig.folder / "client.lua"
    script.write_text(CLIENT.replace("HOT", str(HOT)).replace("STEP", str(COUNT // HOT)))
    backend, *ports = [_free_port() for _ in range(5)]
    # All of 127/8 leads to the one backend: a million upstreams that are different and all answer.
    routes = [
        Route(f"user-{n:07}", f"127.{n // 62_500 + 1}.{n // 250 % 250}.{n % 250 + 1}", backend) for n in range(COUNT)
    ]
    literal, mapped, static, dynamic = ports
    with (
        _nginx(rig.folder / "backend", f'server {{ listen {backend}; keepalive_requests 1000000; return 200 "ok"; }}'),
        _nginx(rig.folder / "map", *_mapped(rig.folder / "map", routes, mapped, literal, backend)),
        _nginx(rig.folder / "dynamic", *_dynamic(rig.folder / "dynamic", routes, dynamic, static, backend), lua=True),
    ):
        sides = {
            name: lambda _, port=port: _ask([wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script)], port)
            for name, port in (("map", mapped), ("literal", literal), ("dynamic", dynamic), ("static", static))
        }
        series = alternate("gateway", sides, rounds or ROUNDS)
    return [
        _row(f"requests/s by `map`, {COUNT:,} routes / literal", series, "map", "literal", MAP),
        _row("… by `dynamic` / static, kept alive", series, "dynamic", "static", STATIC),
        _row("… by `dynamic` / by `map`", series, "dynamic", "map", TWICE),
    ]


def _mapped(folder: Path, routes: list[Route], port: int, literal: int, backend: int) -> tuple[str, ...]:
    folder.mkdir()
    settings = GatewaySettings()
    (folder / "map.conf").write_text(render_map(routes, 1, settings))
    snippet = render_snippet(settings)
    (folder / "snippet.conf").write_text(snippet)
    written = snippet.replace("http://$ws_upstream$ws_rest", f"http://127.0.0.1:{backend}")
    (folder / "literal.conf").write_text(written.replace('    if ($ws_upstream = "") { return 404; }\n', ""))
    return (
        f"include {folder}/map.conf;",
        f"server {{ listen {port}; keepalive_requests 1000000; include {folder}/snippet.conf; }}",
        f"server {{ listen {literal}; keepalive_requests 1000000; include {folder}/literal.conf; }}",
    )


def _dynamic(folder: Path, routes: list[Route], port: int, static: int, backend: int) -> tuple[str, ...]:
    folder.mkdir()
    settings = GatewaySettings(mode=Mode.DYNAMIC, map_file=str(folder / "map.conf"))
    (folder / "map.conf").write_text(render_map(routes, 1, settings))
    snippet = render_snippet(settings)
    (folder / "snippet.conf").write_text(snippet)
    written = snippet.replace('    if ($ws_upstream = "") { return 404; }\n', "").replace("wsctl_dynamic", "static")
    written = re.sub(r"    set_by_lua_block \$ws_\w+ \{\n.*?\n    \}\n", "", written, flags=re.DOTALL)
    written = re.sub(r"\$ws_(state|served)\b", "$ws_user", written)
    (folder / "static.conf").write_text(written)
    return (
        f"include {folder}/map.conf;",
        f"upstream static {{ server 127.0.0.1:{backend}; keepalive 256; }}",
        f"server {{ listen {port}; keepalive_requests 1000000; include {folder}/snippet.conf; }}",
        f"server {{ listen {static}; keepalive_requests 1000000; include {folder}/static.conf; }}",
    )


@contextmanager
def _nginx(folder: Path, *http: str, lua: bool = False) -> Iterator[None]:
    binary = shutil.which("nginx", path=SEARCHED)
    if binary is None:
        raise BenchError("nginx isn't installed: apt-get install nginx")
    folder.mkdir(exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"{lua_modules() if lua else ''}daemon off; master_process off; pid {folder}/pid; "
        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; {temp}\n" + "\n".join(http) + "\n}\n"
    )
    argv = [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    process = subprocess.Popen(argv)
    try:
        port = int(re.findall(r"listen ([0-9]+)", " ".join(http))[0])
        until = time.monotonic() + 60
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"Nginx doesn't start: {(folder / 'error.log').read_text()[-400:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _ask(argv: list[str], port: int) -> float:
    """Seconds per request."""
    said = subprocess.run([*argv, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^figures ([0-9]+) ([0-9]+) ([0-9]+)$", said, re.MULTILINE)
    if found is None or found[3] != "0" or found[1] == "0":
        raise BenchError(f"requests failed: {said[-300:]}")
    return int(found[2]) / 1e6 / int(found[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
