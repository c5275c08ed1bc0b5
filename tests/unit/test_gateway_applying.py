"""Applying the map on a gateway in memory: the order of the steps, every way out, at most one reload a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fakes import FakeClock
from tests.gateways import FakeGateway
from tests.worlds import make_site
from wsctl.errors import BackendError, GatewayError, LeaseHeld, LeaseLost, NodeUnreachable, Refused, WsctlError
from wsctl.gateway import Applied, Applier, ApplyOptions, Maps
from wsctl.livemap import Wanted, wanted_map
from wsctl.nginx import MapRefused
from wsctl.ports import Leases
from wsctl.routes import Route, render_map

REPLACED = ["upload", "swap", "test", "reload", "finish"]


def a_map(generation: int, *users: str) -> Wanted:
    routes = [Route(user, "10.0.0.1", 20000 + number) for number, user in enumerate(sorted(users))]
    return wanted_map(render_map(routes, generation))


ONE, TWO, THREE = a_map(1, "alice"), a_map(2, "alice", "bob"), a_map(3, "alice", "bob", "carol")


@dataclass
class Rig:
    """One gateway that serves ONE, and the map that it should have."""

    leases: Leases
    clock: FakeClock
    wanted: Wanted = TWO
    gateway: FakeGateway = field(default_factory=lambda: FakeGateway(live=ONE.text, served=ONE.text))
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.sleep(seconds)

    def now(self) -> Any:
        return self.clock.now()

    def apply(self, **options: Any) -> Applied:
        (found,) = Applier(
            lambda name: self.gateway,
            lambda: self.wanted,
            self.leases,
            self,
            ApplyOptions(**{"confirm_s": 0.0, **options}),
        ).run(["edge"])
        return found

    def error(self, **options: Any) -> WsctlError:
        found = self.apply(**options)
        assert found.action == "failed"
        assert found.error is not None
        return found.error


@pytest.fixture
def rig() -> Iterator[Rig]:
    site = make_site()
    yield Rig(site.leases, site.clock)
    site.close()


def test_a_new_map_is_uploaded_swapped_tested_reloaded_and_confirmed(rig: Rig) -> None:
    found = rig.apply()
    assert (found.action, found.generation, found.routes) == ("applied", 2, 2)
    assert rig.gateway.calls == REPLACED
    assert rig.gateway.live == rig.gateway.served == TWO.text
    assert rig.gateway.kept is None
    assert sum(rig.slept) > 0.1, "the answers are further apart than old workers accept"
    assert max(rig.slept) < 0.1, "the first change after a while waits for nothing"


def test_no_change_is_no_call_that_changes_anything(rig: Rig) -> None:
    rig.wanted = ONE
    assert rig.apply() == Applied("edge", "unchanged", 1, 1, snippet_current=True)
    rig.wanted = a_map(9, "alice")
    assert rig.apply().generation == 1, "the same routes under a later generation are the same map"
    assert rig.gateway.calls == []


def test_a_dry_run_changes_nothing(rig: Rig) -> None:
    assert rig.apply(dry_run=True) == Applied("edge", "would-apply", 2, 2, snippet_current=True)
    assert rig.gateway.calls == []


def test_the_first_map_is_removed_again_if_it_is_refused(rig: Rig) -> None:
    rig.gateway = FakeGateway(refuses=lambda text: None if text is None else "nginx: [emerg] no in /a.conf:7")
    error = rig.error()
    assert isinstance(error, MapRefused)
    assert "/a.conf:7: no" in error.message
    assert "there is no map, as before" in error.message
    assert rig.gateway.live is None
    assert rig.gateway.calls == ["upload", "swap", "test", "put back"]


@pytest.mark.parametrize("reloads", ["no", "silently not"])
def test_the_first_map_stays_once_nginx_accepted_it(rig: Rig, reloads: str) -> None:
    """A configuration that includes the snippet can't start without a map: removing it would keep Nginx down."""
    rig.gateway = FakeGateway(reloads=reloads)
    assert "as there was none before" in rig.error().message
    assert rig.gateway.live == TWO.text
    rig.gateway.reloads = "yes"
    rig.gateway.age_s = 3600.0
    assert rig.apply().action == "applied"


