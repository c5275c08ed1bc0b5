"""N real nodes on one Linux box, for the demo, the tests and the benchmarks. Not part of wsctl's wheel."""

from lab.lab import Lab
from lab.node import LabNode
from lab.shell import LabError

__all__ = ["Lab", "LabError", "LabNode"]
