"""`cli`: how long wsctl itself takes to start, to help and to list.

Responsible for: what is compared, and its gates. Not responsible for: the rig, nor the floor's program (`ten_lines`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bench import ten_lines
from bench.measure import BenchError, alternate, timed, timed_on_terminal
from bench.report import Gate, Row, row
from bench.rig import Rig
from wsctl.inventory import load
from wsctl.model import PlacementState
from wsctl.ports import Conflict, Reservation
from wsctl.store import open_store

ROUNDS = 20
COUNT = 1000
HELP = Gate(1.3, "×")
LS = Gate(2.5, "×")


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl --help`, and `wsctl ls` of 1,000 placements on SQLite, against `--help` of ten lines of typer.

    Whole processes, the same interpreter and packages, output into a pipe. Typer draws a program's help by rich unless
    it is told not to; wsctl's is plain text, which is most of what it saves, so a second floor is the same ten lines
    with `rich_markup_mode=None`. `ls` reads one query's rows from the database and prints 1,000 lines; a further row
    has it draw its table on a terminal.
    """
    plain = rig.folder / "ten_lines_plain.py"
    source = Path(ten_lines.__file__).read_text()
    plain.write_text(source.replace("typer.Typer()", "typer.Typer(rich_markup_mode=None)"))
    inventory = _fill(rig)
    ls: list[str | Path] = [rig.wsctl, "ls", "-i", inventory]
    series = alternate(
        "cli",
        {
            "help": lambda _: timed([rig.wsctl, "--help"], rig.env),
            "ten": lambda _: timed([rig.python, ten_lines.__file__, "--help"], rig.env),
            "plain": lambda _: timed([rig.python, plain, "--help"], rig.env),
            "ls": lambda _: timed(ls, rig.env),
            "terminal": lambda _: timed_on_terminal(ls, rig.env),
        },
        rounds or ROUNDS,
    )
    return [
        row("`wsctl --help` / that of ten lines of typer", series, "help", "ten", gate=HELP),
        row("… told not to load rich either", series, "help", "plain", gate=HELP),
        row(f"`wsctl ls` of {COUNT:,} placements / ten lines' `--help`", series, "ls", "ten", gate=LS),
        row("… drawn on a terminal", series, "terminal", "ten"),
    ]


def _fill(rig: Rig) -> Path:
    """An inventory of three nodes that nobody asks, and 1,000 running placements made through the Store port."""
    folder = rig.folder / "cli"
    folder.mkdir()
    path = folder / "inventory.yaml"
    nodes = "".join(f"  n{number}: {{address: 192.0.2.{number}}}\n" for number in (1, 2, 3))
    path.write_text(f"""\
version: 1
cluster: bench
state: sqlite:///wsctl.db
defaults: {{capacity: {{workspaces: {COUNT}, memory: 1024g, cpus: 4096}}}}
workspace: {{image: "bench:1", memory: 64m, cpus: 0.5, pids: 64}}
nodes:
{nodes}""")
    inventory = load(path)
    store = open_store(inventory.state.url, cluster=inventory.cluster, base=folder)
    users = [f"user-{number:04}" for number in range(COUNT)]
    try:
        for number, user in enumerate(users):
            node = inventory.nodes[f"n{number % 3 + 1}"]
            resources = inventory.classes["default"].resources
            port = node.ports.first + number // 3
            made = store.reserve(Reservation(user, node.name, node.address, port, resources, node.capacity))
            if isinstance(made, Conflict) or not store.settle(user, made.generation, PlacementState.RUNNING):
                raise BenchError(f"the database refused the placement of {user}: {made}")
        store.touch(users, datetime.now(UTC), "start")
    finally:
        store.close()
    return path
