"""What breaks under a running command, on real parts: databases, Redis, nodes, engines, disks.

Each case: a batch of placements is under way, something happens, it is healed, and the same command is repeated until
it succeeds; then `reconcile` finds nothing more and all invariants hold. A step of the system's clock is left to the
simulator: on one machine it would be everybody's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.conftest import fault_lab as fault_lab
from tests.integration.conftest import lab as lab
from tests.integration.labsite import Site, eventually

USERS = 9
HEAD_START_S = 0.9
"""How long the batch runs before it is disturbed: in the middle of its placements."""


def flush(lab: Lab) -> None:
    redis(lab, "FLUSHALL")


def redis(lab: Lab, *words: str) -> None:
    import redis as client

    with client.Redis.from_url(lab.redis_url) as connection:
        connection.execute_command(*words)


def pause(service: str, seconds: float) -> Callable[[Lab], None]:
    def happen(lab: Lab) -> None:
        lab.pause_service(service)
        time.sleep(seconds)
        lab.resume_service(service)

    return happen


def read_only(lab: Lab) -> None:
    lab.sql("SET GLOBAL read_only=1")
    time.sleep(1)
    lab.sql("SET GLOBAL read_only=0")


def freeze(lab: Lab) -> None:
    lab.freeze("n2")
    time.sleep(3)
    lab.thaw("n2")


def power_cut(lab: Lab) -> None:
    lab.kill("n2")
    lab.start("n2")


def cut(lab: Lab) -> None:
    lab.cut("n3")
    time.sleep(2)
    lab.heal("n3")


def restart_engine(lab: Lab) -> None:
    node = lab.nodes["n1"]
    node.stop_engine()
    node.start_engine()


FAULTS: dict[str, Callable[[Lab], None]] = {
    "redis forgets everything": flush,
    "redis is killed": lambda lab: lab.restart_service("redis", kill=True),
    "redis hangs": pause("redis", 3),
    "mariadb is killed": lambda lab: lab.restart_service("mariadb", kill=True),
    "mariadb hangs": pause("mariadb", 3),
    "mariadb is read-only": read_only,
    "a node freezes": freeze,
    "a node loses power": power_cut,
    "a node is cut off": cut,
    "an engine is restarted": restart_engine,
}


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """On MariaDB and Redis: both can break."""
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    fault_lab.sql(f"CREATE DATABASE {database}")
    url = fault_lab.mysql_url.rpartition("/")[0] + f"/{database}"
    made = Site(fault_lab, tmp_path, state=url, coordination=fault_lab.redis_url)
    try:
        yield made
    finally:
        fault_lab.repair()
        made.sweep()
        fault_lab.sql("SET GLOBAL read_only=0")
        fault_lab.sql(f"DROP DATABASE {database}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_in_the_middle_of_which(site: Site, fault: str) -> None:
    site.run("db", "upgrade")
    users = [site.user(f"u{number}") for number in range(USERS)]
    batch = site.start("place", *users, "--parallel", "3")
    time.sleep(HEAD_START_S)
    FAULTS[fault](site.lab)
    out, err = batch.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert batch.returncode in (0, 6, 8, 9, 10), (batch.returncode, out, err)
    site.lab.repair()
    # What an operator does: the same command again.
    eventually(lambda: site.run("place", *users, code=None).code == 0, timeout_s=90, step_s=1.0)
    settle(site)
    placed = {item["user"]: item["state"] for item in site.json("ls")["items"]}
    assert placed == dict.fromkeys(users, "running")
