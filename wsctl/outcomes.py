"""What became of one target, as a value.

Responsible for: that value. Not responsible for: bringing it about (`workflow`), nor for showing it (`commands`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wsctl.errors import WsctlError
from wsctl.model import Placement
from wsctl.plan import Work


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target: the action that was (or, in a dry run, would be) taken, or the error. `ready_ms` is
    how long it took from the beginning of a start until the workspace answered, `facts` what else was measured."""

    target: str
    action: str
    placement: Placement | None = None
    error: WsctlError | None = None
    work: Work | None = None
    ready_ms: float | None = None
    explain: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
