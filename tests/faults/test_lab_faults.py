"""What breaks under a running command, on real parts: databases, Redis, nodes, engines, disks, clocks.

Each case: a batch of placements is under way, something happens, it is healed, and the same command is repeated until
it succeeds; then `reconcile` finds nothing more and all invariants hold. `WSCTL_FAULTS=all` adds variants.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, engine
from lab.clusters import RedisCluster, SentinelRedis
from lab.hosts import ControlHost
from lab.services import MariaDB
from tests.faults.lab_truth import settle
from tests.integration.conftest import fault_lab as fault_lab
from tests.integration.conftest import lab as lab
from tests.integration.conftest import new_lab as new_lab
from tests.integration.labsite import Site, eventually
from wsctl.errors import EngineError
from wsctl.model import LABEL_CLUSTER, Capacity, Node, PortRange, Resources
from wsctl.ports import ContainerSpec
from wsctl.transport import Connections

ALL = os.environ.get("WSCTL_FAULTS") == "all"
USERS = 9
HEAD_START_S = 0.9
"""How long the batch runs before it is disturbed: in the middle of its placements."""

TEN_MINUTES_S = 600.0
DEADLOCK = 1213


def flush(site: Site) -> None:
    import redis as client

    with client.Redis.from_url(site.lab.redis_url) as connection:
        connection.execute_command("FLUSHALL")


def kill(service: str) -> Callable[[Site], None]:
    return lambda site: site.lab.restart_service(service, kill=True)


def pause(service: str, seconds: float) -> Callable[[Site], None]:
    def happen(site: Site) -> None:
        site.lab.pause_service(service)
        time.sleep(seconds)
        site.lab.resume_service(service)

    return happen


def read_only(site: Site) -> None:
    site.lab.sql("SET GLOBAL read_only=1")
    time.sleep(1)
    site.lab.sql("SET GLOBAL read_only=0")


def deadlock(site: Site) -> None:
    """A second session locks placements first and nodes second, until the server has undone two of wsctl's
    transactions. It has changed many rows of its own, and the server undoes who has changed less."""
    import pymysql

    mariadb = site.lab.service("mariadb")
    assert isinstance(mariadb, MariaDB)
    server: dict[str, Any] = {"unix_socket": str(mariadb.socket), "user": "root", "ssl_disabled": True}
    deadlocks = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'"
    with contextlib.closing(pymysql.connect(**server, database=site.state.rpartition("/")[2])) as session:
        cursor = session.cursor()
        cursor.execute("CREATE TABLE heavy (number INT PRIMARY KEY) AS SELECT seq number FROM seq_1_to_500")
        cursor.execute(deadlocks)
        ((_, before),) = cursor.fetchall()
        ours, theirs, give_up = 0, 0, time.monotonic() + 20
        while theirs < 2:
            assert time.monotonic() < give_up, "no transaction of wsctl's met a deadlock"
            ours += _lock_in_the_other_order(session)
            cursor.execute(deadlocks)
            ((_, now),) = cursor.fetchall()
            theirs = int(now) - int(before) - ours


def _lock_in_the_other_order(session: Any) -> int:
    """Whether this session was the one that had to give way."""
    import pymysql

    cursor = session.cursor()
    try:
        session.begin()
        cursor.execute("UPDATE heavy SET number = number + 1000 ORDER BY number DESC")
        cursor.execute("SELECT user FROM placements FOR UPDATE")
        time.sleep(0.03)
        cursor.execute("UPDATE node_usage SET route_changes = route_changes + 0")
    except pymysql.err.OperationalError as error:
        if error.args[0] != DEADLOCK:
            raise
        return 1
    finally:
        session.rollback()
    return 0


def sentinel_failover(site: Site) -> None:
    redis = site.lab.cluster("redis-sentinel")
    assert isinstance(redis, SentinelRedis)
    before = redis.primary()
    site.lab.stop_service(before, kill=True)
    eventually(lambda: redis.primary() != before, timeout_s=60)


def cluster_failover(site: Site) -> None:
    redis = site.lab.cluster("redis-cluster")
    assert isinstance(redis, RedisCluster)
    before = redis.masters()
    site.lab.stop_service(before[0], kill=True)
    eventually(lambda: len(set(redis.masters()) - set(before)) == 1, timeout_s=60)


def freeze(site: Site) -> None:
    site.lab.freeze("n2")
    time.sleep(3)
    site.lab.thaw("n2")


def power_cut(site: Site) -> None:
    site.lab.kill("n2")
    site.lab.start("n2")


def cut(site: Site) -> None:
    site.lab.cut("n3")
    time.sleep(2)
    site.lab.heal("n3")


def restart_engine(site: Site) -> None:
    node = site.lab.nodes["n1"]
    node.stop_engine()
    node.start_engine()


def step(offset_s: float) -> Callable[[Site], None]:
    """The control host's clock jumps, and stays wrong for all that follows."""

    def happen(site: Site) -> None:
        assert site.host is not None
        site.host.set_clock(offset_s)

    return happen


