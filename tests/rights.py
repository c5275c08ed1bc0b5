"""Acting with no more rights than permissions give, so that these mean something in tests that root runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534

VERSION_3 = 0x20080522
"""Of the capabilities' format, from linux/capability.h."""

OVERRIDES = (1, 2, 3)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: what root ignores permissions by."""


@contextmanager
def under_permissions() -> Iterator[Path]:
    """A folder of one's own, while this thread and those that it starts ignore no permissions. The user stays the same:
    another one couldn't read wsctl's own files where they are in somebody's home."""
    folder = Path(tempfile.mkdtemp(prefix="wsctl-test-"))
    before = _capabilities()
    mask = sum(1 << number for number in OVERRIDES)
    _set_capabilities((before[0] & ~mask, *before[1:]))
    try:
        yield folder
    finally:
        _set_capabilities(before)
        folder.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)


def _capabilities() -> tuple[int, ...]:
    """Effective, permitted and inheritable, for the capabilities below 32; then those above."""
    data = (ctypes.c_uint32 * 6)()
    _call("capget", data)
    return tuple(data)


def _set_capabilities(values: tuple[int, ...]) -> None:
    _call("capset", (ctypes.c_uint32 * 6)(*values))


def _call(name: str, data: ctypes.Array[ctypes.c_uint32]) -> None:
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    if getattr(ctypes.CDLL(None, use_errno=True), name)(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
