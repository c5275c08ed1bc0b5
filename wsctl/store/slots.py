"""Slots as rows of the state database: how many containers may be starting on a node at once.

Responsible for: the statements that take, renew, give back and count slots. Not responsible for: waiting for one, nor
for what is done without one: `ports.Slots` is politeness.

A slot is a number below the limit; that a number has one row, and a token one number, is the primary and a unique key.
Each statement is a transaction of its own and touches one row, so nobody waits for anybody. All times are the
database's.
"""

from __future__ import annotations

import contextlib
import random

from wsctl.errors import BackendError
from wsctl.store.database import Database, Duplicate, clean, micros

_ATTEMPTS = 50


class SlotRows:
    """`ports.Slots` on the table `slots` of one cluster."""

    def __init__(self, database: Database, cluster: str, *, owned: bool) -> None:
        """`owned`: close the database with this."""
        self._database = database
        self._dialect = database.dialect
        self._cluster = cluster
        self._owned = owned

    def take(self, node: str, limit: int, token: str, ttl_s: float) -> bool:
        """See `ports.Slots`. Also False if others were faster so often that waiting is the better use of time."""
        node, token, later = clean(node, 200), clean(token, 200), micros(ttl_s)
        for _ in range(_ATTEMPTS):
            try:
                answer = self._try(node, limit, token, later)
            except Duplicate:
                continue
            if answer is not None:
                return answer
        return False

    def give_back(self, node: str, token: str) -> None:
        """See `ports.Slots`."""
        sql = "DELETE FROM slots WHERE cluster = ? AND node = ? AND token = ?"
        with contextlib.suppress(BackendError):
            self._database.apply(sql, (self._cluster, clean(node, 200), clean(token, 200)))

    def taken(self, node: str) -> int:
        """See `ports.Slots`."""
        return sum(is_live for _, _, is_live in self._rows(clean(node, 200)))

    def close(self) -> None:
        """Give up the connection, unless it is the store's."""
        if self._owned:
            self._database.close()

    def _try(self, node: str, limit: int, token: str, later: int) -> bool | None:
        """Take one as things are now; None if they changed meanwhile. Raises Duplicate for the same reason."""
        rows = self._rows(node)
        for slot, whose, is_live in rows:
            if whose == token and (is_live or slot < limit):
                return self._take_over(node, slot, token, token, later) or None
            if whose == token:  # of a time with a higher limit, and over
                self.give_back(node, token)
                return None
        # Any of them: if all took the first, all but one of those who come together would have to look again.
        free = sorted(set(range(limit)) - {slot for slot, _, _ in rows})
        if free:
            self._insert(node, random.choice(free), token, later)  # noqa: S311 - not a secret
            return True
        over = [(slot, whose) for slot, whose, is_live in rows if not is_live and slot < limit]
        if not over:
            return False
        slot, whose = random.choice(over)  # noqa: S311 - not a secret
        return self._take_over(node, slot, whose, token, later) or None

    def _rows(self, node: str) -> list[tuple[int, str, bool]]:
        """(slot, token, whether its time isn't over) of each row of the node."""
        sql = f"SELECT slot, token, expires_at > {self._dialect.now} FROM slots WHERE cluster = ? AND node = ?"
        found = self._database.read(lambda session: session.query(sql, (self._cluster, node)))
        return [(int(slot), str(token), bool(is_live)) for slot, token, is_live in found]

    def _insert(self, node: str, slot: int, token: str, later: int) -> None:
        sql = f"INSERT INTO slots (cluster, node, slot, token, expires_at) VALUES (?, ?, ?, ?, {self._dialect.later})"
        self._database.apply(sql, (self._cluster, node, slot, token, later))

    def _take_over(self, node: str, slot: int, whose: str, token: str, later: int) -> bool:
        """Renew one's own slot, or take one whose time is over; False if it isn't `whose` any more."""
        sql = (
            f"UPDATE slots SET token = ?, expires_at = {self._dialect.later} "
            "WHERE cluster = ? AND node = ? AND slot = ? AND token = ?"
        )
        if whose != token:
            sql += f" AND expires_at <= {self._dialect.now}"
        return self._database.apply(sql, (token, later, self._cluster, node, slot, whose)) > 0
