"""The reaper against a real store: when in doubt it keeps, it looks again before it stops, and it says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from tests.worlds import SPEC, Commands, Site, invariants, make_site
from wsctl.errors import EngineError, HookError, NodeUnreachable
from wsctl.evidence import INGESTED, KEEP_ALIVE
from wsctl.model import PlacementState, WorkspaceSpec
from wsctl.planner.idle import NOISE_BYTES, IdleVerdict
from wsctl.reaper import Reaper, ReapOptions
from wsctl.store.store import SqlStore

HALF_HOUR = 1800.0


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site()
    site.run("place", "alice", "bob")
    yield site
    site.close()


def reap(site: Site, **options: object) -> dict[str, tuple[str, str]]:
    """One run: (verdict, reason) of each user."""
    return {item.user: (item.verdict.value, item.reason) for item in reap_whole(site, **options)}


def reap_whole(site: Site, **options: object) -> list[IdleVerdict]:
    with site.process() as commands:
        return Reaper(commands.world, ReapOptions(**options)).run()  # type: ignore[arg-type]


def verdicts(site: Site, **options: object) -> dict[str, str]:
    """One run: the verdict of each user."""
    return {user: verdict for user, (verdict, _) in reap(site, **options).items()}


def states(site: Site) -> dict[str, PlacementState]:
    return {p.user: p.state for p in site.store.placements()}


def sends(site: Site, user: str, count: int) -> None:
    """The user's container answers somebody."""
    ((_, container),) = site.of(user)
    container.tx = (container.tx or 0) + count


