"""A lease as a value.

Responsible for: what is known of one. Not responsible for: taking it (`coordination`). Below everything else: standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

FAILOVER_LEASE = "failover:"
"""With the name of a node: held while it is given up, or let back in, so that neither undoes the other half-way."""


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """Who holds what, since when, for which command, and until when if it isn't renewed. One that is `endless` was made
    by somebody else than wsctl, and never runs out."""

    name: str
    holder: str
    command: str
    acquired_at: datetime
    expires_at: datetime
    endless: bool = False
