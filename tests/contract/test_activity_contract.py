"""`ports.ActivityLog` in rows, and in Redis (alone, a Cluster, behind Sentinel) before rows; what Redis may lose."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from backends import RedisServer, drop_redis, free_port, make_redis, need, wait_until

from wsctl.coordination import open_activity
from wsctl.coordination.redis_activity import SHARDS
from wsctl.errors import BackendError
from wsctl.ports import ActivityLog
from wsctl.store import open_store
from wsctl.store.store import SqlStore

_numbers = count()
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


@dataclass
class Hosts:
    """Opens the activity of one cluster, each time as another control host does; `url` is None for rows alone."""

    url: str | None
    base: Path
    cluster: str = field(default_factory=lambda: f"a{next(_numbers)}")
    opened: list[ActivityLog] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = open_store("sqlite:///wsctl.db", cluster=self.cluster, base=self.base)

    def open(self, store: Callable[[], SqlStore] | None = None) -> ActivityLog:
        made = open_activity(self.url, cluster=self.cluster, store=store or (lambda: self.store), base=self.base)
        self.opened.append(made)
        return made

    def close(self) -> None:
        for one in self.opened:
            one.close()
        self.store.close()


@contextmanager
def sentinel(server: RedisServer, folder: Path, *more: str) -> Iterator[str]:
    """The URL of `server` behind a sentinel of its own."""
    port = free_port()
    config = folder / "sentinel.conf"
    monitor = f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{monitor}" + "\n".join(more) + "\n")
    process = subprocess.Popen([need("redis-server"), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        wait_until(RedisServer(folder, port)._answers, "the sentinel")
        yield f"redis+sentinel://127.0.0.1:{port}/main"
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(params=["rows", "redis", "cluster", "sentinel"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    @contextmanager
    def url() -> Iterator[str | None]:
        if request.param == "cluster":
            members = request.getfixturevalue("redis_cluster")
            yield "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
        elif request.param == "rows":
            yield None
        elif request.param == "redis":
            yield request.getfixturevalue("redis_server").url
        else:
            with sentinel(request.getfixturevalue("redis_server"), tmp_path) as found:
                yield found

    with url() as found:
        made = Hosts(found, tmp_path)
        yield made
        made.close()


@pytest.fixture
def own(own_redis: RedisServer, tmp_path: Path) -> Iterator[Hosts]:
    """With a Redis that may be killed."""
    made = Hosts(own_redis.url, tmp_path)
    yield made
    made.close()


def test_the_newest_is_seen_by_everybody_at_once(hosts: Hosts) -> None:
    here, there = hosts.open(), hosts.open()
    assert here.recorded(["alice"]).activity == {}
    here.touch({"alice": NOON, "bob": NOON}, "touch")
    there.touch({"alice": LATER, "bob": NOON - timedelta(microseconds=1)}, "gateway")
    here.touch({"alice": NOON}, "touch")
    for one in (here, there):
        found = one.recorded().activity
        assert {user: (a.last_active_at, a.source) for user, a in found.items()} == {
            "alice": (LATER, "gateway"),
            "bob": (NOON, "touch"),
        }
        assert set(one.recorded(["bob", "nobody"]).activity) == {"bob"}
        assert one.recorded([]).activity == {}


def test_it_is_known_since_when_once_somebody_says_so(hosts: Hosts) -> None:
    log = hosts.open()
    assert log.recorded(["alice"]).since is None
    log.touch({"alice": NOON}, "touch")
    log.begin(NOON)
    since = log.recorded().since
    assert since is not None
    assert abs((since - datetime.now(UTC)).total_seconds()) < 30
    log.begin(NOON)
    hosts.open().touch({"bob": LATER}, "touch")
    assert log.recorded().since == since
    some = log.recorded(["alice", "bob"]).since
    assert some is not None
    assert some <= since


def test_flushing_brings_everything_to_the_database_and_nothing_back_in_time(hosts: Hosts) -> None:
    log = hosts.open()
    log.touch({f"u{n}": NOON for n in range(1500)}, "touch")
    hosts.store.touch(["u1"], LATER, "start")
    assert log.held() == (None if hosts.url is None else 1500)
    flushed = log.flush(LATER)
    assert flushed == (None if hosts.url is None else 1500)
    stored = hosts.store.activity()
    assert len(stored) == 1500
    assert (stored["u1"].source, stored["u0"].source) == ("start", "touch")
    assert log.recorded().activity == stored
    if hosts.url is not None:
        assert log.flush(LATER) == 0, "what the database has isn't kept twice"
        log.touch({"u0": LATER}, "touch")
        assert log.flush(LATER + timedelta(seconds=59)) == 1
        assert log.flush(LATER + timedelta(seconds=60)) == 1, "kept until every member of the database shows it"
        assert log.flush(LATER + timedelta(seconds=60)) == 0


def test_two_hosts_flush_while_users_go_on(hosts: Hosts) -> None:
    """Whatever the order, nobody's time is lost or goes back, seen from any host at any moment."""
    users, seen, done = [f"u{n}" for n in range(50)], dict[str, datetime](), threading.Event()
    problems: list[str] = []

    def flusher() -> None:
        log = hosts.open()
        while not done.is_set():
            log.flush(LATER + timedelta(days=1))

    def toucher() -> None:
        log = hosts.open()
        for number in range(40):
            at = NOON + timedelta(seconds=number)
            log.touch(dict.fromkeys(users, at), "touch")
            seen.update(dict.fromkeys(users, at))

    def reader() -> None:
        log = hosts.open()
        while not done.is_set():
            before = dict(seen)
            found = log.recorded(users[:7]).activity
            for user in users[:7]:
                if user in before and (user not in found or found[user].last_active_at < before[user]):
                    problems.append(f"{user}: {found.get(user)} is older than {before[user]}")

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(work) for work in (flusher, flusher, reader)]
        try:
            toucher()
        finally:
            done.set()
        for one in others:
            one.result()
    assert not problems
    hosts.open().flush(LATER)
    assert {a.last_active_at for a in hosts.store.activity().values()} == {NOON + timedelta(seconds=39)}


