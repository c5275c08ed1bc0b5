"""The house rules that can be counted: arrows, docstrings, sizes, and what a command may import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "wsctl").rglob("*.py"))
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
HEAVY = {"paramiko", "docker", "requests", "redis", "pymysql", "rich", "yaml", "tabulate", "cryptography"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_arrows_point_inwards() -> None:
    """The import linter's contracts in pyproject.toml, as `make check` runs them."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_say_what_they_are_responsible_for(path: Path) -> None:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    assert text
    if path.name != "__init__.py" or len(path.read_text().splitlines()) > 10:
        assert "esponsible for" in text
        assert "ot responsible for" in text


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = [
        f"{node.name}: {lines} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def modules_after(folder: Path, *words: str) -> set[str]:
    """The top-level modules that a run of wsctl has loaded when it ends."""
    script = (
        "import json, sys\n"
        "from wsctl.cli import main\n"
        f"code = main({list(words)!r})\n"
        "sys.stderr.write('\\n' + json.dumps([code, sorted({m.partition('.')[0] for m in sys.modules})]))\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("WSCTL_", "COV_", "COVERAGE"))}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    code, loaded = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(loaded)


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("place", "--help"), ("node", "--help")], ids=" ".join)
def test_help_loads_nothing_heavy(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert modules_after(tmp_path, *words) & HEAVY == set()


@pytest.fixture
def sqlite_folder(tmp_path: Path) -> Path:
    inventory = "version: 1\ncluster: a\nworkspace: {image: a}\nnodes: {n: {address: 10.0.0.1}}\n"
    (tmp_path / "inventory.yaml").write_text(inventory)
    modules_after(tmp_path, "db", "upgrade")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [("ls",), ("ls", "-o", "json"), ("render-gateway",), ("db", "version"), ("node", "ls", "--no-probe")],
    ids=" ".join,
)
def test_reading_sqlite_loads_neither_ssh_nor_other_backends(sqlite_folder: Path, words: tuple[str, ...]) -> None:
    loaded = modules_after(sqlite_folder, *words)
    assert "sqlite3" in loaded
    assert loaded & {"paramiko", "docker", "requests", "cryptography", "redis", "pymysql"} == set()


def test_no_command_loads_pydantic(sqlite_folder: Path) -> None:
    """Why typer is held below 0.29: docs/decisions/typer-below-0.29.md."""
    assert "pydantic" not in modules_after(sqlite_folder, "ls")


def test_python_m_is_the_console_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsctl", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "wsctl")
