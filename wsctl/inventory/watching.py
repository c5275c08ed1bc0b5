"""The keys of `watch:`.

Responsible for: what can be said about watching over the nodes. Not responsible for: what a verdict means
(`wsctl.health`), nor for what is done about a node that is down.
"""

from __future__ import annotations

from wsctl.inventory import names
from wsctl.inventory.kinds import Key, section
from wsctl.inventory.scalars import duration, number

WATCH = section(
    interval=Key(duration("2s"), "How far apart looks at a node are.", "2s"),
    suspect_after=Key(duration("4s"), "Without an answer of its engine for so long, a node gets no new users.", "4s"),
    down_after=Key(
        duration("10s"), "Without any sign of life of its machine for so long, and by anybody, a node is down.", "10s"
    ),
    misses=Key(number(1, 100, "a number of looks"), "So many looks in a row at least must have shown nothing.", "3"),
    alarm_percent=Key(
        number(1, 100, "a percentage"),
        "When so many of the nodes vanish at once it is this side: nothing is done.",
        "33",
    ),
    alarm_least=Key(number(2, 1000, "a number of nodes"), "But at least so many must have vanished for that.", "2"),
    set_aside=Key(
        duration("1m"), "How long a node that refuses again and again, or lacks the image, gets no new users.", "1m"
    ),
    wake=Key(
        names.ENDPOINT,
        "Where `wsctl watch` answers the gateway's wake hook: it starts users who are asked for.",
        null="no wake hook",
    ),
)
