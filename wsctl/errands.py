"""Work in threads that nobody waits for: each errand at most once at a time, and no more of them than a limit.

Responsible for: that, and for not losing what none of them expected. Not responsible for: what is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable


class Errands:
    """Errands by name. Threads are daemons: a process that ends doesn't wait for them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._out: set[Hashable] = set()
        self._bug: BaseException | None = None

    def begin(self, name: Hashable, work: Callable[[], object]) -> bool:
        """Do it in a thread, unless the same is being done or too much is; whether it was begun."""
        with self._lock:
            if name in self._out or len(self._out) >= self._most:
                return False
            self._out.add(name)
        threading.Thread(target=self._run, args=(name, work), name=f"errand-{name}", daemon=True).start()
        return True

    def check(self) -> None:
        """Raise what an errand raised: it wasn't meant to."""
        if self._bug is not None:
            raise self._bug

    def idle(self) -> bool:
        """Whether nothing is being done."""
        with self._lock:
            return not self._out

    def _run(self, name: Hashable, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `check`, in the thread that can end the process
            self._bug = error
        finally:
            with self._lock:
                self._out.discard(name)
