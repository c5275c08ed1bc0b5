"""Looking at containers: a node by one command, or some of them by the engine; and what open connections mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.builders import capacity
from tests.fakes import FakeEngine
from tests.worlds import SPEC, Site, make_site
from wsctl.errors import NodeUnreachable
from wsctl.looking import LOOKS_PER_RUN
from wsctl.model import PlacementState
from wsctl.nodelook import look_at_node
from wsctl.reaper import Reaper, ReapOptions

HALF_HOUR = 1800.0


@dataclass
class Shell:
    """A node's shell: answers as the script does, from what the engine's containers are. `visits` are the open
    connections to port 8080 by user; `refuses` is what it says instead."""

    engine: FakeEngine
    visits: Counter[str] = field(default_factory=Counter)
    refuses: str | Exception | None = None
    hidden: set[str] = field(default_factory=set)
    runs: int = 0

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        self.runs += 1
        if isinstance(self.refuses, Exception):
            raise self.refuses
        if self.refuses is not None:
            return 1, self.refuses
        lines = ["==look 1"]
        for one in self.engine._held.values():
            user = one.spec.name.removeprefix("ws-u-")
            if one.id[:12] in argv[4:] and user not in self.hidden:
                ports = f" 1F90={self.visits[user]}" if self.visits[user] else ""
                cpu = "-" if one.cpu_ns is None else one.cpu_ns
                lines.append(f"{one.id[:12]} {one.tx} {cpu} {one.execs + 1}{ports}")
        return 0, "\n".join([*lines, "==end", ""])


@dataclass
class Town:
    """A site whose nodes have shells."""

    site: Site
    shells: dict[str, Shell]

    def reap(self, **options: Any) -> dict[str, tuple[str, str]]:
        with self.site.process(commands=self.shells.__getitem__) as commands:
            items = Reaper(commands.world, ReapOptions(**options)).run()
        return {item.user: (item.verdict.value, item.reason) for item in items}

    def verdicts(self, **options: Any) -> dict[str, str]:
        return {user: verdict for user, (verdict, _) in self.reap(**options).items()}

    def shell_of(self, user: str) -> Shell:
        ((node, _),) = self.site.of(user)
        return self.shells[node]


def make_town(*names: str) -> Town:
    site = make_site(*names, capacity=capacity(100, 1 << 50, 10**9))
    return Town(site, {name: Shell(site.fleet[name]) for name in site.nodes})


@pytest.fixture
def town() -> Iterator[Town]:
    made = make_town()
    made.site.run("place", "alice", "bob")
    yield made
    made.site.close()


def test_everybody_is_looked_at_with_requests_that_grow_with_the_nodes() -> None:
    """Engines are asked about containers only of those who are stopped."""
    town = make_town("n1", "n2")
    try:
        users = [f"u{n:02}" for n in range(60)]
        town.site.run("place", *users)
        town.site.clock.advance(HALF_HOUR)
        town.site.forget_calls()
        assert set(town.verdicts(dry_run=True).values()) == {"would-stop"}
        assert town.site.asked("signs") == Counter()
        assert sum(town.site.asked().values()) == 2 * 3, "facts, image and list of each node"
        assert [shell.runs for shell in town.shells.values()] == [1, 1]
        town.site.forget_calls()
        assert list(town.verdicts(limit=5).values()).count("stopped") == 5
        assert sum(town.site.asked("signs").values()) == 5, "the exact look right before each stop"
    finally:
        town.site.close()


def test_without_shells_the_engines_are_asked_about_some_in_each_run() -> None:
    """Nobody is lost: who wasn't looked at for longest is first in the next run."""
    town = make_town("n1")
    try:
        users = [f"u{n:02}" for n in range(2 * LOOKS_PER_RUN + 6)]
        town.site.run("place", *users)
        town.shells["n1"].refuses = "This account is currently not available."
        town.site.clock.advance(HALF_HOUR)
        ((_, container),) = town.site.of(users[-1])
        container.tx = 10**6  # since the look at their start: the only thing that tells of them
        seen: dict[str, str] = {}
        for run in range(3):
            town.site.forget_calls()
            found = town.reap(limit=1)
            assert sum(town.site.asked("signs").values()) <= LOOKS_PER_RUN + 1, run
            seen |= {user: verdict for user, (verdict, reason) in found.items() if "a later run" not in reason}
            town.site.clock.advance(10)
        assert seen[users[-1]] == "kept"
        assert town.site.store.activity([users[-1]])[users[-1]].source == "network"
        assert sum(verdict == "stopped" for verdict in seen.values()) >= 1
        assert len(seen) == len(users), "everybody had their turn"
        later = [reason for verdict, reason in town.reap(dry_run=True).values() if verdict == "unknown"]
        assert later
        assert "looked at in a later run" in later[0]
    finally:
        town.site.close()


