"""One SSH connection: handshake, host key check, login.

Responsible for: a message with its probable cause for each way a connection fails, and for closing it. Not responsible
for: who shares a connection (`sessions`), the kinds of channels (`channels`), the cause of a refused socket
(`diagnosis`).

A host key that isn't trusted ends the connection before the first authentication packet.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from wsctl.errors import HostKeyError, NodeUnreachable
from wsctl.transport import auth
from wsctl.transport.channels import Transport
from wsctl.transport.dial import Stream
from wsctl.transport.host_keys import HostKey, KeyStatus
from wsctl.transport.known_hosts import Entry, KnownHosts
from wsctl.transport.ssh_config import Target
from wsctl.transport.timeouts import Timeouts

# GCM encrypts and authenticates in one pass. What paramiko would offer besides (CBC, MD5, SHA-1) is left out.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
DIGESTS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


BROKEN = (paramiko.SSHException, OSError, EOFError)
"""How paramiko says that a connection is dead."""


class BannerMissing(NodeUnreachable):
    """sshd closed the connection before it said anything: it is being greeted by too many at once (MaxStartups)."""


class Session:
    """An open, authenticated connection. `peer` is the IP literal at the other end, None if that isn't known. Safe to
    use from several threads."""

    def __init__(
        self, target: Target, transport: Transport, stream: Stream, peer: str | None, timeouts: Timeouts
    ) -> None:
        self.target = target
        self.transport = transport
        self.stream = stream
        self.peer = peer
        self.timeouts = timeouts
        self._asking = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the connection hasn't ended, as far as is known: of a network that was cut nobody hears."""
        return bool(self.transport.is_active())

    def open_unix(self, path: str) -> paramiko.Channel:
        """A channel to a Unix socket of the host. Raises `ChannelRefused`, or SSHException, OSError, EOFError when the
        connection is dead."""
        return self.transport.open_unix(path, self.timeouts.channel)

    def open_tcp(self, host: str, port: int, timeout_s: float | None = None) -> paramiko.Channel:
        """A channel to a TCP port as the host sees it. Raises as `open_unix`."""
        return self.transport.open_tcp(host, port, self.timeouts.channel if timeout_s is None else timeout_s)

    def answers(self, timeout_s: float) -> bool:
        """Whether sshd still answers, whatever the engine does: any reply to a request without meaning will do."""
        return self.ask("keepalive@openssh.com", (), timeout_s)

    def ask(self, kind: str, data: tuple[str | int, ...], timeout_s: float) -> bool:
        """Send a global request; True once a reply, good or bad, came within `timeout_s`. What sshd says besides is in
        `transport.debug_messages` by then."""
        answered = threading.Event()

        def wait() -> None:
            # paramiko waits without limit, hence the thread; and it has room for one request at a time.
            with contextlib.suppress(Exception), self._asking:
                self.transport.global_request(kind, data or None, wait=True)
                if self.transport.is_active():
                    answered.set()

        threading.Thread(target=wait, name="ask-sshd", daemon=True).start()
        return answered.wait(timeout_s)

    def close(self) -> None:
        """Close the connection; never raises. The socket goes first, which wakes paramiko's reading thread at once; it
        would look up only every 100 ms."""
        self.stream.close()
        with contextlib.suppress(Exception):
            self.transport.close()


def opened(session: Callable[[], Session], open_channel: Callable[[Session], paramiko.Channel]) -> paramiko.Channel:
    """A new channel of the connection that `session` gives; of the next one if that turns out to have ended, which is
    seen only now: nothing was said on it yet. Raises what both raise."""
    first = session()
    try:
        return open_channel(first)
    except BROKEN:
        if first.is_open:
            raise
    return open_channel(session())


def open_session(target: Target, dial: Callable[[], Stream], timeouts: Timeouts) -> Session:
    """Connect, check the host key, log in. `dial` makes the stream, and is called again when sshd is too busy.
    Raises `NodeUnreachable`, `HostKeyError`."""
    stream, transport = _greet(target, dial, timeouts)
    try:
        key = _presented(target, transport)
        if key.status is not KeyStatus.TRUSTED:
            raise untrusted(target, key)  # noqa: TRY301 - what is open has to be closed
        _guarded(target, lambda: auth.log_in(transport, target, timeouts), "the login")
        return Session(target, transport, stream, _peer(stream), timeouts)
    except BaseException:
        stream.close()
        transport.close()
        raise


def scan(target: Target, dial: Callable[[], Stream], timeouts: Timeouts) -> HostKey:
    """The host's key and what is known about it; no login. Raises `NodeUnreachable`."""
    stream, transport = _greet(target, dial, timeouts)
    try:
        return _presented(target, transport)
    finally:
        stream.close()
        transport.close()


def untrusted(target: Target, key: HostKey) -> HostKeyError:
    """The refusal of a key, with both fingerprints."""
    presented = f"{key.type} {key.fingerprint}"
    known = ", ".join(key.known) or "none"
    if key.status is KeyStatus.CHANGED:
        said = f"the host key of {key.host} changed: known {known}, presented {presented}"
        hint = f"if the machine was reinstalled: wsctl node trust {target.node}; if not, somebody may be in between"
    elif key.status is KeyStatus.REVOKED:
        said = f"the host key of {key.host} is revoked in {key.file}: {presented}"
        hint = "the machine needs a new host key"
    else:
        said = f"the host key of {key.host} isn't known: known {known}, presented {presented}"
        hint = f"wsctl node trust {target.node}"
    details = {"host": key.host, "known": list(key.known), "presented": presented, "status": str(key.status)}
    return HostKeyError(target.node, said, hint=hint, details=details)


