"""A fleet to watch over, in memory: nodes that live or don't, paths that are cut, notes that run out, one clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from tests.builders import CLUSTER
from tests.fakes import FakeClock
from wsctl.errors import BackendError
from wsctl.health import Rules, Sign
from wsctl.store.store import SqlStore
from wsctl.watcher import Watcher
from wsctl.watchports import Ages, Event, Sighting


class Inline:
    """`errands.Errands` in the thread that asks, so that a turn is over when it returns."""

    def begin(self, name: Hashable, work: Callable[[], object]) -> bool:
        work()
        return True

    def check(self) -> None:
        pass

    def idle(self) -> bool:
        return True


@dataclass
class Fleet:
    """The truth: `dead` and `hung` nodes, and `cut` paths as (from, to); a watcher's side is its name."""

    names: tuple[str, ...]
    dead: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    cut: set[tuple[str, str]] = field(default_factory=set)

    def reaches(self, one: str, other: str) -> bool:
        return other not in self.dead and one not in self.dead and (one, other) not in self.cut


@dataclass
class FakeProbes:
    """`watchports.Probes` on a fleet, as seen from `side`."""

    fleet: Fleet
    side: str
    closed: int = 0

    def look(self, name: str) -> tuple[Sign, str]:
        if not self.fleet.reaches(self.side, name):
            return Sign.SILENT, "gave no answer"
        return (Sign.ALIVE, "the engine doesn't answer") if name in self.fleet.hung else (Sign.WELL, "")

    def knock(self, name: str) -> tuple[bool | None, str]:
        return self.fleet.reaches(self.side, name), "no route"

    def ask(self, witness: str, name: str) -> bool | None:
        return self.fleet.reaches(witness, name) if self.fleet.reaches(self.side, witness) else None

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakePresence:
    """`watchports.Presence` in memory, shared by the watchers of a test."""

    now: Callable[[], float]
    keep_s: float = 60.0
    is_gone: bool = False
    notes: dict[tuple[str, str], tuple[float | None, float | None]] = field(default_factory=dict)

    def beat(self, watcher: str, seen: Mapping[str, Ages]) -> list[Sighting]:
        now = self.now()
        self.ls()
        self.notes[watcher, ""] = (None, now)
        for node, (well, alive) in seen.items():
            self.notes[watcher, node] = (None if well is None else now - well, None if alive is None else now - alive)
        return self.ls()

    def ls(self) -> list[Sighting]:
        if self.is_gone:
            raise BackendError("Redis: can't connect")
        found = []
        for (watcher, node), times in sorted(self.notes.items()):
            ages = Ages(*(self._age(at) for at in times))
            if ages != Ages(None, None):
                found.append(Sighting(watcher, node, ages))
        return found

    def _age(self, at: float | None) -> float | None:
        age = None if at is None else self.now() - at
        return age if age is not None and age <= self.keep_s else None

    def close(self) -> None:
        pass


@dataclass
class Post:
    """Watchers on one fleet, with one clock. `turn` lets time pass."""

    fleet: Fleet
    clock: FakeClock
    store: SqlStore
    rules: Rules = field(default_factory=Rules)
    presence: FakePresence = field(init=False)
    watchers: dict[str, Watcher] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    downs: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.presence = FakePresence(self.now)

    def now(self) -> float:
        return self.clock.now().timestamp()

    def watcher(self, name: str, on_down: Callable[[str, str], str] | None = None) -> Watcher:
        """A watcher that looks from the side `name`; who is down is noted, and handed to `on_down`."""

        def down(node: str, reason: str) -> str:
            self.downs.append((name, node))
            return on_down(node, reason) if on_down is not None else ""

        events = self.events.setdefault(name, [])
        made = Watcher(
            name, self.fleet.names, FakeProbes(self.fleet, name), self.presence, self.store, self.rules, self.now,
            events.append, down, _errands=Inline(),  # type: ignore[arg-type]
        )  # fmt: skip
        self.watchers[name] = made
        return made

    def turn(self, seconds: float, *names: str, step_s: float = 0.25) -> None:
        """Let the watchers (all, or the named) go round for so long."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            for name in names or self.watchers:
                self.watchers[name].tick()

    def said(self, name: str = "w1") -> list[tuple[str, str | None]]:
        """What a watcher said, without reasons."""
        return [(event.event, event.node) for event in self.events[name]]


__all__ = ["CLUSTER", "FakePresence", "FakeProbes", "Fleet", "Inline", "Post"]