def test_an_open_connection_keeps_and_is_recorded(town: Town) -> None:
    town.site.clock.advance(HALF_HOUR)
    town.shell_of("alice").visits["alice"] = 2
    found = town.reap()
    assert found["alice"] == ("kept", "connections: 2 open to its port")
    assert found["bob"][0] == "stopped"
    assert town.site.store.activity(["alice"])["alice"].source == "connections"
    town.shell_of("alice").visits.clear()
    town.site.clock.advance(HALF_HOUR)
    assert town.verdicts() == {"alice": "stopped"}


def test_somebody_who_connects_after_the_first_look_is_kept(town: Town) -> None:
    town.site.clock.advance(HALF_HOUR)
    shell = town.shell_of("alice")
    run = shell.run

    def second(argv: Sequence[str]) -> tuple[int, str]:
        shell.visits["alice"] = int(shell.runs > 0)
        return run(argv)

    shell.run = second  # type: ignore[method-assign]
    found = town.reap(users=["alice"])
    assert found == {"alice": ("kept", "looked again: connections: 1 open to its port")}


def with_class(town: Town, **keys: Any) -> None:
    town.site.classes["default"] = replace(SPEC, **keys)


def test_a_class_may_not_count_connections(town: Town) -> None:
    with_class(town, busy_connections=False)
    town.site.clock.advance(HALF_HOUR)
    town.shell_of("alice").visits["alice"] = 2
    assert town.verdicts() == {"alice": "stopped", "bob": "stopped"}


@pytest.mark.parametrize(("counts", "verdict"), [(None, "stopped"), (True, "unknown"), (False, "stopped")])
def test_where_no_command_can_be_run_only_those_who_must_be_seen_stay(
    town: Town, counts: bool | None, verdict: str
) -> None:
    with_class(town, busy_connections=counts)
    for shell in town.shells.values():
        shell.refuses = "This account is currently not available."
    town.site.clock.advance(HALF_HOUR)
    found = town.reap()
    assert {item[0] for item in found.values()} == {verdict}
    if counts:
        why = "connections to its port can't be seen: no commands can be run there: exit code 1: This account"
        assert found["alice"][1].startswith(why)


def test_a_shell_that_fails_this_time_keeps(town: Town) -> None:
    """What can be seen on other days isn't taken for nothing."""
    town.site.clock.advance(HALF_HOUR)
    shell = town.shell_of("alice")
    shell.refuses = NodeUnreachable("n1", "sh didn't end within 15 s")
    verdict, reason = town.reap(users=["alice"])["alice"]
    assert (verdict, reason) == ("unknown", "connections to its port can't be seen: sh didn't end within 15 s")
    shell.refuses = None
    assert town.verdicts(users=["alice"]) == {"alice": "stopped"}


def test_processes_that_are_hidden_are_asked_of_the_engine(town: Town) -> None:
    town.site.clock.advance(HALF_HOUR)
    town.shell_of("alice").hidden.add("alice")
    ((_, container),) = town.site.of("alice")
    container.execs = 1
    assert town.reap(users=["alice"]) == {"alice": ("kept", "exec: 1 open session")}


def test_a_class_may_not_count_traffic(town: Town) -> None:
    """For pages that ping: the gateway's log is the better witness then."""
    with_class(town, busy_bytes=None)
    town.site.clock.advance(HALF_HOUR)
    ((_, container),) = town.site.of("alice")
    container.tx = 10**9
    assert town.verdicts(users=["alice"]) == {"alice": "stopped"}


