"""Looking: what the database knows, what nodes answer, and that silence is never taken for emptiness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders import IMAGE, RESOURCES, container
from tests.worlds import Site, make_site
from wsctl import observe
from wsctl.errors import NodeUnreachable
from wsctl.model import ClusterView, NodeMark, NodeState, Usage
from wsctl.observe import Observation


@pytest.fixture
def site() -> Iterator[Site]:
    site = make_site("n1", "n2", n2={"address": "db-host"})
    yield site
    site.close()


def look(site: Site) -> ClusterView:
    """The state database's knowledge."""
    return observe.snapshot("studio", site.nodes, site.store)


def test_a_snapshot_is_what_the_database_knows_and_nobody_was_asked(site: Site) -> None:
    site.run("place", "alice")
    site.run("place", "bob")
    site.run("rm", "bob")
    site.store.set_mark("n2", NodeState.CORDONED, "disk", "me")
    site.forget_calls()
    view = look(site)
    assert site.asked() == {}
    assert set(view.placements) == {"alice"}
    home = view.placements["alice"].node
    assert view.nodes[home].usage == Usage(1, 1, RESOURCES.memory_bytes, RESOURCES.cpus_milli)
    assert view.nodes[home].ports_used == {20000}
    assert view.nodes[home].last_port == 20000
    assert {node.reachable for node in view.nodes.values()} == {None}
    assert view.nodes["n2"].mark.state is NodeState.CORDONED
    assert view.nodes["n1"].mark == NodeMark()
    assert list(view.homes) == ["bob"]
    assert view.last_node in ("n1", "n2")
    assert (view.nodes["n1"].address, view.nodes["n2"].address) == ("10.0.0.1", None)


def test_a_placement_on_a_node_that_left_the_inventory_is_still_seen(site: Site) -> None:
    site.run("place", "alice")
    home = site.store.placements()[0].node
    del site.nodes[home]
    view = look(site)
    assert view.placements["alice"].node == home
    assert home not in view.nodes


def test_a_node_tells_everything_or_only_about_one_user(site: Site) -> None:
    engine = site.fleet["n1"]
    engine.add("postgres", host_port=5432)
    engine.add("ws-u-alice", cluster="studio", user="alice", generation="3")
    whole = observe.ask_node(engine, {IMAGE, "absent:1"})
    assert [found.name for found in whole.containers] == ["postgres", "ws-u-alice"]
    assert whole.image_present == {IMAGE: True, "absent:1": False}
    assert whole.facts is not None
    engine.calls.clear()
    only = observe.ask_user(engine, "ws-u-alice", IMAGE)
    assert [(found.name, found.generation) for found in only.containers] == [("ws-u-alice", 3)]
    assert only.facts is None
    assert len(engine.calls) == 2, "two questions, whatever the size of the node"
    assert observe.ask_user(engine, "ws-u-nobody", IMAGE).containers == ()


def test_a_silent_node_is_recorded_with_its_reason_never_dropped(site: Site) -> None:
    before = look(site)
    view = observe.merge(before, "n1", NodeUnreachable("n1", "no route to the host"))
    assert set(view.nodes) == {"n1", "n2"}
    assert (view.nodes["n1"].reachable, view.nodes["n1"].error) == (False, "no route to the host")
    assert view.nodes["n1"].usage == before.nodes["n1"].usage
    assert before.nodes["n1"].reachable is None, "views are values"


def test_an_answer_after_silence_clears_the_error(site: Site) -> None:
    view = observe.merge(look(site), "n1", NodeUnreachable("n1", "timed out"))
    view = observe.merge(view, "n1", Observation("10.0.0.1", (), {}))
    assert (view.nodes["n1"].reachable, view.nodes["n1"].error) == (True, None)


def test_the_address_of_a_node_known_by_name_is_the_connections(site: Site) -> None:
    view = observe.merge(look(site), "n2", Observation("192.0.2.7", (), {}))
    assert view.nodes["n2"].address == "192.0.2.7"
    view = observe.merge(view, "n1", Observation("192.0.2.8", (), {}))
    assert view.nodes["n1"].address == "10.0.0.1", "what the inventory says wins"


def test_ports_are_foreign_unless_their_owner_uses_them(site: Site) -> None:
    site.run("place", "alice")
    home = site.store.placements()[0].node
    seen = (
        container("alice", host_port=20000),
        container("bob", host_port=20001),
        container("x", cluster=None, name="postgres", host_port=20002),
        container("y", cluster="other", host_port=20003),
        container("z", state="exited"),
    )
    node = observe.merge(look(site), home, Observation("10.0.0.1", seen, {})).nodes[home]
    assert node.ports_foreign == {20001, 20002, 20003}
    assert node.ports_used == {20000, 20001, 20002, 20003}


def test_a_port_that_belongs_to_a_user_is_foreign_in_the_hands_of_another(site: Site) -> None:
    site.run("place", "alice")
    home = site.store.placements()[0].node
    seen = (container("mallory", host_port=20000),)
    node = observe.merge(look(site), home, Observation("10.0.0.1", seen, {})).nodes[home]
    assert node.ports_foreign == {20000}


def test_a_blocked_port_stays_blocked_when_the_node_is_asked_again(site: Site) -> None:
    view = observe.block_port(look(site), "n1", 20000)
    assert view.nodes["n1"].ports_foreign == {20000}
    assert view.nodes["n1"].ports_used == {20000}
    view = observe.merge(view, "n1", Observation("10.0.0.1", (), {}))
    assert view.nodes["n1"].ports_foreign == {20000}
    assert not view.nodes["n2"].ports_used


def test_an_excluded_node_says_why(site: Site) -> None:
    view = observe.exclude(look(site), "n1", "refused: disk full")
    assert (view.nodes["n1"].excluded, view.nodes["n2"].excluded) == ("refused: disk full", None)