FAULTS: dict[str, Callable[[Site], None]] = {
    "redis forgets everything": flush,
    "redis is killed": kill("redis"),
    "redis hangs": pause("redis", 3),
    "redis fails over by Sentinel": sentinel_failover,
    "redis cluster fails over": cluster_failover,
    "mariadb is killed": kill("mariadb"),
    "mariadb hangs": pause("mariadb", 3),
    "mariadb is read-only": read_only,
    "mariadb finds deadlocks": deadlock,
    "a node freezes": freeze,
    "a node loses power": power_cut,
    "a node is cut off": cut,
    "an engine is restarted": restart_engine,
    "the clock steps forward": step(TEN_MINUTES_S),
    "the clock steps back": step(-TEN_MINUTES_S),
    "the clock is ahead": lambda site: None,
    "the clock is behind": lambda site: None,
}
VARIANTS = ("redis cluster fails over", "the clock steps back", "the clock is ahead", "the clock is behind")
CLUSTERS = {sentinel_failover: "redis-sentinel", cluster_failover: "redis-cluster"}
CLOCKS = {"steps forward": 0.0, "steps back": 0.0, "is ahead": TEN_MINUTES_S, "is behind": -TEN_MINUTES_S}
INVISIBLE = ("mariadb finds deadlocks", "the clock")
"""What the batch must not even notice."""


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """On MariaDB and Redis: both can break. The Redis is the one that the test's fault is about."""
    fault = request.node.callspec.params["fault"]
    kind = CLUSTERS.get(FAULTS[fault])
    redis = fault_lab.start_cluster(kind) if kind is not None else fault_lab
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    fault_lab.sql(f"CREATE DATABASE {database}")
    url = fault_lab.mysql_url.rpartition("/")[0] + f"/{database}"
    made = Site(fault_lab, tmp_path, state=url, coordination=getattr(redis, "redis_url", None) or redis.url)
    clock = next((offset for words, offset in CLOCKS.items() if fault == f"the clock {words}"), None)
    if clock is not None:
        made.host = ControlHost("ops1", tmp_path)
        made.host.set_clock(clock)
    try:
        yield made
    finally:
        fault_lab.repair()
        made.sweep()
        fault_lab.sql("SET GLOBAL read_only=0")
        fault_lab.sql(f"DROP DATABASE {database}")
        if kind is not None:
            fault_lab.cluster(kind).down()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if ALL or fault not in VARIANTS])
def test_a_batch_in_the_middle_of_which(site: Site, fault: str) -> None:
    site.run("db", "upgrade")
    users = [site.user(f"u{number}") for number in range(USERS)]
    batch = site.start("place", *users, "--parallel", "3")
    time.sleep(HEAD_START_S)
    FAULTS[fault](site)
    out, err = batch.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert batch.returncode in (0, 6, 8, 9, 10), (batch.returncode, out, err)
    assert batch.returncode == 0 or not fault.startswith(INVISIBLE), (out, err)
    site.lab.repair()
    # What an operator does: the same command again.
    eventually(lambda: site.run("place", *users, code=None).code == 0, timeout_s=90, step_s=1.0)
    settle(site)
    placed = {item["user"]: item["state"] for item in site.json("ls")["items"]}
    assert placed == dict.fromkeys(users, "running")
    if site.host is not None:
        nobody_is_reaped_too_early(site, users)


