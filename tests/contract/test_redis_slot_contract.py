"""`ports.Slots` on Redis: alone, as a Cluster, behind Sentinel, and fakeredis. The rows of the store have tests of
their own."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from backends import RedisServer, drop_redis, free_port, make_redis, need, wait_until

from wsctl.coordination import open_slots
from wsctl.coordination.gate import StartGate
from wsctl.coordination.redis_slots import RedisSlots
from wsctl.errors import BackendError
from wsctl.ports import Slots

_numbers = count()

Open = Callable[[], Slots]


def _no_rows() -> Slots:
    raise AssertionError("the state database was asked for slots")


@pytest.fixture(params=["redis", "cluster", "fakeredis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the slots of this test's cluster, as another control host would."""
    cluster = f"s{next(_numbers)}"
    made: list[Slots] = []
    if request.param == "fakeredis":
        import fakeredis

        server = fakeredis.FakeServer()
        make: Open = lambda: RedisSlots(fakeredis.FakeRedis(server=server), cluster=cluster, label="fake")  # noqa: E731
    else:
        if request.param == "redis":
            url = request.getfixturevalue("redis_server").url
        else:
            members = request.getfixturevalue("redis_cluster")
            url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
        make = lambda: open_slots(url, cluster=cluster, rows=_no_rows, base=tmp_path)  # noqa: E731

    def opener() -> Slots:
        made.append(make())
        return made[-1]

    yield opener
    for slots in made:
        slots.close()


@pytest.fixture
def slots(opened: Open) -> Slots:
    return opened()


def test_no_more_than_the_limit(slots: Slots, opened: Open) -> None:
    other = opened()
    assert slots.taken("n1") == 0
    assert slots.take("n1", 2, "a", 30)
    assert other.take("n1", 2, "b", 30)
    assert not slots.take("n1", 2, "c", 30)
    assert not other.take("n1", 2, "d", 30)
    assert slots.taken("n1") == other.taken("n1") == 2
    slots.give_back("n1", "a")
    assert slots.taken("n1") == 1
    assert other.take("n1", 2, "d", 30)


def test_nodes_have_their_own(slots: Slots) -> None:
    for number in range(50):
        assert slots.take(f"n{number}", 1, "a", 30)
    assert not slots.take("n7", 1, "b", 30)


def test_a_limit_that_was_lowered_holds_for_the_next_ones(slots: Slots) -> None:
    assert all(slots.take("n1", 4, token, 30) for token in "abcd")
    assert not slots.take("n1", 2, "e", 30)
    assert slots.take("n1", 2, "a", 30)  # renewed, it isn't thrown out
    for token in "abc":
        slots.give_back("n1", token)
    assert slots.take("n1", 2, "e", 30)


def test_a_slot_of_a_dead_holder_is_free_again(slots: Slots) -> None:
    assert slots.take("n1", 1, "dead", 0.4)
    began = time.monotonic()
    assert not slots.take("n1", 1, "heir", 30)
    wait_until(lambda: slots.take("n1", 1, "heir", 30), "the end of the slot")
    assert 0.35 < time.monotonic() - began < 10
    slots.give_back("n1", "dead")  # mustn't take the heir's away
    assert slots.taken("n1") == 1


def test_what_ran_out_isnt_counted(slots: Slots) -> None:
    assert slots.take("n1", 3, "long", 30)
    assert slots.take("n1", 3, "short", 0.3)
    assert slots.taken("n1") == 2
    wait_until(lambda: slots.taken("n1") == 1, "the end of the short one")


def test_taking_again_renews(slots: Slots) -> None:
    assert slots.take("n1", 1, "a", 0.5)
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        assert slots.take("n1", 1, "a", 0.5)
        assert not slots.take("n1", 1, "b", 30)
        assert slots.taken("n1") == 1
        time.sleep(0.05)
    wait_until(lambda: slots.take("n1", 1, "b", 30), "the end of the slot")


def test_strangers_free_nothing(slots: Slots, opened: Open) -> None:
    assert slots.take("n1", 1, "a", 30)
    opened().give_back("n1", "b")
    slots.give_back("n2", "a")
    assert slots.taken("n1") == 1
    slots.give_back("n1", "a")
    slots.give_back("n1", "a")
    assert slots.taken("n1") == 0


def test_clusters_have_their_own(redis_server: RedisServer) -> None:
    mine, theirs = (
        open_slots(redis_server.url, cluster=f"s{next(_numbers)}", rows=_no_rows) for _ in range(2)
    )  # fmt: skip
    assert mine.take("n1", 1, "a", 30)
    assert theirs.taken("n1") == 0
    assert theirs.take("n1", 1, "a", 30)
    mine.close()
    theirs.close()


