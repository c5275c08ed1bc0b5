"""`ports.Leases` on rows (SQLite, MariaDB) and on Redis (alone, Cluster, fakeredis): the same promises and tests."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from backends import PASSWORD, RedisServer, drop_redis, free_port, make_redis, need, wait_until

from wsctl.coordination import open_leases
from wsctl.coordination.backend import LeaseBackend
from wsctl.coordination.leases import BackendLeases
from wsctl.errors import BackendError, LeaseHeld, LeaseLost
from wsctl.store import lease_rows, open_store

_numbers = count()


@dataclass
class Table:
    """Where a test's leases are kept."""

    kind: str
    url: str | None
    state_url: str
    base: Path
    cluster: str
    fake: Any = None

    def open(self, holder: str = "me@here:1", ttl_s: float = 30.0, proof_s: float = 0.0) -> BackendLeases:
        leases = BackendLeases(self.connect, holder=holder, ttl_s=ttl_s, proof_s=proof_s)
        return leases

    def connect(self) -> LeaseBackend:
        if self.kind == "fakeredis":
            import fakeredis

            from wsctl.coordination.redis_leases import RedisLeases

            return RedisLeases(fakeredis.FakeRedis(server=self.fake), cluster=self.cluster, label="fake")
        if self.url is not None:
            from wsctl.coordination.redis_leases import open_redis_leases
            from wsctl.coordination.redis_url import parse_redis_url

            return open_redis_leases(parse_redis_url(self.url, self.base), cluster=self.cluster, password=None)
        store = open_store(
            self.state_url,
            cluster=self.cluster,
            base=self.base,
            password=PASSWORD if self.kind == "mariadb" else None,
        )
        rows = lease_rows(store)
        rows_close = rows.close

        def close_both() -> None:
            rows_close()
            store.close()

        rows.close = close_both  # type: ignore[method-assign]
        return rows


KINDS = ["sqlite", "mariadb", "redis", "fakeredis", "cluster"]


@pytest.fixture(params=KINDS)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    made = Table(request.param, None, "sqlite:///wsctl.db", tmp_path, f"c{next(_numbers)}")
    if request.param == "mariadb":
        server = request.getfixturevalue("mariadb")
        name = server.new_database()
        made.state_url = server.url(name)
        yield made
        server.admin(f"DROP DATABASE {name}")
        return
    if request.param == "redis":
        made.url = request.getfixturevalue("redis_server").url
    if request.param == "cluster":
        members = request.getfixturevalue("redis_cluster")
        made.url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
    if request.param == "fakeredis":
        import fakeredis

        made.fake = fakeredis.FakeServer()
    yield made


@pytest.fixture
def two(table: Table) -> Iterator[tuple[BackendLeases, BackendLeases]]:
    """Two controllers."""
    one, other = table.open("one@a:1"), table.open("two@b:2")
    yield one, other
    one.close()
    other.close()


Two = tuple[BackendLeases, BackendLeases]


def test_a_lease_is_exclusive_and_names_its_holder(two: Two) -> None:
    one, other = two
    with one.acquire(["user:alice"], command="wsctl place alice") as held:
        held.check()
        with pytest.raises(LeaseHeld) as caught:
            other.acquire(["user:alice"], command="wsctl rm alice")
        error = caught.value
        assert "user:alice is held by one@a:1 (wsctl place alice) since" in error.message
        assert error.details["holder"] == "one@a:1"
        assert 25 < float(str(error.details["seconds_left"])) <= 30
        assert "wsctl lease ls" in str(error.hint)
        other.acquire(["user:bob"], command="x").release()
    other.acquire(["user:alice"], command="x").release()


def test_all_or_none(two: Two) -> None:
    one, other = two
    with one.acquire(["b", "d"], command="x"):
        with pytest.raises(LeaseHeld) as caught:
            other.acquire(["a", "b", "c", "d", "e"], command="y")
        assert caught.value.details["leases"] == ["b", "d"]
        assert [lease.name for lease in one.ls()] == ["b", "d"]
        with other.acquire(["a", "c", "e"], command="y") as held:
            held.check()
            assert [(lease.name, lease.holder) for lease in one.ls()] == [
                ("a", "two@b:2"), ("b", "one@a:1"), ("c", "two@b:2"), ("d", "one@a:1"), ("e", "two@b:2"),
            ]  # fmt: skip