def test_what_nginx_refuses_without_the_new_map_too_is_not_its_fault(rig: Rig) -> None:
    rig.gateway.refuses = lambda text: 'nginx: [emerg] unknown directive "x" in /theirs.conf:3'
    error = rig.error()
    assert "isn't the map's fault" in error.message
    assert (error.details["file"], error.details["line"]) == ("/theirs.conf", 3)
    assert rig.gateway.live == rig.gateway.served == ONE.text


def test_a_failed_reload_brings_the_old_map_back(rig: Rig) -> None:
    rig.gateway.reloads = "no"
    error = rig.error()
    assert isinstance(error, GatewayError)
    assert "nginx.pid" in error.message
    assert rig.gateway.live == ONE.text


def test_a_reload_that_changes_nothing_brings_the_old_map_back_and_reloads(rig: Rig) -> None:
    rig.gateway.reloads = "silently not"
    error = rig.error()
    assert f"still serves generation 1 ({ONE.digest[:7]}), not 2 ({TWO.digest[:7]})" in error.message
    assert rig.gateway.live == ONE.text
    assert rig.gateway.calls == ["upload", "swap", "test", "reload", "put back", "reload"]


def test_old_workers_that_still_answer_delay_the_confirmation(rig: Rig) -> None:
    asked = 0

    def sometimes(call: str) -> None:
        """The third answer after the reload comes from an old worker once more."""
        nonlocal asked
        if call == "status" and "reload" in rig.gateway.calls:
            asked += 1
            rig.gateway.served = ONE.text if asked == 3 else TWO.text

    rig.gateway.before = sometimes
    assert rig.apply(confirm_s=30.0).action == "applied"
    assert asked == 3 + 5


def test_a_file_that_the_workers_do_not_have_is_only_reloaded(rig: Rig) -> None:
    """What a run leaves that was killed between swap and reload."""
    rig.gateway = FakeGateway(live=TWO.text, kept=ONE.text, served=ONE.text)
    assert rig.apply().action == "applied"
    assert rig.gateway.calls == ["test", "reload", "finish"]
    assert rig.gateway.kept is None


def test_what_was_good_last_is_kept_over_a_run_that_was_cut_off(rig: Rig) -> None:
    rig.wanted = THREE
    rig.gateway = FakeGateway(live=TWO.text, kept=ONE.text, served=ONE.text, reloads="silently not")
    rig.error()
    assert rig.gateway.live == ONE.text


def test_a_run_killed_after_the_confirmation_leaves_only_tidying(rig: Rig) -> None:
    rig.gateway = FakeGateway(live=TWO.text, kept=ONE.text, served=TWO.text)
    assert rig.apply().action == "unchanged"
    assert rig.gateway.calls == ["finish"]


@pytest.mark.parametrize("at", REPLACED)
def test_whatever_step_a_run_dies_at_the_next_one_arrives(rig: Rig, at: str) -> None:
    def die(call: str) -> None:
        if call == at:
            raise NodeUnreachable("edge", "the connection broke")

    rig.gateway.before = die
    assert isinstance(rig.error(), NodeUnreachable)
    assert rig.gateway.live in (ONE.text, TWO.text), "whole"
    rig.gateway.before = lambda call: None
    rig.gateway.age_s = 3600.0
    assert rig.apply().error is None
    assert rig.gateway.live == rig.gateway.served == TWO.text
    assert (rig.gateway.kept, rig.gateway.uploaded) == (None, None)


def test_a_test_that_hangs_brings_the_old_map_back(rig: Rig) -> None:
    def hang(call: str) -> None:
        if call == "test":
            raise NodeUnreachable("edge", "sh didn't end within 120 s")

    rig.gateway.before = hang
    assert isinstance(rig.error(), NodeUnreachable)
    assert (rig.gateway.live, rig.gateway.calls) == (ONE.text, ["upload", "swap", "put back"])


