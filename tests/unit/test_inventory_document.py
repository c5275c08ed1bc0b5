"""Reading YAML as text: what is refused before any key is looked at, and that nothing changes on the way."""

import os
import time
from pathlib import Path

import pytest

from wsctl.errors import InventoryError
from wsctl.inventory import Inventory, load, parse
from wsctl.inventory import document as document_module

HEAD = "version: 1\ncluster: a\nworkspace: {image: a}\n"
NODES = "nodes: {a: {address: h}}\n"


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(InventoryError) as caught:
        parse(text, Path("i.yaml"))
    return caught.value.problems


def read(text: str) -> Inventory:
    return parse(text, Path("i.yaml"))


class TestFiles:
    """What isn't a readable text file of sane size."""

    def refusal(self, path: Path) -> tuple[str, str | None]:
        with pytest.raises(InventoryError) as caught:
            load(path)
        assert caught.value.problems == ()
        return caught.value.message.replace(str(path), "F"), caught.value.hint

    INIT = "`wsctl init` writes one to start from"

    def test_missing(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path / "none.yaml") == ("there is no inventory F", self.INIT)

    @pytest.mark.parametrize("data", [b"", b" \n\n", b"\n"])
    def test_empty(self, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes(data)
        assert self.refusal(file) == ("F is empty", self.INIT)

    @pytest.mark.parametrize("text", ["# nothing\n", "---\n...\n", "\ufeff# nothing\n"])
    def test_only_comments(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "i.yaml"
        file.write_text(text)
        with pytest.raises(InventoryError) as caught:
            load(file)
        assert caught.value.message == f"{file} holds nothing but comments"

    def test_directory(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path) == ("F is a directory, not an inventory", "name the file inside it")

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        assert self.refusal(tmp_path / "f" / "g") == ("F can't be read: Not a directory", self.INIT)

    def test_a_path_that_no_system_call_takes(self) -> None:
        assert self.refusal(Path("a\0b"))[0].endswith("can't be read: embedded null byte")

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "i.yaml"
        file.write_text(HEAD + NODES)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
        assert self.refusal(file) == ("F may not be read by this user", f"check `ls -l {file}`")

    def test_binary(self, tmp_path: Path) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes(b"\x7fELF\0\0")
        assert self.refusal(file) == ("F is a binary file, not YAML text", self.INIT)

    @pytest.mark.parametrize("data", [b"a: 1\nb: \xff\n", "a: 1\nb: ü\n".encode("latin-1")])
    def test_not_utf8(self, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes(data)
        byte = data.rstrip()[-1]
        assert self.refusal(file) == (f"F isn't text in UTF-8 (byte 0x{byte:02x} in line 2)", self.INIT)

    def test_utf16(self, tmp_path: Path) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes((HEAD + NODES).encode("utf-16"))
        assert self.refusal(file)[0] == "F isn't text in UTF-8 (byte 0xff in line 1)"

    def test_ten_megabytes(self, tmp_path: Path) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes(HEAD.encode() + b"# filler\n" * (10 * 1024**2 // 9))
        assert self.refusal(file) == ("F is larger than 5 MiB, which no inventory is", self.INIT)

    def test_an_endless_file(self) -> None:
        assert self.refusal(Path("/dev/zero"))[0] == "F is larger than 5 MiB, which no inventory is"

    def test_just_small_enough(self, tmp_path: Path) -> None:
        file = tmp_path / "i.yaml"
        text = HEAD + NODES
        file.write_text(text + "#" * (5 * 1024**2 - len(text)))
        assert list(load(file).nodes) == ["a"]

    def test_a_pipe(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(HEAD + NODES)
        assert list(load(Path(f"/dev/fd/{reading}")).nodes) == ["a"]
        os.close(reading)

    def test_a_byte_order_mark_and_windows_line_ends(self, tmp_path: Path) -> None:
        file = tmp_path / "i.yaml"
        file.write_bytes(b"\xef\xbb\xbf" + (HEAD + NODES).replace("\n", "\r\n").encode())
        assert list(load(file).nodes) == ["a"]

    def test_a_name_that_would_move_the_cursor(self, tmp_path: Path) -> None:
        file = tmp_path / "a\x1b[2J.yaml"
        file.write_text("version: 2")
        with pytest.raises(InventoryError) as caught:
            load(file)
        assert "\x1b" not in caught.value.message + caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed in this context"),
        ("a:\n\t- b\n", "2:1: not valid YAML: found character that cannot start any token while scanning for the next"
         " token; there is a tab, and YAML indents with spaces"),
        ("a: @b\n", "1:4: not valid YAML: found character that cannot start any token while scanning for the next"
         " token; there is '@'"),
        ("a: [1, 2\n", "2:1: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence"),
        ("a: 'x\n", "2:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar"),
        ("a: 1\n---\nb: 1\n", "2:1: a second document begins, expected only one in the file"),
        ("a: 1\n--- \n", "2:1: a second document begins, expected only one in the file"),
        ("a: *b\n", "1:4: alias '*b' has no anchor '&b' before it"),
        ("a: &a {b: *a}\n", "1:11: alias '*a' refers to the block that contains it"),
        ("a: &a\n  - *a\n", "2:5: alias '*a' refers to the block that contains it"),
        ("a: &a\n  <<: *a\n", "2:7: alias '*a' refers to the block that contains it"),
        ("a: b\x07\n", "1:5: control character '\\x07', expected printable text"),
        ("a: 1\nb: \x1b[2J\n", "2:4: control character '\\x1b', expected printable text"),
        ("a: \x7f\n", "1:4: control character '\\x7f', expected printable text"),
        ("%YAML 3.0\n--- a\n", "1:1: not valid YAML: found incompatible YAML document"),
        ("a: " + "[" * 40, "1:35: nested deeper than 32 levels"),
        ("- " * 40, "1:65: nested deeper than 32 levels"),
    ],
)  # fmt: skip
def test_broken_beyond_reading(text: str, problem: str) -> None:
    assert problems_of(text) == (f"i.yaml:{problem}",)


@pytest.mark.parametrize(
    "text", ["[" * 1_000_000, "{" * 1_000_000, "- " * 1_000_000, "? " * 1_000_000, "a: [" * 10_000]
)
def test_depth_can_not_overflow_any_stack(text: str) -> None:
    start = time.perf_counter()
    assert len(problems_of(text)) == 1
    assert time.perf_counter() - start < 3


def laughs(levels: int, width: int) -> str:
    lines = ["x-0: &a0 [lol]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int, width: int) -> str:
    lines = ["x-0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(100)) + "}"]
    lines += [f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", [laughs(12, 10), laughs(200, 2), merges(30, 10), merges(2, 100_000)])
def test_a_bomb_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    (problem,) = problems_of(text)
    assert problem.endswith("more than 500,000 values once aliases are followed, which no inventory has")
    assert time.perf_counter() - start < 3


def test_honest_aliases_are_fine() -> None:
    text = HEAD + "x-c: &c {memory: 8g, cpus: 4}\nx-n: &n\n  capacity: *c\n  labels: {zone: &z a}\nnodes:\n"
    text += "".join(f"  n{i}: {{<<: *n, address: h{i}}}\n" for i in range(2000))
    text += "  last: {<<: [{weight: 3}, {weight: 4, address: no}], address: z, labels: {zone: *z}}\n"
    nodes = read(text).nodes
    assert len(nodes) == 2001
    assert nodes["n7"].capacity.cpus_milli == 4000
    assert nodes["n7"].address == "h7"
    assert (nodes["last"].weight, nodes["last"].address, nodes["last"].labels) == (3.0, "z", {"zone": "a"})


def test_an_explicit_key_wins_wherever_the_merge_stands() -> None:
    text = HEAD + "nodes:\n  a: {weight: 5, <<: {weight: 2, address: g}, address: h}\n"
    assert (read(text).nodes["a"].weight, read(text).nodes["a"].address) == (5.0, "h")


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ("{address: h, address: i}", "4:25: nodes.a.address: duplicate key, first set in line 4"),
        ("{address: h, 'address': i}", "4:25: nodes.a.address: duplicate key, first set in line 4"),
        ("{address: h, <<: {weight: 1}, <<: {}}", "4:42: nodes.a.<<: duplicate key, expected one `<<` with a list"),
        ("{address: h, <<: 7}", "4:25: nodes.a.<<: not a mapping, expected an alias of one, or a list of such aliases"),
        ("{address: h, <<: [7]}",
         "4:25: nodes.a.<<: not a mapping, expected an alias of one, or a list of such aliases"),
        ("{address: h, [x]: 7}",
         "4:25: nodes.a: a list or mapping as a key, expected a word (text that begins with { or"
         " [ needs quotes)"),
        ("{address: h, weight: {{ w }}}", "4:34: nodes.a.weight: a list or mapping as a key, expected a word (text that"
         " begins with { or [ needs quotes)"),
        ("!!python/object:os.system {address: h}", "4:12: nodes.a: tag 'tag:yaml.org,2002:python/object:os.system',"
         " expected plain YAML without tags"),
        ("{address: !env HOST}", "4:22: nodes.a.address: tag '!env', expected plain YAML without tags"),
        ("{address: h, weight: !!int 4}",
         "4:33: nodes.a.weight: tag 'tag:yaml.org,2002:int', expected plain YAML without"
         " tags"),
        ("{address: h, labels: !!omap []}", "4:33: nodes.a.labels: tag 'tag:yaml.org,2002:omap', expected plain YAML"
         " without tags"),
    ],
)  # fmt: skip
def test_problems_of_the_tree(node: str, problem: str) -> None:
    assert f"i.yaml:{problem}" in problems_of(f"{HEAD}nodes: {{a: {node}}}\n")


def test_duplicate_nodes_and_duplicate_top_level_keys() -> None:
    text = HEAD + "nodes:\n  a: {address: h}\n  b: {address: i}\n  a: {address: j}\ncluster: b\n"
    assert problems_of(text) == (
        "i.yaml:7:3: nodes.a: duplicate key, first set in line 5",
        "i.yaml:8:1: cluster: duplicate key, first set in line 2",
    )


def test_x_keys_are_free_at_every_level() -> None:
    text = (
        """
version: 1
x-top: {anything: [1, {2: 3}], x: *unknown}
""".replace(", x: *unknown", "")
        + """
cluster: a
defaults: {x-a: 1, ssh: {x-b: [1]}, capacity: {x-c: {}}}
workspace: {image: a, x-d: ~, ready: {http: /, x-e: 1}, classes: {x-f: nonsense, c: {x-g: 1}}}
scheduler: {x-h: 1}
gateway: {x-i: 1}
nodes: {x-j: 7, a: {address: h, x-k: 1}}
"""
    )
    assert list(read(text).nodes) == ["a"]
    assert sorted(read(text).classes) == ["c", "default"]


def test_names_of_labels_are_the_operators_own() -> None:
    assert read(HEAD + "nodes: {a: {address: h, labels: {x-rack: 7}}}").nodes["a"].labels == {"x-rack": "7"}


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "true",
        "012",
        "0x1F",
        "1_000",
        "22:22",
        ".inf",
        "1e3",
        "2026-11-20",
        "1.10",
        "=",
        "0o7",
        "a b",
        "é",
    ],
)
def test_labels_and_environment_are_texts_as_written(text: str) -> None:
    inventory = read(
        f"version: 1\ncluster: a\nworkspace: {{image: a, env: {{A: {text}}}, command: [{text}]}}\n"
        f"nodes: {{a: {{address: h, labels: {{k: {text}}}}}}}\n"
    )
    assert inventory.nodes["a"].labels == {"k": text}
    assert inventory.workspace.env == {"A": text}
    assert inventory.workspace.command == (text,)


@pytest.mark.parametrize(
    ("written", "text"), [('"null"', "null"), ("''", ""), ("'~'", "~"), ("!!str ~", "~"), ("! 07", "07")]
)
def test_quotes_make_a_text_of_anything(written: str, text: str) -> None:
    inventory = read(f"version: 1\ncluster: a\nworkspace: {{image: a, env: {{A: {written} }}}}\n{NODES}")
    assert inventory.workspace.env == {"A": text}


def test_blocks_of_text() -> None:
    inventory = read("version: 1\ncluster: a\nworkspace:\n  image: a\n  env:\n    A: |\n      x\n      y\n" + NODES)
    assert inventory.workspace.env == {"A": "x\ny\n"}


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL", "{}"])
def test_a_section_may_be_empty(nothing: str) -> None:
    text = (
        HEAD
        + f"defaults: {nothing}\ngateway: {nothing}\nnodes: {{a: {{address: h, ssh: {nothing}, labels: {nothing}}}}}\n"
    )
    assert read(text) == read(HEAD + NODES)


def test_the_document_may_have_a_directive_and_both_markers() -> None:
    assert list(read("%YAML 1.2\n---\n" + HEAD + NODES + "...\n").nodes) == ["a"]


def test_without_libyaml_it_is_slower_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    text = HEAD + "x-a: &a {weight: 2}\nnodes: {a: {<<: *a, address: 'h', labels: {k: no, l: \"é\"}}}\n"
    fast = read(text)
    broken = problems_of(text + "nodes: 012\n")
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert read(text) == fast
    assert problems_of(text + "nodes: 012\n") == broken
    assert "second document" in problems_of("a: 1\n---\nb: 1\n")[0]
    assert "nested deeper" in problems_of("[" * 100_000)[0]
    assert problems_of("a:\n\t- b\n")[0].endswith("there is a tab, and YAML indents with spaces")
    assert document_module.MAX_BYTES == 5 * 1024**2
