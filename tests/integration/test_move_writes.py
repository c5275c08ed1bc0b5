"""Somebody works through a real Nginx while they are moved: nothing that was acknowledged is lost, and the longest time
without an answer is the downtime that the command reports."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.edges import Edge, here
from tests.integration.labsite import Site, eventually
from tests.integration.movesite import home, mover, sh

POLL_S = 0.02
GRAIN_S = 0.3
"""What the client itself, a container's end and Nginx's old workers may add to a gap, on a machine that is busy."""


class Client:
    """Appends number after number to a file through the gateway, and keeps when each was acknowledged."""

    def __init__(self, port: int, user: str) -> None:
        self.port, self.user = port, user
        self.acknowledged: list[tuple[int, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def longest_s(self) -> float:
        """The longest time between two acknowledged writes."""
        times = [at for _, at in self.acknowledged]
        return max(after - before for before, after in itertools.pairwise(times))

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(POLL_S):
            number += 1
            if self._post(f"{number}\n"):
                self.acknowledged.append((number, time.monotonic()))

    def _post(self, line: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", f"/ws/{self.user}/append", body=line)
            return 200 <= connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    with mover(lab, tmp_path) as made:
        yield made


@pytest.fixture
def edge(site: Site, tmp_path: Path) -> Iterator[Edge]:
    """A gateway that every verb applies to."""
    made = here(tmp_path)
    made.prepare()
    text = site.path.read_text()
    site.path.write_text(f"{text}gateway: {{auto_apply: true, hosts: {{here: {made.yaml()}}}}}\n")
    made.write("conf.d/00-wsctl-map.conf", site.run("render-gateway").out)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_no_acknowledged_write_is_lost_and_the_gap_is_the_downtime(site: Site, edge: Edge) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    sh(site, source, "head -c 60000000 /dev/urandom > /srv/workspaces/$1/big", user)
    with Client(edge.port, user) as client:
        eventually(lambda: len(client.acknowledged) >= 10, 30)
        said = site.json("migrate-user", user)
        moved_at = time.monotonic()
        eventually(lambda: client.acknowledged[-1][1] > moved_at, 30)
    written = sh(site, said["target"], "cat /srv/workspaces/$1/counter", user)
    lost = {str(number) for number, _ in client.acknowledged} - set(written.split())
    assert not lost
    reported = said["downtime_ms"] / 1000
    assert 0.9 * reported - GRAIN_S <= client.longest_s <= 1.1 * reported + GRAIN_S, (client.longest_s, reported)
    settle(site)