def test_a_map_loaded_less_than_a_second_ago_is_waited_for_and_later_changes_ride_along(rig: Rig) -> None:
    rig.gateway.age_s = 0.25

    def change(seconds: float) -> None:
        rig.wanted = THREE
        Rig.sleep(rig, seconds)

    rig.sleep = change  # type: ignore[method-assign]
    assert rig.apply().generation == 3
    assert rig.slept[0] == pytest.approx(0.75)
    assert rig.gateway.calls.count("reload") == 1


def test_nobody_waits_when_there_is_nothing_to_do(rig: Rig) -> None:
    rig.wanted, rig.gateway.age_s = ONE, 0.1
    assert rig.apply().action == "unchanged"
    assert rig.slept == []


def edited(text: str) -> str:
    return text.replace("10.0.0.1:20000", "10.6.6.6:20000")


@pytest.mark.parametrize(
    ("live", "says"),
    [(edited(ONE.text), "was edited by hand"), ("# mine\n", "isn't a route map"), (THREE.text, "map is older")],
)
def test_what_somebody_else_wrote_and_what_is_newer_stays_unless_forced(rig: Rig, live: str, says: str) -> None:
    rig.gateway.live = live
    error = rig.error()
    assert isinstance(error, Refused)
    assert says in error.message
    assert "--force" in str(error.hint)
    assert rig.gateway.calls == []
    assert rig.apply(force=True).action == "applied"
    assert rig.gateway.served == TWO.text


def test_somebody_elses_apply_is_waited_for(rig: Rig) -> None:
    with rig.leases.acquire(["gateway:edge"], command="render-gateway"):
        assert isinstance(rig.error(wait_s=0.0), LeaseHeld)
    assert rig.gateway.calls == []
    assert rig.apply().action == "applied"


def test_a_lost_lease_stops_before_the_next_effect(rig: Rig) -> None:
    def lose(call: str) -> None:
        if call == "upload":
            rig.leases.break_lease("gateway:edge")
            time.sleep(0.6)  # a proof that is younger than half a second counts

    rig.gateway.before = lose
    assert isinstance(rig.error(), LeaseLost)
    assert rig.gateway.calls == ["upload"]


def test_one_gateway_that_cannot_be_reached_does_not_stop_the_others(rig: Rig) -> None:
    gateways = {name: FakeGateway(live=ONE.text, served=ONE.text) for name in ("a", "c")}

    def connect(name: str) -> FakeGateway:
        if name not in gateways:
            raise NodeUnreachable(name, "no route to host")
        return gateways[name]

    render: Callable[[], Wanted] = lambda: TWO  # noqa: E731
    found = Applier(connect, render, rig.leases, rig, ApplyOptions()).run(["a", "b", "c"])
    assert [(one.gateway, one.action) for one in found] == [("a", "applied"), ("b", "failed"), ("c", "applied")]


def test_gateways_that_ask_together_share_a_map_and_later_ones_get_a_later_one(rig: Rig) -> None:
    made: list[float] = []
    together = threading.Barrier(4)

    def render() -> Wanted:
        made.append(time.monotonic())
        time.sleep(0.2)
        return TWO

    def connect(name: str) -> FakeGateway:
        together.wait(10)
        return FakeGateway(live=ONE.text, served=ONE.text)

    found = Applier(connect, render, rig.leases, rig, ApplyOptions()).run(["a", "b", "c", "d"])
    assert {one.action for one in found} == {"applied"}
    assert len(made) <= 2, "one for who asked before it was begun, one for who asked meanwhile"
    maps = Maps(render)
    before = len(made)
    maps.now(), maps.now()
    assert len(made) - before == 2, "what changes after a map was begun isn't in it"


def test_a_map_that_nobody_may_get_is_one_error(rig: Rig) -> None:
    gateways = {name: FakeGateway(live=ONE.text, served=ONE.text) for name in ("a", "b")}

    def render() -> Wanted:
        raise BackendError("a placement that must not reach Nginx")

    with pytest.raises(BackendError, match="must not reach Nginx"):
        Applier(gateways.__getitem__, render, rig.leases, rig, ApplyOptions()).run(["a", "b"])
    assert [one.calls for one in gateways.values()] == [[], []]