def test_a_flush_that_the_database_refuses_loses_nothing(own: Hosts) -> None:
    log = own.open()
    log.touch({"alice": NOON}, "touch")

    def gone() -> SqlStore:
        raise BackendError("the state database went away")

    with pytest.raises(BackendError):
        own.open(gone).flush(LATER)
    assert log.flush(LATER) == 1
    assert own.store.activity()["alice"].last_active_at == NOON


# what Redis may lose


def begun(hosts: Hosts) -> ActivityLog:
    """With data of three users, of whom one is flushed."""
    log = hosts.open()
    log.begin(NOON)
    log.touch({"alice": NOON}, "touch")
    log.flush(LATER)
    log.touch({"bob": NOON, "carol": NOON}, "touch")
    assert log.recorded().since is not None
    return log


def test_flushall_loses_what_was_not_flushed_and_says_so(own: Hosts, own_redis: RedisServer) -> None:
    log = begun(own)
    own_redis.command("flushall")
    found = log.recorded()
    assert (set(found.activity), found.since, found.doubt) == ({"alice"}, None, None)
    began = datetime.now(UTC)
    log.touch({f"u{n}": LATER for n in range(200)}, "touch")
    since = log.recorded().since
    assert since is not None
    assert since >= began - timedelta(milliseconds=1), "who was active before can't be known"


def test_one_emptied_hash_of_many_is_noticed(own: Hosts, own_redis: RedisServer) -> None:
    """An eviction takes a whole key."""
    log = begun(own)
    own_redis.command("del", f"wsctl:{{{own.cluster}:activity:3}}:last")
    assert log.recorded().since is None
    log.begin(NOON)
    since = log.recorded().since
    assert since is not None
    assert since > datetime.now(UTC) - timedelta(seconds=5)


def test_a_member_of_a_cluster_that_lost_its_data_is_noticed(redis_cluster: list[RedisServer], tmp_path: Path) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in redis_cluster)
    hosts = Hosts(url, tmp_path)
    log = begun(hosts)
    redis_cluster[1].command("flushall")
    assert log.recorded().since is None
    hosts.close()


