"""The nouns' own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import RESOURCES, container, node, placement, view
from wsctl.model import (
    NodeState,
    PlacementState,
    PortRange,
    PullPolicy,
    ReadyProbe,
    WorkspaceSpec,
    container_name,
    is_ip_literal,
    is_user_id,
    upstream,
)

SPEC = WorkspaceSpec(image="studio/ws:1", resources=RESOURCES)


@pytest.mark.parametrize("user", ["a", "7", "alice", "a-b_c", "x" * 63, "default", "include", "0--0"])
def test_user_ids(user: str) -> None:
    assert is_user_id(user)
    assert container_name(user) == f"ws-u-{user}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "Alice",
        "..",
        ".",
        "a/b",
        "a\n",
        "\na",
        "a;b",
        "$(a)",
        "x" * 64,
        "-rf",
        "a-",
        "_a",
        "a.b",
        "é",
        "٣",
        "a b",
    ],
)
def test_other_texts_are_not_user_ids(text: str) -> None:
    assert not is_user_id(text)


@given(st.text())
def test_a_user_id_is_always_plain_ascii(text: str) -> None:
    if is_user_id(text):
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert 1 <= len(text) <= 63


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fd00::1", "127.0.0.1"])
def test_ip_literals(address: str) -> None:
    assert is_ip_literal(address)


@pytest.mark.parametrize("address", ["", "n1", "local", "10.0.0", "10.0.0.1:80", "[::1]", "010.0.0.1", "10.0.0.1\n"])
def test_other_addresses_are_names(address: str) -> None:
    assert not is_ip_literal(address)


def test_upstreams_bracket_ipv6() -> None:
    assert upstream("10.0.0.1", 20000) == "10.0.0.1:20000"
    assert upstream("fd00::1", 20000) == "[fd00::1]:20000"


def test_only_a_stopped_workspace_gives_resources_back() -> None:
    assert [state for state in PlacementState if not state.holds_resources] == [PlacementState.STOPPED]
    assert [state for state in PlacementState if state.is_routed] == [PlacementState.RUNNING, PlacementState.MIGRATING]


def test_port_ranges_include_both_ends() -> None:
    ports = PortRange(20000, 20002)
    assert len(ports) == 3
    assert [port in ports for port in (19999, 20000, 20002, 20003)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("address", "bind", "published"),
    [
        ("10.0.0.11", None, "10.0.0.11"),
        ("10.0.0.11", "192.168.1.1", "192.168.1.1"),
        ("n1.example.org", None, None),
        ("n1.example.org", "10.0.0.1", "10.0.0.1"),
        ("local", None, "127.0.0.1"),
        ("local", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_where_ports_are_published(address: str, bind: str | None, published: str | None) -> None:
    of = node(address=address, bind_address=bind)
    assert of.publish_address == published
    assert of.is_local is (address == "local")


def test_data_paths_are_for_user_ids_only() -> None:
    assert node().data_path("alice") == "/srv/workspaces/alice"
    assert replace(node(), host_root="/data/").data_path("alice") == "/data/alice"
    with pytest.raises(ValueError, match=r"not a user id: '\.\./etc'"):
        node().data_path("../etc")


@pytest.mark.parametrize(
    "changed",
    [
        replace(SPEC, image="studio/ws:2"),
        replace(SPEC, resources=replace(RESOURCES, memory_bytes=1)),
        replace(SPEC, resources=replace(RESOURCES, cpus_milli=1)),
        replace(SPEC, resources=replace(RESOURCES, pids=1)),
        replace(SPEC, container_port=1),
        replace(SPEC, mount="/home"),
        replace(SPEC, command=("sh",)),
        replace(SPEC, env={"A": "1"}),
    ],
)
def test_the_digest_changes_with_what_the_container_is_made_from(changed: WorkspaceSpec) -> None:
    assert changed.digest() != SPEC.digest()
    assert len(changed.digest()) == 12


@pytest.mark.parametrize(
    "changed",
    [
        replace(SPEC, idle_after_s=None),
        replace(SPEC, ready=ReadyProbe("/", 1.0)),
        replace(SPEC, pull=PullPolicy.NEVER),
        replace(SPEC, labels={"zone": "a"}),
        replace(SPEC, name="big"),
    ],
)
def test_the_digest_ignores_what_the_container_does_not_know(changed: WorkspaceSpec) -> None:
    assert changed.digest() == SPEC.digest()


def test_the_digest_ignores_the_order_of_the_environment() -> None:
    one, other = replace(SPEC, env={"A": "1", "B": "2"}), replace(SPEC, env={"B": "2", "A": "1"})
    assert one.digest() == other.digest()


def test_a_placement_knows_its_container() -> None:
    assert placement("alice").container == "ws-u-alice"


@pytest.mark.parametrize(
    ("state", "running"),
    [("running", True), ("paused", True), ("restarting", True), ("exited", False), ("created", False), ("dead", False)],
)
def test_which_container_states_have_processes(state: str, running: bool) -> None:
    assert container(state=state).is_running is running


def test_free_ports_count_only_those_of_the_range() -> None:
    assert view(ports=(10, 13), ports_used={9, 10, 12, 99}).ports_free == 2


def test_a_container_is_found_by_the_users_name() -> None:
    mine = container("alice")
    assert view(containers=[container("bob"), mine]).container_of("alice") is mine
    assert view(containers=[container("bob")]).container_of("alice") is None


def test_a_node_without_a_record_is_ready() -> None:
    assert view().mark.state is NodeState.READY
