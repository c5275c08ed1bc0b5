"""What is made from the table: the reference page, the schema, and the completeness of the example."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wsctl.inventory import effective, json_schema, load, parse
from wsctl.inventory.docs import key_paths, reference_page
from wsctl.inventory.document import Scalar, Table, compose
from wsctl.inventory.problems import Problems

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inventory.example.yaml"
PAGE = ROOT / "docs" / "reference" / "inventory.md"


def test_the_reference_page_is_current() -> None:
    assert PAGE.read_text() == reference_page(), "python -m wsctl.inventory.docs > docs/reference/inventory.md"


def test_the_reference_page_names_every_key() -> None:
    page = PAGE.read_text()
    assert [path for path in key_paths() if f"`{path}`" not in page] == []


def paths_in(tree: object, path: str = "") -> set[str]:
    if not isinstance(tree, Table):
        return set()
    found = set()
    for name, (_, value) in tree.entries.items():
        steps = {"nodes.": "NODE", "workspace.classes.": "CLASS", "gateway.hosts.": "GATEWAY"}
        step = steps.get(path, name)
        found |= {path + step} | paths_in(value, f"{path}{step}.")
    return found


def test_the_example_has_every_key() -> None:
    tree = compose(EXAMPLE.read_text(), Problems("example"))
    # A probe is either http or tcp, and the connection's rarer settings stand once, under `defaults`.
    elsewhere = {"workspace.ready.tcp", "workspace.classes.CLASS.ready.http"}
    rare = ("identity_file", "known_hosts", "proxy_jump", "config")
    elsewhere |= {f"nodes.NODE.ssh.{key}" for key in rare} | {
        f"gateway.hosts.GATEWAY.ssh.{key}" for key in (*rare, "port")
    }
    assert set(key_paths()) - paths_in(tree) == elsewhere


def test_the_example_explains_every_section() -> None:
    lines = EXAMPLE.read_text().splitlines()
    silent = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"[a-z]", line) and "#" not in line and not before.startswith("#")
    ]
    assert silent == ["version: 1"]


def test_every_key_has_a_sentence() -> None:
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            assert re.search(r"[.`] \|$", line), line


class TestSchema:
    """The schema accepts what `load` accepts."""

    def test_it_is_json(self) -> None:
        assert json.loads(json.dumps(json_schema())) == json_schema()
        assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"

    def test_every_key_is_described(self) -> None:
        described = set(self.described(json_schema(), ""))
        assert set(key_paths()) <= described

    def described(self, schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for part in [schema, *schema.get("anyOf", [])]:
            for name, inner in part.get("properties", {}).items():
                assert inner["description"]
                found += [path + name, *self.described(inner, f"{path}{name}.")]
            extra = part.get("additionalProperties")
            if isinstance(extra, dict):
                steps = {"nodes.": "NODE.", "workspace.classes.": "CLASS.", "gateway.hosts.": "GATEWAY."}
                step = steps.get(path, "*.")
                found += self.described(extra, path + step)
        return found

    @pytest.mark.parametrize("null", [False, True])
    def test_it_accepts_the_example(self, null: bool) -> None:
        import yaml

        data = effective(load(EXAMPLE)) if null else yaml.safe_load(EXAMPLE.read_text())
        assert list(errors(json_schema(), data)) == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"cluster": "A"}, {"nodes": {"N": {"address": "h"}}}, {"nodes": {"n": {}}}, {"memory": 1}, {"version": 2},
            {"defaults": {"sssh": {}}}, {"workspace": {"image": "a", "command": "x"}}, {"scheduler": {"strategy": "x"}},
            {"workspace": {"image": "a", "idle_after": 30}}, {"gateway": {"strip_prefix": "maybe"}},
        ],
    )  # fmt: skip
    def test_it_refuses_the_obvious(self, wrong: dict[str, Any]) -> None:
        good = {"version": 1, "cluster": "a", "workspace": {"image": "a"}, "nodes": {"n": {"address": "h"}, "x-a": 1}}
        assert list(errors(json_schema(), good)) == []
        assert list(errors(json_schema(), good | wrong)) != []


TYPES = {
    "string": str, "object": dict, "array": list, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip


def errors(schema: dict[str, Any], data: Any, path: str = "") -> list[str]:
    """A validator of just the keywords the schema uses (jsonschema isn't a dependency)."""
    used = {"$schema", "title", "description", "type", "enum", "const", "anyOf", "pattern", "minLength", "minimum",
            "maximum", "minItems", "items", "properties", "patternProperties", "additionalProperties", "required",
            "propertyNames"}  # fmt: skip
    assert set(schema) <= used
    found = []
    if "anyOf" in schema and all(errors(one, data, path) for one in schema["anyOf"]):
        found.append(f"{path}: none of {len(schema['anyOf'])}")
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        is_one = any(isinstance(data, TYPES[name]) and (name == "boolean") == isinstance(data, bool) for name in names)
        found += [] if is_one else [f"{path}: not {names}"]
    if "enum" in schema and data not in schema["enum"]:
        found.append(f"{path}: not one of {schema['enum']}")
    if "const" in schema and data != schema["const"]:
        found.append(f"{path}: not {schema['const']}")
    if isinstance(data, str):
        found += [f"{path}: pattern"] if "pattern" in schema and not re.search(schema["pattern"], data) else []
        found += [f"{path}: short"] if len(data) < schema.get("minLength", 0) else []
    if isinstance(data, int | float) and not isinstance(data, bool):
        in_range = schema.get("minimum", data) <= data <= schema.get("maximum", data)
        found += [] if in_range else [f"{path}: range"]
    if isinstance(data, list):
        found += [error for item in data for error in errors(schema.get("items", {}), item, path + "[]")]
    if isinstance(data, dict):
        found += [f"{path}: without {name}" for name in schema.get("required", []) if name not in data]
        for name, value in data.items():
            found += errors(schema.get("propertyNames", {}), name, f"{path}.{name}")
            if name in schema.get("properties", {}):
                found += errors(schema["properties"][name], value, f"{path}.{name}")
            elif not any(re.search(pattern, name) for pattern in schema.get("patternProperties", {})):
                extra = schema.get("additionalProperties", True)
                if isinstance(extra, dict):
                    found += errors(extra, value, f"{path}.{name}")
                elif not extra:
                    found.append(f"{path}.{name}: unknown")
    return found


def test_scalars_in_the_page_are_the_shortest_inventory_that_loads() -> None:
    """The example in the page is one that loads."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    assert list(parse(text, Path("i.yaml")).nodes) == ["here"]
    assert isinstance(compose("x", Problems("p")), Scalar)
