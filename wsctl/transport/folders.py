"""Users' folders on a node, as streams: out of `<host_root>/<user>`, and into a place beside it until all is there.

Responsible for: the few shell commands (GNU tar, find, mv) that do it, here and through SSH, as root by `sudo -n` where
the account isn't root. Not responsible for: what may be in a stream (`wsctl.archive`), when it is right to replace a
folder (`wsctl.exchange`), nor for moving bytes (`pipes`).

`<host_root>/.wsctl-incoming` has what isn't complete, `<host_root>/.wsctl-kept` what was replaced: no user id begins
with a dot, and both are closed to everybody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from wsctl.errors import BackupDamaged, NodeError
from wsctl.folders import FolderFacts
from wsctl.model import Node, is_user_id
from wsctl.transport.pipes import Launcher, Pipe
from wsctl.transport.shell import ALIVE, RISE

# $1 is host_root, $2 the user, $3 a word for this import, $4 and so on as named in each.
_FACTS = """d=$1; while [ ! -d "$d" ]; do d=$(dirname -- "$d"); done; stat -f -c '%a %S %d' -- "$d"
if [ -e "$1/$2" ] || [ -L "$1/$2" ]; then echo there; else echo absent; fi"""

_PACK = """cd -- "$1/$2" || exit 3
exec tar --create --file=- --format=posix --pax-option=delete=atime,delete=ctime --numeric-owner --xattrs \\
  --xattrs-include='user.*' ."""

# $4: the only owner in the archive, or "many". Who unpacks holds the user's lease, so other uploads are dead; but
# `.inode` is a move's, and a verification (its token begins with v) holds no lease.
_UNPACK = """set -e; umask 022; in=$1/.wsctl-incoming; same=--same-owner
if [ "$(id -u)" != 0 ]; then same=--no-same-owner
  [ "$4" = "$(id -u):$(id -g)" ] || { echo "giving files to their owners takes root, or sudo" >&2; exit 4; }
fi
mkdir -p -- "$1"; umask 077; mkdir -p -- "$in"
find "$in" -mindepth 1 -maxdepth 1 -name "$2.*" ! -name "$2.inode" \\( ! -name "$2.v*" -o -ctime +1 \\) \\
  -exec rm -rf {} +
mkdir -- "$in/$2.$3"; cd -- "$in/$2.$3"
exec tar --extract --file=- --preserve-permissions --numeric-owner $same --xattrs --xattrs-include='user.*' \\
  --delay-directory-restore"""

# $4: how many members there must be.
_SEAL = (
    ALIVE
    + """set -e; cd -- "$1/.wsctl-incoming/$2.$3"; found=$(find . -mindepth 1 -printf x | wc -c)
[ "$found" -eq "$4" ] || { echo "$found of $4 members are there" >&2; exit 1; }
alive sync -f . 2>/dev/null || alive sync"""
)

# $4: the name under which what is replaced is kept.
_SWAP = (
    ALIVE
    + """set -e; new=$1/.wsctl-incoming/$2.$3; old=$1/$2; kept=$1/.wsctl-kept/$4; umask 077
[ -d "$new" ] || { echo "the upload is gone" >&2; exit 1; }
if [ -e "$old" ] || [ -L "$old" ]; then mkdir -p -- "$1/.wsctl-kept"; [ ! -e "$kept" ]; mv -T -- "$old" "$kept"
  mv -T -- "$new" "$old" || { mv -T -- "$kept" "$old"; exit 1; }
  echo kept
else mv -T -- "$new" "$old"; fi
alive sync -f -- "$1" 2>/dev/null || alive sync"""
)

_DISCARD = ALIVE + 'alive rm -rf -- "$1/.wsctl-incoming/$2.$3"'


class ShellFolders:
    """`folders.Folders` on a machine that runs commands."""

    def __init__(self, node: Node, launcher: Launcher) -> None:
        self._node = node
        self._launcher = launcher

    def facts(self, user: str) -> FolderFacts:
        out = self._do("look at", _FACTS, user).split()
        try:
            blocks, size, inodes, state = int(out[0]), int(out[1]), int(out[2]), out[3]
        except (IndexError, ValueError) as error:
            raise self._error("look at", user, f"an answer that can't be: {' '.join(out)[:200]}") from error
        return FolderFacts(state == "there", blocks * size, inodes)

    def pack(self, user: str, consume: Callable[[Pipe], None], *, live: bool) -> int:
        with self._start(_PACK, user) as pipe:
            try:
                consume(pipe)
            except BackupDamaged as error:
                if pipe.read(1):
                    raise self._error("read", user, error.message) from error
                code, words = pipe.end()
                raise self._error("read", user, words if code else error.message) from error
            code, words = pipe.end()
        if code == 3:
            raise self._error("read", user, "it isn't there")
        # tar's 1 is: a file changed or vanished while it was read.
        if code and not (live and code == 1):
            raise self._error("read", user, words)
        return code

    def unpack(self, user: str, token: str, owner: str, produce: Callable[[Callable[[bytes], None]], int]) -> None:
        with self._start(_UNPACK, user, token, owner) as pipe:

            def send(data: bytes) -> None:
                if not pipe.write(data):
                    raise self._error("write", user, pipe.end()[1])

            count = produce(send)
            code, words = pipe.end()
        if code:
            raise self._error("write", user, words)
        self._do("check", _SEAL, user, token, str(count))

    def swap(self, user: str, token: str, kept: str) -> str | None:
        out = self._do("replace", _SWAP, user, token, kept)
        return f"{self._node.host_root.rstrip('/')}/.wsctl-kept/{kept}" if out.strip() == "kept" else None

    def discard(self, user: str, token: str) -> None:
        self._do("tidy up after", _DISCARD, user, token)

    @contextlib.contextmanager
    def _start(self, script: str, user: str, *more: str) -> Iterator[Pipe]:
        if not is_user_id(user):
            raise ValueError(f"not a user id: {user!r}")
        argv = ("sh", "-c", RISE, "wsctl", script, self._node.host_root.rstrip("/"), user, *more)
        with self._launcher.start(argv) as pipe:
            yield pipe

    def _do(self, doing: str, script: str, user: str, *more: str) -> str:
        with self._start(script, user, *more) as pipe:
            out = b""
            while data := pipe.read(1 << 12):
                out = (out + data)[: 1 << 16]
            code, words = pipe.end()
        if code:
            raise self._error(doing, user, words or f"exit code {code}")
        return out.decode("utf-8", "replace")

    def _error(self, doing: str, user: str, words: str) -> NodeError:
        said = " ".join(words.split())[-400:] or "no reason given"
        return NodeError(
            self._node.name,
            f"cannot {doing} {self._node.data_path(user)}: {said}",
            hint="the account needs a shell with GNU tar, and root or sudo without password: docs/guides/backup.md",
        )
