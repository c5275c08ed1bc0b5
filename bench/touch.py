"""`touch`: recording that very many users are active, in one command.

Responsible for: what is measured, and its gate. Not responsible for: the rig, nor the users (`settled`).
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.measure import Series, alternate, quartiles, timed
from bench.report import Gate, Row, duration
from bench.rig import CLUSTER, Rig
from bench.settled import settle_crowd
from wsctl.store import open_store
from wsctl.store.store import SqlStore

ROUNDS = 3
COUNT = 100_000
GATE = Gate(5, "s")
_ROWS = 150


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl touch --from FILE` of 100,000 placed users, the whole process with its 100,000 lines of output into a
    pipe, on the lab's MariaDB alone and with the lab's Redis before it; against a bare loop on the same server that
    writes the same rows, 150 a statement, in one transaction on an open connection. The gate is absolute. Each user has
    a row already: what is measured is what cron does every minute."""
    lab = rig.lab
    database = f"wsctl_bench_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
    users = [f"user-{number:06}" for number in range(COUNT)]
    listed = rig.folder / "users"
    listed.write_text("\n".join(users))
    store = open_store(url, cluster=CLUSTER, base=Path(), password=lab.mysql_password_file.read_text().strip())
    try:
        nodes = {f"n{number}": f"192.0.2.{number + 1}" for number in range(20)}
        settle_crowd(store, {name: users[number :: len(nodes)] for number, name in enumerate(nodes)}, nodes)
        rows, redis = (_inventory(rig, url, nodes, where) for where in (None, lab.redis_url))

        def touch(inventory: Path) -> float:
            return timed([rig.wsctl, "touch", "-i", inventory, "--from", listed], rig.env)

        sides = {
            "rows": lambda _: touch(rows),
            "redis": lambda _: touch(redis),
            "flush": lambda _: timed([rig.wsctl, "activity", "flush", "-i", redis], rig.env),
            "bare": lambda _: _bare(store, users),
        }
        series = alternate("touch", sides, rounds or ROUNDS)
    finally:
        store.close()
        lab.sql(f"DROP DATABASE {database}")
    return [
        _row(f"`wsctl touch --from` of {COUNT:,} users, in MariaDB", series, "rows", GATE),
        _row("… in Redis", series, "redis", GATE),
        _row("… `wsctl activity flush` of them", series, "flush", None),
    ]


def _inventory(rig: Rig, url: str, nodes: dict[str, str], redis: str | None) -> Path:
    folder = rig.folder / ("touch-redis" if redis else "touch-rows")
    folder.mkdir()
    path = folder / "inventory.yaml"
    listed = "".join(f"  {name}: {{address: {address}}}\n" for name, address in nodes.items())
    path.write_text(f"""\
version: 1
cluster: {CLUSTER}
state: {url}
state_password_file: {rig.lab.mysql_password_file}
{f"coordination: {redis}" if redis else ""}
workspace: {{image: "bench:1"}}
nodes:
{listed}""")
    return path


def _bare(store: SqlStore, users: list[str]) -> float:
    """The same rows, by statements of the same size."""
    when = store.database.dialect.encode_time(datetime.now(UTC))
    began = time.perf_counter()

    def work(session: object) -> None:
        for start in range(0, len(users), _ROWS):
            some = users[start : start + _ROWS]
            sql = (
                "INSERT INTO activity (cluster, user, last_active_at, source) VALUES "
                f"{', '.join(['(?, ?, ?, ?)'] * len(some))} ON DUPLICATE KEY UPDATE "
                "last_active_at = VALUES(last_active_at), source = VALUES(source)"
            )
            values = [value for user in some for value in (f"{CLUSTER}-bare", user, when, "touch")]
            session.execute(sql, values)  # type: ignore[attr-defined]

    store.database.write(work)
    return time.perf_counter() - began


def _row(what: str, series: Series, side: str, gate: Gate | None) -> Row:
    low, high = map(duration, quartiles(series.seconds[side]))
    value, times = series.median(side), median(series.paired(side, "bare", lambda a, b: a / b))
    return Row(
        what=what,
        ours=duration(value),
        floor=f"{duration(series.median('bare'))} (bare upserts)",
        result=f"{times:.2f} ×",
        gate="" if gate is None else str(gate),
        met=None if gate is None else gate.met(value),
        spread=f"{what}: {low} to {high}; {series.rounds} rounds",
    )
