"""`python -m bench.change INVENTORY FIRST COUNT PORT`: places users and puts the map live as verbs do at their end.

Responsible for: the changes, one JSON line each: the user, their address, when it was committed and when all was done
(by the clock that all processes of a machine share). Not responsible for: whether anybody can reach them.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from wsctl.commands.applying import auto_apply
from wsctl.context import App, Wiring
from wsctl.model import Capacity, PlacementState, Resources
from wsctl.output import Output
from wsctl.ports import Reservation

ROOM = Capacity(1 << 30, 1 << 60, 1 << 40)


def main(inventory: str, first: int, count: int, port: int) -> None:
    """One change after the other, each applied before the next is made."""
    gc.disable()  # as wsctl does in its own process
    app = App(Output(verbosity=-1), Path(inventory), Wiring())
    try:
        for number in range(first, first + count):
            user, address = f"new-{number:06}", f"127.200.{number // 250}.{number % 250 + 1}"
            node = f"far-{number}"  # none of the inventory's: the address in the row counts
            placed = app.store.reserve(Reservation(user, node, address, port, Resources(1 << 20, 10, 16), ROOM))
            if isinstance(placed, str) or not app.store.settle(user, placed.generation, PlacementState.RUNNING):
                raise SystemExit(f"{user} wasn't placed: {placed}")
            committed = time.monotonic()
            with auto_apply(app, "place", dry_run=False):
                pass
            said = {"user": user, "address": address, "committed": committed, "done": time.monotonic()}
            print(json.dumps(said), flush=True)
    finally:
        app.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
