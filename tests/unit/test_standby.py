"""Copying standbys beside everything else that goes on, against a real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.worlds import SPEC, Site, invariants, make_site
from wsctl.errors import NodeUnreachable
from wsctl.standby import Synced
from wsctl.standbys import Standby


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site(spec=replace(SPEC, standby=1))
    site.run("place", "alice", "bob")
    site.files.write("alice", "work")
    yield site
    invariants(site)
    site.close()


def sync(site: Site, *users: str, **options: Any) -> dict[str, Synced]:
    with site.process() as commands:
        return {done.user: done for done in commands.sync(*users, **options)}


def meanwhile(site: Site, what: Callable[[], object], at: str = "bring") -> None:
    """Let something happen in the middle of the next copying."""
    real = getattr(site.standbys, at)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        setattr(site.standbys, at, real)
        what()
        return real(*args, **kwargs)

    setattr(site.standbys, at, wrapped)


def test_everybody_gets_one_and_is_left_alone_until_it_is_old(site: Site) -> None:
    done = sync(site)
    assert {user: one.action for user, one in done.items()} == {"alice": "synced", "bob": "synced"}
    assert sync(site) == {}
    site.clock.advance(299)
    assert sync(site) == {}
    site.clock.advance(1)
    assert set(sync(site)) == {"alice", "bob"}
    assert set(sync(site, "bob")) == {"bob"}, "who is named is due"
    assert sync(site, "bob", dry_run=True)["bob"].action == "would-sync"


def test_a_user_who_is_moved_meanwhile_keeps_the_older_copy(site: Site) -> None:
    (first,) = sync(site, "alice").values()
    (before,) = [copy for copy in site.store.standbys() if copy.user == "alice"]
    third = next(name for name in site.nodes if name not in (first.source, first.node))
    meanwhile(site, lambda: site.run("migrate", "alice", to=third))
    (done,) = sync(site, "alice").values()
    assert (done.action, done.reason) == ("unchanged", "they were moved or removed meanwhile")
    assert [copy for copy in site.store.standbys() if copy.user == "alice"] == [before]
    assert sync(site, "alice")["alice"].source == third


def test_nothing_stays_of_a_user_who_is_removed_meanwhile(site: Site) -> None:
    meanwhile(site, lambda: site.run("rm", "alice"))
    (done,) = sync(site, "alice").values()
    assert done.action == "unchanged"
    assert not any(user == "alice" for _, user in (*site.standbys.complete_on, *site.standbys.beside))
    assert site.store.standbys() == []


def test_a_user_who_leaves_before_it_begins(site: Site) -> None:
    begin = site.store.begin_standby
    site.store.begin_standby = lambda user, node, source: None  # type: ignore[method-assign]
    (done,) = sync(site, "alice").values()
    assert (done.action, "isn't on" in done.reason) == ("unchanged", True)
    site.store.begin_standby = begin  # type: ignore[method-assign]


def test_two_runs_do_the_work_of_one(site: Site) -> None:
    seen: list[Synced] = []
    meanwhile(site, lambda: seen.extend(sync(site, "alice").values()))
    (done,) = sync(site, "alice").values()
    assert done.action == "synced"
    assert [one.action for one in seen] == ["unchanged"]
    assert "standby sync" in seen[0].reason


def test_one_that_fails_does_not_stop_the_others(site: Site) -> None:
    site.files.fail("standby-bring", NodeUnreachable("n1", "no answer"))
    done = sync(site, parallel=1)
    assert sorted(one.action for one in done.values()) == ["failed", "synced"]
    (failed,) = [one for one in done.values() if one.error is not None]
    assert isinstance(failed.error, NodeUnreachable)
    assert not site.files.ways, "no key outlives it"
    assert sync(site)[failed.user].action == "synced"


def test_the_copy_on_the_former_node_goes_when_the_new_one_is_complete(site: Site) -> None:
    (first,) = sync(site, "alice").values()
    assert first.node is not None
    site.run("cordon", first.node)
    site.files.fail("standby-bring", NodeUnreachable("n1", "no answer"))
    sync(site, "alice")
    assert (first.node, "alice") in site.standbys.complete_on
    (second,) = sync(site, "alice").values()
    assert second.node != first.node
    assert list(site.standbys.complete_on) == [(second.node, "alice")]
    assert [copy.node for copy in site.store.standbys()] == [second.node]


def test_a_former_node_that_is_silent_is_tried_again(site: Site) -> None:
    (first,) = sync(site, "alice").values()
    assert first.node is not None
    site.fleet[first.node].freeze()
    (second,) = sync(site, "alice").values()
    assert {copy.node for copy in site.store.standbys()} == {first.node, second.node}
    site.fleet[first.node].thaw()
    site.run("cordon", first.node)
    sync(site, "alice")
    assert [copy.node for copy in site.store.standbys()] == [second.node]


def test_the_copies_of_others_are_not_read_for_each_user(site: Site) -> None:
    site.run("place", *(f"u{number}" for number in range(6)))
    read, asked = site.store.standbys, list[str | None]()

    def standbys(user: str | None = None) -> list[Standby]:
        asked.append(user)
        return read(user)

    site.store.standbys = standbys  # type: ignore[method-assign]
    assert len(sync(site)) == 8
    assert sorted(map(str, asked)) == sorted(["None", "alice", "bob", *(f"u{number}" for number in range(6))])
    copies = read()
    assert read("bob") == [copy for copy in copies if copy.user == "bob"]
    assert len(copies) == 8


def test_nobody_to_ask_when_nobody_wants_one() -> None:
    site = make_site()
    site.run("place", "alice")
    site.forget_calls()
    assert sync(site) == {}
    assert not site.asked()
    site.close()