def test_a_redis_that_came_back_from_an_older_file_is_noticed(own: Hosts, own_redis: RedisServer) -> None:
    """The data and the time since when they are there are in the file, but not what came after it."""
    log = begun(own)
    own_redis.command("save")
    log.touch({"dora": LATER}, "touch")
    own_redis.stop()
    down = log.recorded()
    assert down.doubt is not None
    assert (set(down.activity), down.since) == ({"alice"}, None)
    own_redis.start()
    fresh = own.open()
    found = fresh.recorded()
    assert (set(found.activity), found.since) == ({"alice", "bob", "carol"}, None)
    fresh.begin(LATER)
    since = fresh.recorded().since
    assert since is not None
    assert since > datetime.now(UTC) - timedelta(seconds=5)


def test_a_failover_is_noticed(own_redis: RedisServer, tmp_path: Path) -> None:
    """The replica has the time since when there are data too, and perhaps not the last of them."""
    own_redis.command("config", "set", "repl-diskless-sync-delay", "0")
    replica = make_redis("--replicaof", "127.0.0.1", str(own_redis.port))
    more = ("sentinel down-after-milliseconds main 300", "sentinel failover-timeout main 2000")
    try:
        wait_until(lambda: "master_link_status:up" in replica.command("info", "replication"), "the replica")
        with sentinel(own_redis, tmp_path, *more) as url:
            hosts = Hosts(url, tmp_path)
            log = begun(hosts)
            wait_until(lambda: replica.command("dbsize") == str(SHARDS), "the replication")
            time.sleep(1)  # the sentinel must have heard of the replica
            own_redis.stop()
            wait_until(lambda: "role:master" in replica.command("info", "replication"), "the failover")
            fresh = hosts.open()
            wait_until(lambda: hosts.open().recorded().doubt is None, "the new master")
            found = fresh.recorded() if fresh.recorded().doubt is None else hosts.open().recorded()
            assert (set(found.activity), found.since) == ({"alice", "bob", "carol"}, None)
            log.close()
            hosts.close()
    finally:
        drop_redis(replica)


def test_a_dead_redis_costs_nobody_anything(own: Hosts, own_redis: RedisServer) -> None:
    log = begun(own)
    own_redis.stop()
    began = time.monotonic()
    for number in range(50):
        log.touch({f"u{number}": NOON}, "touch")
    assert time.monotonic() - began < 3, "it isn't asked again for each user"
    found = log.recorded(["u7"])
    assert found.activity["u7"].last_active_at == NOON
    assert found.doubt is not None
    assert "can't connect" in found.doubt
    with pytest.raises(BackendError):
        log.flush(LATER)


def test_a_hundred_thousand_users_are_a_few_hundred_requests(own: Hosts, own_redis: RedisServer) -> None:
    log = own.open()
    log.begin(NOON)
    own_redis.command("config", "resetstat")
    log.touch({f"user-{n:06}": NOON for n in range(20_000)}, "touch")
    stats = own_redis.command("info", "commandstats")
    assert int(stats.split("cmdstat_eval:calls=")[1].split(",")[0]) <= 20_000 / 500 + SHARDS
    own_redis.command("config", "resetstat")
    assert len(log.recorded().activity) == 20_000
    log.recorded(["user-000001"])
    stats = own_redis.command("info", "commandstats")
    assert int(stats.split("cmdstat_eval:calls=")[1].split(",")[0]) == SHARDS + 1


def test_a_rule_for_the_commands_that_the_hint_names_is_enough(own_redis: RedisServer, tmp_path: Path) -> None:
    own_redis.command("acl", "setuser", "poor", "on", "nopass", "~wsctl:*", "+eval")
    poor = Hosts(f"redis://poor@127.0.0.1:{own_redis.port}/0", tmp_path).open()
    assert "may not do this" in str(poor.recorded().doubt)
    with pytest.raises(BackendError) as caught:
        poor.flush(NOON)
    words = str(caught.value.hint).partition("commands ")[2].partition(" by ACL")[0].split()
    own_redis.command("acl", "setuser", "ops", "on", "nopass", "~wsctl:*", *(f"+{word.lower()}" for word in words))
    hosts = Hosts(f"redis://ops@127.0.0.1:{own_redis.port}/0", tmp_path)
    assert begun(hosts).recorded().since is not None
    assert hosts.open().flush(LATER) == 2
    hosts.close()
