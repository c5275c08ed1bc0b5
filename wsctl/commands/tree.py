"""The command tree, made lazily: a verb's module is imported when the verb is looked up, not when it is listed.

Responsible for: turning the table in `commands` into Typer commands and groups. Not responsible for: what is in the
table. `wsctl --help` imports no verb; that keeps it as quick as a program with a single command.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command as make_command

from wsctl.commands import GROUP_HELP, Entry

ANYBODY = "USER"
"""The key of the command that a group runs with a user's name: `wsctl restore alice`."""

CONTEXT = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """A group whose members are (module, function) pairs until somebody wants one."""

    entries: Mapping[str, Entry | Mapping[str, Entry]]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        if self.commands.get(cmd_name) is None:
            self.commands[cmd_name] = _make(cmd_name, entry)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A word that is no command is the user's name, where there is something to do with one."""
        if args and args[0] not in self.entries and not args[0].startswith("-") and ANYBODY in self.entries:
            return ANYBODY, self.get_command(ctx, ANYBODY), args
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in `--help`, from the table alone."""
        rows = [(name, help_of(name, entry)) for name, entry in self.entries.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def help_of(name: str, entry: Entry | Mapping[str, Entry]) -> str:
    """The one line of help of a command or group."""
    return entry.help if isinstance(entry, Entry) else GROUP_HELP[name]


def make_group(
    name: str, help_text: str, entries: Mapping[str, Entry | Mapping[str, Entry]], epilog: str | None = None
) -> LazyGroup:
    """A group with all entries known by name and none imported."""
    group = typer.Typer(
        name=name,
        help=help_text,
        cls=LazyGroup,
        epilog=epilog,
        rich_markup_mode=None,
        context_settings=CONTEXT,
        add_completion=name == "wsctl",
        no_args_is_help=True,
    )
    group.callback()(_nothing)
    made = make_command(group)
    if not isinstance(made, LazyGroup):
        raise TypeError("typer didn't make the group of the class it was given")
    made.entries = entries
    # Typer suggests from the keys; the values stay empty until looked up.
    made.commands = cast("dict[str, Any]", dict.fromkeys(entries))
    return made


def _make(name: str, entry: Entry | Mapping[str, Entry]) -> Any:
    if not isinstance(entry, Entry):
        return make_group(name, GROUP_HELP[name], entry)
    module, _, function = entry.target.partition(":")
    body = getattr(importlib.import_module(f"wsctl.commands.{module}"), function)
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
    single.command(name, short_help=entry.help, help=_help(body.__doc__ or ""))(body)
    return make_command(single)


def _help(text: str) -> str:
    """The docstring as help: examples keep their lines (backspace is Typer's sign for that), the rest is filled."""
    return inspect.cleandoc(text).replace("\nExample", "\n\b\nExample")


def _nothing() -> None:
    """Groups have no options of their own."""
