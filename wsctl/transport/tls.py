"""One request over TLS, on any stream: a socket, or a channel of an SSH connection.

Responsible for: the handshake and one exchange. The certificate isn't verified: the other end is the gateway's own
loopback, what is asked is no secret, and the answer is checked against a digest. Not responsible for: the request.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsctl.transport.ready import Wire


def exchange(wire: Wire, name: str, request: bytes, limit: int) -> bytes:
    """Send `request` to the server `name` and return at most `limit` bytes of its answer. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    answer = b""
    waiting = request
    greeted = False
    while True:
        try:
            if not greeted:
                tls.do_handshake()
                greeted = True
            if waiting:
                waiting = waiting[tls.write(waiting) :]
                continue
            part = tls.read(4096)
            answer += part
            if not part or len(answer) >= limit:
                return answer
        except ssl.SSLWantReadError:
            if outgoing.pending:
                wire.sendall(outgoing.read())
            data = wire.recv(16384)
            if not data:
                return answer
            incoming.write(data)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return answer
