"""`wsctl watch`: watches over the nodes until it is told to end; a service of systemd.

Responsible for: its options, what is printed of each change, and ending cleanly. Not responsible for: the rhythm
(`watcher`), the verdicts (`health`), the wake hook (`waking`), nor for failing over and what follows (`failing`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from wsctl.commands.options import command, seconds
from wsctl.context import App
from wsctl.sharedclock import boot_clock
from wsctl.text import iso

if TYPE_CHECKING:
    from wsctl.waker import Waker
    from wsctl.watcher import Watcher
    from wsctl.watchports import Event


@command
def watch(
    app: App,
    wake: Annotated[
        str | None,
        typer.Option("--wake", metavar="IP:PORT", help="Answer the gateway's wake hook there (default: watch.wake)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to be called (default: host name and process).")
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End after so long (default: when told to).")
    ] = None,
) -> None:
    """Watch over the nodes: which are suspect (they get no new users) and which are down. Ends with Ctrl-C or SIGTERM.

    Prints a line for each change. Run one on every control host: they compare notes, and one that ends changes nothing.

    Examples:
      wsctl watch
      wsctl watch --wake 127.0.0.1:8096 -o json
    """
    import gc

    from wsctl.commands.waking import answering
    from wsctl.watchports import Event

    gc.enable()  # a command does without; this one runs for months
    length_s = None if duration is None else seconds(duration, "--for")
    say = _sayer(app)
    watcher = _watcher(app, name, say)
    where = wake or app.inventory.watch.wake
    hook = (
        answering(app, where, lambda user, why: say(Event("wake", None, f"{user}: {why}")), boot_clock)
        if where
        else None
    )
    with hook or nullcontext() as waker:
        app.out.note(f"{watcher.name} watches {len(watcher.nodes)} nodes" + (f", wakes on {where}" if where else ""))
        _run(app, watcher, waker, None if length_s is None else boot_clock() + length_s)


def _watcher(app: App, name: str | None, say: Callable[[Event], None]) -> Watcher:
    """A watcher over all nodes. One that is down is failed over if the policy says so, one that is back is let in."""
    import socket

    from wsctl.commands.failing import on_down, on_return
    from wsctl.watcher import Watcher

    return Watcher(
        _one_word(name or "") or f"{socket.gethostname()}:{os.getpid()}",
        tuple(app.inventory.nodes),
        app.probes,
        app.presence,
        app.store,
        app.inventory.watch.rules,
        boot_clock,
        say,
        on_down=partial(on_down, app) if _is_automatic(app) else None,
        on_return=partial(on_return, app),
    )


def _one_word(name: str) -> str:
    """The name as notes have it, in which a space ends it."""
    return "_".join(name.split())


def _is_automatic(app: App) -> bool:
    from wsctl.standbys import FailoverPolicy

    return app.inventory.failover.policy is FailoverPolicy.AUTOMATIC


def _run(app: App, watcher: Watcher, waker: Waker | None, ends: float | None) -> None:
    """Watch until told to end, by a signal or the clock; systemd is told how it goes."""
    from wsctl.notify import Supervisor

    supervisor, stopped = Supervisor(os.environ), threading.Event()

    def turned() -> None:
        supervisor.alive()
        if waker is not None:
            waker.check()
        if ends is not None and boot_clock() >= ends:
            stopped.set()

    watcher.beat = turned
    supervisor.ready()
    try:
        watcher.run(stopped)
    except KeyboardInterrupt:
        app.out.note("ended")
    finally:
        supervisor.ending()


def _sayer(app: App) -> Callable[[Event], None]:
    """Prints one event at a time, whichever thread has it."""
    lock = threading.Lock()

    def say(event: Event) -> None:
        at = app.wiring.clock.now()
        if event.event == "down" and not _is_automatic(app):
            event = replace(event, reason=f"{event.reason}; to give it up: wsctl node fail {event.node}")
        silent = f" (no sign for {event.silent_s:g} s)" if event.silent_s and event.silent_s > 1 else ""
        reason = f": {event.reason}" if event.reason else ""
        item = {
            "at": iso(at), "event": event.event, "node": event.node, "reason": event.reason or None,
            "silent_s": event.silent_s,
        }  # fmt: skip
        with lock:
            app.out.line(item, f"{iso(at)} {event.node or '-'} {event.event}{reason}{silent}")

    return say
