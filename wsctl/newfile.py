"""Files that are there as a whole or not at all, readable for their owner alone.

Responsible for: writing beside, durably, and taking the place in one step. Not responsible for: what is written.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from wsctl.errors import Refused


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that becomes `path` in one step, durably, when the block ends well; else nothing is left of it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _in_the_way(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise _in_the_way(path, error) from error
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _in_the_way(path: Path, error: OSError) -> Refused:
    return Refused(
        f"cannot write {path}: {error.strerror or error}; nothing was written",
        hint=f"check the folder {path.parent}, its permissions and its free space",
    )
