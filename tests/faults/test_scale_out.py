"""Scale-out: three control hosts against a Galera cluster of three and a Redis Cluster of six, whose members die.

Each control host is a process with a host name of its own and the members in an order of its own. They place users,
some of them the same ones, while one database server and one Redis are killed with SIGKILL. What was killed comes back,
everybody repeats their command, and all invariants hold. `make test` does that once, and sends a small storm of
placements to all three database servers; `WSCTL_FAULTS=all` kills every member of both, and one in a larger storm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import Lab
from lab.clusters import Galera, GaleraMember, RedisCluster
from lab.hosts import ControlHost
from tests.builders import CLUSTER, RESOURCES, capacity
from tests.faults.invariants import counted, ports
from tests.faults.lab_truth import settle
from tests.integration.conftest import lab as lab
from tests.integration.labsite import Site, eventually
from wsctl.errors import BackendError
from wsctl.model import Placement, PlacementState
from wsctl.ports import Reservation
from wsctl.store import open_store
from wsctl.store.store import SqlStore

ALL = os.environ.get("WSCTL_FAULTS") == "all"
HOSTS = ("ops1", "ops2", "ops3")
OWN, SHARED = 4, 4
HEAD_START_S = 1.2
"""How long the hosts work before the first member dies."""

DEATHS = [(f"galera{n % 3 + 1}", f"cluster{n + 1}") for n in range(6 if ALL else 1)]
ROOM, USERS, CALLS = (900, 1000, 3000) if ALL else (45, 50, 150)


@pytest.fixture(scope="module")
def clusters(lab: Lab) -> Iterator[tuple[Galera, RedisCluster]]:
    with ThreadPoolExecutor(2) as pool:
        galera, redis = pool.map(lab.start_cluster, ("galera", "redis-cluster"))
    assert isinstance(galera, Galera)
    assert isinstance(redis, RedisCluster)
    try:
        yield galera, redis
    finally:
        galera.down()
        redis.down()


@pytest.fixture
def database(clusters: tuple[Galera, RedisCluster]) -> Iterator[str]:
    galera, redis = clusters
    name = f"wsctl_{uuid.uuid4().hex[:8]}"
    galera.sql(f"CREATE DATABASE {name}")
    yield name
    galera.up()
    redis.up()
    galera.sql(f"DROP DATABASE {name}")


@pytest.fixture
def site(lab: Lab, clusters: tuple[Galera, RedisCluster], database: str, tmp_path: Path) -> Iterator[Site]:
    galera, redis = clusters
    made = Site(lab, tmp_path, state=galera.url_of(database, *galera.members), coordination=redis.url)
    made.run("db", "upgrade")
    yield made
    made.sweep()


def order(galera: Galera, turn: int) -> list[str]:
    """The members, another one first for each of three."""
    names = list(galera.members)
    return names[turn:] + names[:turn]


def place_from(site: Site, galera: Galera, database: str, turn: int) -> subprocess.Popen[str]:
    """A control host's batch: users of its own, and some that all three place."""
    path = site.folder / f"{HOSTS[turn]}.yaml"
    if not path.exists():
        text, ours = site.path.read_text(), galera.url_of(database, *galera.members)
        assert ours in text
        path.write_text(text.replace(ours, galera.url_of(database, *order(galera, turn))))
    users = [site.user(f"o{turn}x{n}") for n in range(OWN)] + [site.user(f"s{n}") for n in range(SHARED)]
    words = ["place", *users, "--parallel", "3", "--wait", "20s", "-o", "json", "-i", str(path)]
    argv = ControlHost(HOSTS[turn], site.folder).command([sys.executable, "-m", "wsctl", *words])
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("death", DEATHS, ids="-and-".join)
def test_a_member_of_each_dies_under_three_control_hosts(
    site: Site, clusters: tuple[Galera, RedisCluster], database: str, death: tuple[str, str]
) -> None:
    galera, redis = clusters
    batches = [place_from(site, galera, database, turn) for turn in range(3)]
    time.sleep(HEAD_START_S)
    for member in death:
        site.lab.stop_service(member, kill=True)
        time.sleep(0.3)
    assert any(batch.poll() is None for batch in batches), "the members died after the work was done"
    for batch in batches:
        out, err = batch.communicate(timeout=120)
        assert "Traceback" not in err, err
        assert batch.returncode in (0, 6, 8, 9, 10), (batch.returncode, out, err)
    # With two of three, and with a replica promoted, the work goes on: nobody waits for the dead.
    eventually(lambda: all(one.wait() == 0 for one in _all_again(site, galera, database)), timeout_s=60, step_s=1.0)
    galera.up()
    redis.up()
    settle(site)
    placed = {item["user"]: item["state"] for item in site.json("ls")["items"]}
    assert len(placed) == 3 * OWN + SHARED
    assert set(placed.values()) == {"running"}
    who = {row["process"].partition(":")[0] for row in site.json("audit")["items"] if row["verb"] == "place"}
    assert who == set(HOSTS)


