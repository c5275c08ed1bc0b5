"""SSH channels of the kinds that wsctl needs, also those that paramiko doesn't know.

Responsible for: the wire format of a channel to a Unix socket, and telling each caller why its own channel was refused.
Not responsible for: handshake and login (`ssh`), what is spoken in a channel (`docker_socket`, `ready`).
"""

from __future__ import annotations

import socket
import struct
import threading
import time

import paramiko

STREAMLOCAL = "direct-streamlocal@openssh.com"


class ChannelRefused(Exception):
    """sshd didn't open a channel. `code` and `text` are its own, see RFC 4254 section 5.1; code 0 is a timeout."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class Transport(paramiko.Transport):
    """paramiko's transport, taught to open channels to Unix sockets, and to say why each single one was refused.

    paramiko sends the common header for any kind of channel, but the payload only for the kinds that it knows, and it
    keeps one exception for all threads. Both are per thread here.
    """

    def __init__(self, sock: socket.socket | paramiko.Channel) -> None:
        super().__init__(sock)
        self._mine = threading.local()
        self._refusals: dict[int, ChannelRefused] = {}
        self.debug_messages: list[str] = []

    def open_unix(self, path: str, timeout_s: float) -> paramiko.Channel:
        """A channel to the Unix socket `path` on the server. Raises `ChannelRefused`, or what paramiko raises when the
        connection is dead."""
        message = paramiko.Message()
        message.add_string(path)
        message.add_string("")
        message.add_int(0)
        return self._open(STREAMLOCAL, message.asbytes(), None, timeout_s)

    def open_tcp(self, host: str, port: int, timeout_s: float) -> paramiko.Channel:
        """A channel to a TCP port as seen from the server. Raises as `open_unix`."""
        return self._open("direct-tcpip", b"", (host, port), timeout_s)

    def _open(self, kind: str, payload: bytes, address: tuple[str, int] | None, timeout_s: float) -> paramiko.Channel:
        self._mine.payload = payload
        self._mine.channel = None
        source = ("127.0.0.1", 0) if address else None
        started = time.monotonic()
        try:
            return self.open_channel(kind, address, source, timeout=timeout_s)
        except paramiko.SSHException as error:
            refused = self._refusals.pop(self._mine.channel, None)
            if refused is not None:
                raise refused from error
            if self.is_active() and time.monotonic() - started >= timeout_s:
                raise ChannelRefused(0, f"no answer within {timeout_s:g} s") from error
            raise
        finally:
            self._mine.payload = b""

    def _send_user_message(self, data: paramiko.Message) -> None:
        raw = data.asbytes()
        # Only `open_channel` sends this type, in the thread that set the payload: byte, string kind, uint32 channel.
        if raw[:1] == b"\x5a":
            kind_length = struct.unpack(">I", raw[1:5])[0]
            self._mine.channel = struct.unpack(">I", raw[5 + kind_length : 9 + kind_length])[0]
            payload = getattr(self._mine, "payload", b"")
            if payload:
                data.add_bytes(payload)
        super()._send_user_message(data)  # type: ignore[misc]

    def _parse_channel_open_failure(self, message: paramiko.Message) -> None:
        channel, code = message.get_int(), message.get_int()
        self._refusals[channel] = ChannelRefused(code, message.get_text())
        message.rewind()
        super()._parse_channel_open_failure(message)  # type: ignore[misc]

    def _parse_debug(self, message: paramiko.Message) -> None:
        message.get_boolean()
        self.debug_messages.append(message.get_binary().decode("utf-8", "replace"))
        message.rewind()
        super()._parse_debug(message)  # type: ignore[misc]
