"""`node check` and `doctor` against real nodes, databases and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite and Redis."""
    made = Site(lab, tmp_path, coordination=lab.redis_url)
    try:
        yield made
    finally:
        made.sweep()


def test_every_check_of_a_real_node_has_an_answer(site: Site) -> None:
    items = site.json("node", "check", next(iter(site.lab.nodes)))["items"]
    found = {item["check"]: item for item in items}
    assert list(found) == ["reach", "engine", "memory", "cpus", "time", "image", "disk", "inodes", "rsync", "sshd"]
    assert found["time"]["status"] == "OK", "the nodes have this machine's clock"
    assert "free of" in found["disk"]["detail"]
    assert found["image"]["status"] == "OK"
    assert found["sshd"]["detail"].startswith(("MaxSessions ", "its limits are unknown: only root may ask"))


def test_the_control_side_is_in_order(site: Site) -> None:
    site.run("place", site.user())
    items = {item["check"]: item for item in site.json("doctor")["items"]}
    assert {item["status"] for item in items.values()} <= {"OK", "WARN"}, items
    assert "in Redis" in items["coordination"]["detail"]


def test_a_redis_that_is_not_there_is_9(site: Site) -> None:
    site.edit(site.lab.redis_url, "redis://127.0.0.1:1/0")
    items = {item["check"]: item for item in site.json("doctor", code=9)["items"]}
    assert items["coordination"]["status"] == "FAIL"
