"""What redis-py raises, in wsctl's words.

Responsible for: mapping every exception class of redis-py to a BackendError with what to do. Not responsible for:
deciding what an error means for a lease: it never means that somebody holds it.
"""

from __future__ import annotations

import inspect

from redis import exceptions
from redis import sentinel as sentinels

from wsctl.errors import BackendError

_PASSWORD = "the password comes from WSCTL_REDIS_PASSWORD, the user from the URL"  # noqa: S105 - that is a hint
_ACL = (
    "allow the commands SET GET DEL EVAL TIME PEXPIRE PTTL SCAN ZADD ZCARD ZCOUNT ZRANGE ZREM ZREMRANGEBYSCORE "
    "ZSCORE HGET HSET HDEL HMGET HGETALL INFO by ACL"
)
# How a refusal by ACL begins inside of a script, where it is no class of its own: Redis 7, and Redis 8.
_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")

# The first that fits, so a class stands before its bases. By name, because not every version has every class.
_TABLE: tuple[tuple[str, str, str | None], ...] = (
    ("AuthenticationError", "it refused the password", _PASSWORD),
    ("AuthenticationWrongNumberOfArgsError", "it refused the password", _PASSWORD),
    ("ExternalAuthProviderError", "it refused the password", _PASSWORD),
    ("AuthorizationError", "its user may not do this", _ACL),
    ("NoPermissionError", "its user may not do this", _ACL),
    ("BusyLoadingError", "it is still loading its data", "try again in a moment"),
    ("MasterNotFoundError", "the sentinels know no master of that name that is up", "ask them: SENTINEL masters"),
    ("SlaveNotFoundError", "the sentinels know no replica", "ask them: SENTINEL masters"),
    ("MaxConnectionsError", "too many connections", "look who is connected: redis-cli client list"),
    ("TimeoutError", "it doesn't answer in time", "is it paused or overloaded? redis-cli ping"),
    ("ConnectionError", "can't connect", "is it running, and is the address in `coordination:` right?"),
    ("ReadOnlyError", "it is a read-only replica", "name the primary, or use redis+sentinel://"),
    ("OutOfMemoryError", "its memory is full", "raise maxmemory, or set a maxmemory-policy that evicts"),
    ("ClusterDownError", "the cluster is down", "look at its state: redis-cli cluster info"),
    ("MasterDownError", "its master is down", "look at its state: redis-cli info replication"),
    ("SlotNotCoveredError", "the cluster doesn't cover all slots", "look at its state: redis-cli cluster info"),
    ("MovedError", "it is a member of a cluster", "use redis+cluster:// in `coordination:`"),
    ("AskError", "it is a member of a cluster", "use redis+cluster:// in `coordination:`"),
    ("TryAgainError", "the cluster is moving the slot", "try again in a moment"),
    ("ClusterCrossSlotError", "the cluster refused keys of several slots", None),
    ("CrossSlotTransactionError", "the cluster refused keys of several slots", None),
    ("ClusterError", "the cluster is in trouble", "look at its state: redis-cli cluster info"),
    ("RedisClusterException", "it can't be used as a cluster", "is it one? redis-cli cluster info"),
    ("InvalidResponse", "what answers there isn't Redis", "is the address in `coordination:` right?"),
    ("ResponseError", "it refused", None),
)
# Raised by parts of redis-py that aren't used here, so there is nothing to advise.
UNEXPECTED = (
    "ChildDeadlockedError",
    "DataError",
    "ExecAbortError",
    "IncorrectPolicyType",
    "InvalidPipelineStack",
    "LockError",
    "LockNotOwnedError",
    "ModuleError",
    "NoScriptError",
    "NoSuchFieldsetError",
    "PubSubError",
    "RedisError",
    "WatchError",
)


def _classes() -> dict[str, type[Exception]]:
    found = {name: value for module in (exceptions, sentinels) for name, value in vars(module).items()}
    return {name: v for name, v in found.items() if inspect.isclass(v) and issubclass(v, Exception)}


_CLASSES = _classes()
CAUGHT: tuple[type[Exception], ...] = (*_CLASSES.values(), OSError)
"""Everything that a call of redis-py may raise."""


def explain(error: Exception, label: str) -> BackendError:
    """The error an operator can act upon. redis-py puts no password into its messages, so they may be quoted."""
    detail = " ".join(str(error).split())[:300]
    if any(words in detail for words in _IN_SCRIPT):
        return BackendError(f"{label}: its user may not do this: {detail}", hint=_ACL)
    for name, why, hint in _TABLE:
        kind = _CLASSES.get(name)
        if kind is not None and isinstance(error, kind):
            return BackendError(f"{label}: {why}: {detail}", hint=hint)
    return BackendError(f"{label}: {type(error).__name__}: {detail}")


def advice(kind: type[Exception]) -> str | None:
    """The row of the table that is meant for exactly this class, for the test that walks all of them."""
    return next((why for name, why, _ in _TABLE if _CLASSES.get(name) is kind), None)