def test_nothing_and_twice_the_same(two: Two) -> None:
    one, other = two
    with one.acquire([], command="x") as held:
        held.check()
    with one.acquire(["a", "a"], command="x") as held:
        held.check()
        assert len(one.ls()) == 1
    assert other.ls() == []


def test_many_at_once_cost_less_than_one_by_one(table: Table, two: Two) -> None:
    """They go together. Measured beside one alone, here and now: other work slows both down."""
    one, other = two
    names = [f"user:u{i}" for i in range(60)]

    def fastest(wanted: list[str]) -> float:
        took = []
        for _ in range(5):
            started = time.perf_counter()
            one.acquire(wanted, command="x").release()
            took.append(time.perf_counter() - started)
        return min(took)

    if table.kind != "fakeredis":  # which takes its own time for each key
        assert fastest(names) < 50 * fastest(names[:1])
    with one.acquire(names, command="x") as held:
        held.check()
        assert len(other.ls()) == 60
        with pytest.raises(LeaseHeld, match="and 59 more"):
            other.acquire(names, command="y")
    assert other.ls() == []


def test_ls_tells_since_and_until(two: Two) -> None:
    one, other = two
    with one.acquire(["user:a"], command="wsctl \x1b[31m 'x' \"y\" 💾"):
        (lease,) = other.ls()
    assert lease.command == "wsctl \x1b[31m 'x' \"y\" 💾"
    assert 29 < (lease.expires_at - lease.acquired_at).total_seconds() < 31


def test_clusters_have_their_own_leases(table: Table) -> None:
    mine, theirs = table.open(), None
    try:
        with mine.acquire(["user:a"], command="x"):
            table.cluster = table.cluster + "*"
            theirs = table.open()
            assert theirs.ls() == []
            with theirs.acquire(["user:a"], command="x"):
                assert len(theirs.ls()) == 1
            assert len(mine.ls()) == 1
    finally:
        mine.close()
        if theirs:
            theirs.close()


def test_waiting_gets_it_when_it_is_given_back(two: Two) -> None:
    one, other = two
    held = one.acquire(["a"], command="x")
    threading.Timer(0.4, held.release).start()
    started = time.monotonic()
    with other.acquire(["a"], command="y", wait_s=10):
        assert 0.3 < time.monotonic() - started < 8


def test_waiting_ends(two: Two) -> None:
    one, other = two
    with one.acquire(["a"], command="x"):
        started = time.monotonic()
        with pytest.raises(LeaseHeld):
            other.acquire(["a"], command="y", wait_s=0.5)
        assert 0.45 < time.monotonic() - started < 8


def test_a_dead_holders_lease_is_taken_over(table: Table) -> None:
    dead, heir = table.open("dead@a:1", ttl_s=0.6), table.open("heir@b:2")
    try:
        held = dead.acquire(["a", "b"], command="x")
        dead._renewer.close()  # as if the process had been stopped
        with heir.acquire(["a"], command="y", wait_s=5) as taken:
            with pytest.raises(LeaseLost, match="lost the lease on a and 1 more"):
                held.check()
            held.release()  # mustn't take the heir's away
            taken.check()
            assert [lease.holder for lease in heir.ls()] == ["heir@b:2"]
    finally:
        dead.close()
        heir.close()


def test_it_is_renewed_while_it_is_held(table: Table) -> None:
    one, other = table.open("one@a:1", ttl_s=1.5), table.open("two@b:2")
    try:
        with one.acquire(["a", "b"], command="x") as held:
            deadline = time.monotonic() + 2.5
            while time.monotonic() < deadline:
                held.check()
                with pytest.raises(LeaseHeld):
                    other.acquire(["b"], command="y")
                time.sleep(0.1)
        assert other.ls() == []
    finally:
        one.close()
        other.close()


