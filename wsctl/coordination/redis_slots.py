"""Slots of starts as sorted sets in Redis: standalone, Sentinel or Cluster.

Responsible for: the commands that take, renew, count and give back slots. Not responsible for: waiting for one
(`gate`), nor for connecting (`redis_client`).

One sorted set a node, `wsctl:{<cluster>:node:<node>}:starts`: tokens, scored by when they run out. No command names two
keys, so that it works on a Cluster whatever the slots. All times are Redis' own, so that the clocks of control hosts
don't matter. Scripts are sent as text, as those of leases are: they are short, and nothing is missing after a failover.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from wsctl.coordination.redis_client import connect
from wsctl.coordination.redis_errors import CAUGHT, explain
from wsctl.coordination.redis_url import RedisTarget

log = logging.getLogger(__name__)

# Before version 5 a script that asks for the time may write only if its effects are replicated, not its text.
_NOW = """if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""
# KEYS[1]: the node's starts; ARGV: token, limit, milliseconds. The set lives as long as its longest slot.
_TAKE = (
    _NOW
    + """local ttl = tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1"""
)
_TAKEN = _NOW + "return redis.call('ZCOUNT', KEYS[1], now + 1, '+inf')"


def open_redis_slots(target: RedisTarget, *, cluster: str, password: str | None) -> RedisSlots:
    """Slots in the Redis at `target`. Raises BackendError if it can't be reached (a Cluster; others on first use)."""
    try:
        client = connect(target, password)
    except CAUGHT as error:
        raise explain(error, target.label) from error
    return RedisSlots(client, cluster=cluster, label=target.label)


class RedisSlots:
    """`ports.Slots` on a redis-py client, which it owns. Each method is one round trip."""

    def __init__(self, client: Any, *, cluster: str, label: str) -> None:
        self._client = client
        self._cluster = cluster
        self._label = label

    def take(self, node: str, limit: int, token: str, ttl_s: float) -> bool:
        # Sent twice on its way, the second one renews what the first took.
        return bool(self._send("EVAL", _TAKE, 1, self._key(node), token, limit, max(1, int(ttl_s * 1000))))

    def give_back(self, node: str, token: str) -> None:
        try:
            self._client.execute_command("ZREM", self._key(node), token)
        except CAUGHT as error:
            log.debug("can't give back a slot of %s, it runs out by itself: %s", node, explain(error, self._label))

    def taken(self, node: str) -> int:
        return int(self._send("EVAL", _TAKEN, 1, self._key(node)))

    def close(self) -> None:
        with contextlib.suppress(*CAUGHT):
            self._client.close()

    def _send(self, *command: object) -> Any:
        try:
            return self._client.execute_command(*command)
        except CAUGHT as error:
            raise explain(error, self._label) from error

    def _key(self, node: str) -> str:
        return f"wsctl:{{{self._cluster}:node:{node}}}:starts"
