"""The numbered, forward-only steps that make the schema what this program works with.

Responsible for: which steps there are, which a database has had, running the missing ones safely beside other control
hosts and after a crash, and refusing a database of another version. Not responsible for: the statements themselves,
which are the files in `schema/`, one DDL statement each, the same for both kinds of database but for `$macros`.

MySQL commits DDL by itself. So each step is recorded before it is run (`applied_at` empty) and again when it is done:
a step that is found begun may find its work done already, any other may not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from wsctl.errors import SchemaError
from wsctl.store.database import AlreadyThere, Database, Duplicate, Row, Session


@dataclass(frozen=True, slots=True)
class Step:
    """One migration. `checksum` is the SHA-256 of its file; a released file never changes."""

    version: int
    name: str
    checksum: str

    @property
    def title(self) -> str:
        """As messages and the file name spell it."""
        return f"{self.version:04d}_{self.name}"


# The files' checksums stand here so that opening a database needs no file; a test compares them.
STEPS = (
    Step(1, "placements", "ffe796db37598816b4ae1e2d76e5b58818c12295c8279214f7e46c68fee52246"),
    Step(2, "node_usage", "b35bf43d991210cf140313dd44c202f5878e6f6e9ea883f8f6a7d3c6d686e60a"),
    Step(3, "node_marks", "a858df8f9a0450b2be37e2beb2fe59874f5603e78901202cf0719881fb62d2f2"),
    Step(4, "activity", "2b2d0f03b9ce7ad21d9a3947cc1de61915b8c125fa5307def28d2cc6810025cf"),
    Step(5, "samples", "3851d3b645a0e5030ba2a014fd56dd63ac857beb5ebcf88effc27e874e4d7f7e"),
    Step(6, "leases", "cafbd2ee6c9fa924eacd5ec9636c81fa5ccc17b5f5df39d7d8d466a88aad8b5a"),
    Step(7, "homes", "1d7fe961e5dbeee14402eac79b6b0fead6917b392813a8e8579f4237c5e96269"),
    Step(8, "audit", "7caf77137e7a11f07d1d8e489c03df7b145f04978b623d320e48b907a5110958"),
    Step(9, "audit_by_time", "0ff0a7469214e7020aacc4c245b2c0bc1791eeae963900f61227bde47a26d645"),
    Step(10, "audit_by_request", "6182f693365db44b2c61588e1e8a062cbf3186463fb79b1220ff20299c77adda"),
    Step(11, "audit_heads", "67b2f33eb7308ede942673cd3b1cf9c6858f9a320cfdd3fc7bf633014bcfeeab"),
    Step(12, "requests", "2765440fe1eeaf9296c4b6c80748adf9b596249ad6997f2f592a11a9bf299e2e"),
    Step(13, "requests_by_time", "37e3af16c834879bc3475b6a33c26eb569d896cb7e7ed7f576977870b3d9cadf"),
    Step(14, "slots", "ef65aaef2e62fe8e6b1dc4fe416c392e3b4652030d0cc8ba53204fd9c3bdf874"),
    Step(15, "retired", "6b233e93eebe5759ed782571af6c5ad10a9f129cc6ff67fcd22759c867c5fb9b"),
    Step(16, "samples_cpu", "7ddae55061a049042018e88f5ec2696e6caaae44e351c12f99991ac632747acf"),
    Step(17, "notes", "c0fa39a76a6b0b7c3b213a0c756ace446a1a22ac8f15d2f171d80c957d9a558b"),
    Step(18, "moves", "f87d55af0740cab13b49d7e077a974b3d8f2ee67d7d38e2f6b6e22faa2ee065c"),
    Step(19, "kept_copies", "270707edf57d18ee93b86cb58f7220589c836a613a6a065b34fdb002e0d5d039"),
    Step(27, "node_reports", "e1f1993b041a1b52b215e16075ce198a8200c816fcf025ed4aa6b96cddbc5275"),
    Step(28, "presence", "0b507676db64575d31605772cf0020d315805975fd25dd60e090a8f436817d62"),
    Step(29, "standbys", "99f248480d524809bb6c63aebb2b78aa983a23031a4e4e42a6dadf17e78bf29f"),
    Step(30, "left_files", "2df15ae9337a1e9358bd6f0a704f88316d572b7a0f95059554e92b5e2709c1dc"),
)
KNOWN = STEPS[-1].version

_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
  version $int NOT NULL PRIMARY KEY,
  name $name NOT NULL,
  checksum $name NOT NULL,
  started_at $time NOT NULL,
  applied_at $time NULL
) $options"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database records about one step."""

    name: str
    checksum: str
    done: bool


