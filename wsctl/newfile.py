"""Files that are there as a whole or not at all.

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

PRIVATE = 0o600
PUBLIC = 0o644


@contextlib.contextmanager
def replacing(path: Path, mode: int = PRIVATE) -> Iterator[IO[bytes]]:
    """A new file that becomes `path` in one step, durably, when the block ends well; else nothing is left of it.

    A reader sees the old file or the new one, never a part. Raises `Refused` naming what is in the way.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _in_the_way(path, "write", error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            except OSError as error:
                raise _in_the_way(path, "write", error) from error
        try:
            os.replace(name, path)
        except OSError as error:
            raise _in_the_way(path, "write", error) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def current(path: Path) -> bytes | None:
    """What is at `path` now; None: nothing. Raises `Refused` when that can't be found out."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _in_the_way(path, "read", error) from error


def replace_file(path: Path, text: str, mode: int = PUBLIC) -> bool:
    """Put `text` at `path` as `replacing` does. False: it was there already. Raises `Refused`."""
    data = text.encode("utf-8")
    if current(path) == data:
        return False
    with replacing(path, mode) as file:
        file.write(data)
    return True


def _in_the_way(path: Path, doing: str, error: OSError) -> Refused:
    return Refused(
        f"cannot {doing} {path}: {error.strerror or error}; what was there is untouched",
        hint=f"check the folder {path.parent}, its permissions and its free space",
    )
