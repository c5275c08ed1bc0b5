"""The repository of backups as a node reaches it: restic, run on the node.

Responsible for: the commands, how secrets get to them (by stdin, so that they stand in no process list and on no disk),
and what restic's answers mean. Not responsible for: which snapshots are taken or kept (`backups`, `snapshots`), nor for
moving bytes between us and the node (`pipes`). No byte of a user's file comes by here.

Seen with restic 0.14 to 0.16: exit code 3 of `backup` means that some files couldn't be read; `forget`, `prune` and
`tag` need the repository for themselves, and what `tag` changes gets another id; names that aren't UTF-8 come out of
`ls` with U+FFFD.

So which snapshots aren't complete stands in the repository as marks: tiny snapshots whose tag names the word by which
the incomplete one was taken. Making one waits for nobody, and what it marks keeps its id.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from wsctl.errors import NodeError, RepositoryError, RepositoryLocked, RepositoryMissing
from wsctl.model import Node, is_user_id
from wsctl.snapshots import Extent, Kind, Snapshot, Taken
from wsctl.transport.pipes import Launcher, Pipe
from wsctl.transport.shell import ALIVE, RISE

UNREAD = 3
"""restic's exit code when some files couldn't be read."""

FORGOTTEN_AT_ONCE = 500
"""Ids in one command: a word of a command has at most 128 KiB, and through SSH all of it is one word."""

GUIDE = "docs/guides/backup.md"

_BOTH = ("type", "mode", "uid", "gid", "size", "mtime")

# $1 is host_root, $2 the user. stdin: lines NAME=VALUE up to an empty one.
_ENV = """while IFS= read -r line && [ -n "$line" ]; do export "$line"; done
RESTIC_CACHE_DIR=${RESTIC_CACHE_DIR:-/var/cache/wsctl-restic}; export RESTIC_CACHE_DIR
RESTIC_PROGRESS_FPS=1; export RESTIC_PROGRESS_FPS; umask 077
command -v restic >/dev/null || { echo "restic isn't installed there" >&2; exit 1; }
"""

_RUN = _ENV + 'shift 2; exec restic "$@" </dev/null'
_QUIET = _ENV + ALIVE + 'shift 2; alive restic "$@"'

# $3 the host's name and $4 the tags of the mark of a snapshot that isn't complete; no tags: it needs none.
_TAKE = (
    _ENV
    + """cd -- "$1" || exit 4; [ -d "$2" ] || { echo "$1/$2 isn't there" >&2; exit 4; }
user=$2 host=$3 mark=$4; shift 4
[ -n "$mark" ] || exec restic "$@" </dev/null
restic "$@" </dev/null; code=$?; [ $code = 3 ] || exit $code
echo "some files couldn't be read" |
  restic backup --quiet --host "$host" --tag "$mark" --stdin --stdin-filename "$user.incomplete" >&2 || {
  echo "and the snapshot that lacks them couldn't be marked as incomplete" >&2; exit 5; }
exit 3"""
)

# $3 a word for this restore, $4 the snapshot. How old an upload is its ctime says: its mtime comes out of the backup.
_RESTORE = (
    _ENV
    + ALIVE
    + """in=$1/.wsctl-incoming; mkdir -p -- "$in"; raw=$in/$2.$3.raw; new=$in/$2.$3; user=$2
