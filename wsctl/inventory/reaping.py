"""The keys of `reap:`.

Responsible for: what can be said about stopping the idle besides the limits of classes. Not responsible for: those
(`table`), nor for giving notice (`hooks`).
"""

from __future__ import annotations

import re

from wsctl.inventory import names
from wsctl.inventory.kinds import Key, ListOf, MapOf, section
from wsctl.inventory.scalars import Text, duration
from wsctl.model import is_user_id


def _user(text: str) -> str:
    if not is_user_id(text):
        raise ValueError
    return text


def _url(text: str) -> str:
    found = re.fullmatch(r"https?://(\[[0-9a-fA-F:]+\]|[^\s/:@?#]+)(:[0-9]{1,5})?(/[!-~]*)?", text, re.ASCII)
    if found is None or "#" in text:
        raise ValueError("has a password in it" if "@" in text else "")
    names.parse_host(found[1].strip("[]"))
    return text


def _limit(text: str) -> float | None:
    limit: float | None = None if text == "never" else duration("30m").parse(text)
    return limit


REAP = section(
    notice=Key(duration("10m"), "How long before a stop the hook is told; the stop waits for that.", "10m"),
    hook=Key(
        ListOf(names.ANY_TEXT, "a list of words"),
        "A command that is told who will be stopped: JSON on its stdin, no shell.",
        null="none",
    ),
    url=Key(
        Text(_url, "a URL such as https://studio.example.com/idle", {"type": "string", "pattern": "^https?://"}),
        "Instead of `hook`: the same JSON is sent there by POST.",
        null="none",
    ),
    timeout=Key(duration("10s"), "How long the hook may take.", "10s"),
    users=Key(
        MapOf(
            Text(_user, "a user id: a-z 0-9 _ -", {"type": "string"}),
            Text(_limit, "a duration such as 30m or 1h30m, or never", {"type": "string"}),
            "USER",
        ),
        "`idle_after` of single users, in place of their class's; or `never`.",
        "{}",
    ),
)
