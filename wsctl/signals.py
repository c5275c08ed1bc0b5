"""What is noticed and remembered about workspaces besides their placement, as values.

Responsible for: signs of life of a container, and notes. Not responsible for: what they mean (`planner.idle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ContainerSigns:
    """Signs of life of a running container: bytes sent and CPU time used since it started (None: the engine has no
    figure), and how many `exec` sessions are open in it."""

    tx_bytes: int | None
    cpu_ns: int | None
    execs: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something remembered under a topic about a subject, and when it was written down."""

    value: str
    noted_at: datetime


@dataclass(frozen=True, slots=True)
class NetworkSample:
    """A container's sent bytes and CPU time (ns; None: unknown) at a moment: two tell whether it answered or worked."""

    user: str
    container_id: str
    tx_bytes: int
    observed_at: datetime
    cpu_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A workspace was started at that moment, and what its container had sent by then (None: that isn't known)."""

    at: datetime
    sample: NetworkSample | None = None
