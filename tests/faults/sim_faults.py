"""What can go wrong at one contact with the outside, and how likely it is in one schedule.

Responsible for: the kinds of faults and the choice among them. Not responsible for: making them happen (`sim_world`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    """A fault; the values are what `python -m tests.faults.simulator` prints."""

    KILLED_BEFORE = "controller killed before the effect"
    KILLED_AFTER = "controller killed after the effect"
    KILLED_LATE = "controller killed, its request arrives later"
    INTERRUPTED = "Ctrl-C"
    PAUSED_BEFORE = "controller paused beyond its lease, before the effect"
    PAUSED_AFTER = "controller paused beyond its lease, after the effect"
    LOST_REQUEST = "request lost"
    LOST_REPLY = "reply lost"
    LATE = "request given up, carried out later"
    TWICE = "request carried out twice"
    REFUSED = "refused by the engine"
    NEVER_READY = "container never ready"
    CUT_NODE = "node partitioned"
    CUT_STATE = "controller cut off from the state database"
    REBOOT = "node rebooted"
    REDIS_FLUSHED = "leases flushed"
    REDIS_DOWN = "leases unreachable"
    LEASE_EXPIRED = "a lease expired early"
    CLOCK_JUMP = "wall clock jumped"


CONTROLLER = (Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.INTERRUPTED, Kind.PAUSED_BEFORE, Kind.PAUSED_AFTER)
WORLD = (
    Kind.CUT_NODE,
    Kind.CUT_STATE,
    Kind.REBOOT,
    Kind.REDIS_FLUSHED,
    Kind.REDIS_DOWN,
    Kind.LEASE_EXPIRED,
    Kind.CLOCK_JUMP,
)
_LOST = (Kind.LOST_REQUEST, Kind.LOST_REPLY)

AT: dict[str, tuple[Kind, ...]] = {
    "state read": (*CONTROLLER, Kind.LOST_REQUEST, *WORLD),
    "state write": (*CONTROLLER, *_LOST, *WORLD),
    "state apply": (*CONTROLLER, *_LOST, Kind.TWICE, *WORLD),
    "lease": (*CONTROLLER, *_LOST, *WORLD),
    "node read": (*CONTROLLER, *_LOST, Kind.REFUSED, *WORLD),
    "node effect": (*CONTROLLER, *_LOST, Kind.KILLED_LATE, Kind.LATE, Kind.TWICE, Kind.REFUSED, *WORLD),
    # A purge is a container that is made, started and waited for: late or twice as a whole isn't one of its faults.
    "node purge": (*CONTROLLER, *_LOST, Kind.REFUSED, *WORLD),
}
"""Which faults make sense where."""

RATES = (0.0, 0.01, 0.03, 0.06)

_READS = ("state read", "node read", "lease")
_READS_RATE, _EFFECTS_RATE = 0.4, 3.0
"""Most contacts only look, and most trouble is around those that don't."""


class Faults:
    """The faults of one schedule: a random part of the kinds at a random rate, so that schedules differ in character.

    `counts` says how often each struck. `on` False: nothing strikes any more.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._rate = rng.choice(RATES)
        self._kinds = frozenset(kind for kind in Kind if rng.random() < 0.6)
        self._at = {where: tuple(kind for kind in kinds if kind in self._kinds) for where, kinds in AT.items()}
        self.counts: Counter[Kind] = Counter()
        self.on = True

    def draw(self, where: str, *, without: Sequence[Kind] = ()) -> Kind | None:
        """The fault at this contact, if there is one."""
        factor = _READS_RATE if where in _READS else _EFFECTS_RATE
        if not self.on or self._rng.random() >= self._rate * factor:
            return None
        kinds = [kind for kind in self._at[where] if kind not in without]
        if not kinds:
            return None
        kind = self._rng.choice(kinds)
        self.counts[kind] += 1
        return kind

    def never_ready(self) -> bool:
        """Whether a container that is created now will never become ready."""
        if not self.on or Kind.NEVER_READY not in self._kinds or self._rng.random() >= self._rate:
            return False
        self.counts[Kind.NEVER_READY] += 1
        return True
