"""Coordination URLs, and every exception of redis-py in wsctl's words."""

import inspect
from pathlib import Path

import pytest
import redis
from redis import exceptions, sentinel

from wsctl.coordination import open_leases, redis_errors
from wsctl.coordination.redis_leases import RedisLeases
from wsctl.coordination.redis_url import RedisTarget, parse_redis_url
from wsctl.errors import BackendError, InventoryError, LeaseHeld

BASE = Path("/etc/wsctl")


def test_urls() -> None:
    plain = parse_redis_url("redis://cache", BASE)
    assert plain == RedisTarget("standalone", (("cache", 6379),), False, None, 0, "", None)
    assert parse_redis_url("rediss://ops@[::1]:6380/3?ca=ca.pem", BASE) == RedisTarget(
        "standalone", (("::1", 6380),), True, "ops", 3, "", "/etc/wsctl/ca.pem"
    )
    mixed = parse_redis_url("redis+cluster://u@a,[fd00::2]:2,[fd00::3]", BASE)
    assert (mixed.username, mixed.hosts) == ("u", (("a", 6379), ("fd00::2", 2), ("fd00::3", 6379)))
    cluster = parse_redis_url("redis+cluster://a:1,b:2,c", BASE)
    assert cluster == RedisTarget("cluster", (("a", 1), ("b", 2), ("c", 6379)), False, None, 0, "", None)
    watched = parse_redis_url("redis+sentinel://a,b:2/main", BASE)
    assert watched == RedisTarget("sentinel", (("a", 26379), ("b", 2)), False, None, 0, "main", None)
    assert watched.label == "redis 'main' of the sentinels at a:26379, b:2"


@pytest.mark.parametrize(
    "url",
    [
        "", "redis", "redis:host", "http://h", "redis://", "redis://a,b", "redis://h:x", "redis://h:99999", "redis://h/x",
        "redis://h/-1", "redis://h?db=1", "redis://h?ca=x", "redis+cluster://a/1", "redis+cluster://a,,b",
        "redis+sentinel://a", "redis+sentinel://a/b/c", "redis://[::1", "\x1b[31m",
    ],
)  # fmt: skip
def test_a_wrong_url_says_what_was_expected(url: str) -> None:
    with pytest.raises(InventoryError) as caught:
        open_leases(url, cluster="c", rows=lambda: pytest.fail("asked"), base=BASE)
    assert "redis://host:6379/0" in str(caught.value.hint)
    assert caught.value.message.isprintable()


def test_a_password_is_refused_and_not_repeated() -> None:
    for url in ("redis://:hunter2@h", "redis://ops:hunter2@h/1", "redis+cluster://x:hunter2@a,b"):
        with pytest.raises(InventoryError) as caught:
            parse_redis_url(url, BASE)
        assert "hunter2" not in caught.value.message + str(caught.value.hint)
        assert "WSCTL_REDIS_PASSWORD" in str(caught.value.hint)


CLASSES = [
    kind
    for module in (exceptions, sentinel)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, Exception)
]


@pytest.mark.parametrize("kind", sorted(set(CLASSES), key=lambda kind: kind.__name__))
def test_every_class_is_caught_and_has_its_words(kind: type[Exception]) -> None:
    assert issubclass(kind, redis_errors.CAUGHT)
    try:
        error = kind("boom")
    except Exception:
        error = kind("12182 127.0.0.1:7000")  # AskError, MovedError read their message
    told = redis_errors.explain(error, "redis at h:1")
    assert isinstance(told, BackendError)
    assert not isinstance(told, LeaseHeld)
    assert told.message.startswith("redis at h:1: ")
    assert redis_errors.advice(kind) or kind.__name__ in redis_errors.UNEXPECTED, f"no words for {kind.__name__}"


def test_os_errors_are_told_too() -> None:
    assert isinstance(redis_errors.explain(ConnectionResetError("x"), "redis"), BackendError)


def test_keys_have_one_hash_tag_each_of_the_whole_name() -> None:
    leases = RedisLeases(redis.Redis(), cluster="studio", label="x")
    assert leases._key("user:alice") == "wsctl:{studio:user:alice}:lease"


@pytest.mark.parametrize(
    "said",
    [
        "The user executing the script can't run this command or subcommand script: 00ab, on @user_script:2.",
        "ACL failure in script: User poor has no permissions to run the 'info' command script: 00ab",
    ],
)
def test_a_refusal_inside_of_a_script_names_the_commands(said: str) -> None:
    from redis.exceptions import ResponseError

    told = redis_errors.explain(ResponseError(said), "redis at h:1")
    assert "its user may not do this" in told.message
    assert "by ACL" in str(told.hint)
