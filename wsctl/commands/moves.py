"""What `migrate-user`, `node drain` and `rebalance` share: the options of a copy, sizes, progress, an item per user.

Responsible for: their spelling and their form. Not responsible for: any of the verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Self

import typer

from wsctl import model
from wsctl.commands.options import rate, seconds
from wsctl.context import App
from wsctl.errors import NodeError, UsageError
from wsctl.model import ClusterView, WorkspaceSpec

if TYPE_CHECKING:
    from wsctl.moveports import Size
    from wsctl.mover import Moved
    from wsctl.output import Column, Progress
    from wsctl.planner.migrate import How
    from wsctl.workflow import World

ASSUMED_BYTES_S = 100 * 1024 * 1024
"""What an estimate reckons with where no limit is given: a gigabit."""

DONE = ("moved", "gone")
"""Verdicts after which nothing is left to do for a user."""

FIRST_PASS = 90
"""Hundredths of a user's bar that the first pass fills: what comes after it is short."""

VerifyOpt = Annotated[
    str | None,
    typer.Option("--verify", metavar="sample|full", help="Compare the content of a sample, or of all files."),
]
BwlimitOpt = Annotated[
    str | None, typer.Option("--bwlimit", metavar="SIZE", help="Each copy takes at most so much a second, e.g. 20m.")
]
CompressOpt = Annotated[
    bool | None, typer.Option("--compress/--no-compress", help="Compress on the way: for slow networks.")
]
KeepOpt = Annotated[str | None, typer.Option("--keep", metavar="DURATION", help="How long the source keeps its copy.")]
OnlyIdleOpt = Annotated[
    bool, typer.Option("--only-idle", help="Leave those who work, by the rules of reap-idle, where they are.")
]
AtOnceOpt = Annotated[int, typer.Option("--parallel", min=1, max=64, help="Users moved at once.")]


def how_of(app: App, verify: str | None, bwlimit: str | None, keep: str | None, *, compress: bool | None) -> How:
    """How to copy, as the planner takes it: as the options say, and what they don't, the inventory. Raises
    `UsageError`."""
    from wsctl.planner.migrate import How

    if verify not in (None, "sample", "full"):
        raise UsageError(f"--verify {verify!r} is neither sample nor full")
    usual = app.inventory.migrate
    return How(
        usual.keep_s if keep is None else seconds(keep, "--keep"),
        usual.verify_full if verify is None else verify == "full",
        usual.bandwidth if bwlimit is None else rate(bwlimit, "--bwlimit"),
        usual.compress if compress is None else compress,
    )


def spec_of(app: App) -> Callable[[str, ClusterView], WorkspaceSpec]:
    """The spec of a user, by what is known of them."""
    classes = app.inventory.classes
    return lambda user, view: model.spec_of(classes, view.placements.get(user))


# ------------------------------------------------------------------------------------------------------------- sizes


def measure(app: App, homes: Mapping[str, str], parallel: int) -> dict[str, Size]:
    """What there is to copy of users (user: node), read on the nodes; without those that couldn't be measured, of whom
    a warning tells."""
    from wsctl.transport.fanout import run as fan_out

    files, nodes = app.fleet.files, app.inventory.nodes
    local = {user: node for user, node in homes.items() if nodes[node].storage != "shared"}

    def one(user: str) -> Size:
        return files.size(local[user], nodes[local[user]].host_root.rstrip("/"), user)

    sizes: dict[str, Size] = {}
    for user, found in fan_out(local, one, parallel=parallel, deadline_s=600.0).items():
        if isinstance(found, NodeError):
            app.out.warn(f"the size of {user}'s files is unknown: {found.message}")
        elif isinstance(found, Exception):
            raise found
        else:
            sizes[user] = found
    return sizes


def estimate_s(size: Size, how: How) -> float:
    """How long one copy takes by its size alone."""
    return size.bytes / (how.bwlimit or ASSUMED_BYTES_S)


def size_fields(size: Size | None, how: How) -> dict[str, object]:
    """What a dry run says of one user's files; None where it isn't known."""
    if size is None:
        return {"size_bytes": None, "files": None, "estimate_s": None}
    return {"size_bytes": size.bytes, "files": size.files, "estimate_s": round(estimate_s(size, how), 1)}


def say_odd(app: App, sizes: Iterable[Size]) -> None:
    """Which files wouldn't be copied."""
    for size in sizes:
        say_left_out(app, size.odd_count, size.odd)


