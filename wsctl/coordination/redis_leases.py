"""Leases as keys in Redis: standalone, Sentinel or Cluster.

Responsible for: the commands that take, renew, prove, give back, list and break leases. Not responsible for: waiting,
renewing in time, or noticing a loss (`leases`, `held`), nor for connecting (`redis_client`).

One key a lease, `wsctl:{<cluster>:<name>}:lease`, and no command that names two of them, so that it works on a Cluster
whatever the slots. All or none of several is: take all in one pipeline, give back what was got if one is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wsctl.coordination.redis_client import connect
from wsctl.coordination.redis_errors import CAUGHT, explain
from wsctl.coordination.redis_url import RedisTarget
from wsctl.errors import BackendError
from wsctl.model import LeaseInfo

_ATTEMPTS = 3
_NO_END = -1
"""What PTTL says of a key that never runs out."""

# KEYS[1]: the lease; ARGV[1]: the token as it stands in the JSON, where no other field can contain it unescaped.
_IF_MINE = "local v = redis.call('GET', KEYS[1]) if v and string.find(v, ARGV[1], 1, true) then "
_RELEASE = _IF_MINE + "return redis.call('DEL', KEYS[1]) end return 0"
_RENEW = _IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


def open_redis_leases(target: RedisTarget, *, cluster: str, password: str | None) -> RedisLeases:
    """Leases in the Redis at `target`. Raises BackendError if it can't be reached (a Cluster; others on first use)."""
    try:
        client = connect(target, password)
    except CAUGHT as error:
        raise explain(error, target.label) from error
    return RedisLeases(client, cluster=cluster, label=target.label)


class RedisLeases:
    """`LeaseBackend` on a redis-py client, which it owns."""

    def __init__(self, client: Any, *, cluster: str, label: str) -> None:
        self._client = client
        self._cluster = cluster
        self._label = label
        self._prefix, self._suffix = f"wsctl:{{{cluster}:", "}:lease"

    def take(self, names: Sequence[str], *, token: str, holder: str, command: str, ttl_s: float) -> list[LeaseInfo]:
        since = datetime.now(UTC).isoformat()
        value = json.dumps({"token": token, "holder": holder[:200], "command": command[:500], "since": since})
        for _ in range(_ATTEMPTS):
            answers = self._send([("SET", self._key(name), value, "NX", "PX", _millis(ttl_s)) for name in names])
            missing = [name for name, answer in zip(names, answers, strict=True) if answer is not True]
            problem = next((answer for answer in answers if isinstance(answer, Exception)), None)
            found = self._look(missing) if problem is None else []
            # A request that was repeated on its way meets what its first copy has set: that is ours.
            others = [entry for entry in found if _mark(token) not in entry.value]
            if problem is None and not others and len(found) == len(missing):
                return []
            self.give_back(names, token)  # also what was set although its answer is an error
            if problem is not None:
                raise explain(problem, self._label) from problem
            if others:
                return [_info(entry) for entry in others]
        raise BackendError(
            f"{self._label}: leases vanish while they are being taken", hint="does it evict keys? look at maxmemory"
        )

    def renew(self, names: Sequence[str], token: str, ttl_s: float) -> set[str]:
        mine = _mark(token)
        answers = self._pipeline([("EVAL", _RENEW, 1, self._key(name), mine, _millis(ttl_s)) for name in names])
        return {name for name, answer in zip(names, answers, strict=True) if answer}

    def held(self, names: Sequence[str], token: str) -> set[str]:
        answers = self._pipeline([("GET", self._key(name)) for name in names])
        return {name for name, answer in zip(names, answers, strict=True) if _mark(token) in _text(answer)}

    def give_back(self, names: Sequence[str], token: str) -> None:
        self._pipeline([("EVAL", _RELEASE, 1, self._key(name), _mark(token)) for name in names])

    def ls(self) -> list[LeaseInfo]:
        pattern = f"{_glob(self._prefix)}*{self._suffix}"
        try:
            keys = {_text(key) for key in self._client.scan_iter(match=pattern, count=1000)}
        except CAUGHT as error:
            raise explain(error, self._label) from error
        names = [key[len(self._prefix) : -len(self._suffix)] for key in sorted(keys)]
        return [_info(entry) for entry in self._look(names)]

    def break_lease(self, name: str) -> bool:
        return bool(self._pipeline([("DEL", self._key(name))])[0])

    def close(self) -> None:
        with contextlib.suppress(*CAUGHT):
            self._client.close()

    def _look(self, names: Sequence[str]) -> list[_Entry]:
        """Those of `names` that are held, by whomever."""
        if not names:
            return []
        keys = [self._key(name) for name in names]
        answers = self._pipeline([command for key in keys for command in (("GET", key), ("PTTL", key))])
        entries = zip(names, answers[::2], answers[1::2], strict=True)
        return [_Entry(name, _text(value), int(life)) for name, value, life in entries if value is not None]

    def _pipeline(self, commands: Sequence[tuple[object, ...]]) -> list[Any]:
        """The answers to `commands`, sent together. Raises BackendError if any of them is an error."""
        answers = self._send(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise explain(answer, self._label) from answer
        return answers

    def _send(self, commands: Sequence[tuple[object, ...]]) -> list[Any]:
        """The answers to `commands`, with errors of single commands among them."""
        try:
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            return list(pipe.execute(raise_on_error=False))
        except CAUGHT as error:
            raise explain(error, self._label) from error

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}{self._suffix}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key as it was found: `value` is JSON unless somebody else wrote it, `life_ms` negative if it never ends."""

    name: str
    value: str
    life_ms: int


def _info(entry: _Entry) -> LeaseInfo:
    now = datetime.now(UTC)
    try:
        fields = json.loads(entry.value)
        holder, command = str(fields["holder"]), str(fields["command"])
        since = datetime.fromisoformat(fields["since"]).astimezone(UTC)
    except (ValueError, TypeError, KeyError):
        holder, command, since = "unknown", "unknown", now  # not written by wsctl, but in the way all the same
    ends = now + timedelta(milliseconds=max(0, entry.life_ms))
    return LeaseInfo(entry.name, holder, command, since, ends, endless=entry.life_ms == _NO_END)


def _mark(token: str) -> str:
    """How the token stands in a lease's value. A holder can't forge it: JSON escapes quotes."""
    return f'"token": "{token}"'


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _glob(text: str) -> str:
    """`text` as a pattern that matches only itself."""
    return "".join(f"\\{char}" if char in "\\*?[]" else char for char in text)


def _millis(seconds: float) -> int:
    return max(1, int(seconds * 1000))
