"""What a check found: a verdict, the detail, and the fix to type.

Responsible for: that one value. Not responsible for: any check (`nodecheck`, `machinecheck`, `doctor`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """What a check found. WARN doesn't keep the node from working."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    check: str
    status: CheckStatus
    detail: str
    fix: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON and tables."""
        return {**asdict(self), "status": self.status.value}
