"""Makes the private servers of `backends` available to every contract test."""

from backends import mariadb, own_redis, redis_cluster, redis_server

__all__ = ["mariadb", "own_redis", "redis_cluster", "redis_server"]
