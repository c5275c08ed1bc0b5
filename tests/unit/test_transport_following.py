"""Following a command that says much on stderr while stdout is silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wsctl.errors import NodeUnreachable
from wsctl.transport import following
from wsctl.transport.following import KEEP_BYTES, follow


class Channel:
    """A channel of SSH: stdout says nothing as long as more is unread on stderr than the window has room for."""

    window = 2 << 20

    def __init__(self, complaints: int) -> None:
        self._unsent = self._unread = b""
        self._unsent = b"".join(b"file has vanished: %d\n" % number for number in range(complaints))
        self._left = [b"done"]
        self.status_event = SimpleNamespace(wait=lambda seconds: True, is_set=lambda: True)
        self._fill()

    def recv(self, size: int) -> bytes:
        if self._unsent:
            raise TimeoutError
        return self._left.pop() if self._left else b""

    def recv_stderr_ready(self) -> bool:
        return bool(self._unread)

    def recv_stderr(self, size: int) -> bytes:
        part, self._unread = self._unread[:size], self._unread[size:]
        if not self._unread:
            self._fill()
        return part

    def recv_exit_status(self) -> int:
        return 24

    def settimeout(self, seconds: float) -> None: ...
    def exec_command(self, words: str) -> None: ...
    def close(self) -> None: ...

    def _fill(self) -> None:
        self._unread, self._unsent = self._unsent[: self.window], self._unsent[self.window :]


def session(channel: Channel, answers: list[bool]) -> Any:
    return SimpleNamespace(
        transport=SimpleNamespace(open_session=lambda timeout: channel),
        timeouts=SimpleNamespace(channel=1.0, request=1.0),
        answers=lambda seconds: answers.pop(0),
        target=SimpleNamespace(host="10.0.0.1"),
    )


def test_what_is_said_on_stderr_alone_is_read_and_its_end_kept() -> None:
    done = follow("n1", session(Channel(300_000), []), ["rsync"], lambda part: None)
    assert (done.code, done.out) == (24, b"done")
    assert done.err.endswith(b"file has vanished: 299999\n")
    assert len(done.err) <= KEEP_BYTES


def test_who_says_nothing_at_all_is_asked_for_and_found_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(0)
    channel._unsent = b"never"
    monkeypatch.setattr(following, "SILENT_S", 0.01)
    with pytest.raises(NodeUnreachable, match="no word from"):
        follow("n1", session(channel, [True, True, False]), ["rsync"], lambda part: None)
