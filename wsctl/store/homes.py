"""Where the files of users are who have no placement.

Responsible for: reading that, and the statements that remember and forget it inside of a transaction of `placements`.
Not responsible for: when that happens.

A home is told from another one on the same node by the last generation that the user had: see `moving.Home`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsctl.moving import Home
from wsctl.records import AuditEntry
from wsctl.store.base import ClusterRows
from wsctl.store.database import Duplicate, Raced, Session

_HOMES = (
    "SELECT h.user, h.node, COALESCE(r.generation, 0) FROM homes h "
    "LEFT JOIN retired r ON r.cluster = h.cluster AND r.user = h.user"
)


class HomeRows(ClusterRows):
    """The part of `ports.Store` about homes; see there for what each method promises."""

    def homes(self) -> Mapping[str, str]:
        return {user: home.node for user, home in self.known_homes().items()}

    def known_homes(self) -> Mapping[str, Home]:
        found = self._database.read(lambda session: session.query(f"{_HOMES} WHERE h.cluster = ?", (self._cluster,)))
        return {user: Home(node, int(generation)) for user, node, generation in found}

    def home(self, user: str) -> Home | None:
        placed = "SELECT 1 FROM placements p WHERE p.cluster = h.cluster AND p.user = h.user"
        sql = f"{_HOMES} WHERE h.cluster = ? AND h.user = ? AND NOT EXISTS ({placed})"
        found = self._database.read(lambda session: session.query(sql, (self._cluster, user)))
        return Home(found[0][1], int(found[0][2])) if found else None

    # how

    def _home_and_mark(self, session: Session, user: str, node: str) -> tuple[str | None, str | None]:
        """The node of the user's home, and the mark of `node`. Nobody can move the home any more once the transaction
        has written the user's placement (before that, a release could be on its way), nor mark the node once it has
        locked the node's row."""
        home = "SELECT node FROM homes WHERE cluster = ? AND user = ?"
        mark = "SELECT state FROM node_marks WHERE cluster = ? AND node = ?"
        return session.query(f"SELECT ({home}), ({mark})", (self._cluster, user, self._cluster, node))[0]

    def _forget_home(self, session: Session, user: str) -> None:
        session.execute("DELETE FROM homes WHERE cluster = ? AND user = ?", (self._cluster, user))

    def _forget_this_home(self, session: Session, user: str, home: Home, audit: Sequence[AuditEntry]) -> bool:
        """False if the user's home is another one by now."""
        key = (self._cluster, user)
        rows = session.query(f"SELECT node FROM homes WHERE cluster = ? AND user = ?{self._dialect.locked}", key)
        if not rows:
            return True
        sql = "SELECT COALESCE(MAX(generation), 0) FROM retired WHERE cluster = ? AND user = ?"
        ((last,),) = session.query(sql, key)
        # Who changes that writes the home next: they wait for us now, or were seen.
        if Home(rows[0][0], int(last)) != home:
            return False
        self._forget_home(session, user)
        self._log.append(session, audit)
        return True

    def _remember_home(self, session: Session, user: str, node: str) -> None:
        sql = f"INSERT INTO homes (cluster, user, node, since) VALUES (?, ?, ?, {self._dialect.now})"
        try:
            session.execute(sql, (self._cluster, user, node))
        except Duplicate:
            # Where there was no row, forgetting it locked nothing: another one was faster.
            raise Raced from None
