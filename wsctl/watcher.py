"""Watching over the nodes: when to look, when to ask whom, whom to tell.

Responsible for: the rhythm of looks with their jitter, comparing notes with other watchers, reporting
suspects, and calling `on_down` for a node that is down. Not responsible for: how a node is looked at
(`watchports.Probes`), what the observations amount to (`health`), nor for failing over.

Several watchers do the work of one: each reports what it sees, none reports a node that another one sees well, and
`on_down` takes a lease. So killing one changes nothing. Nothing is decided while the state database or Redis can't be
asked, and all that was seen is forgotten after it and after a pause of this process: what it missed proves nothing.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from wsctl.errands import Errands
from wsctl.errors import BackendError, WsctlError
from wsctl.health import (
    Evidence,
    Health,
    Judgement,
    Others,
    Rules,
    Sign,
    Verdict,
    judge,
    knocked,
    looked,
    nothing_known,
    witnessed,
)
from wsctl.model import NodeMark, NodeState
from wsctl.reports import SUSPECT
from wsctl.watchports import Ages, Event, Notes, Presence, Probes, Sighting

TICK_S = 0.25
PAUSE_S = 3.0
"""A gap between two ticks that means that this process, or the machine, stood still."""

REPORT_S = 30.0
"""How long a suspicion outlives the watcher that had it; it is renewed at a third of that."""

KNOCK_S = 1.0
"""How far apart knocks at a silent machine's door are; each may take longer, so up to `KNOCKS` are under way."""

KNOCKS = 3

STALE_S = 3.0
"""How many intervals old what others know may be; with older notes nothing is decided."""

WITNESSES = 2
RETRY_S = 30.0
"""When a failover that failed is tried again."""

MOST_ERRANDS = 512