def test_breaking(two: Two) -> None:
    one, other = two
    assert not other.break_lease("a")
    with one.acquire(["a", "b"], command="x") as held:
        assert other.break_lease("a")
        assert not other.break_lease("a")
        with other.acquire(["a"], command="y") as theirs:
            with pytest.raises(LeaseLost, match="a was broken"):
                held.check()
            with pytest.raises(LeaseLost):
                held.check()
            held.release()
            theirs.check()
        assert other.ls() == []


def test_a_broken_lease_isnt_revived_by_renewal(table: Table) -> None:
    one = table.open(ttl_s=0.6, proof_s=1000)
    try:
        with one.acquire(["a"], command="x") as held:
            one.break_lease("a")
            wait_until(lambda: held.is_lost, "the loss")  # type: ignore[attr-defined]
            assert one.ls() == []
            with pytest.raises(LeaseLost):
                held.check()
    finally:
        one.close()


def test_release_is_idempotent_and_check_after_it_raises(two: Two) -> None:
    one, _ = two
    held = one.acquire(["a"], command="x")
    held.release()
    held.release()
    with pytest.raises(LeaseLost):
        held.check()


def test_closing_gives_back(table: Table) -> None:
    one, other = table.open(), table.open()
    one.acquire(["a"], command="x")
    one.close()
    assert other.ls() == []
    other.close()


def test_threads_exclude_each_other(table: Table) -> None:
    leases = table.open()
    inside, worst = 0, 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, worst
        for _ in range(4):
            with leases.acquire(["x", "y"], command="t", wait_s=60):
                with lock:
                    inside += 1
                    worst = max(worst, inside)
                time.sleep(0.002)
                with lock:
                    inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert worst == 1
    assert leases.ls() == []
    leases.close()


def _compete(table: Table, path: Path, results: Any) -> None:
    leases = table.open()
    try:
        for _ in range(8):
            with leases.acquire(["x", "y"], command="p", wait_s=60):
                with path.open("x"):  # fails if another process is inside
                    time.sleep(0.002)
                path.unlink()
        results.put("ok")
    except BaseException as error:
        results.put(repr(error))
    finally:
        leases.close()


def test_processes_exclude_each_other(table: Table, tmp_path: Path) -> None:
    if table.kind == "fakeredis":
        pytest.skip("lives in one process")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_compete, args=(table, tmp_path / "inside", results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=90) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join(30)


def test_an_interrupt_while_waiting_leaves_nothing(two: Two) -> None:
    one, other = two
    with one.acquire(["b"], command="x"):
        threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            other.acquire(["a", "b"], command="y", wait_s=10)
        assert [lease.name for lease in one.ls()] == ["b"]


def test_an_interrupt_in_the_block_gives_back(two: Two) -> None:
    one, other = two
    with pytest.raises(KeyboardInterrupt), one.acquire(["a"], command="x"):
        signal.raise_signal(signal.SIGINT)
    assert other.ls() == []


# what only Redis can do to us


@pytest.fixture
def killable(own_redis: RedisServer, tmp_path: Path) -> tuple[RedisServer, Table]:
    return own_redis, Table("redis", own_redis.url, "", tmp_path, "c")


