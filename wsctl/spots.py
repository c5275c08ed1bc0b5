"""Where each user is: the few facts of a placement that routing needs.

Responsible for: these values, small because there may be a million of them at each change. Not responsible for: what is
routed (`routes`), nor for reading them (`store`). Standard library only.
"""

from __future__ import annotations

from typing import NamedTuple

from wsctl.model import PlacementState


class Spot(NamedTuple):
    """Where a placement is, by its row: `address` and `host_port` are unchecked text and a port."""

    user: str
    node: str
    address: str
    host_port: int
    state: PlacementState