def test_racing_threads_never_exceed_the_limit(opened: Open) -> None:
    """Eight threads, each a control host of its own; who is inside is counted before it gives its slot back."""
    inside, worst, got = 0, 0, 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal inside, worst, got
        slots = opened()
        for turn in range(25):
            if not slots.take("n1", 3, f"{number}-{turn}", 30):
                continue
            with lock:
                inside, got = inside + 1, got + 1
                worst = max(worst, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1
            slots.give_back("n1", f"{number}-{turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert worst <= 3
    assert got > 25
    assert opened().taken("n1") == 0


def test_gates_of_two_hosts_share_the_limit_and_both_get_their_turns(opened: Open) -> None:
    """One host never runs out of users; the single one of the other gets in all the same."""
    inside, worst = 0, 0
    lock, arrived = threading.Lock(), threading.Event()
    many, few = (StartGate(opened(), {"n1": 2}, wait_s=30) for _ in range(2))

    def start(gate: StartGate, token: str) -> None:
        nonlocal inside, worst
        with gate.starting("n1", token):
            with lock:
                inside += 1
                worst = max(worst, inside)
            time.sleep(0.03)
            with lock:
                inside -= 1

    def storm(number: int) -> None:
        turns = count()
        while not arrived.is_set():
            start(many, f"{number}-{next(turns)}")

    with ThreadPoolExecutor(8) as pool:
        storms = [pool.submit(storm, number) for number in range(8)]
        try:
            wait_until(lambda: inside == 2, "the storm")
            start(few, "the one")
        finally:
            arrived.set()
        for one in storms:
            one.result()
    many.close()
    few.close()
    assert worst == 2
    assert opened().taken("n1") == 0


# what only Redis can do to us


@pytest.fixture
def killable(own_redis: RedisServer) -> Iterator[tuple[RedisServer, Slots]]:
    slots = open_slots(own_redis.url, cluster="c", rows=_no_rows)
    yield own_redis, slots
    slots.close()


Killable = tuple[RedisServer, Slots]


def test_flushall_frees_everything_and_a_renewal_takes_again(killable: Killable) -> None:
    server, slots = killable
    assert slots.take("n1", 1, "a", 30)
    server.command("flushall")
    server.command("script", "flush")
    assert slots.taken("n1") == 0
    assert slots.take("n1", 1, "a", 30)
    assert not slots.take("n1", 1, "b", 30)
    server.command("flushall")
    assert slots.take("n1", 1, "b", 30)
    slots.give_back("n1", "a")
    assert slots.taken("n1") == 1


def test_nothing_stays_behind(killable: Killable) -> None:
    server, slots = killable
    assert slots.take("n1", 5, "a", 0.4)
    assert slots.take("n1", 5, "b", 0.2)  # doesn't shorten the life of the other
    assert 200 < int(server.command("pttl", "wsctl:{c:node:n1}:starts")) <= 400
    wait_until(lambda: server.command("dbsize") == "0", "the end of the set")
    assert slots.take("n1", 5, "a", 30)
    slots.give_back("n1", "a")
    assert server.command("dbsize") == "0"


def test_taking_and_giving_back_are_one_request_each(killable: Killable) -> None:
    server, slots = killable
    slots.taken("n1")
    server.command("config", "resetstat")
    for _ in range(10):
        assert slots.take("n1", 1, "a", 30)
        slots.give_back("n1", "a")
    stats = server.command("info", "commandstats")
    requests = {name: int(stats.split(f"cmdstat_{name}:calls=")[1].split(",")[0]) for name in ("eval", "zrem")}
    assert requests == {"eval": 10, "zrem": 10}
    asked = {line.split(":")[0] for line in stats.splitlines() if line.startswith("cmdstat_")}
    inside = {"time", "zremrangebyscore", "zscore", "zcard", "zadd", "pttl", "pexpire"}
    assert asked - {f"cmdstat_{name}" for name in inside} <= {
        "cmdstat_eval", "cmdstat_zrem", "cmdstat_info", "cmdstat_config|resetstat", "cmdstat_command|docs",
    }  # fmt: skip


def test_a_replica_gets_the_same_slots(own_redis: RedisServer) -> None:
    own_redis.command("config", "set", "repl-diskless-sync-delay", "0")
    replica = make_redis("--replicaof", "127.0.0.1", str(own_redis.port))
    try:
        slots = open_slots(own_redis.url, cluster="c", rows=_no_rows)
        wait_until(lambda: "master_link_status:up" in replica.command("info", "replication"), "the replica")
        assert slots.take("n1", 5, "a", 30)
        key = "wsctl:{c:node:n1}:starts"
        wait_until(lambda: replica.command("zcard", key) == "1", "the replication")
        assert replica.command("zscore", key, "a") == own_redis.command("zscore", key, "a")
        there = open_slots(replica.url, cluster="c", rows=_no_rows)
        with pytest.raises(BackendError, match="read-only replica"):
            there.take("n1", 5, "b", 30)
        there.close()
        slots.close()
    finally:
        drop_redis(replica)


def test_a_dead_redis_is_told_at_once_and_giving_back_never_raises(killable: Killable) -> None:
    server, slots = killable
    assert slots.take("n1", 1, "a", 30)
    server.stop()
    began = time.monotonic()
    for ask in (lambda: slots.take("n1", 1, "b", 30), lambda: slots.taken("n1")):
        with pytest.raises(BackendError, match="can't connect"):
            ask()
    slots.give_back("n1", "a")
    assert time.monotonic() - began < 5
    server.start()
    assert slots.take("n1", 1, "b", 30)


def test_a_full_redis_goes_on_counting(killable: Killable) -> None:
    """A script that has written once may go on; so few bytes, and they end by themselves."""
    server, slots = killable
    server.command("config", "set", "maxmemory", "1")
    assert slots.take("n1", 1, "a", 30)
    assert not slots.take("n1", 1, "b", 30)
    server.command("config", "set", "maxmemory", "0")


def test_a_foreign_value_is_told(killable: Killable) -> None:
    server, slots = killable
    server.command("set", "wsctl:{c:node:n1}:starts", "what is this?")
    with pytest.raises(BackendError, match="WRONGTYPE"):
        slots.take("n1", 1, "a", 30)
    slots.give_back("n1", "a")


def test_an_acl_of_the_commands_that_the_hint_names_is_enough(own_redis: RedisServer) -> None:
    own_redis.command("acl", "setuser", "poor", "on", "nopass", "~wsctl:*", "+eval")
    poor = open_slots(f"redis://poor@127.0.0.1:{own_redis.port}/0", cluster="c", rows=_no_rows, password="x")
    with pytest.raises(BackendError) as caught:
        poor.give_back("n1", "a")
        poor.take("n1", 1, "a", 30)
    poor.close()
    words = str(caught.value.hint).partition("commands ")[2].partition(" by ACL")[0].split()
    assert "ZADD" in words
    own_redis.command("acl", "setuser", "ops", "on", "nopass", "~wsctl:*", *(f"+{word.lower()}" for word in words))
    slots = open_slots(f"redis://ops@127.0.0.1:{own_redis.port}/0", cluster="c", rows=_no_rows, password="x")
    assert slots.take("n1", 1, "a", 30)
    assert slots.taken("n1") == 1
    slots.give_back("n1", "a")
    assert slots.taken("n1") == 0
    slots.close()


def test_the_keys_of_one_node_share_a_hash_slot(redis_cluster: list[RedisServer]) -> None:
    """The lease on a node and the node's starts have the same hash tag."""
    from wsctl.coordination.redis_leases import RedisLeases

    client: Any = None
    starts = RedisSlots(client, cluster="studio", label="x")._key("n1")
    lease = RedisLeases(client, cluster="studio", label="x")._key("node:n1")
    assert starts == "wsctl:{studio:node:n1}:starts"
    other = RedisSlots(client, cluster="studio", label="x")._key("n2")
    of_starts, of_lease, of_other = (
        int(redis_cluster[0].command("cluster", "keyslot", key)) for key in (starts, lease, other)
    )
    assert of_starts == of_lease
    assert of_starts != of_other


def test_leases_dont_list_slots(own_redis: RedisServer, tmp_path: Path) -> None:
    from wsctl.coordination import open_leases

    slots = open_slots(own_redis.url, cluster="c", rows=_no_rows)
    leases = open_leases(own_redis.url, cluster="c", rows=lambda: pytest.fail("asked"), base=tmp_path)
    assert slots.take("n1", 1, "a", 30)
    assert leases.ls() == []
    with leases.acquire(["node:n1"], command="x"):
        assert slots.taken("n1") == 1
    leases.close()
    slots.close()


def test_sentinel(own_redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {own_redis.port} 1\n"
    )
    process = subprocess.Popen([need("redis-server"), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        wait_until(RedisServer(tmp_path, port)._answers, "the sentinel")
        slots = open_slots(f"redis+sentinel://127.0.0.1:{port}/main", cluster="c", rows=_no_rows)
        assert slots.take("n1", 1, "a", 30)
        assert not slots.take("n1", 1, "b", 30)
        slots.give_back("n1", "a")
        assert slots.taken("n1") == 0
        slots.close()
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("kind", ["redis", "redis+cluster", "redis+sentinel"])
def test_nothing_there_is_said_quickly(kind: str) -> None:
    url = f"{kind}://127.0.0.1:{free_port()}" + ("/main" if kind == "redis+sentinel" else "")
    slots = open_slots(url, cluster="c", rows=_no_rows)
    began = time.monotonic()
    with pytest.raises(BackendError) as caught:
        slots.take("n1", 1, "a", 30)
    slots.give_back("n1", "a")
    assert time.monotonic() - began < 5
    assert caught.value.hint
    slots.close()