def say_left_out(app: App, count: int, names: Sequence[str]) -> None:
    """That so many files aren't copied, some of them by name."""
    if count:
        more = f" and {count - len(names)} more" if count > len(names) else ""
        app.out.warn(f"not copied, as they are sockets, pipes or devices: {', '.join(names)}{more}")


# ---------------------------------------------------------------------------------------------------------- progress


class Bars:
    """One bar on a terminal for many moves, a hundred parts for each user; there is none before `begin`."""

    def __init__(self, app: App, label: str) -> None:
        self._app = app
        self._label = label
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._shown: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def begin(self, users: int) -> None:
        """So many are going to be moved. Only the first time counts."""
        if self._bar is None and users:
            self._bar = self._stack.enter_context(self._app.out.progress(users * 100, self._label))

    def told(self, user: str, number: int, size: int, share: float) -> None:
        """How far the copy of a user is; later passes are short, and a copy that begins anew doesn't go back."""
        self._to(user, int(share * FIRST_PASS) if number == 1 else FIRST_PASS)

    def ended(self, user: str) -> None:
        """Nothing more comes of this user."""
        self._to(user, 100)

    def _to(self, user: str, part: int) -> None:
        shown = self._shown.get(user, 0)
        if self._bar is not None and part > shown:
            self._shown[user] = part
            self._bar.advance(part - shown)


@contextmanager
def under_way(
    app: App, verb: str, label: str, parallel: int, wait: str
) -> Iterator[tuple[World, Callable[[Moved], None], Callable[[Sequence[str]], None], Callable[[int], None]]]:
    """A world whose moves are shown as a bar, with each who moved routed at once; and who wants to be told of each that
    has ended, of a Ctrl-C, and of how many there are."""
    from wsctl.commands.applying import AsItGoes
    from wsctl.mover import Fate

    with Bars(app, label) as bar:
        live = AsItGoes(app, verb)

        def report(one: Moved) -> None:
            if one.fate is Fate.MOVED:
                live.changed()
            bar.ended(one.errand.user)

        world = app.world(parallel=parallel, wait_s=seconds(wait, "--wait"), told=bar.told, routed=live.changed)
        yield world, report, lambda users: say_stopping(app, users), bar.begin


def say_stopping(app: App, users: Sequence[str]) -> None:
    """The answer to the first Ctrl-C."""
    names = ", ".join(users[:5]) + ("…" if len(users) > 5 else "")
    app.out.warn(f"no further move begins; waiting for {names} to arrive (Ctrl-C again: stop at once)")


# ------------------------------------------------------------------------------------------------------------- items


def item_of(user: str | None, source: str, verdict: str, **more: object) -> dict[str, object]:
    """One line of the answer: `migrate-user`'s fields, and what became of it. The others are None or 0."""
    found: dict[str, object] = {
        "user": user, "source": source, "target": None, "generation": None, "downtime_ms": 0, "bytes_copied": 0,
        "passes": 0, "action": "none", "verdict": verdict, "reason": None, "kept_copy": None,
    }  # fmt: skip
    return {**found, **more}


def moved_item(one: Moved, verdict: str, kept_copy: str | None) -> dict[str, object]:
    """What became of one who was to be moved."""
    outcome = one.outcome
    placement = outcome.placement if outcome is not None else None
    facts = outcome.facts if outcome is not None else {}
    did = outcome is not None and verdict == "moved"
    return item_of(
        one.errand.user,
        one.errand.source,
        verdict,
        target=placement.node if did and placement is not None else None,
        generation=placement.generation if placement is not None else None,
        downtime_ms=facts.get("downtime_ms", 0),
        bytes_copied=facts.get("bytes_copied", 0),
        passes=facts.get("passes", 0),
        action=outcome.action if outcome is not None and did else "none",
        reason=one.reason,
        kept_copy=kept_copy,
    )


def columns(*, planned: bool) -> Sequence[Column]:
    """The columns of a table of moves, planned or made."""
    from wsctl.output import Column, human_bytes

    size = Column(
        "size_bytes" if planned else "bytes_copied",
        "size" if planned else "copied",
        show=_shown(human_bytes),
        right=True,
    )
    down = () if planned else (Column("downtime_ms", "down", show=_shown(lambda ms: f"{ms / 1000:.1f} s"), right=True),)
    return (Column("user"), Column("source"), Column("target"), Column("verdict"), size, *down, Column("reason"))


def _shown(how: Callable[[float], str]) -> Callable[[object], str]:
    return lambda value: how(float(value)) if isinstance(value, (int, float)) else "-"