def nobody_is_reaped_too_early(site: Site, users: list[str]) -> None:
    """On a host whose clock is ten minutes off, which is said."""
    reaped = site.run("reap-idle", "--idle", "8m", "-o", "json")
    assert {item["user"]: item["verdict"] for item in reaped.items} == dict.fromkeys(users, "kept")
    assert re.search("this machine's clock is (10|9)m", site.run("reap-idle", "--idle", "8m").err)
    touched = site.json("touch", users[0])["items"][0]["last_active_at"]
    assert abs((datetime.fromisoformat(touched) - datetime.now(UTC)).total_seconds()) < 60
    checks = {item["check"]: item["status"] for item in site.json("doctor", code=None)["items"]}
    assert checks["time"] == "FAIL"


def test_a_batch_in_the_middle_of_which_a_disk_is_full(new_lab: Callable[[], Lab], tmp_path: Path) -> None:
    lab = new_lab()
    lab.up(2, services=False, small_disk=("n2",))
    site = Site(lab, tmp_path)
    users = [site.user(f"u{number}") for number in range(USERS)]
    batch = site.start("place", *users, "--parallel", "3")
    time.sleep(HEAD_START_S)
    lab.nodes["n2"].fill_disk()
    out, err = batch.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert batch.returncode in (0, 8, 9), (batch.returncode, out, err)
    # While it is full: who doesn't fit there goes elsewhere, and nobody is left half placed.
    eventually(lambda: site.run("place", *users, code=None).code == 0, timeout_s=90, step_s=1.0)
    lab.nodes["n2"].free_disk()
    settle(site)
    placed = {item["user"]: item["state"] for item in site.json("ls")["items"]}
    assert placed == dict.fromkeys(users, "running")


def test_who_was_started_while_a_disk_became_full_counts_as_running(new_lab: Callable[[], Lab]) -> None:
    """An engine lists what it last wrote down, which it can't when the disk is full just at the end of a start."""
    lab = new_lab()
    lab.up(1, services=False, small_disk=("n1",))
    machine = lab.nodes["n1"]
    socket = machine.docker_socket_path
    room = Capacity(10, 2**33, 8000)
    node = Node("n1", "local", PortRange(28100, 28199), room, docker_socket=str(socket), bind_address=machine.address)
    connections = Connections({"n1": node}, cluster=lab.name)
    wsctl = connections.engine("n1")
    wrong: list[str] = []

    def start_or_not(container: str) -> None:
        with contextlib.suppress(EngineError):
            wsctl.start(container)

    for left_kib in [*range(12, 48, 4)] * 3:
        made = [wsctl.create(workspace(lab, number, wsctl.address)) for number in range(6)]
        machine.fill_disk(left_kib)
        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(start_or_not, made))
        said = {str(one["Id"]): one["State"] for one in engine.containers(socket)}
        wrong = [one for one in made if engine.inspect(socket, one)["State"]["Status"] != said[one]]
        if wrong:
            break
        machine.free_disk()
        for one in made:
            wsctl.remove(one)
    assert wrong, "no listing went wrong: what this test is about didn't happen"
    seen = {one.id: one.state for one in wsctl.containers()}
    assert {seen[one] for one in wrong} == {"running"}
    wsctl.start(wrong[0])  # with a full disk still
    machine.free_disk()
    for one in wrong:
        wsctl.start(one)
    said = {str(one["Id"]): one["State"] for one in engine.containers(socket)}
    assert {said[one] for one in wrong} == {"running"}
    connections.close()


def workspace(lab: Lab, number: int, address: str) -> ContainerSpec:
    return ContainerSpec(
        name=f"ws-u-full{number}",
        image="wsctl-lab/workspace:1",
        command=None,
        env={},
        labels={LABEL_CLUSTER: lab.name},
        source=f"/srv/workspaces/full{number}",
        mount="/workspace",
        container_port=8080,
        address=address,
        host_port=28100 + number,
        resources=Resources(64 * 2**20, 500, 64),
    )