find "$in" -mindepth 1 -maxdepth 1 -name "$2.*" ! -name "$2.inode" -ctime +1 -exec rm -rf {} +
alive restic restore "$4" --verify --target "$raw" || exit $?
[ -d "$raw/$user" ] || { echo "the snapshot has no folder $user" >&2; exit 4; }
mv -T -- "$raw/$user" "$new"; rmdir -- "$raw"; alive sync -f "$new" 2>/dev/null || alive sync"""
)
_LISTING = """cd -- "$1/.wsctl-incoming/$2.$3" && exec find . -printf '%P\\0%y\\0%m\\0%U\\0%G\\0%s\\0%T@\\0'"""

_TYPES = {"d": "dir", "f": "file", "l": "symlink", "p": "fifo", "s": "socket", "b": "dev", "c": "chardev"}


class ResticRepository:
    """`snapshots.Repository` on one node. `environment` has RESTIC_REPOSITORY, RESTIC_PASSWORD and what else the
    repository's kind needs; no value has a newline."""

    def __init__(self, node: Node, launcher: Launcher, cluster: str, environment: Mapping[str, str]) -> None:
        self._node = node
        self._launcher = launcher
        self._cluster = cluster
        self._environment = dict(environment)

    def create(self) -> bool:
        code, _, words = self._ran(_RUN, "", "cat", "config")
        if code == 0:
            return False
        error = self._error("open", words)
        if not isinstance(error, RepositoryMissing):
            raise error
        self._do("create", "init", "--quiet")
        return True

    def snapshots(self) -> list[Snapshot]:
        listed = self._listed()
        incomplete = {mark for _, tags in listed if (mark := tags.get("incomplete"))}
        found = [self._snapshot(facts, tags, incomplete) for facts, tags in listed]
        return sorted((one for one in found if one is not None), key=lambda one: (one.at, one.id))

    def take(self, user: str, parent: str | None, kind: Kind) -> Taken:
        ours, word = ["wsctl", f"cluster={self._cluster}", f"user={user}"], uuid4().hex[:12]
        tags = [*ours, f"node={self._node.name}", f"kind={kind.value}", f"take={word}"]
        # A first pass is for nobody to rely on, and who works makes files vanish.
        mark = "" if kind is Kind.FIRST_PASS else ",".join([*ours, f"incomplete={word}"])
        more = ["--parent", parent] if parent is not None else []
        words = ["--json", "--host", self._cluster, "--tag", ",".join(tags), *more, user]
        code, out, said = self._ran(_TAKE, user, self._cluster, mark, "backup", *words)
        summary = _summary(out)
        if code not in (0, UNREAD) or summary is None:
            raise self._error(f"back up {user} to", said)
        return Taken(
            str(summary["snapshot_id"]),
            int(summary["total_files_processed"]),
            int(summary["total_bytes_processed"]),
            int(summary["data_added"]),
            (said or "some files couldn't be read") if code == UNREAD else "",
        )

    def forget(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), FORGOTTEN_AT_ONCE):
            chunk = ids[start : start + FORGOTTEN_AT_ONCE]
            self._long("forget snapshots of", _QUIET, "", "forget", "--quiet", *chunk)

    def unlock(self) -> None:
        self._do("unlock", "unlock")

    def prune(self) -> None:
        marks = {mark: str(facts["id"]) for facts, tags in self._listed() if (mark := tags.get("incomplete"))}
        if marks:
            # Looked for after their marks were seen: whose mark is being made now is among them.
            there = {tags.get("take") for _, tags in self._listed()}
            self.forget([id_ for mark, id_ in marks.items() if mark not in there])
        self._long("prune", _QUIET, "", "prune")

    def extent(self, snapshot: str) -> Extent:
        facts = self._json(self._do("measure", "stats", "--json", "--mode", "restore-size", snapshot))
        try:
            return Extent(int(facts["total_size"]), int(facts["total_file_count"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._error("measure", f"an answer that can't be: {facts!r:.200}") from error

    def restore(self, snapshot: str, user: str, token: str) -> None:
        self._long(f"restore {user} from", _RESTORE, user, token, snapshot)

    def compare(self, snapshot: str, user: str, token: str) -> list[str]:
        listed = Counter(_listed(self._do("list", "ls", "--json", snapshot), user))
        code, out, words = self._ran(_LISTING, user, token, secrets=False)
        if code:
            raise self._error(f"look at what was restored of {user} from", words)
        there = Counter(_found(out))
        missing = [f"not as in the backup: {_text(one)}" for one in (listed - there)]
        added = [f"in the restored folder only: {_text(one)}" for one in (there - listed)]
        return sorted(missing) + sorted(added)

    # how

    def _do(self, doing: str, *argv: str) -> bytes:
        code, out, words = self._ran(_RUN, "", *argv)
        if code:
            raise self._error(doing, words or f"exit code {code}")
        return out

    def _long(self, doing: str, script: str, user: str, *argv: str) -> None:
        with self._start(script, user, argv) as pipe:
            while pipe.read(1 << 12):
                pass
            code, words = pipe.end()
        if code:
            raise self._error(doing, words or f"exit code {code}")

    def _ran(self, script: str, user: str, *argv: str, secrets: bool = True) -> tuple[int, bytes, str]:
        with self._start(script, user, argv, secrets=secrets) as pipe:
            parts = []
            while data := pipe.read(1 << 16):
                # Of `backup` only the last lines are wanted, and it says how far it is once a second.
                parts.append(data)
            code, words = pipe.end()
        return code, b"".join(parts), words

    @contextlib.contextmanager
    def _start(self, script: str, user: str, argv: Sequence[str], *, secrets: bool = True) -> Iterator[Pipe]:
        if user and not is_user_id(user):
            raise ValueError(f"not a user id: {user!r}")
        words = ("sh", "-c", RISE, "wsctl", script, self._node.host_root.rstrip("/"), user, *argv)
        with self._launcher.start(words) as pipe:
            if secrets:
                lines = "".join(f"{name}={value}\n" for name, value in self._environment.items())
                pipe.write(f"{lines}\n".encode())
            yield pipe

    def _listed(self) -> list[tuple[Mapping[str, Any], dict[str, str]]]:
        """What restic knows of all that are the cluster's, marks too, each with its tags."""
        out = self._do("list", "snapshots", "--json", "--tag", f"wsctl,cluster={self._cluster}")
        found = self._json(out or b"[]") or ()
        return [(one, dict(tag.partition("=")[::2] for tag in one.get("tags") or ())) for one in found]

    def _snapshot(self, facts: Mapping[str, Any], tags: Mapping[str, str], incomplete: set[str]) -> Snapshot | None:
        """One as we know it; None if it isn't one of ours, or a mark."""
        try:
            kind, at = Kind(tags["kind"]), _time(str(facts["time"]))
            user, node, id_ = tags["user"], tags["node"], str(facts["id"])
        except (KeyError, ValueError):
            return None
        if not is_user_id(user) or not re.fullmatch("[0-9a-f]{64}", id_):
            return None
        return Snapshot(id_, user, node, at, kind, tags.get("take") not in incomplete and "incomplete" not in tags)

    def _json(self, out: bytes) -> Any:
        try:
            return json.loads(out)
        except ValueError as error:
            raise self._error("read", f"an answer that can't be: {out[:200]!r}") from error

    def _error(self, doing: str, words: str) -> NodeError:
        said = " ".join(words.split())[-600:] or "no reason given"
        name, where = self._node.name, f"cannot {doing} the repository of backups: {said}"
        if "Is there a repository" in words or "unable to open config file" in words:
            return RepositoryMissing(name, where, hint="wsctl backup init")
        if "wrong password" in words:
            hint = "see backup.password_file in the inventory, or WSCTL_BACKUP_PASSWORD"
            return RepositoryError(name, where, hint=hint)
        if "already locked" in words:
            hint = "somebody else prunes it? Else `wsctl backup prune` removes locks whose holder is gone"
            return RepositoryLocked(name, where, hint=hint)
        return RepositoryError(name, where, hint=f"restic runs on the node, as root or by sudo: {GUIDE}")


def _summary(out: bytes) -> dict[str, Any] | None:
    """The last line of `backup --json`."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            facts = json.loads(line)
            if isinstance(facts, dict) and facts.get("message_type") == "summary" and "snapshot_id" in facts:
                return facts
    return None


def _time(text: str) -> datetime:
    """Restic's RFC 3339 with up to nine digits of a second, as UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise ValueError(text)
    zone = "+00:00" if found[3] == "Z" else found[3]
    return datetime.fromisoformat(f"{found[1]}.{(found[2] or '0')[:6]:0<6}{zone}").astimezone(UTC)


Entry = tuple[str, str, str, str, str, str, str]
"""path, and `_BOTH` as texts; what doesn't count for a type is empty."""


def _listed(out: bytes, user: str) -> Iterator[Entry]:
    for line in out.splitlines():
        facts = json.loads(line)
        if facts.get("struct_type") != "node":
            continue
        path, kind = str(facts["path"]).removeprefix(f"/{user}").lstrip("/"), str(facts["type"])
        second, _, fraction = str(facts["mtime"]).partition(".")
        when = datetime.fromisoformat(second.removesuffix("Z")[:19]).replace(tzinfo=UTC)
        nanos = re.match(r"\d*", fraction)
        yield _entry(
            path, kind, _mode(int(facts["mode"])), str(facts["uid"]), str(facts["gid"]), str(facts.get("size", "")),
            f"{int(when.timestamp()) - _offset(str(facts['mtime']))}.{(nanos[0] if nanos else ''):0<9}",
        )  # fmt: skip


def _offset(text: str) -> int:
    """Seconds east of UTC."""
    found = re.search(r"([+-])(\d\d):(\d\d)$", text)
    return 0 if found is None else (1 if found[1] == "+" else -1) * (int(found[2]) * 3600 + int(found[3]) * 60)


def _found(out: bytes) -> Iterator[Entry]:
    words = out.split(b"\0")
    for start in range(0, len(words) - 7 + 1, 7):
        path, kind, mode, uid, gid, size, mtime = words[start : start + 7]
        second, _, fraction = mtime.decode().partition(".")
        yield _entry(
            path.decode("utf-8", "replace"), _TYPES.get(kind.decode(), "?"), f"{int(mode, 8):04o}", uid.decode(),
            gid.decode(), size.decode(), f"{second}.{fraction[:9]:0<9}",
        )  # fmt: skip


def _entry(path: str, kind: str, mode: str, uid: str, gid: str, size: str, mtime: str) -> Entry:
    # Go and Python replace bytes that aren't UTF-8 by different numbers of U+FFFD.
    return (
        re.sub("\ufffd+", "\ufffd", path), kind, "" if kind == "symlink" else mode, uid, gid,
        size if kind == "file" else "", "" if kind == "dir" and not path else mtime,
    )  # fmt: skip


def _mode(go: int) -> str:
    """Go's file mode as chmod writes it: its bits for setuid, setgid and sticky stand elsewhere."""
    special = sum(bit for flag, bit in ((1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)) if go & flag)
    return f"{(go & 0o777) | special:04o}"


def _text(one: Entry) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in zip(_BOTH, one[1:], strict=True) if value)
    return f"{one[0] or '.'} ({facts})"