def _all_again(site: Site, galera: Galera, database: str) -> list[subprocess.Popen[str]]:
    batches = [place_from(site, galera, database, turn) for turn in range(3)]
    for batch in batches:
        batch.communicate(timeout=120)
    return batches


@pytest.mark.timeout(900 if ALL else 120)
def test_a_storm_on_all_three_database_servers(
    lab: Lab, clusters: tuple[Galera, RedisCluster], database: str, tmp_path: Path
) -> None:
    """Each process begins with another server, so their writes meet at certification rather than at a lock."""
    galera, _ = clusters
    password = lab.mysql_password_file.read_text().strip()
    urls = [galera.url_of(database, *order(galera, turn)) for turn in range(3)]
    open_store(urls[0], cluster=CLUSTER, base=tmp_path, password=password).close()

    def storm() -> list[subprocess.Popen[str]]:
        numbers = [str(ROOM), str(USERS), str(CALLS)]
        return [
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.storm", url, *numbers, str(seed)],
                env={**os.environ, "WSCTL_STATE_PASSWORD": password},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed, url in enumerate(urls)
        ]

    def ended(storms: list[subprocess.Popen[str]]) -> Counter[str]:
        found: Counter[str] = Counter()
        for one in storms:
            out, err = one.communicate(timeout=600 if ALL else 100)
            assert one.returncode == 0, err
            found.update(json.loads(out))
        return found

    storms = storm()
    if ALL:
        time.sleep(HEAD_START_S)
        lab.stop_service("galera2", kill=True)
    found = [ended(storms)]
    died = {"started", "backend-unavailable", "busy"} if ALL else set()
    assert set(found[0]) <= {"created", "unchanged", "unschedulable", *died}, found
    if ALL:
        galera.up()
        found.append(ended(storm()))
    store = open_store(urls[1], cluster=CLUSTER, base=tmp_path, password=password)
    try:
        placements = store.placements()
        assert len(placements) == ROOM
        assert {p.state.value for p in placements} == {"running"}
        assert counted(placements, store.usage()) == []
        assert ports(placements) == []
        assert not store.audit_problems()
        print(*map(dict, found))
    finally:
        store.close()


def test_what_was_committed_on_one_server_is_seen_on_all(
    lab: Lab, clusters: tuple[Galera, RedisCluster], database: str, tmp_path: Path
) -> None:
    """The fence reads the generation wherever it is connected to: it must not be that of a moment ago."""
    galera, _ = clusters
    password = lab.mysql_password_file.read_text().strip()
    stores = [
        open_store(galera.url_of(database, name), cluster=CLUSTER, base=tmp_path, password=password)
        for name in galera.members
    ]
    try:
        made = stores[0].reserve(Reservation("alice", "n1", "10.0.0.1", 20000, RESOURCES, capacity(9, 1 << 40, 10**6)))
        assert isinstance(made, Placement)
        for turn in range(150):
            writer, reader = stores[turn % 3], stores[(turn + 1) % 3]
            written = writer.claim("alice", turn + 1, PlacementState.STARTING)
            assert isinstance(written, Placement), written
            seen = reader.placement("alice")
            assert seen is not None
            assert seen.generation == turn + 2
    finally:
        for store in stores:
            store.close()


def test_a_server_without_the_majority_is_left_for_another(
    lab: Lab, clusters: tuple[Galera, RedisCluster], database: str, tmp_path: Path
) -> None:
    galera, _ = clusters
    password = lab.mysql_password_file.read_text().strip()

    def opened(*names: str) -> SqlStore:
        return open_store(galera.url_of(database, *names), cluster=CLUSTER, base=tmp_path, password=password)

    alone = galera.members["galera3"]
    assert isinstance(alone, GaleraMember)
    store = opened("galera3", "galera1")
    try:
        assert store.placements() == []
        alone.sql("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
        eventually(lambda: alone.status("wsrep_cluster_status") == "non-Primary", timeout_s=40)
        first = galera.members["galera1"]
        assert isinstance(first, GaleraMember)
        eventually(lambda: first.status("wsrep_cluster_size") == "2" and first.ready(), timeout_s=40)
        assert store.placements() == []
        with pytest.raises(BackendError, match="isn't part of its cluster's majority"):
            opened("galera3")
    finally:
        store.close()
        alone.sql("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
        eventually(alone.ready, timeout_s=40)