def test_the_idle_are_stopped_and_those_who_came_back_are_kept(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    site.store.touch(["bob"], site.clock.now(), "touch")
    found = reap(site)
    assert found["alice"] == ("stopped", "idle for 30m 1s (last: start), limit 30m")
    assert found["bob"][0] == "kept"
    assert "(touch)" in found["bob"][1]
    assert states(site) == {"alice": PlacementState.STOPPED, "bob": PlacementState.RUNNING}
    invariants(site)
    assert verdicts(site) == {"bob": "kept"}, "the stopped aren't judged"


def test_nobody_is_stopped_before_the_limit(site: Site) -> None:
    site.clock.advance(HALF_HOUR - 1)
    assert verdicts(site) == {"alice": "kept", "bob": "kept"}


def test_traffic_between_two_runs_is_activity_and_is_recorded(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    sends(site, "alice", NOISE_BYTES)
    sends(site, "bob", NOISE_BYTES - 1)
    found = reap(site)
    assert found["alice"] == ("kept", f"network: sent {NOISE_BYTES} bytes since the last look")
    assert found["bob"][0] == "stopped"
    activity = site.store.activity(["alice"])["alice"]
    assert (activity.source, activity.last_active_at) == ("network", site.clock.now())
    site.clock.advance(HALF_HOUR)
    assert verdicts(site) == {"alice": "stopped"}


def test_a_class_that_is_never_stopped_is_kept(site: Site) -> None:
    site.classes["default"] = WorkspaceSpec(image=SPEC.image, resources=SPEC.resources, idle_after_s=None)
    site.clock.advance(10**6)
    assert verdicts(site) == {"alice": "kept", "bob": "kept"}
    assert verdicts(site, idle_s=1.0) == {"alice": "kept", "bob": "kept"}, "--idle doesn't override never"


def test_the_limit_can_be_given_for_a_run(site: Site) -> None:
    site.clock.advance(61)
    assert verdicts(site, idle_s=60.0) == {"alice": "stopped", "bob": "stopped"}


def test_only_the_named_users_and_only_so_many(site: Site) -> None:
    site.run("place", "carol")
    site.clock.advance(HALF_HOUR + 1)
    assert verdicts(site, users=["carol", "nobody"], dry_run=True) == {"carol": "would-stop"}
    assert verdicts(site, limit=2) == {"alice": "stopped", "bob": "stopped", "carol": "would-stop"}
    assert verdicts(site, limit=2) == {"carol": "stopped"}


def test_a_dry_run_changes_nothing_not_even_the_counters(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    sends(site, "alice", 10**6)
    before = (site.store.samples(), site.store.activity(), site.store.placements())
    assert verdicts(site, dry_run=True) == {"alice": "kept", "bob": "would-stop"}
    assert (site.store.samples(), site.store.activity(), site.store.placements()) == before
    assert verdicts(site) == {"alice": "kept", "bob": "stopped"}


def test_a_silent_node_keeps_its_users_unknown_and_stops_the_others(site: Site) -> None:
    homes = {p.user: p.node for p in site.store.placements()}
    site.fleet.cut(homes["alice"])
    site.clock.advance(HALF_HOUR + 1)
    found = reap(site)
    assert found["alice"] == ("unknown", f"{homes['alice']} does not answer")
    assert found["bob"][0] == "stopped"
    assert states(site)["alice"] is PlacementState.RUNNING


def test_missing_data_keeps(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    ((node, container),) = site.of("alice")
    container.tx = None
    site.store.database.write(lambda session: session.execute("DELETE FROM samples WHERE user = 'bob'"))
    found = reap(site)
    assert found["alice"] == ("unknown", "its network counters can't be read")
    assert found["bob"] == ("unknown", "first look at its network counters")
    found = reap(site, users=["bob"])
    assert found["bob"][0] == "stopped", "the second look has something to compare with"
    site.fleet[node].exit("ws-u-alice")
    assert reap(site) == {"alice": ("unknown", "its container does not run")}
    site.fleet[node].remove("ws-u-alice")
    assert reap(site) == {"alice": ("unknown", "its container is missing")}


def test_counters_that_cannot_be_asked_keep(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("signs", NodeUnreachable(node, "timed out"))
    assert reap(site)["alice"] == ("unknown", "its network counters can't be read")


def test_a_user_without_any_recorded_activity_is_unknown(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    site.store.database.write(lambda session: session.execute("DELETE FROM activity"))
    assert verdicts(site) == {"alice": "unknown", "bob": "unknown"}


@pytest.mark.parametrize("how", ["touch", "network", "stopped", "gone"])
def test_who_comes_back_between_the_look_and_the_lease_is_kept(site: Site, how: str) -> None:
    site.clock.advance(HALF_HOUR + 1)

    def comes_back() -> None:
        if how == "touch":
            site.store.touch(["alice"], site.clock.now(), "touch")
        elif how == "network":
            sends(site, "alice", 10**6)
        elif how == "stopped":
            site.run("stop", "alice")
        else:
            site.run("rm", "alice")

    class AfterTheLook:
        def __init__(self, store: SqlStore) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            if name == "save_samples":
                # What the reaper does last before it asks for leases.
                self._store, store = self._store, self._store
                value = store.save_samples

                def saved(samples: object) -> None:
                    value(samples)  # type: ignore[arg-type]
                    comes_back()

                return saved
            return getattr(self._store, name)

    with site.process() as commands:
        world = replace(commands.world, store=AfterTheLook(site.store))  # type: ignore[arg-type]
        found = {item.user: item for item in Reaper(world, ReapOptions(users=["alice"])).run()}
    assert found["alice"].verdict.value == "kept"
    assert "looked again" in found["alice"].reason
    if how in ("touch", "network"):
        assert states(site)["alice"] is PlacementState.RUNNING
    invariants(site)


def test_somebody_acting_on_a_user_keeps_them(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    with site.leases.acquire(["user:alice"], command="migrate-user"):
        found = reap(site)
    assert found["alice"][0] == "kept"
    assert "somebody is acting on it" in found["alice"][1]
    assert found["bob"][0] == "stopped"


def test_a_stop_that_fails_is_said_and_does_not_stop_the_rest(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("stop", EngineError(node, "cannot kill container"))
    found = reap(site)
    assert found["alice"] == ("failed", f"{node}: cannot kill container")
    assert found["bob"][0] == "stopped"


def test_an_operation_cut_short_is_not_judged(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    site.store.claim("alice", 1, PlacementState.STARTING)
    assert reap(site)["alice"] == ("kept", "starting: an operation is under way or was cut short")


def test_every_signal_is_shown_with_its_source_and_age(site: Site) -> None:
    site.clock.advance(60)
    (item,) = reap_whole(site, users=["alice"])
    assert [signal["source"] for signal in item.signals] == ["start"], "who can't be idle yet isn't asked"
    (item,) = reap_whole(site, users=["alice"], thorough=True)
    found = [(signal["source"], signal["age_s"]) for signal in item.signals]
    assert found == [("start", 60.0), ("network", 60.0), ("cpu", 60.0), ("connections", None)]
    assert item.last_active_at is not None


def test_outcomes_are_reported_as_they_come(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    with site.process() as commands:
        assert sorted(outcome.target for outcome in Commands(commands.world).reap()) == ["alice", "bob"]


def test_a_bug_while_reading_counters_is_raised(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("signs", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        reap(site)


def test_an_empty_cluster_is_nothing_to_do() -> None:
    site = make_site()
    try:
        assert reap(site) == {}
        assert site.asked() == {}
    finally:
        site.close()


def test_a_freshly_emptied_activity_table_stops_nobody(site: Site) -> None:
    site.clock.advance(10 * HALF_HOUR)
    site.store.database.write(lambda session: session.execute("DELETE FROM activity"))
    site.store.touch(["bob"], site.clock.now(), "touch")
    site.clock.advance(HALF_HOUR - 1)
    old = site.clock.now().replace(year=2020)
    site.store.touch(["alice"], old, "restored")
    assert reap(site)["alice"] == ("unknown", "activity is recorded for 29m 59s only, limit 30m")
    site.clock.advance(1)
    assert verdicts(site) == {"alice": "stopped", "bob": "stopped"}, "from then on it is known who was active"


def test_data_of_before_the_sentinel_stop_nobody_at_first(site: Site) -> None:
    site.store.database.write(lambda session: session.execute("DELETE FROM activity WHERE user = ''"))
    site.clock.advance(2 * HALF_HOUR)
    why = ("unknown", "it isn't known since when activity is recorded")
    assert reap(site, dry_run=True) == {"alice": why, "bob": why}
    assert reap(site) == {"alice": why, "bob": why}
    site.clock.advance(HALF_HOUR)
    assert verdicts(site) == {"alice": "stopped", "bob": "stopped"}


def test_who_runs_without_any_activity_is_counted_from_the_first_look(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    site.store.database.write(lambda session: session.execute("DELETE FROM activity WHERE user = 'alice'"))
    assert reap(site, users=["alice"])["alice"] == ("unknown", "no activity was ever recorded; it counts from now")
    assert site.store.activity(["alice"])["alice"].source == "seen"
    site.clock.advance(HALF_HOUR - 1)
    assert verdicts(site, users=["alice"]) == {"alice": "kept"}
    site.clock.advance(1)
    assert verdicts(site, users=["alice"]) == {"alice": "stopped"}


def test_a_new_start_keeps(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    site.run("restart", "alice")
    assert verdicts(site) == {"alice": "kept", "bob": "stopped"}


@pytest.mark.parametrize("sign", ["exec", "cpu"])
def test_what_goes_on_in_a_container_keeps_it_and_is_recorded(site: Site, sign: str) -> None:
    site.clock.advance(HALF_HOUR)
    ((_, container),) = site.of("alice")
    if sign == "exec":
        container.execs = 1
    else:
        container.cpu_ns = round(0.2 * HALF_HOUR * 1e9)
    found = reap(site)
    assert found["alice"][1].startswith(sign)
    assert found["bob"][0] == "stopped"
    assert site.store.activity(["alice"])["alice"].source == sign
    container.execs = 0
    site.clock.advance(HALF_HOUR)
    assert verdicts(site) == {"alice": "stopped"}


def test_users_may_have_limits_of_their_own(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    limits = {"alice": None, "bob": 2 * HALF_HOUR}
    assert verdicts(site, user_limits=limits) == {"alice": "kept", "bob": "kept"}
    site.clock.advance(HALF_HOUR)
    assert verdicts(site, user_limits=limits) == {"alice": "kept", "bob": "stopped"}


def test_an_operator_may_keep_somebody_until_a_time(site: Site) -> None:
    until = site.clock.now() + timedelta(hours=2)
    site.store.set_notes(KEEP_ALIVE, {"alice": until.isoformat(), "bob": "soon"}, site.clock.now())
    site.clock.advance(HALF_HOUR)
    assert verdicts(site) == {"alice": "kept", "bob": "stopped"}
    site.clock.advance(3 * HALF_HOUR)
    assert verdicts(site) == {"alice": "stopped"}


def test_an_access_log_that_is_not_read_any_more_keeps(site: Site) -> None:
    site.store.set_notes(INGESTED, {"/var/log/nginx/ws.log": "{}"}, site.clock.now())
    site.clock.advance(HALF_HOUR)
    verdict, reason = reap(site)["alice"]
    assert verdict == "unknown"
    assert reason.startswith("the access log /var/log/nginx/ws.log was last read 30m ago")
    site.store.set_notes(INGESTED, {"/var/log/nginx/ws.log": "{}"}, site.clock.now())
    assert verdicts(site) == {"alice": "stopped", "bob": "stopped"}


def test_a_maximum_age_stops_the_busy(site: Site) -> None:
    site.classes["default"] = replace(SPEC, idle_after_s=None, max_age_s=3600.0)
    site.clock.advance(3600)
    sends(site, "alice", 10**6)
    assert reap(site)["alice"] == ("stopped", "running for 1h, max_age 1h")


def test_two_runs_at_once_do_the_work_of_one(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    found: list[str] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        with site.process() as commands:
            reaper = Reaper(replace(commands.world, lease_wait_s=5.0), ReapOptions())
            barrier.wait()
            found.extend(item.verdict.value for item in reaper.run())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(site) == {"alice": PlacementState.STOPPED, "bob": PlacementState.STOPPED}
    stops = [call for engine in site.fleet.engines.values() for call in engine.calls if call[0] == "stop"]
    assert len(stops) == 2, "nobody was stopped twice"
    assert "failed" not in found
    invariants(site)


def test_a_second_look_never_misses_what_the_first_saw(site: Site) -> None:
    """A run that has saved new counters, which don't show the traffic any more, has recorded the activity before."""
    site.clock.advance(HALF_HOUR)
    sends(site, "alice", 10**6)
    stopped_at: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            value = getattr(site.store, name)

            def call(*args: object, **more: object) -> object:
                result = value(*args, **more)
                if name in ("touch_at", "save_samples"):
                    stopped_at.append(name)
                    assert verdicts(site, users=["alice"]) == {"alice": "kept"}, name
                return result

            return call if callable(value) else value

    with site.process() as commands:
        world = replace(commands.world, store=Watched())  # type: ignore[arg-type]
        Reaper(world, ReapOptions(users=["alice"])).run()
    assert stopped_at == ["touch_at", "save_samples"]


def test_a_stop_that_failed_is_tried_again(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("stop", EngineError(node, "cannot kill container"))
    assert verdicts(site, users=["alice"]) == {"alice": "failed"}
    assert states(site)["alice"] is PlacementState.STOPPING
    assert verdicts(site, users=["alice"]) == {"alice": "stopped"}
    invariants(site)


def test_a_failed_stop_of_somebody_who_came_back_is_not_tried_again(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("stop", EngineError(node, "cannot kill container"))
    reap(site, users=["alice"])
    site.store.touch(["alice"], site.clock.now(), "touch")
    assert verdicts(site, users=["alice"]) == {"alice": "kept"}


def test_a_stop_whose_answer_was_lost_is_finished(site: Site) -> None:
    site.clock.advance(HALF_HOUR)
    ((node, container),) = site.of("alice")
    site.fleet[node].lose_reply("stop")
    assert verdicts(site, users=["alice"]) == {"alice": "failed"}
    assert container.state == "exited"
    assert reap(site, users=["alice"]) == {"alice": ("stopped", "its stop was cut short")}
    invariants(site)


# ------------------------------------------------------------------------------------------------------- notices


class Told:
    """A hook. `broken`: it fails for these users."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, object]] = []
        self.broken: set[str] = set()

    def __call__(self, message: Mapping[str, object]) -> None:
        if message["user"] in self.broken:
            raise HookError("the hook failed: exit code 1")
        self.messages.append(message)

    @property
    def users(self) -> list[object]:
        return sorted(str(message["user"]) for message in self.messages)


def test_users_are_told_once_and_stopped_after_it(site: Site) -> None:
    told = Told()
    rules = {"notify": told, "notice_s": 600.0}
    site.clock.advance(HALF_HOUR - 601)
    reap(site, **rules)
    assert told.users == []
    site.clock.advance(1)
    assert verdicts(site, **rules) == {"alice": "kept", "bob": "kept"}
    assert told.users == ["alice", "bob"]
    assert told.messages[0]["stops_at"] == site.clock.now() + timedelta(seconds=600)
    site.clock.advance(300)
    reap(site, **rules)
    site.store.touch(["bob"], site.clock.now(), "touch")
    site.clock.advance(300)
    assert verdicts(site, **rules) == {"alice": "stopped", "bob": "kept"}
    assert told.users == ["alice", "bob"], "once"
    site.clock.advance(HALF_HOUR - 600)
    reap(site, **rules)
    assert told.users == ["alice", "bob", "bob"], "once in each idle period"


def test_a_stop_waits_for_its_notice(site: Site) -> None:
    told = Told()
    rules = {"notify": told, "notice_s": 600.0}
    site.clock.advance(HALF_HOUR * 4)
    assert reap(site, **rules)["alice"] == (
        "kept", "idle for 2h (last: start), limit 30m; stops 10m after the notice",
    )  # fmt: skip
    site.clock.advance(599)
    assert verdicts(site, **rules)["alice"] == "kept"
    site.clock.advance(1)
    assert verdicts(site, **rules)["alice"] == "stopped"


def test_a_rehearsal_tells_nobody(site: Site) -> None:
    told = Told()
    site.clock.advance(HALF_HOUR)
    reap(site, notify=told, dry_run=True)
    assert told.users == []


def test_a_notice_that_failed_stops_nobody_and_is_given_again(site: Site) -> None:
    told = Told()
    told.broken = {"alice"}
    options = ReapOptions(notify=told, notice_s=600.0)
    for expected in ({"alice": "kept", "bob": "kept"}, {"alice": "kept", "bob": "stopped"}):
        site.clock.advance(HALF_HOUR)
        with site.process() as commands:
            reaper = Reaper(commands.world, options)
            assert {item.user: item.verdict.value for item in reaper.run()} == expected
            assert reaper.unheard == {"alice": "the hook failed: exit code 1"}
    told.broken = set()
    reap(site, notify=told)
    assert told.users == ["alice", "bob"]


def test_while_another_run_gives_notice_nobody_is_told_twice(site: Site) -> None:
    told = Told()
    site.clock.advance(HALF_HOUR)
    with site.leases.acquire(["reap:notice"], command="reap-idle"):
        assert verdicts(site, notify=told) == {"alice": "kept", "bob": "kept"}
    assert told.users == []


def test_a_hook_may_take_as_long_as_it_is_allowed_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is its own: a notice that was given isn't given again because it took a while."""
    passed = [0.0]
    watch = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr("wsctl.transport.fanout.time", watch)
    told: list[object] = []

    def slow(message: Mapping[str, object]) -> None:
        passed[0] += 40.0
        time.sleep(0.7)  # whoever waits for us looks up meanwhile
        told.append(message["user"])

    site.clock.advance(HALF_HOUR)
    assert verdicts(site, users=["alice"], notify=slow) == {"alice": "kept"}
    monkeypatch.undo()
    assert told == ["alice"]
    site.clock.advance(600)
    assert verdicts(site, users=["alice"], notify=slow) == {"alice": "stopped"}
    assert told == ["alice"]
