"""Users' files on nodes: `ports.NodeFiles` by rsync from node to node over SSH.

Responsible for: the key of a move (made on the source, allowed on the target for exactly the commands that this move
sends, from the source's address, for an hour), rsync's options, and what its outcome means. Not responsible for: the
scripts (`file_scripts`), the sessions (`sessions`). No byte of a user's file comes by here.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wsctl.errors import FilesError, NodeError
from wsctl.moveports import Progress, Size, Way
from wsctl.moving import Pass
from wsctl.transport import file_scripts as scripts
from wsctl.transport.following import follow
from wsctl.transport.shell import Done, SshShell
from wsctl.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from wsctl.transport.ssh import Session

KEYS = "/run/wsctl-move"
KEY_LIVES_S = 3000.0
"""A key is allowed for an hour; after this long a pass gets a new one."""

SHORT_S = 120.0
LONG_S = 6 * 3600.0

# Nanoseconds count: a file that was written twice in a second with the same length isn't the same file.
OPTIONS = (
    "--archive", "--no-D", "--hard-links", "--xattrs", "--acls", "--numeric-ids", "--sparse", "--delete", "--partial",
    "--modify-window=-1", "--info=nonreg0", "--no-human-readable", "--timeout=300",
)  # fmt: skip
LOOK = ("--dry-run", "--itemize-changes")
SAMPLE = ("--checksum", "--files-from=-", "--from0")

_ASKED = re.compile(r"rsync --server [A-Za-z0-9 ._=,/+:@%-]+")
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]*")
_PROGRESS = re.compile(rb"([0-9]+)\s+([0-9]+)%")
_SIZE = re.compile(rb"Total transferred file size: ([0-9,.]+)")
VANISHED = 24


class ShellFiles:
    """See `ports.NodeFiles`. `session` gives the connection to a node, and raises `NodeError`."""

    def __init__(self, cluster: str, session: Callable[[str], Session], timeouts: Timeouts) -> None:
        self._cluster = cluster
        self._session = session
        self._timeouts = timeouts
        self._keys: dict[Way, tuple[float, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def check(self, way: Way) -> None:
        for node, root in ((way.source, way.source_root), (way.target, way.target_root)):
            if not _PLAIN.fullmatch(root):
                said = f"host_root {root!r} has characters that a move can't allow in a key's command"
                raise FilesError(node, said, hint="use letters, digits and . _ - / only")
            self._do(node, root, way.user, scripts.CHECK, "move files")

    def size(self, node: str, root: str, user: str) -> Size:
        done = self._do(node, root, user, scripts.SIZE, "measure files", timeout_s=LONG_S)
        first, _, rest = done.out.decode("utf-8", "replace").partition("\n")
        if not first:
            return Size(0, 0)
        size, files = first.split()
        return Size(int(size), int(files), tuple(rest.splitlines()))

    def prepare(self, way: Way) -> str | None:
        self._do(way.source, way.source_root, way.user, 'fence "$3/"; rm -rf -- "$3"', "end old copying")
        done = self._do(way.target, way.target_root, way.user, scripts.PREPARE, "make room for files")
        return done.out.decode("utf-8", "replace") or None

    def copy(self, way: Way, *, final: bool, bwlimit: int | None, compress: bool, progress: Progress) -> Pass:
        more = [f"--bwlimit={max(1, bwlimit // 1024)}"] if bwlimit else []
        more += ["--compress"] if compress else []
        key = self._key(way, tuple(more))
        argv = [
            "rsync", *OPTIONS, *more, "--stats", "--info=progress2", "-e", f"sh {key}/ssh", "--",
            f"{way.source_root}/{way.user}/", _target(way),
        ]  # fmt: skip
        began = time.monotonic()

        def heard(part: bytes) -> None:
            found = _PROGRESS.findall(part)
            if found:
                progress(int(found[-1][0]), int(found[-1][1]) / 100)

        done = follow(way.source, self._session(way.source), ["sh", "-c", scripts.RUN, "wsctl", *argv], heard)
        if done.code not in ((0,) if final else (0, VANISHED)):
            raise self._failed(way, done)
        sizes = _SIZE.findall(done.out)
        size = int(re.sub(rb"[^0-9]", b"", sizes[-1])) if sizes else 0
        return Pass(size, time.monotonic() - began)

    def verify(self, way: Way, *, full: bool) -> list[str]:
        key = self._key(way, None)
        options = [*OPTIONS, *LOOK, *(["--checksum"] if full else [])]
        mode = "full" if full else "sample"
        source = f"{way.source_root}/{way.user}"
        argv = ["sh", "-c", scripts.VERIFY, "wsctl", source, _target(way), key, mode, *options]
        done = follow(way.source, self._session(way.source), argv, lambda part: None)
        if done.code != 0:
            raise self._failed(way, done)
        return [line for line in done.out.decode("utf-8", "backslashreplace").splitlines() if line.strip()]

    def install(self, way: Way) -> None:
        self._do(way.target, way.target_root, way.user, scripts.INSTALL, "install files")

    def discard(self, node: str, root: str, user: str, *, installed: bool) -> None:
        said = "installed" if installed else "incoming"
        self._do(node, root, user, scripts.DISCARD, "delete an unfinished copy", said, timeout_s=LONG_S)
        self._grant(node, user, "")

    def keep(self, node: str, root: str, user: str, name: str) -> None:
        self._do(node, root, user, scripts.KEEP, "put files aside", name)

    def drop(self, node: str, root: str, user: str, name: str) -> None:
        self._do(node, root, user, scripts.DROP, "delete a kept copy", name, timeout_s=LONG_S)

    def finish(self, way: Way) -> None:
        with self._lock:
            self._keys.pop(way, None)
        with contextlib.suppress(NodeError):
            self._do(way.source, way.source_root, way.user, 'rm -rf -- "$3"', "delete a key")
        with contextlib.suppress(NodeError):
            self._grant(way.target, way.user, "")

    # -- the key of a move

    def _key(self, way: Way, more: tuple[str, ...] | None) -> str:
        """The folder of the move's key, allowed to copy with the options `more` (None: any) and to look."""
        folder = self._folder(way.user)
        with self._lock:
            made = self._keys.get(way)
        if made is not None and time.monotonic() - made[0] < KEY_LIVES_S and more in (None, made[1]):
            return folder
        options = more if more is not None else made[1] if made is not None else ()
        self._make_key(way, options)
        with self._lock:
            self._keys[way] = (time.monotonic(), options)
        return folder

    def _make_key(self, way: Way, more: tuple[str, ...]) -> None:
        session = self._session(way.target)
        target, host_key = session.target, session.transport.get_remote_server_key()
        kind = host_key.get_name()
        algorithms = "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
        known = f"wsctl-target {kind} {base64.b64encode(host_key.asbytes()).decode()}\n"
        ways = [
            " ".join([*OPTIONS, *more, "--stats", "--info=progress2"]),
            " ".join([*OPTIONS, *LOOK]),
            " ".join([*OPTIONS, *LOOK, "--checksum"]),
            " ".join([*OPTIONS, *LOOK, *SAMPLE]),
        ]
        script = f"host=$4; in={way.target_root}/.wsctl-incoming/$2; {scripts.KEY}"
        done = self._do(
            way.source, way.source_root, way.user, script, "make a key", target.host, str(target.port), target.user,
            algorithms, *ways, data=known.encode(),
        )  # fmt: skip
        address, public, *asked = done.out.decode("utf-8", "replace").splitlines()
        end = f" . {way.target_root}/.wsctl-incoming/{way.user}/"
        if len(asked) != len(ways) or not all(_ASKED.fullmatch(one) and one.endswith(end) for one in asked):
            raise FilesError(way.source, "its rsync doesn't say what it would have the target run")
        source = address or self._session(way.source).peer
        allowed = "|".join(f"'{one}'" for one in dict.fromkeys(asked))
        forced = f"case $SSH_ORIGINAL_COMMAND in {allowed}) exec $SSH_ORIGINAL_COMMAND;; esac; exit 1"
        comment = f"wsctl-move:{self._cluster}:{way.user}:@UNTIL@"
        fields = public.split()
        line = f'restrict,from="{source}",expiry-time="@EXPIRY@",command="{forced}" {fields[0]} {fields[1]} {comment}\n'
        self._grant(way.target, way.user, line)

    def _grant(self, node: str, user: str, line: str) -> None:
        """Write the line for the user's move, or none; older ones of that move go."""
        argv = [
            "sh",
            "-c",
            f"set -e; LC_ALL=C; export LC_ALL; {scripts.GRANT}",
            "wsctl",
            "",
            "",
            f"{self._cluster}:{user}",
        ]
        done = SshShell(node, self._session(node)).run(argv, line.encode(), SHORT_S)
        if done.code != 0:
            raise FilesError(node, f"cannot write ~/.ssh/authorized_keys: {_words(done)}")

    def _folder(self, user: str) -> str:
        return f"{KEYS}/{self._cluster}.{user}"

    # -- how

    def _do(
        self,
        node: str,
        root: str,
        user: str,
        script: str,
        doing: str,
        *more: str,
        data: bytes = b"",
        timeout_s: float = SHORT_S,
    ) -> Done:
        argv = ["sh", "-c", scripts.FENCE + script, "wsctl", root, user, self._folder(user), *more]
        done = SshShell(node, self._session(node)).run(argv, data, timeout_s)
        if done.code != 0:
            raise FilesError(node, f"cannot {doing}: {_words(done)}", hint=f"look at {root} on {node}")
        return done

    def _failed(self, way: Way, done: Done) -> FilesError:
        said = _words(done)
        if "No space left on device" in said or "Disk quota exceeded" in said:
            return FilesError(
                way.target, f"no space left for the files of {way.user}", hint="choose another node: --to"
            )
        if "Host key verification failed" in said:
            hint = "somebody may be in between; or the two reach different machines by that address"
            return FilesError(way.target, f"{way.source} sees another host key than wsctl does", hint=hint)
        if done.code == 255 or "Permission denied" in said or "Connection refused" in said:
            hint = f"{way.source} must reach {way.target} by SSH as wsctl does; moves through a relay aren't there yet"
            return FilesError(way.target, f"{way.source} can't copy to it: {said}", hint=hint)
        return FilesError(way.source, f"rsync of the files of {way.user} ended with code {done.code}: {said}")


def _target(way: Way) -> str:
    return f"wsctl-target:{way.target_root}/.wsctl-incoming/{way.user}/"


def _words(done: Done) -> str:
    return " ".join(done.err.decode("utf-8", "replace").split())[:400] or f"exit code {done.code}"
