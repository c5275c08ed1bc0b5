"""Why the engine's socket can't be reached through SSH.

Responsible for: telling apart what sshd doesn't. It refuses a channel to a missing socket, a forbidden one, a stale one
and a policy with the same words, so the cause is looked for on the node: one command there, and one request that a
policy answers differently. Only after a failure; an account without a shell gets all the possible causes. Not
responsible for: failures before the channel (`ssh`), or after it (`failures`).
"""

from __future__ import annotations

import contextlib
import shlex

import paramiko

from wsctl.errors import NodeUnreachable
from wsctl.transport.channels import ChannelRefused
from wsctl.transport.ssh import Session

POLICY_HINT = "its sshd_config needs `AllowStreamLocalForwarding yes` (or local) and no `DisableForwarding yes`, \
its authorized_keys no `no-port-forwarding` or `restrict` without `port-forwarding`"
_IMPOSSIBLE = "/proc/wsctl/no-such-folder/socket"


def refused_socket(session: Session, path: str, refused: ChannelRefused) -> NodeUnreachable:
    """The refusal of a channel to `path`, with its cause as far as it can be found."""
    if refused.code == 0:
        said = f"sshd opened no channel to {path}: {refused.text}"
        hint = "the machine is frozen or very busy, or the network was dropped"
    elif refused.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
        said, hint = _forbidden_by_policy(session)
    elif refused.code == paramiko.common.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE:
        said, hint = f"sshd can't forward to Unix sockets: {refused.text}", "this needs OpenSSH 6.7 or newer"
    else:
        said, hint = _look_for_cause(session, path)
    return NodeUnreachable(session.target.node, said, hint=hint)


def _forbidden_by_policy(session: Session) -> tuple[str, str]:
    return f"sshd forbids {session.target.user} to forward to Unix sockets", POLICY_HINT


def _look_for_cause(session: Session, path: str) -> tuple[str, str]:
    """Message and hint for "connect failed", sshd's only words for all of this."""
    user = session.target.user
    state = _look(session, path)
    if state == "missing":
        return f"there is no socket {path} on the node", "is Docker installed and running there?"
    if state == "forbidden":
        return f"the account {user} may not use {path}", f"on the node: usermod -aG docker {user}"
    if _policy_speaks(session):
        return _forbidden_by_policy(session)
    if state == "usable" and _tcp_is_forbidden(session):
        return (
            f"sshd's AllowTcpForwarding or PermitOpen closes {path}, or nothing listens on it",
            f"sshd_config needs `AllowTcpForwarding local`, and a PermitOpen, if there is one, must be `[{path}]:*`; "
            "if it is so: systemctl start docker",
        )
    if state == "usable":
        return f"nothing listens on {path}: the engine isn't running", "on the node: systemctl start docker"
    return (
        f"sshd opened no channel to {path} and doesn't say why: it is missing, {user} may not use it, or the engine "
        "isn't running",
        f"on the node: ls -l {path}; id {user}; systemctl status docker",
    )


def _look(session: Session, path: str) -> str:
    """`missing`, `forbidden` or `usable` as the account sees the socket; `unknown` when it has no shell to ask."""
    name = shlex.quote(path)
    # The file test of a shell knows groups and ACLs; -w on a socket is what connect() needs.
    command = f"if test -w {name}; then echo usable; elif test -e {name}; then echo forbidden; else echo missing; fi"
    limit = session.timeouts.diagnosis
    with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
        channel = session.transport.open_session(timeout=limit)
        with contextlib.closing(channel):
            channel.settimeout(limit)
            channel.exec_command(command)
            with channel.makefile("rb") as file:
                said = bytes(file.read(64)).decode("ascii", "replace").strip()
            if said in ("usable", "forbidden", "missing"):
                return said
    return "unknown"


def _tcp_is_forbidden(session: Session) -> bool:
    """Whether sshd forbids to open TCP connections. The settings that do so close Unix sockets too, with the words it
    has for an engine that isn't running; to TCP it says so. (The discard port: nobody listens there, and it's local.)
    """
    try:
        channel = session.transport.open_channel(
            "direct-tcpip", ("127.0.0.1", 9), ("127.0.0.1", 0), timeout=session.timeouts.diagnosis
        )
    except paramiko.ChannelException as refused:
        return refused.code == paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
    except (paramiko.SSHException, OSError, EOFError):
        return False
    channel.close()
    return False


def _policy_speaks(session: Session) -> bool:
    """Whether sshd says that forwarding of Unix sockets is disabled. It says so, as a debug message, only to a request
    to *listen*; so it is asked to listen where no socket can ever be."""
    if not session.ask("streamlocal-forward@openssh.com", (_IMPOSSIBLE,), session.timeouts.diagnosis):
        return False
    return any("streamlocal forwarding" in said for said in session.transport.debug_messages)
