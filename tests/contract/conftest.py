"""Makes the private servers of `backends`, and the databases of `places`, available to every contract test."""

from backends import mariadb, own_redis, redis_cluster, redis_server
from places import place

__all__ = ["mariadb", "own_redis", "place", "redis_cluster", "redis_server"]