def _greet(target: Target, dial: Callable[[], Stream], timeouts: Timeouts) -> tuple[Stream, Transport]:
    """Dial and exchange keys, again if sshd hung up before its banner: it drops at random when many log in at once."""
    for attempt in range(timeouts.retries + 1):
        stream = dial()
        try:
            return stream, _handshake(target, stream, timeouts)
        except BannerMissing:
            stream.close()
            if attempt == timeouts.retries:
                raise
            time.sleep(random.uniform(0.1, 0.4) * (attempt + 1))  # noqa: S311 - spreads load, no secret
        except BaseException:
            stream.close()
            raise
    raise AssertionError("unreachable")


def _handshake(target: Target, stream: Stream, timeouts: Timeouts) -> Transport:
    transport = Transport(stream.sock)
    transport.banner_timeout = timeouts.handshake
    transport.handshake_timeout = timeouts.handshake
    transport.clear_to_send_timeout = timeouts.request
    options = transport.get_security_options()
    options.ciphers = CIPHERS
    options.digests = DIGESTS
    host, port = target.check_name
    options.key_types = preferred(KnownHosts.load(target.known_hosts).keys(host, port), tuple(options.key_types))
    done = threading.Event()
    try:
        transport.start_client(event=done)
        # Both phases have their own limit inside paramiko; this one is the belt to those braces.
        done.wait(2 * timeouts.handshake + 1)
        error = transport.get_exception()
        if error is None and transport.is_active() and done.is_set():
            return transport
        raise _no_handshake(target, transport, error, timeouts) from error  # noqa: TRY301 - as above
    except BaseException:
        transport.close()
        raise


def preferred(known: list[Entry], offered: tuple[str, ...]) -> tuple[str, ...]:
    """The host key algorithms in the order to ask for them: types that are known first, so that a host with several
    keys shows one that can be verified. The others follow, as in OpenSSH, so that a change can be shown."""
    types = {entry.type for entry in known if not entry.revoked}
    first = [name for name in offered if name in types or ("ssh-rsa" in types and name in RSA_SIGNATURES)]
    return (*first, *(name for name in offered if name not in first))


def _presented(target: Target, transport: Transport) -> HostKey:
    key = transport.get_remote_server_key()
    host, port = target.check_name
    return KnownHosts.load(target.known_hosts).judge(host, port, key.get_name(), key.asbytes())


def _no_handshake(
    target: Target, transport: Transport, error: BaseException | None, timeouts: Timeouts
) -> NodeUnreachable:
    where = f"{target.host} port {target.port}"
    # paramiko wraps what happened to the banner; the original is the context.
    origin = error.__context__ if error is not None and error.__context__ is not None else error
    if isinstance(error, IncompatiblePeer):
        hint = "its sshd is too old or too strict: see KexAlgorithms, Ciphers and HostKeyAlgorithms in its sshd_config"
        return NodeUnreachable(target.node, f"{where} shares no algorithm with wsctl: {error}", hint=hint)
    if isinstance(error, paramiko.SSHException) and "Indecipherable" in str(error):
        return NodeUnreachable(target.node, f"{where} doesn't speak SSH", hint="is the `port` in `ssh:` right?")
    if isinstance(origin, TimeoutError) or error is None:
        return _frozen(target, transport, timeouts)
    if isinstance(origin, EOFError | ConnectionError):
        if transport.remote_version:
            said = f"{where} closed the connection during the handshake"
            return NodeUnreachable(target.node, said, hint="its log says why: journalctl -u ssh")
        hint = "too many log in at once (MaxStartups in its sshd_config), or its firewall forbids this machine"
        return BannerMissing(target.node, f"{where} closed the connection before sshd's banner", hint=hint)
    return NodeUnreachable(target.node, f"{where}: the handshake failed: {error}", hint="its log says why")


def _frozen(target: Target, transport: Transport, timeouts: Timeouts) -> NodeUnreachable:
    where = f"{target.host} port {target.port}"
    hint = "the machine is frozen or very busy, or something else listens on this port"
    if transport.remote_version:
        said = f"{where} didn't finish the handshake within {timeouts.handshake:g} s"
    else:
        said = f"{where} accepted the connection, but sshd sent no banner within {timeouts.handshake:g} s"
    return NodeUnreachable(target.node, said, hint=hint)


def _guarded(target: Target, action: Callable[[], None], step: str) -> None:
    try:
        action()
    except (paramiko.SSHException, OSError, EOFError) as error:
        said = f"the connection to {target.host} broke during {step}: {error or type(error).__name__}"
        raise NodeUnreachable(target.node, said, hint="its log says why: journalctl -u ssh") from error


def _peer(stream: Stream) -> str | None:
    """The IP literal at the other end, if the stream is TCP."""
    if getattr(stream.sock, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return None
    with contextlib.suppress(OSError):
        return str(stream.sock.getpeername()[0]).partition("%")[0]
    return None
