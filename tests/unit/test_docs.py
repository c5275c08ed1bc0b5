"""The documents say what the program does: generated pages are current, all is documented, links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import wsctl
from wsctl.commands.options import Interrupted
from wsctl.commands.tree import ANYBODY
from wsctl.errors import WsctlError
from wsctl.inventory import load, parse
from wsctl.inventory.docs import key_paths
from wsctl.nginx import MapRefused

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PACKAGES = ("wsctl", "lab", "bench", "tests", "scripts")
OUTSIDE_TOOLS = {"WSCTL_WORKSPACE"}
"""Read inside the lab's workspace image only, so that its program can be tried by hand."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- generated pages


@pytest.mark.parametrize("page", ["cli.md", "inventory.md"])
def test_generated_pages_are_current(generator: ModuleType, page: str) -> None:
    assert (DOCS / "reference" / page).read_text() == generator.PAGES[page](), (
        f"docs/reference/{page} is stale: make docs"
    )


def test_the_generator_makes_no_other_pages(generator: ModuleType) -> None:
    assert sorted(generator.PAGES) == ["cli.md", "inventory.md"]


def test_the_command_line_page_does_not_depend_on_the_terminal(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = generator.cli_page()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    assert generator.cli_page() == page


def test_check_mode_tells_a_stale_page_and_writes_nothing(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "REFERENCE", tmp_path)
    assert generator.main(["--check"]) == 1
    assert "cli.md is stale" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


# --- everything is documented


def test_every_command_and_option_is_documented(generator: ModuleType) -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    verbs = generator.verbs()
    assert len(verbs) > 20
    for verb in verbs:
        section = re.search(rf"^## wsctl {verb.name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert section is not None, verb.name
        text = section[1] + page.partition("\n## wsctl ")[0]
        absent = [word for option in verb.options for word in option.opts if f"`{word}`" not in text]
        assert absent == [], verb.name
        assert verb.command.help, f"{verb.name} has no docstring"
        assert "$ wsctl" in section[1], f"{verb.name} has no example"


def test_examples_in_docstrings_begin_with_their_verb(generator: ModuleType) -> None:
    for verb in generator.verbs():
        examples = re.findall(r"^\s+(wsctl .*)$", verb.command.help.partition("Example")[2], re.M)
        assert examples
        begin = f"wsctl {verb.name.removesuffix(ANYBODY)}"
        assert [line for line in examples if not line.startswith(begin)] == []


def error_classes(base: type[WsctlError] = WsctlError) -> Iterator[type[WsctlError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__.startswith("wsctl."):
            yield from error_classes(child)


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "reference" / "exit-codes.md").read_text()
    rows = {(int(code), word) for code, word in re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", page, re.M)}
    for module in pkgutil.walk_packages(wsctl.__path__, "wsctl."):
        if module.name != "wsctl.__main__":
            importlib.import_module(module.name)  # an error is known once its module is
    classes = set(error_classes())
    assert {Interrupted, MapRefused} <= classes
    # `BannerMissing` is caught inside of the transport and told as what it is.
    assert {(kind.exit_code, kind.code) for kind in classes} == rows


def test_every_exit_code_is_in_the_contract() -> None:
    assert {kind.exit_code for kind in error_classes()} == {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130}


def test_every_inventory_key_is_documented() -> None:
    page = (DOCS / "reference" / "inventory.md").read_text()
    assert [path for path in key_paths() if f"`{path}`" not in page] == []


def test_every_variable_is_documented() -> None:
    pattern = re.compile(r"\bWSCTL_[A-Z][A-Z_]*\b")
    used: dict[str, str] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".pl", ".sh") and path != Path(__file__):
                used |= dict.fromkeys(pattern.findall(path.read_text(encoding="utf-8", errors="replace")), name(path))
    documented = set(pattern.findall((DOCS / "reference" / "files-and-environment.md").read_text()))
    assert {"WSCTL_INVENTORY", "WSCTL_STATE_PASSWORD", "WSCTL_REDIS_PASSWORD", "WSCTL_DEBUG"} <= set(used)
    assert {word: where for word, where in used.items() if word not in documented | OUTSIDE_TOOLS} == {}
    assert documented <= set(used), "documented, but used nowhere"


COMMAND = r"(?:^|\$ |sudo |&& )wsctl ([a-z][a-z-]+(?: [a-z][a-z|-]+)?)"


def test_every_verb_mentioned_exists(generator: ModuleType) -> None:
    verbs = {verb.name for verb in generator.verbs()}
    first = {verb.split(" ")[0] for verb in verbs}
    groups = {verb.split(" ")[0] for verb in verbs if " " in verb}
    for page in PAGES:
        for words in re.findall(COMMAND, code_in(page.read_text()), re.M):
            verb, _, noun = words.partition(" ")
            assert verb in first, f"{name(page)}: wsctl {words}"
            if verb in groups and noun and f"{verb} {ANYBODY}" not in verbs:
                assert {f"{verb} {part}" for part in noun.split("|")} <= verbs, f"{name(page)}: wsctl {words}"


def code_in(text: str) -> str:
    """Blocks of shell and console, and code in the line; never prose."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.M | re.S)
    return "\n".join([*blocks, *re.findall(r"`(wsctl [^`\n]+)`", text)])


# --- examples that can be tried


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_first_inventory_loads(page: str) -> None:
    blocks = re.findall(r"^```yaml\n(version: 1\n.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert len(blocks) == 1
    inventory = parse(blocks[0], Path("inventory.yaml"))
    assert list(inventory.nodes) == ["here"]
    assert inventory.warnings == ()


def test_pieces_of_inventories_in_the_guides_load() -> None:
    pieces = 0
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S):
            text = block
            for key, line in (
                ("version:", "version: 1\n"),
                ("cluster:", "cluster: a\n"),
                ("workspace:", "workspace: {image: a}\n"),
                ("nodes:", "nodes: {n: {address: 10.0.0.1}}\n"),
            ):
                text += "" if re.search(rf"^{key}", block, re.M) else line
            parse(text, Path("inventory.yaml"))
            pieces += 1
    assert pieces >= 7


def test_the_example_inventory_loads() -> None:
    assert load(ROOT / "inventory.example.yaml").cluster


# --- links


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name(page)} links to {target}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), f"{name(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s:]+\.md)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) - reached == set()


def test_files_named_in_the_architecture_exist() -> None:
    text = (DOCS / "architecture.md").read_text().partition("## Where to find what")[2].partition("## Words")[0]
    names = set(re.findall(r"`([a-z_/]+\.py)`", text))
    assert len(names) > 40
    places = [ROOT / "wsctl" / folder for folder in ("", "inventory", "transport", "store", "coordination")]
    assert [one for one in sorted(names) if not any((place / one).is_file() for place in places)] == []


def test_readme_has_the_places_that_are_filled_in() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("<!-- bench -->") < text.index("<!-- /bench -->")


# --- what no file may hold

# Written in two parts, so that this file doesn't hold them either.
REGISTRIES = [
    ("pypi", "org"), ("pythonhosted", "org"), ("registry-1.docker", "io"), ("index.docker", "io"),
    ("hub.docker", "com"), ("ghcr", "io"), ("quay", "io"), ("registry.npmjs", "org"),
]  # fmt: skip
FORBIDDEN = {
    "a package registry's address": "|".join(re.escape(f"{one}.{two}") for one, two in REGISTRIES),
    "a path of a developer's machine": r"(?<![\w.])/(?:wo" + r"rk/main|Us" + r"ers/|tmp/ve" + r"nv)",
}


def files_of_the_project() -> list[Path]:
    """What git has or would take; without git, everything that isn't hidden."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [path for one in done.stdout.decode().split("\0") if one and (path := ROOT / one).is_file()]
    every = (path for path in ROOT.rglob("*") if path.is_file())
    return [path for path in every if not any(part.startswith((".", "__")) for part in path.relative_to(ROOT).parts)]


def test_no_file_names_a_registry_or_somebodys_machine() -> None:
    found = []
    for path in files_of_the_project():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [f"{name(path)}: {what}: {hit}" for hit in re.findall(pattern, text)[:1]]
    assert found == []


def test_pages_are_plain() -> None:
    for page in PAGES:
        text = page.read_text()
        assert text.endswith("\n")
        assert re.search(r"[\U0001F000-\U0001FAFF\u2600-\u27BF]", text) is None, f"{name(page)} has an emoji"
