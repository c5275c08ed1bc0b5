"""`watchports.Presence` on SQLite, MariaDB, Redis, a Redis Cluster and fakeredis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from backends import RedisServer

from wsctl.coordination import PRESENCE_S, open_presence
from wsctl.coordination.redis_presence import RedisPresence
from wsctl.errors import BackendError
from wsctl.store import open_store, presence_rows
from wsctl.watchports import Ages, Presence, Sighting

_numbers = count()
Open = Callable[..., Presence]
THERE = Ages(None, 0.0)


def _no_rows() -> Presence:
    raise AssertionError("the state database was asked")


@pytest.fixture(params=["sqlite", "mariadb", "redis", "cluster", "fakeredis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens this test's presence, as another control host would; `keep_s` is how long notes last."""
    cluster, kind, closing = f"p{next(_numbers)}", request.param, list[Callable[[], None]]()
    if kind in ("sqlite", "mariadb"):
        from backends import PASSWORD

        server = request.getfixturevalue("mariadb") if kind == "mariadb" else None
        url = server.url(server.new_database()) if server is not None else "sqlite:///wsctl.db"

        def make(keep_s: float = PRESENCE_S) -> Presence:
            store = open_store(url, cluster=cluster, base=tmp_path, password=PASSWORD if server else None)
            closing.append(store.close)
            return presence_rows(store, keep_s)
    else:
        fake = None
        if kind == "fakeredis":
            import fakeredis

            fake = fakeredis.FakeServer()
        elif kind == "redis":
            url = request.getfixturevalue("redis_server").url
        else:
            members = request.getfixturevalue("redis_cluster")
            url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in members)

        def make(keep_s: float = PRESENCE_S) -> Presence:
            if fake is not None:
                import fakeredis

                return RedisPresence(fakeredis.FakeRedis(server=fake), cluster=cluster, label="fake", keep_s=keep_s)
            presence = open_presence(url, cluster=cluster, rows=_no_rows, base=tmp_path)
            assert isinstance(presence, RedisPresence)
            return RedisPresence(presence._client, cluster=cluster, label="redis", keep_s=keep_s)

    def opener(keep_s: float = PRESENCE_S) -> Presence:
        presence = make(keep_s)
        closing.insert(0, presence.close)
        return presence

    yield opener
    for close in closing:
        close()


def rounded(found: object) -> set[tuple[str, str, float | None, float | None]]:
    """Ages to the second."""
    assert isinstance(found, list)
    for one in found:
        assert isinstance(one, Sighting)
    return {(w, n, *(None if age is None else float(round(age)) for age in ages)) for w, n, ages in found}  # type: ignore[misc]


def test_notes_of_several_watchers(opened: Open) -> None:
    one, other = opened(), opened()
    assert rounded(one.ls()) == set()
    mine = {("w1", "", None, 0.0), ("w1", "n1", 0.0, 0.0), ("w1", "n2", None, 3.0)}
    assert rounded(one.beat("w1", {"n1": Ages(0.1, 0.0), "n2": Ages(None, 3.0)})) == mine
    yours = {("w2", "", None, 0.0), ("w2", "n1", 5.0, 5.0)}
    assert rounded(other.beat("w2", {"n1": Ages(5.0, 5.0)})) == mine | yours
    assert rounded(one.ls()) == mine | yours
    newer = {("w2", "", None, 0.0), ("w2", "n1", 1.0, 1.0)}
    assert rounded(other.beat("w2", {"n1": Ages(1.0, 1.0)})) == mine | newer


def test_what_is_old_is_gone(opened: Open) -> None:
    presence = opened(1.0)
    found = rounded(presence.beat("w1", {"n1": Ages(0.0, 0.0), "n2": Ages(5.0, 0.0), "n3": Ages(5.0, 5.0)}))
    assert {one for one in found if one[2:] != (None, None)} == {
        ("w1", "", None, 0.0), ("w1", "n1", 0.0, 0.0), ("w1", "n2", None, 0.0),
    }  # fmt: skip
    time.sleep(1.2)
    assert [one for one in presence.ls() if one.ages != Ages(None, None)] == []
    assert {one.watcher for one in presence.beat("w2", {})} == {"w2"}


def test_many_nodes(opened: Open) -> None:
    seen = {f"n{number}": Ages(0.0, 0.0) for number in range(450)}
    assert {one.node for one in opened().beat("w1", seen)} == {"", *seen}


def test_clusters_keep_to_themselves(redis_server: RedisServer, tmp_path: Path) -> None:
    one, other = (open_presence(redis_server.url, cluster=c, rows=_no_rows, base=tmp_path) for c in ("x1", "x2"))
    one.beat("w1", {})
    assert other.ls() == []
    one.close()
    other.close()


def test_a_backend_that_is_gone_is_said_to_be(own_redis: RedisServer, tmp_path: Path) -> None:
    presence = open_presence(own_redis.url, cluster="x", rows=_no_rows, base=tmp_path)
    presence.beat("w1", {})
    own_redis.stop()
    with pytest.raises(BackendError):
        presence.beat("w1", {})
    with pytest.raises(BackendError):
        presence.ls()
    own_redis.start()
    assert [one.watcher for one in presence.beat("w1", {})] == ["w1"]
    presence.close()
