"""The keys of `failover:`.

Responsible for: what can be said about dead nodes and standby copies besides `standby` of classes. Not responsible for:
that (`table`), nor for what is done (`wsctl.failover`, `wsctl.standby`).
"""

from __future__ import annotations

from wsctl.inventory.kinds import Key, section
from wsctl.inventory.scalars import RATE, choice, duration, number
from wsctl.standbys import DataLoss, FailoverPolicy

FAILOVER = section(
    policy=Key(
        choice(FailoverPolicy),
        "`automatic`: `wsctl watch` does what `wsctl node fail` does when it finds a node dead.",
        "manual",
    ),
    accept_data_loss=Key(
        choice(DataLoss),
        "Users without a copy elsewhere: `never` leaves them down, `accept` starts them without their files.",
        "never",
    ),
    max_age=Key(
        duration("1h"),
        "Older standby copies count as none, unless their users were stopped before.",
        null="any age will do",
    ),
    sync_every=Key(duration("5m"), "How old a standby copy gets before it is brought up to date.", "5m"),
    sync_parallel=Key(number(1, 64, "a number of copies"), "Copied at once by one run.", "2"),
    sync_bwlimit=Key(RATE, "Most bytes a second of one copying.", null="no limit"),
)
