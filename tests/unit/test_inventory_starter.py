"""What `wsctl init` writes: it loads, says what it should, and can't be made to say more."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsctl.errors import UsageError
from wsctl.inventory import parse, starter
from wsctl.model import Capacity

HERE = Path("/c/inventory.yaml")


def test_this_machine_alone() -> None:
    inventory = parse(starter(), HERE)
    assert list(inventory.nodes) == ["here"]
    assert inventory.nodes["here"].is_local
    assert inventory.state.url == "sqlite:////c/wsctl.db"
    assert inventory.warnings == ()
    assert "another machine, reached by SSH" in starter()
    assert "ssh:" not in starter()


def test_named_nodes() -> None:
    text = starter({"n1": "10.0.0.11", "n2": "fd00::1", "n3": "alias", "n4": "null", "n5": "local"})
    inventory = parse(text, HERE)
    assert {name: node.address for name, node in inventory.nodes.items()} == {
        "n1": "10.0.0.11", "n2": "fd00::1", "n3": "alias", "n4": "null", "n5": "local",
    }  # fmt: skip
    assert "# ssh: {user: wsctl" in text
    assert text.endswith("}\n")


def test_the_shortest_comment_column_holds() -> None:
    assert "cluster: main                   # a label" in starter()


def test_names_and_capacity_are_taken_over() -> None:
    text = starter(cluster="studio", image="reg.io:5000/a/b:2", capacity=Capacity(40, 24 * 1024**3, 6500))
    inventory = parse(text, HERE)
    assert inventory.cluster == "studio"
    assert inventory.workspace.image == "reg.io:5000/a/b:2"
    assert inventory.nodes["here"].capacity == Capacity(40, 24 * 1024**3, 6500)
    assert "say what yours have" in starter()
    assert "say what yours have" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": {"N1": "h"}}, "node name 'N1' has upper-case letters (write n1)"),
        ({"nodes": {"": "h"}}, "node name '' can't be used as node name"),
        ({"nodes": {"n1": "h:22"}}, "address 'h:22' has a port (write the port as ssh.port)"),
        ({"nodes": {"n1": "h}\nx: {"}}, "address 'h}\\nx: {' can't be used as address"),
        ({"cluster": "a\nstate: x"}, "cluster 'a\\nstate: x' can't be used as cluster"),
        ({"image": 'a"\nx'}, "image 'a\"\\nx' can't be used as image"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        starter(**arguments)  # type: ignore[arg-type]
    assert caught.value.message == message


def test_the_same_machine_twice_is_refused() -> None:
    from wsctl.errors import InventoryError

    with pytest.raises(InventoryError) as caught:
        starter({"a": "h", "b": "h"})
    assert "the same machine as node 'a'" in caught.value.problems[0]


@given(
    st.dictionaries(st.from_regex(r"[a-z0-9-]{1,5}", fullmatch=True), st.text(max_size=12), max_size=3),
    st.text(max_size=12),
    st.text(max_size=12),
)
def test_whatever_is_given_is_itself_or_refused(nodes: dict[str, str], cluster: str, image: str) -> None:
    from wsctl.errors import WsctlError

    try:
        inventory = parse(starter(nodes, cluster=cluster, image=image), HERE)
    except WsctlError:
        return
    assert (inventory.cluster, inventory.workspace.image) == (cluster, image)
    assert set(inventory.nodes) == (set(nodes) or {"here"})