def ensure(database: Database, label: str, *, create: bool) -> int:
    """The version of the database's schema, which is then the one this program works with, or 0 for an empty one.

    An empty database is migrated at once if `create`. Raises SchemaError for an older, newer or foreign schema.
    """
    applied = read_applied(database, label)
    missing = pending(applied, label)
    if not missing:
        return KNOWN
    if not applied:
        if create:
            upgrade(database, label)
            return KNOWN
        return 0
    if database.dialect.ddl_commits:
        # Perhaps another control host is creating the schema right now: look again when it is through.
        database.schema_lock(lambda _: None)
        missing = pending(read_applied(database, label), label)
    if missing:
        raise SchemaError(
            f"{label} has schema version {version_of(applied)}, this program works with {KNOWN}",
            hint="upgrade it with: wsctl db upgrade",
        )
    return KNOWN


def upgrade(database: Database, label: str) -> list[str]:
    """Run the missing steps; their titles. Does nothing if there are none. Raises SchemaError, BackendError."""

    def work(session: Session) -> list[str]:
        session.execute(_render(database, _TABLE))
        applied = read_applied(database, label, session)
        missing = pending(applied, label)
        for step in missing:
            _run(database, session, step, begun=step.version in applied)
        return [step.title for step in missing]

    read_applied(database, label)  # refuses a foreign database before anything is written into it
    return database.schema_lock(work)


def pending(applied: dict[int, Applied], label: str) -> list[Step]:
    """The steps that the database lacks. Raises SchemaError if it has others than this program knows."""
    newest = max(applied, default=0)
    if newest > KNOWN:
        raise SchemaError(
            f"{label} has schema version {newest}, this program knows versions up to {KNOWN}",
            hint="a newer wsctl has upgraded it: use that version on this host too",
        )
    for step in STEPS:
        row = applied.get(step.version)
        if row is not None and (row.checksum, row.name) != (step.checksum, step.name):
            raise SchemaError(
                f"{label}: step {step.title} was applied in another form (recorded as {row.name}, {row.checksum[:12]})",
                hint="this database was made by a modified wsctl; restore a backup, or ask whoever changed it",
            )
    return [step for step in STEPS if step.version not in applied or not applied[step.version].done]


def version_of(applied: dict[int, Applied]) -> int:
    """The newest step that is complete with all before it."""
    version = 0
    for step in STEPS:
        if step.version not in applied or not applied[step.version].done:
            break
        version = step.version
    return version


def read_applied(database: Database, label: str, session: Session | None = None) -> dict[int, Applied]:
    """What the database records; empty for an empty one. Raises SchemaError if the database isn't wsctl's."""

    def select(session: Session) -> list[Row]:
        return session.query("SELECT version, name, checksum, applied_at IS NOT NULL FROM schema_migrations")

    try:
        rows = select(session) if session else database.read(select)
    except SchemaError as error:
        tables = [str(row[0]) for row in database.read(lambda s: s.query(database.dialect.tables))]
        if not tables:
            return {}
        rows = _select_again(database, select, label, tables, error)
    return {int(version): Applied(str(name), str(checksum), bool(done)) for version, name, checksum, done in rows}


def _select_again(
    database: Database, select: Callable[[Session], list[Row]], label: str, tables: list[str], error: SchemaError
) -> list[Row]:
    """Tell somebody else's database from one that another control host began to fill a moment ago."""
    if "schema_migrations" in tables:
        with contextlib.suppress(SchemaError):
            return database.read(select)
    raise SchemaError(
        f"{label} isn't empty and wasn't made by wsctl: it has the table {tables[0]!r}",
        hint="give wsctl a database of its own",
    ) from error


def _run(database: Database, session: Session, step: Step, *, begun: bool) -> None:
    now = database.dialect.now
    if not begun:
        record = f"INSERT INTO schema_migrations (version, name, checksum, started_at) VALUES (?, ?, ?, {now})"
        try:
            session.execute(record, (step.version, step.name, step.checksum))
        except Duplicate:  # a cluster whose lock doesn't reach its other members: somebody began it there
            begun = True
    try:
        session.execute(_render(database, step_text(step)))
    except AlreadyThere:
        if not begun:
            raise SchemaError(
                f"can't run step {step.title}: what it makes is there already, and wsctl didn't make it",
                hint="give wsctl a database of its own",
            ) from None
    session.execute(f"UPDATE schema_migrations SET applied_at = {now} WHERE version = ?", (step.version,))


def step_text(step: Step) -> str:
    """The step's file. Raises SchemaError if it isn't the one this program was released with."""
    import hashlib
    from importlib import resources

    data = resources.files("wsctl.store").joinpath("schema", f"{step.title}.sql").read_bytes()
    if hashlib.sha256(data).hexdigest() != step.checksum:
        raise SchemaError(f"the file of step {step.title} was changed", hint="install wsctl again")
    return data.decode()


def _render(database: Database, text: str) -> str:
    from string import Template

    return Template(text).substitute(database.dialect.macros)
