"""Connecting to Redis: standalone, Sentinel or Cluster, with short timeouts and no hidden retries.

Responsible for: the client object with settings under which a dead Redis is noticed at once. Not responsible for: what
is stored in it (`redis_leases`).
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wsctl.coordination.redis_url import RedisTarget

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0


def connect(target: RedisTarget, password: str | None) -> Any:
    """A client for `target`. A cluster's map is read here; otherwise nothing is sent before the first command.

    Raises whatever redis-py raises (`redis_errors.CAUGHT`).
    """
    settings = _settings(target, password)
    if target.kind == "cluster":
        from redis.cluster import ClusterNode, RedisCluster

        # Two tries: after a failover the first finds the old member gone and reads the new map.
        settings["retry"] = Retry(NoBackoff(), 2)
        node: Any = ClusterNode
        return RedisCluster(startup_nodes=[node(host, port) for host, port in target.hosts], **settings)
    if target.kind == "sentinel":
        from redis.sentinel import Sentinel

        # The sentinels' own connections have no password: they seldom have one, and never get the data's.
        plain = {key: value for key, value in settings.items() if key not in ("username", "password", "db")}
        sentinels: Any = Sentinel
        return sentinels(list(target.hosts), sentinel_kwargs=plain).master_for(target.service, **settings)
    (host, port), *_ = target.hosts
    return redis.Redis(host=host, port=port, **settings)


def _settings(target: RedisTarget, password: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # Redis before 6 doesn't know how to be asked for 3
        "username": target.username,
        "password": password,
        **_anonymous(),
    }
    if target.kind != "cluster":
        settings["db"] = target.db
    if target.tls:
        settings |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": target.ca}
    return settings


def _anonymous() -> dict[str, None]:
    """Don't introduce the client library to the server: that costs two round trips a connection."""
    try:
        import redis.driver_info  # noqa: F401
    except ImportError:  # before redis-py 7.1
        return {"lib_name": None, "lib_version": None}
    return {"driver_info": None}
