"""Activity as hashes in Redis: standalone, Sentinel or Cluster.

Responsible for: recording who was active when, and since when nothing of that can have been lost. Not responsible for:
the database behind it (`activity`), nor for connecting (`redis_client`).

Users are spread over `SHARDS` hashes, `wsctl:{<cluster>:activity:<number>}:last`: user → microseconds and source, the
newest only. No command names two keys, so that it works on a Cluster whatever the slots, and thousands of users are one
pipeline of a few scripts.

In the field of nobody (``""``) stands since when the hash is complete, with the run id of the Redis process that wrote
that. After a FLUSHALL, an eviction, a failover, a restart from an older file, the field is missing or names another
process: then something may be lost, and it counts from now. Times of that field are Redis' own.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from wsctl.coordination.redis_client import connect
from wsctl.coordination.redis_errors import CAUGHT, explain
from wsctl.coordination.redis_url import RedisTarget
from wsctl.model import Activity
from wsctl.ports import Recorded

SHARDS = 16
"""Never change it: users would be looked for in other hashes than they are in."""

_CHUNK = 500  # users a script: a millisecond in which Redis answers nobody else

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Before version 5 a script that asks for the time may write only if its effects are replicated, not its text.
_RUN = """if redis.replicate_commands then redis.replicate_commands() end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local since = redis.call('HGET', KEYS[1], '')
local known = since and string.sub(since, 18) == run
"""
# KEYS[1]: a hash; ARGV: the source, then users and microseconds in turn. An older time never replaces a newer one.
_TOUCH = (
    _RUN
    + """if not known then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[1], '', string.format('%010d%06d ', t[1], t[2]) .. run)
end
local users = {}
for i = 2, #ARGV, 2 do users[#users + 1] = ARGV[i] end
if #users == 0 then return 0 end
local old, new = redis.call('HMGET', KEYS[1], unpack(users)), {}
for i, user in ipairs(users) do
  local at = ARGV[2 * i + 1]
  if not old[i] or tonumber(string.sub(old[i], 1, 16)) < tonumber(at) then
    new[#new + 1] = user
    new[#new + 1] = at .. ' ' .. ARGV[1]
  end
end
if #new > 0 then redis.call('HSET', KEYS[1], unpack(new)) end
return #new / 2"""
)
# ARGV: users, or none for all. The answer: since when it is complete ('' if that isn't known), fields and values.
_READ = (
    _RUN
    + """local found = {known and string.sub(since, 1, 16) or ''}
if #ARGV == 0 then
  for _, word in ipairs(redis.call('HGETALL', KEYS[1])) do found[#found + 1] = word end
  return found
end
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do
  if value then
    found[#found + 1] = ARGV[i]
    found[#found + 1] = value
  end
end
return found"""
)
# ARGV: users and values in turn; who has still that value is forgotten.
_FORGET = """local gone = {}
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then gone[#gone + 1] = ARGV[i] end
end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
return #gone"""


def open_redis_activity(target: RedisTarget, *, cluster: str, password: str | None) -> RedisActivity:
    """Activity in the Redis at `target`. Raises BackendError if that can't be reached (a Cluster; others when used)."""
    try:
        client = connect(target, password)
    except CAUGHT as error:
        raise explain(error, target.label) from error
    return RedisActivity(client, cluster=cluster, label=target.label)


class RedisActivity:
    """`activity.QuickActivity` on a redis-py client, which it owns. Each method is one pipeline.

    Raises `BackendError` when Redis can't be asked.
    """

    def __init__(self, client: Any, *, cluster: str, label: str) -> None:
        self._client = client
        self._cluster = cluster
        self._label = label

    def touch(self, times: Mapping[str, datetime], source: str) -> None:
        stamps = {user: f"{_micros(at):016d}" for user, at in times.items()}
        self._each(_TOUCH, stamps, (source,))

    def begin(self) -> None:
        """Let every hash say since when it is complete."""
        self._send([("EVAL", _TOUCH, 1, self._key(shard), "") for shard in range(SHARDS)])

    def recorded(self, users: Collection[str] | None = None) -> Recorded:
        """The newest of the users (None: all), and since when all of it is there, as one moment of each hash."""
        if users is None:
            commands: list[tuple[object, ...]] = [("EVAL", _READ, 1, self._key(shard)) for shard in range(SHARDS)]
        else:
            commands = [("EVAL", _READ, 1, key, *some) for key, some in self._chunks(users)]
        found: dict[str, Activity] = {}
        since: datetime | None = _EPOCH
        for complete, *words in self._send(commands):
            begun = _time(complete) if complete else None
            since = max(since, begun) if since is not None and begun is not None else None
            found.update((user, _activity(user, value)) for user, value in _pairs(words) if user)
        return Recorded(found, since)

    def forget(self, seen: Iterable[Activity]) -> None:
        """Drop those that are still as they were seen."""
        self._each(_FORGET, {one.user: f"{_micros(one.last_active_at):016d} {one.source}" for one in seen}, ())

    def close(self) -> None:
        """Give up the connection."""
        with contextlib.suppress(*CAUGHT):
            self._client.close()

    def _each(self, script: str, values: Mapping[str, str], first: Sequence[str]) -> None:
        """Run the script over users and values, hash by hash."""
        self._send(
            ("EVAL", script, 1, key, *first, *(word for user in some for word in (user, values[user])))
            for key, some in self._chunks(values)
        )

    def _chunks(self, users: Iterable[str]) -> list[tuple[str, list[str]]]:
        """Keys, each with some of the users whose hash it is."""
        by_shard: dict[int, list[str]] = defaultdict(list)
        for user in users:
            by_shard[zlib.crc32(user.encode()) % SHARDS].append(user)
        return [
            (self._key(shard), some[start : start + _CHUNK])
            for shard, some in sorted(by_shard.items())
            for start in range(0, len(some), _CHUNK)
        ]

    def _send(self, commands: Iterable[tuple[object, ...]]) -> list[Any]:
        """The answers, of commands that are sent together: on a Cluster, to each member its own."""
        try:
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            answers = list(pipe.execute(raise_on_error=False))
        except CAUGHT as error:
            raise explain(error, self._label) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise explain(answer, self._label) from answer
        return answers

    def _key(self, shard: int) -> str:
        return f"wsctl:{{{self._cluster}:activity:{shard}}}:last"


def _pairs(words: Sequence[bytes | str]) -> Iterable[tuple[str, str]]:
    texts = [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in words]
    return zip(texts[::2], texts[1::2], strict=True)


def _activity(user: str, value: str) -> Activity:
    return Activity(user, _time(value[:16]), value[17:])


def _time(micros: bytes | str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(micros))


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
