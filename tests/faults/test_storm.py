"""No oversell: many racing `place` calls from several processes for more users than there is room.

`make test` runs a tenth of it; `WSCTL_FAULTS=all` ten thousand calls of a thousand users on room for nine hundred.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab
from tests.builders import CLUSTER
from tests.faults.invariants import counted, ports
from tests.integration.conftest import lab as lab
from wsctl.store import open_store

ALL = os.environ.get("WSCTL_FAULTS") == "all"
PROCESSES = 4
ROOM, USERS, CALLS = (900, 1000, 10_000) if ALL else (90, 100, 1000)


@pytest.mark.timeout(1200 if ALL else 120)
@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_a_storm_of_places_fills_the_room_and_no_more(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    record_property("calls", CALLS)
    url, environment = f"sqlite:///{tmp_path}/wsctl.db", dict(os.environ)
    if kind == "mariadb":
        lab: Lab = request.getfixturevalue("lab")
        database = f"wsctl_{uuid.uuid4().hex[:8]}"
        lab.sql(f"CREATE DATABASE {database}")
        url = lab.mysql_url.rpartition("/")[0] + f"/{database}"
        environment["WSCTL_STATE_PASSWORD"] = lab.mysql_password_file.read_text().strip()
    password = environment.get("WSCTL_STATE_PASSWORD")
    open_store(url, cluster=CLUSTER, base=tmp_path, password=password).close()
    numbers = [str(ROOM), str(USERS), str(CALLS // PROCESSES)]
    storms = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.storm", url, *numbers, str(seed)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(PROCESSES)
    ]
    ended: Counter[str] = Counter()
    for one in storms:
        out, err = one.communicate(timeout=1100 if ALL else 110)
        assert one.returncode == 0, err
        ended.update(json.loads(out))
    store = open_store(url, cluster=CLUSTER, base=tmp_path, password=password)
    try:
        placements = store.placements()
        assert len(placements) == ROOM
        assert {p.state.value for p in placements} == {"running"}
        assert {p.generation for p in placements} == {1}, "placed once each"
        assert counted(placements, store.usage()) == []
        assert ports(placements) == []
        assert not store.audit_problems()
        assert (ended["created"], sum(ended.values())) == (ROOM, CALLS)
        assert set(ended) == {"created", "unchanged", "unschedulable"}, ended
        print(kind, dict(ended))
    finally:
        store.close()
        if kind == "mariadb":
            lab.sql(f"DROP DATABASE {database}")
