"""The reaper against a real store: when in doubt it keeps, it looks again before it stops, and it says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.worlds import SPEC, Commands, Site, invariants, make_site
from wsctl.errors import EngineError, NodeUnreachable
from wsctl.model import PlacementState, WorkspaceSpec
from wsctl.planner import IdleVerdict
from wsctl.planner.idle import NOISE_BYTES
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
    site.fleet[node].fail("tx_bytes", NodeUnreachable(node, "timed out"))
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
    assert [(signal["source"], signal["age_s"]) for signal in item.signals] == [("start", 60.0), ("network", 60.0)]
    assert item.last_active_at is not None


def test_outcomes_are_reported_as_they_come(site: Site) -> None:
    site.clock.advance(HALF_HOUR + 1)
    with site.process() as commands:
        assert sorted(outcome.target for outcome in Commands(commands.world).reap()) == ["alice", "bob"]


def test_a_bug_while_reading_counters_is_raised(site: Site) -> None:
    ((node, _),) = site.of("alice")
    site.fleet[node].fail("tx_bytes", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        reap(site)


def test_an_empty_cluster_is_nothing_to_do() -> None:
    site = make_site()
    try:
        assert reap(site) == {}
        assert site.asked() == {}
    finally:
        site.close()
