"""Reapers against users who come back, on real nodes: nobody is stopped who was told that they run.

`WSCTL_FAULTS=all` races 200 users with activity in rows and 200 with activity in Redis; `make test` some of the latter.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from tests.integration.labsite import Site
from wsctl.coordination import open_activity
from wsctl.coordination.redis_activity import SHARDS
from wsctl.recording import record_touch
from wsctl.store import open_store
from wsctl.store.store import SqlStore

ALL = os.environ.get("WSCTL_FAULTS") == "all"
ROUNDS, USERS = (10, 20) if ALL else (1, 6)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["rows", "redis"] if ALL else ["redis"])
def test_no_active_user_is_stopped(lab: Lab, tmp_path: Path, where: str) -> None:
    site = Site(lab, tmp_path, coordination=lab.redis_url if where == "redis" else None)
    users = [site.user(f"u{number}") for number in range(USERS)]
    ended: Counter[str] = Counter()
    try:
        site.run("place", *users)
        site.run("reap-idle")  # the first look at everybody, and the beginning of the records
        nobody, took_s = _race(site, [], users, random.Random(0), 0.0)
        assert nobody == {"not touched, then stopped": USERS}, "how long it takes to stop all of them"
        for number in range(ROUNDS):
            site.run("start", *users)
            site.run("reap-idle")
            found, _ = _race(site, users, users, random.Random(number), took_s)
            ended += found
    finally:
        site.sweep()
    print(f"\n{where}: {dict(ended)}")
    assert ended["running, then stopped"] == 0, ended
    assert ended["running, then running"] > 0, ended
    assert ended.total() == ROUNDS * USERS


def _race(
    site: Site, back: list[str], users: list[str], rng: random.Random, span_s: float
) -> tuple[Counter[str], float]:
    """Everybody has been idle for two hours; a reaper begins, and some come back at some moment of its run, which takes
    about `span_s`. How it ended, and how long the reaper took."""
    store = open_store(site.state, cluster=site.tag, base=site.folder)
    log = open_activity(site.coordination, cluster=site.tag, store=lambda: store, base=site.folder)
    answers: dict[str, str] = {}
    try:
        log.flush(datetime.now(UTC) + timedelta(hours=1))
        _age(site, store)
        began = time.monotonic()
        reaper = site.start("reap-idle", "--idle", "30m")
        # The first comes before the reaper has looked at anybody, and must be found running; the others at any moment.
        moments = sorted((rng.uniform(0.4 * span_s, span_s) if user != back[0] else 0.0, user) for user in back)

        def come_back() -> None:
            for at, user in moments:
                time.sleep(max(0.0, began + at - time.monotonic()))
                others = record_touch(store, log, [user], datetime.now(UTC))
                answers[user] = others.get(user, "running")

        thread = threading.Thread(target=come_back)
        thread.start()
        said = reaper.communicate(timeout=120)
        took_s = time.monotonic() - began
        thread.join()
        assert reaper.returncode == 0, said
        states = store.states()
        there = {name.rpartition("/ws-u-")[2] for name in site.containers()}
    finally:
        log.close()
        store.close()
    runs = {user: states[user] == "running" and user in there for user in users}
    told = {user: answers.get(user, "not touched") for user in users}
    return Counter(f"{told[user]}, then {'running' if runs[user] else 'stopped'}" for user in users), took_s


def _age(site: Site, store: SqlStore) -> None:
    """Let all that is recorded be two hours old, also since when it is."""
    then = datetime.now(UTC) - timedelta(hours=2)
    store.database.apply("UPDATE activity SET last_active_at = ?", (store.database.dialect.encode_time(then),))
    if site.coordination is None:
        return
    import redis

    client: Any = redis.Redis.from_url(site.coordination)
    for shard in range(SHARDS):
        key = f"wsctl:{{{site.tag}:activity:{shard}}}:last"
        (since,) = client.hgetall(key).values()
        client.hset(key, "", b"%016d%s" % (int(then.timestamp() * 1_000_000), since[16:]))
    client.close()
