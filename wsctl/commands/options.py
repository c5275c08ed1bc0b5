"""Options that commands share, and the decorator that gives each command its `App`.

Responsible for: the spelling and help of options that occur on more than one verb (declared once, so that they are the
same everywhere), and for opening and closing the `App` around a command's body. Not responsible for: any verb.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from wsctl.context import App, Wiring
from wsctl.errors import UsageError, WsctlError
from wsctl.model import is_user_id


class Format(StrEnum):
    """How answers are printed."""

    TABLE = "table"
    PLAIN = "plain"
    JSON = "json"


class Interrupted(WsctlError):
    """The operator pressed Ctrl-C (or sent SIGTERM)."""

    exit_code = 130
    code = "interrupted"


InventoryOpt = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        metavar="FILE",
        help="Inventory file (env: WSCTL_INVENTORY; else ./inventory.yaml, then the user's and the system's folder).",
    ),
]
FormatOpt = Annotated[Format, typer.Option("--output", "-o", help="How to print the answer.")]
VerboseOpt = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Say more; twice: debug log.")
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer and errors.")]

DryRunOpt = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and do nothing.")]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
ParallelOpt = Annotated[int, typer.Option("--parallel", min=1, max=256, help="Users acted on at once.")]
WaitOpt = Annotated[
    str, typer.Option("--wait", metavar="DURATION", help="How long to wait for somebody else's lease (0: not at all).")
]
RequestOpt = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="ID",
        help="Do it once: the same ID with the same parameters gives the first result, from any control host.",
    ),
]
UserArg = Annotated[str, typer.Argument(metavar="USER", show_default=False, help="A user id.")]
UsersArg = Annotated[list[str], typer.Argument(metavar="USER…", show_default=False, help="User ids.")]


def check_users(users: list[str]) -> tuple[str, ...]:
    """The user ids without repetitions, in the given order. Raises `UsageError` for one that can't be a user id."""
    for user in users:
        if not is_user_id(user):
            raise UsageError(
                f"{user!r} is not a user id: 1 to 63 of a-z 0-9 _ -, beginning and ending with a letter or digit",
                hint="user ids are lower case; map other names to such ids before calling wsctl",
                details={"user": user},
            )
    return tuple(dict.fromkeys(users))


def seconds(text: str, option: str) -> float:
    """A duration like `30s`, `5m`, `1h30m` or `0`, in seconds. Raises `UsageError` naming the option."""
    from wsctl.inventory.scalars import parse_duration

    try:
        return 0.0 if text.strip() == "0" else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}", hint=f"for example {option} 30m") from error


def rate(text: str, option: str) -> int:
    """Bytes a second like `50m`, not fewer than the inventory takes. Raises `UsageError` naming the option."""
    from wsctl.inventory.scalars import RATE

    try:
        return int(RATE.parse(text))
    except ValueError as error:
        said = f"{error}, " if str(error) else ""
        raise UsageError(
            f"{option} {text!r}: {said}expected {RATE.expected}", hint=f"for example {option} 50m"
        ) from error


def command(body: Callable[..., None]) -> Callable[..., None]:
    """Make a command of `body(app, …)`: adds -i, -o, -v and -q, opens the `App`, and closes it whatever happens."""
    hints = get_type_hints(body, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(body).parameters.values())[1:]]
    shared = {"inventory": (InventoryOpt, None), "output": (FormatOpt, Format.TABLE), "verbose": (VerboseOpt, 0)}
    shared["quiet"] = (QuietOpt, False)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *(p.replace(kind=keyword) for p in own),
        *(inspect.Parameter(n, keyword, default=d, annotation=a) for n, (a, d) in shared.items()),
    ]

    def run(
        *, ctx: typer.Context, inventory: Path | None, output: Format, verbose: int, quiet: bool, **own: Any
    ) -> None:
        from wsctl.output import Output, abandon_stdout

        wiring = ctx.obj if isinstance(ctx.obj, Wiring) else Wiring()
        out = Output(format=output.value, verbosity=-1 if quiet else verbose)
        if verbose > 1:
            _log_everything()
        app = App(out, inventory, wiring)
        try:
            body(app, **own)
            out.close()
        except BrokenPipeError:
            # The reader went away (`wsctl ls | head`): that is its right. Typer would make it a failure.
            abandon_stdout()
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted; what was begun is recorded",
                hint="run the same command again to finish or see what is left",
            ) from None
        finally:
            app.close()

    run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _log_everything() -> None:
    """-vv: what the libraries say too, on stderr."""
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(relativeCreated)7.0f ms %(threadName)s %(name)s: %(message)s")
