"""The command line: the app, and `main(argv) -> int`, where an error becomes a message and an exit code.

Responsible for: composing the verbs lazily (only the one that runs is imported), usage errors, exit codes and closed
pipes. Not responsible for: what a verb does (`commands`), nor how things look (`output`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from wsctl import __version__
from wsctl.errors import UsageError, WsctlError

if TYPE_CHECKING:
    from wsctl.context import Wiring

SUMMARY = "Places one container per user on plain Linux servers, routes to them, and keeps it so."
EPILOG = (
    "Exit codes: 0 done, 1 a bug, 2 usage, 3 inventory, 4 not found, 5 refused, 6 busy, 7 no node fits, 8 node, "
    "9 some failed, 10 backend, 130 interrupted."
)


def run() -> NoReturn:
    """The console script."""
    import gc
    import signal

    # SIGTERM (a cron job's timeout, a shutdown) is a Ctrl-C from somebody else: leases are given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A command lives for half a second and allocates mostly modules: collecting garbage only costs time.
    gc.disable()
    code = main()
    # All adapters are closed and all output is written: tearing down the interpreter would free, one by one, objects
    # that end with the process anyway, for 60 ms after a command that used SSH and Docker.
    _flush_stderr()
    os._exit(code)


def _flush_stderr() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()


def main(argv: Sequence[str] | None = None, wiring: Wiring | None = None) -> int:
    """Run one command and return its exit code. `wiring` replaces nodes and clock in tests."""
    args = verb_first(list(sys.argv[1:] if argv is None else argv))
    try:
        if args in (["--version"], ["-V"]):
            sys.stdout.write(f"wsctl {__version__}\n")
            code = 0
        else:
            code = _invoke(args, wiring)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of `wsctl --help` went away: that is its right.
        from wsctl.output import abandon_stdout

        abandon_stdout()
        return 0
    except WsctlError as error:
        _tell(error, args)
        return error.exit_code
    except SystemExit as stop:
        # Typer's own way out, for example of shell completion.
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("WSCTL_DEBUG"):
            raise
        _tell_bug(error, args)
        return 1
    return code


def _invoke(args: list[str], wiring: Wiring | None) -> int:
    from typer import Abort, BadParameter, Exit

    usage_error: type[Exception] = next(c for c in BadParameter.__mro__ if c.__name__ == "UsageError")
    app = build()
    try:
        result = app.main(args=args, prog_name="wsctl", standalone_mode=False, obj=wiring)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")  # type: ignore[attr-defined]
            return UsageError.exit_code
        raise _usage(error) from error
    except Exit as stop:
        return int(stop.exit_code)
    except Abort:
        return 130
    return result if isinstance(result, int) else 0


def _usage(error: Any) -> UsageError:
    """Typer's usage error in our words: its message, and the help to read next."""
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "wsctl"
    return UsageError(error.format_message().rstrip("."), hint=f"{path} --help")


def _tell(error: WsctlError, args: list[str]) -> None:
    from wsctl.output import Output

    out = Output(format=_format_in(args), verbosity=-1 if {"-q", "--quiet"} & set(args) else 0)
    out.error(error)
    out.close()


def _tell_bug(error: Exception, args: list[str]) -> None:
    bug = WsctlError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a bug in wsctl: set WSCTL_DEBUG=1, run it again and report the traceback",
    )
    _tell(bug, args)


def _format_in(args: list[str]) -> str:
    """The output format asked for, read off the raw arguments: they may be what was wrong."""
    text = " ".join(args)
    return "json" if re.search(r"(?:^| )(?:-[a-z]*?o ?|--output[ =])json(?: |$)", text) else "table"


def verb_first(args: list[str]) -> list[str]:
    """The arguments with shared options that stand before the verb moved behind it: `wsctl -i FILE ls` is a habit from
    other programs, and every verb takes these options anyway. Other arguments stay as and where they are."""
    from wsctl.commands import COMMANDS

    leading, rest = [], list(args)
    while rest and (found := _LEADING.fullmatch(rest[0])):
        takes_next = found["bare"] is not None
        if takes_next and len(rest) < 2:
            return args
        leading += rest[: 1 + takes_next]
        del rest[: 1 + takes_next]
    if not leading or not rest or rest[0] not in COMMANDS:
        return args
    words = 2 if isinstance(COMMANDS[rest[0]], dict) else 1
    return rest[:words] + leading + rest[words:]


_LEADING = re.compile(
    r"(?P<bare>-[vq]*[io]|--inventory|--output)|-[vq]+|--verbose|--quiet|-[vq]*[io].+|--(?:inventory|output)=.*",
    re.DOTALL,
)
"""An option that all verbs share, as an argument; `bare` if its value is the next argument."""


def build() -> Any:
    """The whole command tree; the commands in it are made when looked up."""
    from wsctl.commands import COMMANDS
    from wsctl.commands.tree import make_group

    return make_group("wsctl", SUMMARY, COMMANDS, EPILOG)
