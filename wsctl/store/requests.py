"""Request ids: what a caller that asks twice was answered the first time.

Responsible for: recording each id once, its first answer, and forgetting old ones. Not responsible for: what a second
request is answered (`workflow`), nor for the form of ids.
"""

from __future__ import annotations

from wsctl.errors import BackendError
from wsctl.records import AuditKind, RequestRecord
from wsctl.store.base import ATTEMPTS, ClusterRows
from wsctl.store.database import Duplicate, Session, clean, key, marks, micros

ID_LIMIT = 200
_FORGET = 100  # at most so many in one call
_UNANSWERED = 100


class RequestRows(ClusterRows):
    """The part of `ports.Store` about request ids; see there for what each method promises."""

    def begin_request(self, request_id: str, verb: str, digest: str, who: str, keep_s: float) -> RequestRecord:
        """Raises ValueError for an id of more than 200 characters: cut, two of them might become one."""
        if len(request_id) > ID_LIMIT:
            raise ValueError(f"a request id of {len(request_id)} characters")
        name = key(request_id)
        # First, so that a failure of it leaves nothing recorded.
        self._forget_requests(self._old_requests(keep_s), keep_s)
        for _ in range(ATTEMPTS):
            try:
                self._database.write(lambda session: self._record_request(session, name, verb, digest, who))
            except Duplicate:
                is_new = False
            else:
                is_new = True
            found, is_old = self._known_request(name, request_id, keep_s, is_new=is_new)
            if found is not None and not is_old:
                return found
            self._forget_requests([name], keep_s)
        raise BackendError(
            f"the request id {request_id!r} was recorded and forgotten by others all the time", hint="try again later"
        )

    def finish_request(self, request_id: str, answer: str) -> None:
        sql = "UPDATE requests SET answer = ? WHERE cluster = ? AND request_id = ? AND answer IS NULL"
        self._database.apply(sql, (clean(answer), self._cluster, key(request_id)))

    def unanswered_requests(self, request_id: str | None = None) -> list[RequestRecord]:
        # As `planner.departed.open_intents`. The end of an operation follows its intent in the chain of the target.
        end = (
            "SELECT 1 FROM audit e WHERE e.cluster = i.cluster AND e.target = i.target AND e.sequence > i.sequence "
            "AND e.operation = i.operation AND e.kind <> ?"
        )
        begun = (
            "SELECT 1 FROM audit i WHERE i.cluster = r.cluster AND i.request_id = r.request_id AND i.kind = ? "
            f"AND NOT EXISTS ({end})"
        )
        intent, one = AuditKind.INTENT.value, () if request_id is None else (key(request_id),)
        sql = (
            "SELECT r.request_id, r.verb, r.digest, r.who, r.began_at FROM requests r WHERE r.cluster = ? "
            f"{'AND r.request_id = ? ' if one else ''}AND r.answer IS NULL AND EXISTS ({begun}) "
            f"ORDER BY r.began_at, r.request_id LIMIT {_UNANSWERED}"
        )
        found = self._database.read(lambda session: session.query(sql, (self._cluster, *one, intent, intent)))
        decode = self._dialect.decode_time
        return [RequestRecord(name, verb, digest, who, decode(began)) for name, verb, digest, who, began in found]

    # how

    def _record_request(self, session: Session, name: str, verb: str, digest: str, who: str) -> None:
        sql = (
            "INSERT INTO requests (cluster, request_id, verb, digest, who, began_at) "
            f"VALUES (?, ?, ?, ?, ?, {self._dialect.now})"
        )
        session.execute(sql, (self._cluster, name, clean(verb, 200), clean(digest, 200), clean(who, 200)))

    def _known_request(
        self, name: str, request_id: str, keep_s: float, *, is_new: bool
    ) -> tuple[RequestRecord | None, bool]:
        """What is recorded, and whether it is to be forgotten."""
        sql = (
            f"SELECT verb, digest, who, began_at, answer, began_at <= {self._dialect.later} FROM requests "
            "WHERE cluster = ? AND request_id = ?"
        )
        found = self._database.read(lambda session: session.query(sql, (-micros(keep_s), self._cluster, name)))
        if not found:
            return None, False
        verb, digest, who, began_at, answer, is_old = found[0]
        when = self._dialect.decode_time(began_at)
        return RequestRecord(request_id, verb, digest, who, when, answer, is_new), bool(is_old) and not is_new

    def _old_requests(self, keep_s: float) -> list[str]:
        sql = (
            f"SELECT request_id FROM requests WHERE cluster = ? AND began_at <= {self._dialect.later} "
            f"ORDER BY began_at LIMIT {_FORGET}"
        )
        found = self._database.read(lambda session: session.query(sql, (self._cluster, -micros(keep_s))))
        return sorted(str(row[0]) for row in found)

    def _forget_requests(self, keys: list[str], keep_s: float) -> None:
        if keys:
            sql = (
                f"DELETE FROM requests WHERE cluster = ? AND request_id IN ({marks(len(keys))}) "
                f"AND began_at <= {self._dialect.later}"
            )
            self._database.apply(sql, (self._cluster, *keys, -micros(keep_s)))
