"""The state of a cluster as one portable file, and back into a database.

Responsible for: the file's form (JSON Lines: a header, the rows, and a SHA-256 of all of it as the last line), writing
it in one step, and refusing one that is cut short, edited, newer or of another cluster. Not responsible for: which rows
there are and in which transaction they are read and written (`store.portable`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wsctl.errors import BackupDamaged, Refused
from wsctl.newfile import replacing
from wsctl.store.columns import TABLES, Record, problem
from wsctl.store.migrations import KNOWN

if TYPE_CHECKING:
    from wsctl.store.portable import Snapshot
    from wsctl.store.store import SqlStore

FORMAT = 1
LONGEST_LINE = 4 << 20
"""In bytes: four texts of the audit table at their longest, each letter escaped, fit."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: whose state it is, of which schema, when and by whom it was copied, and how many rows follow."""

    cluster: str
    schema_version: int
    made_at: datetime
    made_by: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written. `identity` tells the state in it from another one (`store.portable`)."""

    path: Path
    counts: Mapping[str, int]
    size: int
    sha256: str
    identity: str


def write(store: SqlStore, path: Path, *, made_at: datetime, made_by: str) -> Written:
    """Copy the state of the store's cluster to `path`, as of one moment, readable for nobody else (mode 0600).

    The file is there as a whole or not at all. One that is there already is replaced only if it is a copy of this
    cluster's state. Raises `Refused` naming what is in the way, `BackendError`.
    """
    _may_be_replaced(path, store.cluster)

    def consume(snapshot: Snapshot) -> Written:
        if not any(snapshot.counts.values()):
            # By cron with the wrong inventory, it would take the place of a good copy.
            raise Refused(
                f"the cluster {store.cluster} has no state to copy; nothing was written",
                hint="is it the right inventory? wsctl db version",
            )
        header = {
            "wsctl": "state", "format": FORMAT, "cluster": store.cluster, "schema_version": store.schema_version(),
            "made_at": made_at.isoformat(timespec="seconds"), "made_by": made_by, "counts": dict(snapshot.counts),
        }  # fmt: skip
        with replacing(path) as file:
            digest, size = hashlib.sha256(), 0
            for line in _lines(header, snapshot):
                file.write(line)
                digest.update(line)
                size += len(line)
            last = _line({"sha256": digest.hexdigest()})
            file.write(last)
        return Written(path, snapshot.counts, size + len(last), digest.hexdigest(), snapshot.identity)

    return store.copy_state(consume)


def _lines(header: Mapping[str, object], snapshot: Snapshot) -> Iterator[bytes]:
    yield _line(header)
    for table, record in snapshot.records:
        yield _line({"table": table, **record})


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class StateFile:
    """A copy of a cluster's state, being read. Close it (it is a context manager)."""

    def __init__(self, path: Path) -> None:
        """Raises `Refused` if it can't be read, `BackupDamaged` if it doesn't begin as such a file."""
        self.path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror or error}; nothing was changed") from error
        try:
            self.header = self._header(self._read())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def check(self, cluster: str) -> None:
        """Read it to its end. Raises `BackupDamaged` unless it is whole and of the cluster."""
        if self.header.cluster != cluster:
            raise BackupDamaged(
                f"{self.path} is of the cluster {self.header.cluster}, and this inventory's is {cluster}",
                hint="containers and the audit table bear the cluster's name: restore it under that name",
            )
        for _ in self.records():
            pass

    def records(self) -> Iterator[tuple[str, Record]]:
        """The rows (table, record), each checked. What the last line says of the whole is known only at the end: raises
        `BackupDamaged` then, or at the first row that can't be one."""
        self._file.seek(0)
        digest = hashlib.sha256()
        digest.update(self._read())
        counts = dict.fromkeys(TABLES, 0)
        reached = 0
        while True:
            line = self._read()
            value = self._parsed(line)
            if set(value) == {"sha256"}:
                break
            digest.update(line)
            name = value.pop("table", None)
            table = TABLES.get(name) if isinstance(name, str) else None
            if table is None or list(TABLES).index(table.name) < reached:
                raise self._damaged(f"a row of the table {name!r} where none can be")
            reached = list(TABLES).index(table.name)
            why = problem(table, value)
            if why is not None:
                raise self._damaged(f"a row of {table.name} can't be one: {why}")
            counts[table.name] += 1
            yield table.name, value
        if value["sha256"] != digest.hexdigest():
            raise self._damaged("its contents aren't what was written: the checksum differs")
        if counts != {**dict.fromkeys(TABLES, 0), **self.header.counts} or self._file.read(1):
            raise self._damaged("it has other rows than its first line says")

    def _read(self) -> bytes:
        try:
            line = self._file.readline(LONGEST_LINE)
        except OSError as error:
            raise Refused(f"cannot read {self.path}: {error.strerror or error}; nothing was changed") from error
        if not line.endswith(b"\n"):
            raise self._damaged("it is cut short" if len(line) < LONGEST_LINE else "it has a line without end")
        return line

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._damaged("a line of it isn't JSON") from error
        if not isinstance(value, dict):
            raise self._damaged("a line of it isn't a JSON object")
        return value

    def _header(self, line: bytes) -> Header:
        value = self._parsed(line)
        if value.get("wsctl") != "state":
            raise self._damaged("it isn't a copy of wsctl's state")
        version, schema, counts = value.get("format"), value.get("schema_version"), value.get("counts")
        if type(version) is not int or type(schema) is not int or not isinstance(counts, dict):
            raise self._damaged("its first line lacks something")
        if version > FORMAT or schema > KNOWN:
            raise BackupDamaged(
                f"{self.path} was written by a newer wsctl (format {version}, schema {schema}; this one knows "
                f"{FORMAT} and {KNOWN}); nothing was changed",
                hint="restore it with that version",
            )
        try:
            made_at = datetime.fromisoformat(str(value.get("made_at")))
        except ValueError as error:
            raise self._damaged("its first line lacks the time") from error
        return Header(str(value.get("cluster")), schema, made_at, str(value.get("made_by")), counts)

    def _damaged(self, why: str) -> BackupDamaged:
        return BackupDamaged(f"{self.path}: {why}; nothing was changed", hint="take another copy of it")


def _may_be_replaced(path: Path, cluster: str) -> None:
    if not path.exists():
        return
    try:
        with StateFile(path) as found:
            if found.header.cluster == cluster:
                return
    except Refused:
        pass
    raise Refused(f"{path} exists and isn't a copy of this cluster's state; it is untouched", hint="name another file")
