"""Logging in with keys: the agent's, and files. Never a password, never a prompt.

Responsible for: which keys are offered in which order, and a refusal that names them. Not responsible for: host keys,
which are checked before this is called (`ssh`).
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from wsctl.errors import NodeUnreachable
from wsctl.transport.host_keys import fingerprint
from wsctl.transport.ssh_config import Target
from wsctl.transport.timeouts import Timeouts


class Attempt:
    """What was tried so far, for the message of a refusal."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.skipped: list[str] = []


def log_in(transport: paramiko.Transport, target: Target, timeouts: Timeouts) -> None:
    """Authenticate on a connection whose host key was checked. Raises `NodeUnreachable`; OSError, EOFError and
    `paramiko.SSHException` when the connection breaks."""
    attempt = Attempt()
    transport.auth_timeout = timeouts.auth
    with _Agent(target.agent) as agent:
        for label, key in _keys(target, agent.keys, attempt):
            attempt.offered.append(label)
            try:
                missing = transport.auth_publickey(target.user, key)
            except paramiko.BadAuthenticationType as error:
                raise _refused(target, attempt, f"sshd wants {', '.join(error.allowed_types)}, not a key") from error
            except paramiko.AuthenticationException as error:
                if not transport.is_active():  # sshd hangs up after MaxAuthTries
                    raise _refused(target, attempt, "too many keys were offered") from error
                if "timeout" in str(error).lower():
                    why = f"sshd gave no answer within {timeouts.auth:g} s of the login"
                    raise NodeUnreachable(target.node, f"{target.name}: {why}") from error
                continue
            if missing:
                raise _refused(target, attempt, f"sshd also wants {', '.join(missing)}, which wsctl can't give")
            return
    raise _refused(target, attempt, "sshd accepts none of the keys")


def _keys(
    target: Target, agent_keys: tuple[paramiko.AgentKey, ...], attempt: Attempt
) -> Iterator[tuple[str, paramiko.PKey]]:
    """The keys to offer, lazily: files are read only when their turn comes.

    A file whose public half the agent holds is offered through the agent, so an encrypted file needs no passphrase.
    """
    held = {key.asbytes(): key for key in agent_keys}
    files = [Path(name) for name in target.key_files]
    named = {blob for blob in map(_public_blob, files) if blob is not None and blob in held}
    for blob, key in held.items():
        if blob in named or not target.identities_only:
            yield f"agent {key.get_name()} {fingerprint(blob)}", key
    for path in files:
        if _public_blob(path) in named:
            continue
        loaded = _load(path, target, attempt)
        if loaded is not None:
            yield f"{path} {fingerprint(loaded.asbytes())}", loaded


def _load(path: Path, target: Target, attempt: Attempt) -> paramiko.PKey | None:
    """The private key of a file. One that the inventory names must be usable; any other is passed over with a note."""
    hint = "correct `identity_file` in `ssh:`"
    error: Exception
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError as missing:
        why, error = "isn't there", missing
        if target.named_key is None:
            return None
    except OSError as unreadable:
        why, error = f"can't be read: {unreadable.strerror}", unreadable
    except (TypeError, paramiko.PasswordRequiredException) as encrypted:
        # cryptography raises TypeError when a passphrase is needed and none was given.
        why, error = "is encrypted and no agent holds it", encrypted
        hint = f"eval $(ssh-agent) && ssh-add {path}"
    except (ValueError, paramiko.SSHException, UnknownKeyType) as damaged:
        why, error = "isn't a private key that wsctl can use", damaged
    except Exception as odd:  # noqa: BLE001 - cryptography's own exceptions (UnsupportedAlgorithm) have no common base
        why, error = f"can't be used: {odd}", odd
    if target.named_key is not None:
        raise NodeUnreachable(target.node, f"the key file {path} {why}", hint=hint) from error
    attempt.skipped.append(f"{path} {why}")
    return None


def _public_blob(path: Path) -> bytes | None:
    """The public half beside a private key (`….pub`), if it is there."""
    try:
        fields = path.with_name(f"{path.name}.pub").read_text(errors="replace").split()
        return base64.b64decode(fields[1], validate=True)
    except (OSError, IndexError, ValueError):
        return None


def _refused(target: Target, attempt: Attempt, why: str) -> NodeUnreachable:
    offered = ", ".join(attempt.offered) or "none"
    skipped = f"; not offered: {', '.join(attempt.skipped)}" if attempt.skipped else ""
    if not attempt.offered:
        why = "there is no key to offer"
    return NodeUnreachable(
        target.node,
        f"login as {target.name} was refused: {why} (offered: {offered}{skipped})",
        hint=f"add the public key to ~{target.user}/.ssh/authorized_keys on the node, or name another in "
        "`ssh: {user, identity_file}`",
        details={"user": target.user, "keys": list(attempt.offered)},
    )


class _Agent(AgentSSH):
    """The keys of the agent behind one socket, with a time limit, which paramiko's own `Agent` lacks. No agent, or one
    that doesn't answer, holds no keys."""

    def __init__(self, path: str | None, timeout_s: float = 2.0) -> None:
        super().__init__()
        if path is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
            self._connect(sock)  # type: ignore[attr-defined]
            sock.settimeout(None)  # a key on a token may have to be touched
        except (OSError, EOFError, paramiko.SSHException):
            sock.close()

    @property
    def keys(self) -> tuple[paramiko.AgentKey, ...]:
        """The agent's keys."""
        return tuple(self.get_keys())

    def __enter__(self) -> _Agent:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._close()  # type: ignore[attr-defined]