@dataclass
class Watcher:
    """One watcher, named so that others tell it apart. `now` counts seconds and only goes forward, also while the
    machine sleeps. `on_down` is called with a node and the reason, in a thread of its own, and raises `WsctlError`
    when it failed; None: nobody is told but the log. `on_return` is the same for a node that answers while it is
    marked down. `beat` is called after each turn."""

    name: str
    nodes: Sequence[str]
    probes: Probes
    presence: Presence
    notes: Notes
    rules: Rules
    now: Callable[[], float]
    say: Callable[[Event], None]
    on_down: Callable[[str, str], str] | None = None
    on_return: Callable[[str], str] | None = None
    beat: Callable[[], None] = lambda: None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _known: dict[str, Evidence] = field(default_factory=dict)
    _seen: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _knock_due: dict[str, float] = field(default_factory=dict)
    _told: dict[str, Health] = field(default_factory=dict)
    _reported: dict[str, float] = field(default_factory=dict)
    _tried: dict[str, float] = field(default_factory=dict)
    _unfinished: dict[str, str] = field(default_factory=dict)
    _returned: dict[str, float] = field(default_factory=dict)
    _fallen: dict[str, float] = field(default_factory=dict)
    _errands: Errands = field(default_factory=lambda: Errands(MOST_ERRANDS))
    _marks: Mapping[str, NodeMark] | None = None
    _sightings: Sequence[Sighting] = ()
    _compared: float | None = None
    _heard: float = 0.0
    _unable: str | None = "nothing is known yet"
    _alarm: str | None = None
    _epoch: int = 0
    _ticked: float | None = None

    def run(self, stopped: threading.Event) -> None:
        """Watch until `stopped` is set."""
        while not stopped.is_set():
            self.tick()
            self.beat()
            stopped.wait(TICK_S)

    def tick(self) -> None:
        """One turn: start what is due, compare notes, judge, act. Never waits for a node."""
        self._errands.check()
        now = self.now()
        if self._ticked is not None and now - self._ticked > PAUSE_S:
            with self._lock:
                self._unable = self._unable or "it stood still"  # until notes are compared again
            self._forget(now)
            self.say(
                Event("paused", None, f"stood still for {now - self._ticked:.1f} s: all that was seen is forgotten")
            )
        self._ticked = now
        with self._lock:
            for name in self.nodes:
                self._known.setdefault(name, nothing_known(now))
        self._begin_looks(now)
        if self._compared is None or now - self._compared >= self.rules.interval_s:
            self._compared = now
            self._errands.begin("compare", self._compare)
        self._conclude(now)

    # ---- looking

    def _begin_looks(self, now: float) -> None:
        for number, name in enumerate(self.nodes):
            with self._lock:
                misses = self._known[name].misses
            # The first looks are spread over an interval: a fleet isn't greeted in one burst.
            first = now + self.rules.interval_s * number / len(self.nodes)
            if self._due.setdefault(name, first) <= now and self._errands.begin(
                ("look", name), partial(self._look, name)
            ):
                pace = self.rules.interval_s / 2 if misses else self.rules.interval_s
                self._due[name] = now + pace * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, no secret
            if misses:
                self._ask_around(name, now)

    def _ask_around(self, name: str, now: float) -> None:
        """Its engine didn't answer: does its machine, and does it to others?"""
        if now < self._knock_due.get(name, now):
            return
        self._knock_due[name] = now + KNOCK_S
        for number in range(KNOCKS):
            if self._errands.begin(("knock", number, name), partial(self._knock, name)):
                break
        for witness in self._witnesses(name):
            self._errands.begin(("ask", witness, name), partial(self._ask, witness, name))

    def _witnesses(self, name: str) -> list[str]:
        """Nodes that are well as of now; any of them, so that one with a bad path isn't always the one."""
        with self._lock:
            well = [other for other in self.nodes if other != name and self._known[other].misses == 0]
        return random.sample(well, min(WITNESSES, len(well)))

    def _look(self, name: str) -> None:
        epoch = self._epoch
        sign, reason = self.probes.look(name)
        now = self.now()
        self._note(name, epoch, sign is not Sign.SILENT, lambda known: looked(known, sign, now, reason))
        if sign is not Sign.SILENT:
            self._saw(name, now if sign is Sign.WELL else None, now)

    def _knock(self, name: str) -> None:
        epoch = self._epoch
        answered, reason = self.probes.knock(name)
        if answered is not None:
            now = self.now()
            self._note(name, epoch, answered, lambda known: knocked(known, answered, now, reason))
            if answered:
                self._saw(name, None, now)

    def _ask(self, witness: str, name: str) -> None:
        epoch = self._epoch
        reaches = self.probes.ask(witness, name)
        now = self.now()
        self._note(name, epoch, bool(reaches), lambda known: witnessed(known, witness, reaches, now))
        if reaches:
            self._saw(name, None, now)

    def _note(self, name: str, epoch: int, is_good: bool, change: Callable[[Evidence], Evidence]) -> None:
        """Add an observation. Silence from before a pause says nothing about the time after it."""
        with self._lock:
            if (is_good or epoch == self._epoch) and name in self._known:
                self._known[name] = change(self._known[name])

    def _saw(self, name: str, well: float | None, alive: float) -> None:
        with self._lock:
            self._seen[name] = (well if well is not None else self._seen.get(name, (None, None))[0], alive)

    def _forget(self, now: float) -> None:
        with self._lock:
            self._epoch += 1
            self._known = dict.fromkeys(self.nodes, nothing_known(now))

    # ---- comparing notes

    def _compare(self) -> None:
        """Tell what was seen, learn what others saw and what is marked; without all of it nothing may be decided."""
        now = self.now()
        with self._lock:
            seen = {
                name: Ages(None if well is None else now - well, None if alive is None else now - alive)
                for name, (well, alive) in self._seen.items()
            }
        try:
            sightings = self.presence.beat(self.name, seen)
            marks, reports = self.notes.marks(), self.notes.node_reports()
        except BackendError as error:
            with self._lock:
                was, self._unable = self._unable, error.message
            if was is None:
                self.say(Event("blind", None, f"nothing is decided: {error.message}"))
            return
        with self._lock:
            was, self._unable, self._heard = self._unable, None, now
            # Who was marked down before we came isn't one of those who vanish now.
            before = marks if self._marks is None else self._marks
            for name in self.nodes:
                if not _is_down(marks.get(name)):
                    self._fallen.pop(name, None)
                elif not _is_down(before.get(name)):
                    self._fallen[name] = now
            self._sightings, self._marks = sightings, marks
            for report in reports:
                if report.kind == SUSPECT:
                    self._reported.setdefault(report.node, now)
        if was is not None:
            # What was missed meanwhile may have had the same cause: count anew from here.
            self._forget(self.now())

    def _others(self, now: float) -> dict[str, Others]:
        """What other watchers saw, aged since we asked."""
        late, found = now - self._heard, dict[str, Others]()
        for watcher, node, ages in self._sightings:
            if watcher != self.name and node:
                known = found.get(node, Others())
                found[node] = Others(
                    _younger(known.well_s, ages.well_s, late), _younger(known.alive_s, ages.alive_s, late)
                )
        return found

    # ---- concluding

    def _conclude(self, now: float) -> None:
        with self._lock:
            if self._unable is None and now - self._heard > STALE_S * max(self.rules.interval_s, 1.0):
                self._unable = f"the state database or Redis hasn't answered for {now - self._heard:.0f} s"
                self.say(Event("blind", None, f"nothing is decided: {self._unable}"))
            marks, unable = self._marks or {}, self._unable
            down = {name for name in self.nodes if _is_down(marks.get(name))}
            fleet = {name: known for name, known in self._known.items() if name not in down}
            lately = [name for name, since in self._fallen.items() if now - since < self.rules.window_s]
            judgement = judge(fleet, self._others(now), now, self.rules, fallen=lately, unable=unable)
        self._tell(judgement, unable)
        for name, verdict in judgement.verdicts.items():
            if unable is None:
                self._report(name, verdict, now)
            if verdict.health is Health.DOWN:
                self._act(name, verdict.reason, now)
            elif verdict.health is Health.OK:
                self._unfinished.pop(name, None)
        for name in down if unable is None else ():
            if name in self._unfinished and not self._is_well(name, now):
                self._act(name, self._unfinished[name], now)
            self._welcome(name, now)

    def _tell(self, judgement: Judgement, unable: str | None) -> None:
        alarm = judgement.alarm if unable is None else None
        if (alarm is None) != (self._alarm is None):
            self.say(Event("alarm", None, alarm) if alarm else Event("calm", None, "the nodes are seen again"))
        self._alarm = alarm
        for name, verdict in judgement.verdicts.items():
            was = self._told.get(name, Health.OK)
            if verdict.health is not was and not (unable and verdict.health is Health.UNSURE):
                self._told[name] = verdict.health
                self.say(Event(str(verdict.health), name, verdict.reason, round(verdict.silent_s, 1)))

    def _report(self, name: str, verdict: Verdict, now: float) -> None:
        """Keep the row of a suspect alive, and take it back when it is well. In a thread: the database may be slow."""
        since = self._reported.get(name)
        if verdict.health in (Health.SUSPECT, Health.DOWN):
            if since is None or now - since >= REPORT_S / 3:
                self._reported[name] = now
                with self._lock:
                    well = self._seen.get(name, (None, None))[0]
                seen_s = None if well is None else now - well
                self._errands.begin(("report", name), partial(self._write, name, verdict.reason, seen_s))
        elif since is not None and self._is_well(name, now):
            self._reported.pop(name, None)
            self._errands.begin(("report", name), partial(self._write, name, None, None))

    def _write(self, name: str, reason: str | None, seen_s: float | None) -> None:
        try:
            if reason is None:
                self.notes.drop_reports(name, SUSPECT)
            else:
                self.notes.report_node(name, SUSPECT, reason, REPORT_S, seen_s)
        except BackendError:
            self._reported.pop(name, None)  # again at the next turn, or, if it is to be dropped, it runs out

    def _is_well(self, name: str, now: float) -> bool:
        """Whether this watcher itself saw the node well a moment ago."""
        with self._lock:
            well = self._seen.get(name, (None, None))[0]
            return well is not None and now - well < self.rules.suspect_after_s and self._known[name].misses == 0

    def _act(self, name: str, reason: str, now: float) -> None:
        """Have it failed over; again after a while as long as that fails, also once it is marked down."""
        on_down = self.on_down
        if on_down is None or now - self._tried.get(name, -math.inf) < RETRY_S:
            return

        def act() -> None:
            self._unfinished[name] = reason
            if self._call(name, lambda: on_down(name, reason)):
                self._unfinished.pop(name, None)

        if self._errands.begin(("act", name), act):
            self._tried[name] = now

    def _welcome(self, name: str, now: float) -> None:
        """A node that is marked down answers again: say so once, and let it be brought in order."""
        self._told.pop(name, None)
        if not self._is_well(name, now):
            self._returned.pop(name, None)
            return
        if name not in self._returned:
            self.say(Event("returned", name, f"it answers, and is marked down: wsctl node uncordon {name}"))
        on_return, last = self.on_return, self._returned.setdefault(name, -math.inf)
        if on_return is None or now - last < RETRY_S:
            return
        if self._errands.begin(("act", name), partial(self._call, name, lambda: on_return(name))):
            self._returned[name] = now

    def _call(self, name: str, act: Callable[[], str]) -> bool:
        """Whether it succeeded; what came of it is said."""
        try:
            done = act()
        except WsctlError as error:
            self.say(Event("failed", name, error.message))
            return False
        if done:
            self.say(Event("done", name, done))
        return True


def _is_down(mark: NodeMark | None) -> bool:
    return mark is not None and mark.state is NodeState.DOWN


def _younger(one: float | None, other: float | None, late: float) -> float | None:
    ages = [age for age in (one, None if other is None else other + late) if age is not None]
    return min(ages, default=None)
