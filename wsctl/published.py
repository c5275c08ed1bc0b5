"""The route map that a gateway reads, compared with the placements, and written again when it differs.

Responsible for: whether a map file says what the placements say, and for replacing it after `nginx -t` accepted the new
one. Not responsible for: the text (`routes`), the check (`nginx`), the write (`newfile`), nor for reloading Nginx.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsctl import nginx
from wsctl.errors import BackendError
from wsctl.newfile import current, replace_file
from wsctl.planner.difference import Difference, Kind
from wsctl.ports import Store
from wsctl.routes import GatewaySettings, Route, is_intact, parse_header, render_map, routes_of, states_of
from wsctl.snippet import render_snippet

_ROUTE = re.compile(
    r'^(?:    |#   )"u:(?P<user>[a-z0-9_-]+)" (?P<address>\[[0-9a-f:.]+\]|[0-9.]+):(?P<port>\d{1,5});$',
    re.ASCII | re.MULTILINE,
)
_NODE = re.compile(r'^    "u:([a-z0-9_-]+)" ([a-z0-9-]+);$', re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stale:
    """What is wrong with a map file, and the map of the present placements."""

    difference: Difference
    wanted: str


@dataclass(frozen=True, slots=True)
class PublishedMap:
    """A map file. `addresses` are the IP literals of the nodes that have one in the inventory."""

    path: Path
    settings: GatewaySettings
    addresses: Mapping[str, str | None]

    def stale(self, store: Store) -> Stale | None:
        """`stale-route`, or nothing: a map that only has an older generation number says the same."""
        there = current(self.path)
        wanted = self._text(store, there)
        detail = self._what_is_wrong(there, wanted)
        if detail is None:
            return None
        fix = "written anew; then reload Nginx"
        return Stale(Difference(Kind.STALE_ROUTE, None, None, f"{self.path}: {detail}", fix), wanted)

    def write(self, text: str) -> None:
        """Put the map in place of what is there. Raises what `nginx.check` and `newfile.replace_file` raise."""
        nginx.check(text, render_snippet(self.settings))
        replace_file(self.path, text)

    @staticmethod
    def _what_is_wrong(there: bytes | None, wanted: str) -> str | None:
        if there is None:
            return "there is no such file"
        text = there.decode("utf-8", "surrogateescape")
        header, now = parse_header(text), parse_header(wanted)
        if header is None or now is None or not is_intact(text):
            return "it was changed by hand, or is no route map"
        if header.digest == now.digest:
            return None
        old, new = _lines(text), _lines(wanted)
        return f"{len(old ^ new)} lines of {now.count} routes differ"

    def _text(self, store: Store, there: bytes | None) -> str:
        """The map as it must be. Users whose row is damaged keep the route that they have."""
        # The generation is read first: if a placement changes in between, the map is newer than it says, never older.
        generation = store.route_generation()
        placements, damaged = store.placements_and_damage()
        routes = routes_of(placements, self.addresses)
        users = {row.user for row in damaged}
        routes += [route for route in _routes_in(there or b"") if route.user in users]
        try:
            return render_map(routes, generation, self.settings, states_of(placements))
        except ValueError as error:
            raise BackendError(
                f"the state database holds a placement that must not reach Nginx: {error}",
                hint="wsctl ls   # then correct or remove that row; the map was not written",
            ) from error


def _routes_in(text: bytes) -> list[Route]:
    """The routes of a map file."""
    whole = text.decode("utf-8", "surrogateescape")
    nodes = dict(_NODE.findall(whole.rpartition(" $ws_node {")[2]))
    return [
        Route(found["user"], found["address"].strip("[]"), int(found["port"]), nodes.get(found["user"], ""))
        for found in _ROUTE.finditer(whole)
    ]


def _lines(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith(('    "u:', '#   "u:'))}
