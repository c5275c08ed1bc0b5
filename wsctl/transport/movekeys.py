"""The key of a move: made on the source, allowed on the target for exactly the commands that this move sends, from the
source's address, for an hour.

Responsible for: making it, allowing it, taking it back, and the folder that it lies in. Not responsible for: copying
(`copying`), nor for the scripts (`copy_scripts`).
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Sequence

from wsctl.errors import FilesError, NodeUnreachable
from wsctl.moveports import Way
from wsctl.transport import copy_scripts as scripts
from wsctl.transport.file_scripts import FENCE
from wsctl.transport.hosts import Host

KEYS = "/run/wsctl-move"
KEY_LIVES_S = 3000.0
"""A key is allowed for an hour; after this long a pass gets a new one."""

SHORT_S = 120.0

_PUBLIC = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+( |$)")
_PEER = re.compile(r"[0-9a-fA-F.:]*")
_ASKED = re.compile(r"rsync --server [A-Za-z0-9 ._=,/+:@%-]+")


class MoveKeys:
    """The keys of one run. Safe to use from several threads, for different users."""

    def __init__(self, cluster: str, hosts: Callable[[str], Host]) -> None:
        self._cluster = cluster
        self._hosts = hosts
        self._made: dict[Way, tuple[float, tuple[str, ...]]] = {}
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._lock = threading.Lock()

    def folder(self, user: str) -> str:
        """Where the key of the user's move lies on its source, and what else belongs to copying there."""
        return f"{KEYS}/{self._cluster}.{user}"

    def have(self, way: Way, calls: Sequence[str] | None) -> str:
        """The folder of the move's key, made if it must be; `calls` are the options of rsync that are allowed (None: as
        they were). Raises `FilesError`."""
        folder = self.folder(way.user)
        with self._lock:
            made = self._made.get(way)
        wanted = tuple(calls) if calls is not None else made[1] if made is not None else ()
        if made is None or time.monotonic() - made[0] >= KEY_LIVES_S or made[1] != wanted:
            self._make(way, wanted, folder)
            with self._lock:
                self._made[way] = (time.monotonic(), wanted)
        return folder

    def forget(self, way: Way) -> bool:
        """Whether there was a key; it isn't counted on any more."""
        with self._lock:
            return self._made.pop(way, None) is not None

    def revoke(self, node: str, user: str) -> None:
        """Take back the permission of the user's moves on the node; nothing was ever permitted on one that is here."""
        if not self._hosts(node).is_local:
            self._allow(node, user, "")

    def _make(self, way: Way, calls: tuple[str, ...], folder: str) -> None:
        source, target = self._hosts(way.source), self._hosts(way.target)
        where, known = login(target)
        pair = (way.source, way.target)
        with self._lock:
            learned = self._known.get(pair, ("", ""))
        words = (way.source_root, way.user, folder, *where, *learned, *calls)
        script = FENCE + f"in={way.target_root}/.wsctl-incoming/$2; " + scripts.KEY
        done = source.run(script, *words, data=known, timeout_s=SHORT_S)
        if done.code != 0:
            raise FilesError(way.source, f"cannot make a key: {said(done.err, done.code)}")
        lines = done.out.decode("utf-8", "replace").split("\n")[:-1]
        if len(lines) != 3 + len(calls):
            raise FilesError(way.source, "its rsync doesn't say what it would have the target run")
        ciphers, address, public, *asked = lines
        if not _PUBLIC.match(public) or not _PEER.fullmatch(address):
            # What a node says of itself must not become more than that on another one.
            raise FilesError(way.source, "its ssh-keygen or ip doesn't say what it should")
        with self._lock:
            self._known[pair] = (ciphers, address)
        commands = dict.fromkeys(served(way, one) for one in asked)
        allowed = "|".join(f"'{one}'" for one in commands)
        rise = "sudo -n " if target.session.target.user != "root" else ""
        forced = f"case $SSH_ORIGINAL_COMMAND in {allowed}) exec {rise}$SSH_ORIGINAL_COMMAND;; esac; exit 1"
        peer = address or source.session.peer
        comment = f"wsctl-move:{self._cluster}:{way.user}:@UNTIL@"
        kind, key = public.split()[:2]
        line = f'restrict,from="{peer}",expiry-time="@EXPIRY@",command="{forced}" {kind} {key} {comment}\n'
        self._allow(way.target, way.user, line)

    def _allow(self, node: str, user: str, line: str) -> None:
        """Write the line for the user's move, or none; older ones of that move go."""
        mine = f"{self._cluster}:{user}"
        words = (mine, "grant" if line else "")
        done = self._hosts(node).run(scripts.GRANT, *words, data=line.encode(), timeout_s=SHORT_S, rise=False)
        if done.code != 0:
            raise FilesError(node, f"cannot write ~/.ssh/authorized_keys: {said(done.err, done.code)}")


def login(target: Host) -> tuple[tuple[str, str, str, str], bytes]:
    """How another node logs in there as we do: host, port, account, host key algorithms; and its line for known_hosts,
    with the key that we found and verified ourselves. Raises `NodeUnreachable` if the connection has broken since."""
    import paramiko

    session = target.session
    try:
        host_key = session.transport.get_remote_server_key()
    except paramiko.SSHException as error:
        hint = "the network was dropped, or its sshd was stopped"
        raise NodeUnreachable(target.name, "the SSH connection to it broke", hint=hint) from error
    kind = host_key.get_name()
    algorithms = "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
    known = f"wsctl-target {kind} {base64.b64encode(host_key.asbytes()).decode()}\n"
    at = session.target
    return (at.host, str(at.port), at.user, algorithms), known.encode()


def served(way: Way, asked: str) -> str:
    """What rsync on the source says that the target is to run, if it is what it should be. Raises `FilesError`."""
    if not _ASKED.fullmatch(asked) or not asked.endswith(f" . {way.target_root}/.wsctl-incoming/{way.user}/"):
        raise FilesError(way.source, "its rsync would have the target run something else than rsync")
    return asked


def said(words: bytes | str, code: int) -> str:
    """The words of a command that failed, on one line."""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return " ".join(text.split())[:400] or f"exit code {code}"
