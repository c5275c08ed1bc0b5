"""Generates the reference pages from the program: `make docs`, or `python scripts/docs.py [--check]`.

Responsible for: docs/reference/cli.md, from the command tree itself, and docs/reference/inventory.md, from the
inventory's table. The same program gives the same bytes, whatever the terminal. `--check` writes nothing and exits 1
when a page is stale. Not responsible for: any page that a person writes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wsctl.cli import EPILOG, SUMMARY, build
from wsctl.inventory.docs import reference_page

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"

INTRO = f"""\
# The command line

<!-- Generated from the program by scripts/docs.py: `make docs`. Do not edit. -->

{SUMMARY}

Options stand behind the verb: `wsctl ls -o json`. The answer goes to stdout, everything else to stderr. See also
[JSON](json.md), [exit codes](exit-codes.md), [the inventory](inventory.md) and
[files and environment](files-and-environment.md).
"""


class Verb(NamedTuple):
    """One command: its words behind `wsctl`, the command itself, and the line that lists it."""

    name: str
    command: Any
    summary: str

    @property
    def options(self) -> list[Any]:
        """Its options, in the order of the program."""
        return [one for one in self.command.params if one.param_type_name == "option" and not one.hidden]

    @property
    def arguments(self) -> list[Any]:
        """Its arguments, in the order of the program."""
        return [one for one in self.command.params if one.param_type_name == "argument"]


def verbs() -> list[Verb]:
    """Every command of the program, groups spelled out, in the order of `--help`."""
    root = build()
    return list(_below(root, root.make_context("wsctl", [], resilient_parsing=True), ()))


def _below(group: Any, context: Any, path: tuple[str, ...]) -> Iterator[Verb]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from _below(command, context, (*path, name))
        else:
            yield Verb(" ".join((*path, name)), command, command.short_help or "")


def cli_page() -> str:
    """docs/reference/cli.md."""
    every = verbs()
    lines = {verb.name: [_option(option) for option in verb.options] for verb in every}
    shared = [line for line in lines[every[0].name] if all(line in others for others in lines.values())]
    parts = [INTRO, "| verb | |", "|---|---|"]
    anchor = {verb.name: f"#wsctl-{verb.name.replace(' ', '-').lower()}" for verb in every}
    parts += [f"| [`{verb.name}`]({anchor[verb.name]}) | {_cell(verb.summary)} |" for verb in every]
    parts += ["", "## Options of every verb", "", *_table("option", shared), ""]
    parts += ["`wsctl --version` prints the version, `wsctl --install-completion` completes verbs and options in your"]
    parts += ["shell, and `--help` (`-h`) works everywhere.", "", EPILOG, ""]
    for verb in every:
        own = [line for line in lines[verb.name] if line not in shared]
        parts += [f"## wsctl {verb.name}", "", "```text", _usage(verb), "```", "", *_help(verb), ""]
        if verb.arguments:
            parts += [*_table("argument", [(f"`{_metavar(one)}`", one.help or "", "") for one in verb.arguments]), ""]
        if own:
            parts += [*_table("option", own), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _usage(verb: Verb) -> str:
    return " ".join(["wsctl", verb.name, "[OPTIONS]", *(_metavar(one) for one in verb.arguments)])


def _help(verb: Verb) -> list[str]:
    """The docstring: prose as it is, and the examples at its end as a block of code."""
    prose, mark, examples = inspect.cleandoc(verb.command.help or "").partition("\nExample")
    lines = prose.replace("\b", "").strip().splitlines()
    if mark:
        commands = inspect.cleandoc(examples.partition("\n")[2].replace("\b", "")).strip()
        lines += ["", "```console", *(f"$ {line}" for line in commands.splitlines()), "```"]
    return lines


def _option(option: Any) -> tuple[str, str, str]:
    """Its spellings with what it takes, its help, its default."""
    long_first = sorted(option.opts, key=lambda text: not text.startswith("--"))
    spelled = ", ".join(f"`{text}`" for text in (*long_first, *option.secondary_opts))
    takes = "" if option.is_flag or option.count else f" `{_metavar(option)}`"
    silent = option.default is None or option.is_flag or option.count or option.default == ""
    default = "" if silent else f"`{getattr(option.default, 'value', option.default)}`"
    if option.is_flag and option.secondary_opts:
        default = f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    return spelled + takes, (option.help or "") + (" Repeatable." if option.multiple else ""), default


def _metavar(one: Any) -> str:
    """What stands for the value."""
    if one.metavar:
        return str(one.metavar)
    choices = getattr(one.type, "choices", None)
    if choices:
        return "|".join(str(getattr(choice, "value", choice)) for choice in choices)
    low, high = getattr(one.type, "min", None), getattr(one.type, "max", None)
    if low is not None:
        return f"{low}..{'' if high is None else high}"
    return str(one.name).upper()


def _table(title: str, lines: list[tuple[str, str, str]]) -> list[str]:
    if any(default for _, _, default in lines):
        return [f"| {title} | | default |", "|---|---|---|", *(f"| {' | '.join(map(_cell, line))} |" for line in lines)]
    return [f"| {title} | |", "|---|---|", *(f"| {' | '.join(map(_cell, line[:2]))} |" for line in lines)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "inventory.md": reference_page}


def main(arguments: list[str]) -> int:
    """Write what is stale, or with `--check` only say so."""
    stale = [
        name
        for name, page in PAGES.items()
        if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != page()
    ]
    for name in stale:
        if "--check" not in arguments:
            (REFERENCE / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name} {'is stale: make docs' if '--check' in arguments else 'written'}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