def test_a_class_may_count_less_traffic(town: Town) -> None:
    with_class(town, busy_bytes=10**6)
    town.site.clock.advance(HALF_HOUR)
    for user, grows in (("alice", 999_999), ("bob", 10**6)):
        ((_, container),) = town.site.of(user)
        container.tx = (container.tx or 0) + grows
    assert town.verdicts() == {"alice": "stopped", "bob": "kept"}


def test_without_any_counter_that_counts_a_change_of_container_is_no_doubt(town: Town) -> None:
    with_class(town, busy_bytes=None, busy_cpus=None)
    town.site.store.database.write(lambda session: session.execute("DELETE FROM samples"))
    town.site.clock.advance(HALF_HOUR)
    assert town.verdicts() == {"alice": "stopped", "bob": "stopped"}


def test_a_bug_while_looking_is_raised(town: Town) -> None:
    town.site.clock.advance(HALF_HOUR)
    town.shell_of("alice").refuses = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        town.reap()


# who comes back when the placement says already that it is being stopped


def test_a_touch_right_before_the_stop_leaves_the_workspace_running(town: Town) -> None:
    town.site.clock.advance(HALF_HOUR)
    before = town.site.store.placement("alice")
    assert before is not None
    states: list[str] = []

    class Late(Reaper):
        def _last_look(self, user: str) -> None:
            states.append(town.site.store.states()[user])
            town.site.clock.advance(1)
            town.site.store.touch([user], town.site.clock.now(), "touch")
            super()._last_look(user)

    with town.site.process() as commands:
        (item,) = Late(commands.world, ReapOptions(users=["alice"])).run()
    assert states == ["stopping"], "everybody could read it before the last look"
    assert (item.verdict.value, item.reason[:12]) == ("kept", "looked again")
    after = town.site.store.placement("alice")
    assert after is not None
    assert after.state is PlacementState.RUNNING
    assert after.generation > before.generation, "who still held the stop of before can't carry it out"
    ((node, container),) = town.site.of("alice")
    assert container.state == "running"
    assert ("stop", "ws-u-alice") not in town.site.fleet[node].calls


def test_who_is_too_old_is_stopped_whatever_happens(town: Town) -> None:
    with_class(town, max_age_s=60.0)
    town.site.clock.advance(61)

    class Late(Reaper):
        def _last_look(self, user: str) -> None:
            town.site.store.touch([user], town.site.clock.now(), "touch")
            super()._last_look(user)

    with town.site.process() as commands:
        (item,) = Late(commands.world, ReapOptions(users=["alice"])).run()
    assert item.verdict.value == "stopped"


# the script's answers


class Said:
    def __init__(self, said: str, code: int = 0) -> None:
        self.said, self.code = said, code

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        return self.code, self.said


ID = "ab" * 32


@pytest.mark.parametrize(
    "line",
    ["", f"{ID[:12]}", f"{ID[:12]} x 1 1", f"{ID[:12]} 1 1 1 port", f"{ID[:12]} 1 1 1 zz=1", f"{'cd' * 6} 1 1 1"],
)
def test_lines_that_arent_the_scripts_are_left_out(line: str) -> None:
    assert look_at_node(Said(f"motd\n==look 1\n{line}\n==end\n"), [ID]) == {}


def test_a_reading(town: Town) -> None:
    found = look_at_node(Said(f"==look 1\n{ID[:12]} 792 - 3 1F90=2 0016=1\n==end\n"), [ID])
    assert isinstance(found, dict)
    one = found[ID]
    assert (one.tx_bytes, one.cpu_ns, one.execs, one.connections) == (792, None, 2, {8080: 2, 22: 1})


@pytest.mark.parametrize("cut", ["", "==look 1\n", "==end\n", "\x1b[31mno shell\n"])
def test_what_isnt_whole_is_no_look(cut: str) -> None:
    found = look_at_node(Said(cut, 127), [ID])
    assert isinstance(found, str)
    assert "exit code 127" in found
    assert "\x1b" not in found
