"""Leases as rows of the state database, where no Redis is configured.

Responsible for: the statements that take, renew, prove, give back, list and break leases; all or none of several.
Not responsible for: waiting, renewing in time, or noticing a loss: that is `wsctl.coordination`, which knows this
class only by its methods.

All times are the database's, so that the clocks of control hosts don't matter; what is handed out is shifted to the
local clock, so that "seconds left" is right there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from wsctl.model import LeaseInfo
from wsctl.store.database import Database, Duplicate, Row, Session, clean, marks, micros

_ATTEMPTS = 5
_COLUMNS = "name, token, holder, command, acquired_at, expires_at"


class LeaseRows:
    """The table `leases` of one cluster. Methods raise `BackendError` when the database can't be asked."""

    def __init__(self, database: Database, cluster: str, *, owned: bool) -> None:
        """`owned`: close the database with this."""
        self._database = database
        self._dialect = database.dialect
        self._cluster = cluster
        self._owned = owned

    def take(self, names: Sequence[str], *, token: str, holder: str, command: str, ttl_s: float) -> list[LeaseInfo]:
        """Take all of `names` for `ttl_s` seconds or none. Empty if taken, else the leases that are in the way."""
        for _ in range(_ATTEMPTS):
            try:
                self._database.apply(*self._insert(names, token, holder, command, ttl_s))
                return []
            except Duplicate:
                pass
            found = self._select(names)
            if {row[1] for row in found} == {token} and len(found) == len(names):
                return []  # the statement ran twice: its first answer was lost
            held = [row for row in found if row[5] > row[6]]
            if held:
                return [self._info(row) for row in held]
            self._forget_expired(names)
        return [self._info(row) for row in self._select(names)]

    def renew(self, names: Sequence[str], token: str, ttl_s: float) -> set[str]:
        """Let those of `names` that `token` still holds run for another `ttl_s` seconds; which those are."""
        now, later = self._dialect.now, self._dialect.later
        sql = f"UPDATE leases SET expires_at = {later} WHERE {self._mine(names)} AND expires_at > {now}"
        renewed = self._database.apply(sql, (micros(ttl_s), self._cluster, token, *names))
        return set(names) if renewed == len(names) else self.held(names, token)

    def held(self, names: Sequence[str], token: str) -> set[str]:
        """Those of `names` that `token` holds now."""
        where, params = f"{self._mine(names)} AND expires_at > {self._dialect.now}", (self._cluster, token, *names)
        # A batch proves all of its leases again and again: counting them costs a tenth of reading them.
        count, read = f"SELECT COUNT(*) FROM leases WHERE {where}", f"SELECT name FROM leases WHERE {where}"
        if self._database.read(lambda session: session.query(count, params))[0][0] == len(names):
            return set(names)
        return {str(row[0]) for row in self._database.read(lambda session: session.query(read, params))}

    def give_back(self, names: Sequence[str], token: str) -> None:
        """Delete those of `names` that `token` holds."""
        self._database.apply(f"DELETE FROM leases WHERE {self._mine(names)}", (self._cluster, token, *names))

    def ls(self) -> list[LeaseInfo]:
        """All leases that are held now."""
        return [self._info(row) for row in self._select(None) if row[5] > row[6]]

    def break_lease(self, name: str) -> bool:
        """Delete the lease whoever holds it; False if nobody did."""
        sql = f"DELETE FROM leases WHERE cluster = ? AND name = ? AND expires_at > {self._dialect.now}"
        return self._database.apply(sql, (self._cluster, name)) > 0

    def close(self) -> None:
        """Give up the connection, unless it is the store's."""
        if self._owned:
            self._database.close()

    def _mine(self, names: Sequence[str]) -> str:
        return f"cluster = ? AND token = ? AND name IN ({marks(len(names))})"

    def _insert(
        self, names: Sequence[str], token: str, holder: str, command: str, ttl_s: float
    ) -> tuple[str, list[object]]:
        row = f"(?, ?, ?, ?, ?, {self._dialect.now}, {self._dialect.later})"
        sql = f"INSERT INTO leases (cluster, {_COLUMNS}) VALUES {', '.join([row] * len(names))}"
        holder, command = clean(holder, 200), clean(command, 500)
        return sql, [v for name in names for v in (self._cluster, name, token, holder, command, micros(ttl_s))]

    def _select(self, names: Collection[str] | None) -> list[Row]:
        sql = f"SELECT {_COLUMNS}, {self._dialect.now} FROM leases WHERE cluster = ?"
        params: tuple[object, ...] = (self._cluster,)
        if names is not None:
            sql, params = f"{sql} AND name IN ({marks(len(names))})", (self._cluster, *names)
        return self._database.read(lambda session: session.query(f"{sql} ORDER BY name", params))

    def _forget_expired(self, names: Sequence[str]) -> None:
        sql = f"DELETE FROM leases WHERE cluster = ? AND name IN ({marks(len(names))}) AND expires_at <= "

        def work(session: Session) -> None:
            session.execute(sql + self._dialect.now, (self._cluster, *names))

        self._database.write(work)

    def _info(self, row: Row) -> LeaseInfo:
        name, _, holder, command, acquired, expires, now = row
        decode = self._dialect.decode_time
        shift = datetime.now(UTC) - decode(now)
        return LeaseInfo(name, holder, command, decode(acquired) + shift, decode(expires) + shift)
