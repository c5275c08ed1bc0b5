"""A value that is made at most once, whichever thread asks first.

Responsible for: remembering the outcome, also a failure. Not responsible for: what is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from wsctl.errors import NodeError

T = TypeVar("T")


class Once(Generic[T]):
    """Made by the first `get`; the others wait for it. A `NodeError` is remembered and raised again each time, anything
    else (a bug, Ctrl-C) isn't, so that the next caller meets it too."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: NodeError | None = None

    def get(self) -> T:
        """The value. Raises what making it raised."""
        with self._lock:
            if self._error is not None:
                raise again(self._error)
            if self._value is None:
                try:
                    self._value = self._make()
                except NodeError as error:
                    self._error = error
                    raise
            return self._value

    def peek(self) -> T | None:
        """The value if it is there; never waits."""
        return self._value


def again(error: NodeError) -> NodeError:
    """A fresh exception equal to `error`: one instance raised in several threads would mix their tracebacks."""
    copy = type(error)(error.node, error.reason, hint=error.hint, details=error.details)
    copy.__cause__ = error
    return copy
