"""Who is at the keyboard: the OS user, the one behind sudo, and where their SSH session came from; and who left.

Responsible for: reading that off the process, as far as the system tells. Not responsible for: proving it: whoever may
run wsctl may set an environment, and what is recorded is what a decent operator left there.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from wsctl.records import Actor

ANCESTORS = 12
"""How far up the tree of processes a session is looked for: shells, sudo, tmux, make and the like."""


def actor(environment: Mapping[str, str], proc: Path = Path("/proc")) -> Actor:
    """Who acts, by this process and its environment. Never raises: what can't be found out is left out."""
    return Actor(
        os_user=_login(),
        sudo_user=environment.get("SUDO_USER"),
        ssh_origin=_address(environment.get("SSH_CONNECTION")) or _origin_of_ancestors(proc),
        process=f"{socket.gethostname()}:{os.getpid()}",
    )


def is_gone(who: str) -> bool:
    """Whether `who`, an `Actor` as text, was a process of this machine that is no more. Of other machines nobody knows,
    and neither of a process whose number another one has by now."""
    host, _, number = who.rpartition("@")[2].rpartition(":")
    if host != socket.gethostname() or not (number.isascii() and number.isdigit()):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # An id without a passwd entry, as in minimal containers.
        return str(os.getuid())


def _address(connection: str | None) -> str | None:
    """The client's address in `SSH_CONNECTION`: client, port, server, port."""
    words = (connection or "").split()
    return words[0] if len(words) == 4 else None


def _origin_of_ancestors(proc: Path) -> str | None:
    """Sudo drops SSH_CONNECTION; the shell it was called from still has it, for those who may look."""
    pid = os.getppid()
    for _ in range(ANCESTORS):
        if pid <= 1:
            return None
        try:
            for entry in (proc / str(pid) / "environ").read_bytes().split(b"\0"):
                if entry.startswith(b"SSH_CONNECTION="):
                    return _address(entry.partition(b"=")[2].decode("utf-8", "replace"))
            pid = _parent(proc, pid)
        except (OSError, ValueError):
            return None
    return None


def _parent(proc: Path, pid: int) -> int:
    """Raises OSError or ValueError when there is no telling. The name in `stat` may hold spaces and parentheses."""
    return int((proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
