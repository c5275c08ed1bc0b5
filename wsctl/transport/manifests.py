"""What two folders hold, compared.

Responsible for: reading what `file_scripts.MANIFEST` says, and the differences in words. Not responsible for: getting
it. Names are untrusted bytes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

MOST = 100
"""So many differences are told."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A folder: the digest of all that can be compared line by line, and the sets of names that are one file each. Or
    `lines`, if it was asked for all of it."""

    digest: bytes
    linked: frozenset[bytes]
    lines: frozenset[bytes]

    @classmethod
    def of(cls, out: bytes) -> Manifest:
        digest, _, rest = out.partition(b"\n")
        names: dict[bytes, list[bytes]] = defaultdict(list)
        for entry in rest.split(b"\0"):
            inode, _, name = entry.partition(b" ")
            names[inode].append(name)
        # One whose other names are elsewhere is a file like any other.
        linked = frozenset(b"|one file|".join(sorted(found)) for found in names.values() if len(found) > 1)
        return cls(digest, linked, frozenset(out.split(b"\0")))


def differences(here: frozenset[bytes], there: frozenset[bytes]) -> list[str]:
    """What is on one side only, a line each, the source's first; untrusted text."""
    found = [(line, "source") for line in here - there] + [(line, "copy") for line in there - here]
    return [f"{side}: {line.decode('utf-8', 'backslashreplace')}" for line, side in sorted(found)[:MOST]]
