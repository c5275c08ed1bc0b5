"""A route map that is live on a gateway: its routes, what another one would change, and whether to replace it.

Responsible for: reading a map back, the difference per user, and the decision about one gateway as a value. Not
responsible for: rendering (`routes`), nor for carrying a decision out (`gateway`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wsctl import maptext
from wsctl.routes import is_intact, parse_header

ENTRY = re.compile(r'^(?:    |#   )"u:([a-z0-9_-]+)" ((?:\[[0-9a-f.:]+\]|[0-9.]+):[0-9]{1,5});$', re.MULTILINE)
STATE_ENTRY = re.compile(r'^(?:    |#   )"u:([a-z0-9_-]+)" ([a-z]+);$', re.MULTILINE)
ANY_ENTRY = re.compile(r'^(?:    |#   )"u:[^"\n]*" [^\n]*;\n', re.MULTILINE)
SIZES = re.compile(r"^map_hash_(?:max|bucket)_size [0-9]+;\n", re.MULTILINE)
STATUS_ANSWER = re.compile(r"([0-9]{1,20}) ([0-9a-f]{64})(?: ([0-9a-f]{12}))?\n?", re.ASCII)
BLAME = re.compile(r"\[(emerg|crit|alert|error)\] (?:[0-9]+#[0-9]+: )?(.*?)(?: in (\S+):([0-9]+))?$", re.MULTILINE)
"""Nginx's complaint: its level, its words, and the file and line if it names them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The map that a gateway should have, and the digest of the snippet that goes with it (None: any)."""

    text: str
    generation: int
    count: int
    digest: str
    snippet: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """The map that a worker of Nginx has loaded. `snippet` is the digest of the snippet that it includes, None if that
    is of an older version; two that differ only in it serve the same map."""

    generation: int
    digest: str
    snippet: str | None = field(default=None, compare=False)


class Change(StrEnum):
    """What another map means for a user, or for all of them."""

    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    PAGE = "page"
    """The route stays as it is; what the page says of a user without one, or of one who is moved, doesn't."""
    SETTINGS = "settings"
    """How everybody is routed: what the inventory says below `gateway`."""


@dataclass(frozen=True, slots=True)
class MapChange:
    """A user's upstream (`address:port`), or state, before and after; None: none. `user` None: everybody's."""

    change: Change
    user: str | None = None
    before: str | None = None
    after: str | None = None


class Verdict(StrEnum):
    """What is to be done about a gateway."""

    UNCHANGED = "unchanged"
    """File and workers have the wanted routes."""
    RELOAD = "reload"
    """The file is right, but the workers have another map, or don't say: an apply was cut off before its end."""
    REPLACE = "replace"
    EDITED = "edited"
    """The file isn't as wsctl wrote it: somebody's work would be lost."""
    NEWER = "newer"
    """The file is of a later generation: the wanted map is of the past, or of another state database."""


def wanted_map(text: str) -> Wanted:
    """What `routes.render_map` made, with its own header read. Raises ValueError if it is something else."""
    header = parse_header(text)
    if header is None:
        raise ValueError("not a route map")
    return Wanted(text, header.generation, header.count, header.digest)


def parse_routes(text: str) -> dict[str, str]:
    """The upstream of each user in a map, whether it is intact or not."""
    return dict(ENTRY.findall(text))


def fixed_part(text: str) -> str | None:
    """What Nginx itself reads of a map whose routes are read by Lua; None for other maps. While it stays the same, new
    routes need no reload."""
    head, found, _ = text.partition(maptext.ROUTES_BELOW)
    return head.partition("\n\n")[2] if found else None


def parse_served(text: str) -> Served | None:
    """The status location's answer, or None if it is something else."""
    found = STATUS_ANSWER.fullmatch(text)
    return Served(int(found[1]), found[2], found[3]) if found else None


def parse_states(text: str) -> dict[str, str]:
    """What the page says of each user whom a map has a state of."""
    for head, end in ((maptext.STATE, "}\n"), (maptext.STATES_BELOW, "# End\n")):
        _, found, rest = text.partition(head)
        if found:
            return dict(STATE_ENTRY.findall(rest.partition(end)[0]))
    return {}


def differences(live: str, wanted: Wanted) -> list[MapChange]:
    """What replacing the map `live` by `wanted` changes: for everybody, then for users, sorted. Nothing if they are the
    same but for the generation."""
    routes = _route_changes(parse_routes(live), parse_routes(wanted.text))
    touched = {one.user for one in routes}
    old, new = parse_states(live), parse_states(wanted.text) if live else {}
    pages = [
        MapChange(Change.PAGE, user, old.get(user), new.get(user))
        for user in old.keys() | new.keys()
        if old.get(user) != new.get(user) and user not in touched
    ]
    found = sorted(routes + pages, key=lambda one: str(one.user))
    header = parse_header(live)
    is_same = header is not None and header.digest == wanted.digest
    if live and (_frame(live) != _frame(wanted.text) or not (found or is_same)):
        return [MapChange(Change.SETTINGS), *found]
    return found


def _route_changes(live: Mapping[str, str], wanted: Mapping[str, str]) -> list[MapChange]:
    changes = []
    for user in live.keys() | wanted.keys():
        before, after = live.get(user), wanted.get(user)
        if before != after:
            kind = Change.ADDED if before is None else Change.REMOVED if after is None else Change.MOVED
            changes.append(MapChange(kind, user, before, after))
    return changes


def _frame(text: str) -> str:
    """A map without what depends on who there is."""
    body = text.partition("\n\n")[2].rpartition('\nmap "" $ws_map_generation')[0]
    return SIZES.sub("", ANY_ENTRY.sub("", body))


def decide(live: str | None, served: Served | None, wanted: Wanted, *, force: bool = False) -> Verdict:
    """What is to be done where `live` is the file's text (None: there is none) and the workers have loaded `served`
    (None: they don't say). With `force`, a file that was edited or is newer is replaced like any other.

    The same routes under another generation are the same map: nothing is written for them.
    """
    if not live:
        return Verdict.REPLACE
    header = parse_header(live)
    if header is None or not is_intact(live):
        return Verdict.REPLACE if force else Verdict.EDITED
    if header.digest == wanted.digest:
        return Verdict.UNCHANGED if served == Served(header.generation, header.digest) else Verdict.RELOAD
    if header.generation > wanted.generation and not force:
        return Verdict.NEWER
    return Verdict.REPLACE


@dataclass(frozen=True, slots=True)
class Complaint:
    """What Nginx disliked, and where, if it said so."""

    words: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return self.words if self.file is None else f"{self.file}:{self.line}: {self.words}"


def complaint_in(said: str) -> Complaint:
    """The first complaint in the words of `nginx -t` or of a failed reload; other programs' words as they are.

    An `emerg` is what stopped Nginx; the others, such as an error log that this account can't open, may precede it.
    """
    found = sorted(BLAME.findall(said), key=lambda one: one[0] != "emerg")
    if not found:
        return Complaint(" ".join(said.split())[:400] or "it didn't say why")
    _, words, file, line = found[0]
    return Complaint(words.strip(), file or None, int(line) if line else None)
