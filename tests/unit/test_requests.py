"""The same request id gives the first result, whoever died in between; what is done is never done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from tests.builders import capacity
from tests.worlds import LEASE_S, Commands, Fault, Killed, Site, Wire, invariants, make_site
from wsctl.errors import LeaseHeld, UsageError, WsctlError
from wsctl.model import PlacementState
from wsctl.records import AuditKind
from wsctl.requests import Request, RequestMismatch, items_once, make_request, run
from wsctl.workflow import Operation, Options, Outcome, Workflow

DAY_S = 86_400.0
Ask = Callable[[Commands], Operation]


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site()
    yield site
    site.close()


def asked(request_id: str = "r1", verb: str = "place", **parameters: object) -> Request:
    request = make_request(request_id, verb, parameters, DAY_S)
    assert request is not None
    return request


def place(*users: str) -> Ask:
    return lambda commands: commands.place_operation(*users)


def verb(name: str, user: str = "alice", **more: Any) -> Ask:
    """The operation of another verb: what `Commands` would run."""

    def make(commands: Commands) -> Operation:
        found: list[Operation] = []

        def keep(operation: Operation, **options: Any) -> list[Outcome]:
            found.append(operation)
            return []

        commands.run = keep  # type: ignore[method-assign]
        getattr(commands, name)(user, **more)
        return found[0]

    return make


def request(site: Site, ask: Ask, what: Request | None = None, wire: Wire | None = None) -> list[Outcome]:
    """One run of a command with a request id, in a process of its own."""
    with site.process(wire) as commands:
        operation = ask(commands)
        return run(Workflow(commands.world), operation, Options(), what or asked(verb=operation.verb))


def words(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(o.target, o.action if o.error is None else o.error.code) for o in outcomes]


def test_the_second_time_nothing_happens_and_the_first_result_is_given(site: Site) -> None:
    first = request(site, place("alice", "bob"))
    site.run("stop", "bob")
    site.forget_calls()
    again = request(site, place("alice", "bob"))
    assert words(again) == words(first) == [("alice", "created"), ("bob", "created")]
    assert [o.placement for o in again] == [o.placement for o in first]
    assert not site.asked()
    invariants(site)


def test_without_an_id_it_is_just_run(site: Site) -> None:
    with site.process() as commands:
        for action in ("created", "unchanged"):
            found = run(Workflow(commands.world), commands.place_operation("alice"), Options(), None)
            assert words(found) == [("alice", action)]


def test_a_dry_run_is_no_request(site: Site) -> None:
    with site.process() as commands:
        run(Workflow(commands.world), commands.place_operation("alice"), Options(dry_run=True), asked())
    assert words(request(site, place("alice"))) == [("alice", "created")]


def test_other_parameters_are_refused(site: Site) -> None:
    request(site, place("alice"), asked(users=["alice"]))
    for other in (asked(users=["bob"]), asked(verb="stop", users=["alice"])):
        site.forget_calls()
        with pytest.raises(RequestMismatch, match=r"request id r1 was used at .* by tests@here:1") as caught:
            request(site, place("bob"), other)
        assert caught.value.exit_code == 5
        assert not site.asked()
    assert words(request(site, place("bob"), asked("r2", users=["bob"]))) == [("bob", "created")]


def test_a_failure_is_no_answer_and_what_is_done_stays_done() -> None:
    site = make_site("n1", capacity=capacity(workspaces=1))
    first = request(site, place("alice", "bob"))
    assert words(first) == [("alice", "created"), ("bob", "unschedulable")]
    site.nodes["n1"] = replace(site.nodes["n1"], capacity=capacity(workspaces=2))
    site.run("stop", "alice")
    again = request(site, place("alice", "bob"))
    assert words(again) == [("alice", "created"), ("bob", "created")]
    assert site.store.placements()[0].state is PlacementState.STOPPED, "alice's part was done before"
    assert words(request(site, place("alice", "bob"))) == words(again)
    site.close()


def test_somebody_who_works_on_it_now_is_busy(site: Site) -> None:
    with site.leases.acquire(["request:r1"], command="place"), pytest.raises(LeaseHeld):
        request(site, place("alice"))
    assert not site.store.placements()


def test_an_id_is_forgotten_after_its_time(site: Site) -> None:
    request(site, place("alice"))
    site.clock.advance(DAY_S + 1)
    assert words(request(site, place("alice"), asked(new="parameters"))) == [("alice", "unchanged")]


def prepared(name: str) -> Site:
    site = make_site()
    if name != "place":
        site.run("place", "alice")
    if name == "start":
        site.run("stop", "alice")
    return site


VERBS: dict[str, Ask] = {
    "place": place("alice"),
    "start": verb("start"),
    "stop": verb("stop"),
    "restart": verb("restart"),
    "recreate": verb("restart", recreate=True),
    "rm": verb("rm"),
    "purge": verb("rm", purge=True),
}


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.LOST_AFTER, Fault.LOST_BEFORE])
def test_killed_anywhere_the_same_request_gives_the_result_it_would_have_had(name: str, fault: Fault) -> None:
    """At every contact with the outside, found by running it once; a third call then gives the second's answer."""
    site = prepared(name)
    wire = Wire()
    whole = request(site, VERBS[name], wire=wire)
    site.close()
    contacts = len(wire.passed)
    assert contacts > 3
    for at in range(contacts):
        site = prepared(name)
        with suppress(Killed, WsctlError):
            request(site, VERBS[name], wire=Wire(fault, at))
        site.clock.advance(LEASE_S)
        done = {row.entry.target for row in site.store.audit(request_id="r1") if row.entry.kind is AuditKind.DONE}
        site.forget_calls()
        again = request(site, VERBS[name])
        assert words(again) == words(whole), f"{fault} at {at}: {wire.passed[at]}"
        if done:
            assert not site.asked(), f"{fault} at {at}: what was done was done again"
        assert words(request(site, VERBS[name])) == words(whole)
        invariants(site, purged=["alice"] if name == "purge" else [])
        site.close()


