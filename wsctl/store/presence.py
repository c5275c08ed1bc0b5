"""Which watcher saw which node when, as rows of the state database, where there is no Redis.

Responsible for: the statements. Not responsible for: what follows from it (`wsctl.health`). All times are the
database's; what was seen is told as an age, so that the clocks of control hosts don't matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from wsctl.store.database import Database, key, micros
from wsctl.watchports import Ages, Sighting

_CHUNK = 100  # rows a statement: below the 999 parameters that old SQLite allows


class PresenceRows:
    """`watchports.Presence` on the table `presence` of one cluster. Notes older than `keep_s` count as absent."""

    def __init__(self, database: Database, cluster: str, *, owned: bool, keep_s: float) -> None:
        """`owned`: close the database with this."""
        self._database = database
        self._dialect = database.dialect
        self._cluster = cluster
        self._owned = owned
        self._keep_s = keep_s

    def beat(self, watcher: str, seen: Mapping[str, Ages]) -> list[Sighting]:
        """See `watchports.Presence`."""
        who, now = key(watcher, 200), self._now()
        rows: list[tuple[object, ...]] = [
            (self._cluster, who, "", self._before(now, 0.0), None, self._before(now, 0.0))
        ]
        rows += [
            (self._cluster, who, key(node, 200), self._before(now, 0.0), self._before(now, w), self._before(now, a))
            for node, (w, a) in sorted(seen.items())
        ]
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            sql = self._dialect.upsert(
                "presence", ["cluster", "watcher", "node"], ["beat_at", "well_at", "alive_at"], rows=len(chunk)
            )
            self._database.apply(sql, [value for row in chunk for value in row])
        sql = f"DELETE FROM presence WHERE cluster = ? AND watcher <> ? AND beat_at < {self._dialect.later}"
        self._database.apply(sql, (self._cluster, who, -micros(self._keep_s)))
        return self.ls()

    def ls(self) -> list[Sighting]:
        """See `watchports.Presence`."""
        sql = (
            f"SELECT watcher, node, well_at, alive_at, {self._dialect.now} FROM presence "
            f"WHERE cluster = ? AND beat_at > {self._dialect.later} ORDER BY watcher, node"
        )
        params = (self._cluster, -micros(self._keep_s))
        found = self._database.read(lambda session: session.query(sql, params))
        when = self._dialect.decode_time

        def age(at: object, now: object) -> float | None:
            seconds = None if at is None else max(0.0, (when(now) - when(at)).total_seconds())
            return seconds if seconds is not None and seconds <= self._keep_s else None

        return [
            Sighting(str(who), str(node), Ages(age(well, now), age(alive, now)))
            for who, node, well, alive, now in found
        ]

    def close(self) -> None:
        """Give up the connection, unless it is the store's."""
        if self._owned:
            self._database.close()

    def _now(self) -> datetime:
        found = self._database.read(lambda session: session.query(f"SELECT {self._dialect.now}"))
        return self._dialect.decode_time(found[0][0])

    def _before(self, now: datetime, age_s: float | None) -> object:
        return None if age_s is None else self._dialect.encode_time(now - timedelta(seconds=age_s))
