"""`python -m bench.render KIND COUNT`: makes a route map of so many users and tells seconds and memory.

Responsible for: the routes, and a floor that makes the same lines without looking at them. Not responsible for: gates.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time

from wsctl.routes import Route, render_map


def main(kind: str, count: int) -> None:
    """Print `{"seconds": …, "peak_bytes": …}`; kind is `wsctl` or `loop`."""
    gc.disable()  # as wsctl does in its own process
    # Neither sorted nor near each other, on nodes of 10,000 ports.
    users = [f"user-{number * 7919 % count:07}" for number in range(count)]
    hosts = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(count // 10_000 + 1)]
    routes = [Route(user, hosts[number // 10_000], 20_000 + number % 10_000) for number, user in enumerate(users)]
    began = time.perf_counter()
    text = render_map(routes, 1) if kind == "wsctl" else _loop(routes)
    spent = time.perf_counter() - began
    if text.count('    "u:') != count:
        raise SystemExit("the map doesn't have everybody")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": spent, "peak_bytes": peak}))


def _loop(routes: list[Route]) -> str:
    return "".join(sorted(f'    "u:{route.user}" {route.address}:{route.port};\n' for route in routes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