@pytest.mark.parametrize("bad", ["", " ", "a b", "x" * 129, "x" * 10_240, "ä", "a\nb", "\x1b[31m"])
def test_what_is_no_request_id(bad: str) -> None:
    with pytest.raises(UsageError, match="1 to 128 printable ASCII characters"):
        make_request(bad, "place", {}, DAY_S)


def test_the_digest_is_of_verb_and_parameters_in_any_order() -> None:
    one = asked(a=1, b=["x"])
    assert one.digest == asked(b=["x"], a=1).digest
    assert len({one.digest, asked(a=2, b=["x"]).digest, asked(verb="stop", a=1, b=["x"]).digest}) == 3


def test_items_come_back_as_they_were(site: Site) -> None:
    calls: list[int] = []

    def produce() -> list[dict[str, object]]:
        calls.append(1)
        return [{"user": "alice", "last_active_at": site.clock.now(), "signals": [{"at": site.clock.now()}], "n": None}]

    with site.process() as commands:
        first = items_once(commands.world, asked(), produce)
        assert items_once(commands.world, asked(), produce) == first
        assert items_once(commands.world, None, produce) == first
    assert len(calls) == 2


def test_items_that_are_no_answer_are_made_again(site: Site) -> None:
    answers = iter([[{"verdict": "failed"}], [{"verdict": "stopped"}]])
    with site.process() as commands:
        for _ in range(2):
            found = items_once(
                commands.world, asked(), lambda: list(next(answers)), lambda items: items[0]["verdict"] != "failed"
            )
        assert found == [{"verdict": "stopped"}]
        assert items_once(commands.world, asked(), lambda: []) == found


def test_what_a_request_did_is_found_in_the_audit(site: Site) -> None:
    request(site, place("alice"))
    site.run("stop", "alice")
    rows = site.store.audit(request_id="r1")
    assert [(r.entry.kind.value, r.entry.verb, r.entry.action) for r in rows] == [
        ("intent", "place", "created"),
        ("done", "place", "created"),
    ]
    assert {replace(r.entry).request_id for r in rows} == {"r1"}
