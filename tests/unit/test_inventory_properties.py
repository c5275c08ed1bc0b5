"""Whatever the file holds: an inventory, or an `InventoryError`; and what is shown loads to the same."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsctl.errors import InventoryError
from wsctl.inventory import effective, load, parse, render_effective_yaml
from wsctl.inventory.docs import key_paths
from wsctl.inventory.scalars import duration_text, parse_duration, parse_size, size_text
from wsctl.text import UNSAFE

HERE = Path("/c/i.yaml")
quick = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def problem_of(text: str) -> InventoryError | None:
    try:
        parse(text, HERE)
    except InventoryError as error:
        return error
    return None


def survives(text: str) -> None:
    """It loads, or it is refused in words that a terminal can show."""
    error = problem_of(text)
    for line in (error.message, error.hint or "", *error.problems) if error else ():
        assert line
        assert not UNSAFE.search(line), line


@quick
@given(st.binary(max_size=200))
@example(b"\xff\xfe\x00")
@example(b"a: &a [*a]")
@example(b"\xef\xbb\xbf")
@example(b'"\\ud800"')
@example(b"? ")
def test_any_bytes(tmp_path_factory: Any, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "random.yaml"
    file.write_bytes(data)
    with suppress(InventoryError):
        load(file)


@quick
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_text(text: str) -> None:
    survives(text)


@quick
@given(st.text(alphabet="ab:-?!&*<>|{}[]'\"#%@`,\n\t 01~\\x", max_size=60))
def test_any_punctuation(text: str) -> None:
    survives(text)
    survives("version: 1\nnodes:\n  n: " + text)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["1", "64g", "30m", "22:22", "012", "local", "10.0.0.1", "/srv/x", "a/b:1", "mysql://u:p@h/d"]),
)  # fmt: skip
KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from(sorted({s for p in key_paths() for s in p.split(".")} | {"n1", "x-y", "<<"}))
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)


@settings(quick, max_examples=100)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_tree_of_known_words(tree: dict[str, Any]) -> None:
    survives(yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True))
    whole = {"version": 1, "cluster": "a", "nodes": {"n1": tree}, "workspace": {"image": "a", **tree}}
    survives(yaml.dump(whole, Dumper=yaml.CSafeDumper))


names = st.from_regex(r"[a-wyz0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ALPHABET = st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="=,:/")
words = st.text(ALPHABET, min_size=1, max_size=10)
sizes = st.integers(6 * 1024**2, 2**50)
durations = st.integers(1, 10**10).map(lambda ms: duration_text(ms / 1000))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
paths = st.lists(words.map("w{}".format), min_size=1, max_size=3).map(lambda parts: "/data/" + "/".join(parts))


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


nodes = optional(
    ssh=optional(
        user=st.sampled_from(["root", "no", "007"]), port=st.none() | st.integers(1, 65535), config=st.booleans(),
        identity_file=st.sampled_from(["~/k", "k", "/k", None]), proxy_jump=st.sampled_from(["b", "o@b:22", None]),
    ),
    capacity=optional(workspaces=st.integers(1, 100_000), memory=sizes.map(size_text), cpus=st.integers(1, 4096)),
    bind_address=st.none() | st.ip_addresses(network="10.0.0.0/8").map(str) | st.just("fd00::7"),
    host_root=paths, storage=st.sampled_from(["local", "shared"]), labels=st.dictionaries(words, words, max_size=3),
    weight=st.integers(1, 10**6).map(lambda milli: milli / 1000),
    max_concurrent_starts=st.none() | st.integers(1, 1000),
)  # fmt: skip
workspaces = optional(
    command=st.none() | st.lists(texts, min_size=1, max_size=3), container_port=st.integers(1, 65535), mount=paths,
    env=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), texts, max_size=3),
    memory=sizes, cpus=st.integers(10, 4_096_000).map(lambda milli: milli / 1000), pids=st.integers(16, 4_194_304),
    idle_after=st.none() | durations, pull=st.sampled_from(["missing", "never"]),
    ready=st.none() | st.just({"tcp": True}) | st.builds(lambda t: {"http": "/x", "timeout": t}, durations),
)  # fmt: skip


@quick
@given(
    st.dictionaries(names, nodes, min_size=1, max_size=4),
    nodes,
    workspaces,
    st.dictionaries(names, workspaces, max_size=2),
    durations,
)
def test_what_is_shown_loads_to_the_same(
    own: dict[str, Any], defaults: dict[str, Any], workspace: dict[str, Any], classes: dict[str, Any], keep: str
) -> None:
    classes.pop("default", None)
    tree = {
        "version": 1, "cluster": "a", "defaults": defaults, "requests": {"keep": keep},
        "workspace": {"image": "a", **workspace, "classes": classes},
        "nodes": {name: {"address": f"host-{name}", **node} for name, node in own.items()},
    }  # fmt: skip
    inventory = parse(yaml.dump(tree, Dumper=yaml.CSafeDumper), HERE)
    again = parse(render_effective_yaml(inventory), Path("/elsewhere/x.yaml"))
    assert again == inventory
    assert effective(again) == effective(inventory)
    assert inventory.workspace.env == workspace.get("env", {})
    assert list(inventory.nodes) == sorted(own)


@quick
@given(st.integers(0, 2**60))
def test_sizes_there_and_back(count: int) -> None:
    assert parse_size(size_text(count)) == count


@quick
@given(st.integers(0, 10**11))
def test_durations_there_and_back(milliseconds: int) -> None:
    assert math.isclose(parse_duration(duration_text(milliseconds / 1000)) * 1000, milliseconds, rel_tol=1e-12)
