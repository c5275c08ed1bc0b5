"""Which watcher saw which node when, in Redis: standalone, Sentinel or Cluster.

Responsible for: the one key and its commands. Not responsible for: what follows from it (`wsctl.health`), nor for
connecting (`redis_client`).

One sorted set a cluster, `wsctl:{<cluster>:presence}:seen`: `kind watcher node`, scored by when that was, in Redis' own
time. `h` is a watcher that is there, `w` a node seen well, `a` one seen alive; no name has a space in it. A watcher's
whole beat is one script and one round trip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from wsctl.coordination.redis_client import connect
from wsctl.coordination.redis_errors import CAUGHT, explain
from wsctl.coordination.redis_url import RedisTarget
from wsctl.watchports import Ages, Sighting

# KEYS[1]: the set; ARGV: milliseconds to keep, then pairs of member and age in milliseconds.
_BEAT = """if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now - tonumber(ARGV[i + 1])), ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[1])))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
_LS = """local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 2, #found, 2 do found[i] = string.format('%.0f', now - tonumber(found[i])) end
return found
"""
_LOOK = """local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""


def open_redis_presence(target: RedisTarget, *, cluster: str, password: str | None, keep_s: float) -> RedisPresence:
    """Presence in the Redis at `target`. Raises BackendError if a Cluster can't be reached; others on first use."""
    try:
        client = connect(target, password)
    except CAUGHT as error:
        raise explain(error, target.label) from error
    return RedisPresence(client, cluster=cluster, label=target.label, keep_s=keep_s)


class RedisPresence:
    """`watchports.Presence` on a redis-py client, which it owns. Each method is one round trip."""

    def __init__(self, client: Any, *, cluster: str, label: str, keep_s: float) -> None:
        self._client = client
        self._key = f"wsctl:{{{cluster}:presence}}:seen"
        self._label = label
        self._keep_s = keep_s

    def beat(self, watcher: str, seen: Mapping[str, Ages]) -> list[Sighting]:
        """See `watchports.Presence`."""
        words: list[object] = [_millis(self._keep_s), f"h {watcher} ", 0]
        for node, ages in seen.items():
            for kind, age in (("w", ages.well_s), ("a", ages.alive_s)):
                if age is not None and age <= self._keep_s:
                    words += [f"{kind} {watcher} {node}", _millis(age)]
        return self._listed(self._send("EVAL", _BEAT + _LS, 1, self._key, *words))

    def ls(self) -> list[Sighting]:
        """See `watchports.Presence`."""
        return self._listed(self._send("EVAL", _LOOK + _LS, 1, self._key))

    def close(self) -> None:
        """Give up the connection."""
        with contextlib.suppress(*CAUGHT):
            self._client.close()

    def _listed(self, found: list[Any]) -> list[Sighting]:
        words = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in found]
        ages: dict[tuple[str, str], Ages] = {}
        for member, millis in zip(words[::2], words[1::2], strict=True):
            kind, watcher, node = member.split(" ", 2)
            age_s = max(0.0, int(millis) / 1000)
            if age_s > self._keep_s:
                continue
            known = ages.get((watcher, node), Ages(None, None))
            ages[watcher, node] = known._replace(**{"well_s" if kind == "w" else "alive_s": age_s})
        return [Sighting(watcher, node, seen) for (watcher, node), seen in sorted(ages.items())]

    def _send(self, *command: object) -> Any:
        try:
            return self._client.execute_command(*command)
        except CAUGHT as error:
            raise explain(error, self._label) from error


def _millis(seconds: float) -> int:
    return int(seconds * 1000)
