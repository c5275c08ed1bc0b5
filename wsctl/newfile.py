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
        # Opened before anything is written: one that can't be synced must not come out with the file in place.
        with _opened(path.parent) as folder:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fchmod(file.fileno(), mode)
                    os.fsync(file.fileno())
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            _sync(folder, path)
    except OSError as error:
        # Out here: closing a file writes what is left of it, and on a full disk fails once more.
        raise _in_the_way(path, "write", error) from error


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


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _sync(folder: int, path: Path) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        raise Refused(
            f"{path} was written, but a power cut might undo it: {error.strerror or error}",
            hint=f"check the disk of {path.parent}, then run the command again",
        ) from error


def _in_the_way(path: Path, doing: str, error: OSError) -> Refused:
    return Refused(
        f"cannot {doing} {path}: {error.strerror or error}; what was there is untouched",
        hint=f"check the folder {path.parent}, its permissions and its free space",
    )