def test_flushall_is_noticed(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    leases = table.open()
    with leases.acquire(["a"], command="x") as held:
        held.check()
        server.command("flushall")
        with pytest.raises(LeaseLost, match="a was broken or forgotten"):
            held.check()
    leases.close()


def test_a_killed_redis_is_noticed_at_once_and_costs_the_lease_after_its_ttl(
    killable: tuple[RedisServer, Table],
) -> None:
    server, table = killable
    leases = table.open(ttl_s=1.5)
    held = leases.acquire(["a"], command="x")
    server.stop()
    held.check()  # nobody else can have it before its time is over
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        leases.acquire(["b"], command="x", wait_s=10)
    assert time.monotonic() - started < 5
    assert not isinstance(caught.value, LeaseHeld)
    assert "can't connect" in caught.value.message
    assert caught.value.hint
    with pytest.raises(LeaseLost, match="couldn't be renewed in time"):
        while True:
            held.check()
            time.sleep(0.05)
    assert time.monotonic() - started < 8
    held.release()
    leases.close()


def test_a_redis_that_comes_back_in_time_is_forgiven(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    leases = table.open(ttl_s=1.5, proof_s=0.1)
    with leases.acquire(["a"], command="x") as held:
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        held.check()
        server.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            held.check()
            time.sleep(0.05)
    leases.close()


def test_a_paused_redis_answers_in_bounded_time(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    leases = table.open()
    leases.ls()
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(BackendError, match="doesn't answer in time"):
        leases.acquire(["a"], command="x")
    assert time.monotonic() - started < 4
    server.process.send_signal(signal.SIGCONT)
    leases.close()


def test_a_full_redis_says_so_and_keeps_nothing(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    server.command("config", "set", "maxmemory", "1")
    leases = table.open()
    with pytest.raises(BackendError, match="its memory is full"):
        leases.acquire(["a", "b"], command="x")
    server.command("config", "set", "maxmemory", "0")
    assert leases.ls() == []
    leases.close()


def test_a_foreign_value_is_in_the_way_and_can_be_broken(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    server.command("set", "wsctl:{c:a}:lease", "what is this?")
    leases = table.open()
    with pytest.raises(LeaseHeld, match="a is held by unknown"):
        leases.acquire(["a"], command="x")
    assert [(lease.holder, lease.endless) for lease in leases.ls()] == [("unknown", True)]
    assert leases.break_lease("a")
    with leases.acquire(["a"], command="x"):
        assert [lease.endless for lease in leases.ls()] == [False]
    leases.close()


@pytest.mark.parametrize(
    ("arguments", "password", "expected"),
    [
        (("--requirepass", "pw"), None, "refused the password"),
        (("--requirepass", "pw"), "wrong-one", "refused the password"),
        (("--cluster-enabled", "yes"), None, "cluster"),
    ],
)
def test_refusals_are_explained(
    tmp_path: Path, arguments: tuple[str, ...], password: str | None, expected: str
) -> None:
    server = make_redis(*arguments)
    try:
        leases = open_leases(server.url, cluster="c", rows=_no_rows, password=password, base=tmp_path)
        with pytest.raises(BackendError, match=expected) as caught:
            leases.acquire(["a"], command="x")
        assert "wrong-one" not in str(caught.value.message) + str(caught.value.hint)
        leases.close()
    finally:
        drop_redis(server)


def _no_rows() -> LeaseBackend:
    raise AssertionError("the state database was asked for leases")


def test_the_right_password_works(tmp_path: Path) -> None:
    server = make_redis("--requirepass", "pw")
    try:
        leases = open_leases(server.url, cluster="c", rows=_no_rows, password="pw", base=tmp_path)
        leases.acquire(["a"], command="x").release()
        leases.close()
    finally:
        drop_redis(server)


def test_a_replica_is_refused(own_redis: RedisServer, tmp_path: Path) -> None:
    own_redis.command("config", "set", "repl-diskless-sync-delay", "0")
    replica = make_redis("--replicaof", "127.0.0.1", str(own_redis.port))
    try:
        leases = open_leases(replica.url, cluster="c", rows=_no_rows, base=tmp_path)
        wait_until(lambda: "master_link_status:up" in replica.command("info", "replication"), "the replica")
        with pytest.raises(BackendError, match="read-only replica"):
            leases.acquire(["a"], command="x")
        leases.close()
    finally:
        drop_redis(replica)


@pytest.mark.parametrize("kind", ["redis", "redis+cluster", "redis+sentinel"])
def test_nothing_there_is_said_quickly(kind: str, tmp_path: Path) -> None:
    url = f"{kind}://127.0.0.1:{free_port()}" + ("/main" if kind == "redis+sentinel" else "")
    leases = open_leases(url, cluster="c", rows=_no_rows, base=tmp_path)
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        leases.acquire(["a"], command="x")
    assert time.monotonic() - started < 5
    assert caught.value.hint
    leases.close()


def test_sentinel(own_redis: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / "sentinel"
    folder.mkdir()
    config = folder / "sentinel.conf"
    port = free_port()
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {own_redis.port} 1\n"
    )
    import subprocess

    process = subprocess.Popen([need("redis-server"), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        sentinel = RedisServer(folder, port)
        wait_until(sentinel._answers, "the sentinel")
        leases = open_leases(f"redis+sentinel://127.0.0.1:{port}/main", cluster="c", rows=_no_rows, base=tmp_path)
        with leases.acquire(["a", "b"], command="x") as held:
            held.check()
            assert len(leases.ls()) == 2
        leases.close()
        other = open_leases(f"redis+sentinel://127.0.0.1:{port}/other", cluster="c", rows=_no_rows, base=tmp_path)
        with pytest.raises(BackendError, match="sentinels know no master"):
            other.ls()
        other.close()
    finally:
        process.kill()
        process.wait(10)


def _commands(server: RedisServer) -> int:
    text = server.command("info", "stats")
    return int(text.split("total_commands_processed:")[1].split()[0])


def test_acquire_and_release_are_one_command_each(killable: tuple[RedisServer, Table]) -> None:
    server, table = killable
    leases = table.open(proof_s=0.5)
    leases.ls()
    before = _commands(server)
    with leases.acquire(["a"], command="x") as held:
        held.check()
    # SET and EVAL with its GET and DEL inside, and the INFO that asks: no more round trips than two.
    assert _commands(server) - before <= 2 + 2 + 1
    leases.close()


@pytest.mark.parametrize("names", [["a"], [f"user:u{n}" for n in range(100)]], ids=["one", "hundred"])
def test_rows_are_taken_and_given_back_in_one_round_trip_each(
    mariadb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Counted where the driver sends: BEGIN and COMMIT would be round trips of their own."""
    from pymysql.connections import Connection

    sent: list[object] = []
    send = Connection._execute_command

    def counted(self: Any, command: int, sql: object) -> None:
        sent.append(sql)
        send(self, command, sql)

    database = mariadb.new_database()
    leases = Table("mariadb", None, mariadb.url(database), tmp_path, "c").open(proof_s=0.5)
    leases.ls()  # connected from here on
    monkeypatch.setattr(Connection, "_execute_command", counted)
    with leases.acquire(names, command="x") as held:
        held.check()
    monkeypatch.undo()
    assert ["INSERT" in str(sql) for sql in sent] == [True, False], "two, one to take and one to give back"
    assert "DELETE" in str(sent[1])
    assert leases.ls() == []
    leases.close()
    mariadb.admin(f"DROP DATABASE {database}")


def test_rows_are_only_opened_when_a_lease_is_asked_for(tmp_path: Path) -> None:
    leases = open_leases(None, cluster="c", rows=_no_rows, base=tmp_path)
    leases.close()


def test_the_lease_table_speaks_for_any_backend(two: Two) -> None:
    """Each primitive on its own, as the shared client uses them."""
    one, _ = two
    backend: LeaseBackend = one._open()
    take: Callable[[str], Any] = lambda token: backend.take(["a", "b"], token=token, holder="h", command="c", ttl_s=9)  # noqa: E731
    assert take("t1") == []
    assert take("t1") == []  # a request that was repeated on its way
    assert [lease.name for lease in take("t2")] == ["a", "b"]
    assert backend.held(["a", "b"], "t1") == {"a", "b"}
    assert backend.renew(["a", "b"], "t2", 9) == set()
    backend.give_back(["a", "b"], "t2")
    assert backend.break_lease("b")
    assert backend.renew(["a", "b"], "t1", 9) == {"a"}
    assert backend.held(["a", "b"], "t1") == {"a"}
    backend.give_back(["a", "b"], "t1")
    assert backend.ls() == []


def test_leases_of_a_stack_are_given_back_in_any_order(two: Two) -> None:
    one, other = two
    with ExitStack() as stack:
        for name in ("c", "a", "b"):
            stack.enter_context(one.acquire([name], command="x"))
        assert [lease.name for lease in other.ls()] == ["a", "b", "c"]
    assert other.ls() == []
