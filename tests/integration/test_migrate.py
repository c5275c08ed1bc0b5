"""Moving a user between real nodes: rsync over SSH with a key of its own, every kind of file, and bad moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.labsite import Site, eventually
from tests.integration.movesite import NASTY, home, manifest, mover, no_keys, sh

ALL = os.environ.get("WSCTL_FAULTS") == "all"


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    with mover(lab, tmp_path) as made:
        yield made


def test_every_kind_of_file_arrives(site: Site) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    sh(site, source, NASTY, f"/srv/workspaces/{user}")
    plan = site.run("migrate-user", user, "--dry-run")
    assert "copy" in plan.out
    assert "pipe" in plan.err
    assert home(site, user) == source
    said = site.json("migrate-user", user, "--verify", "full")
    target = said["target"]
    assert (said["source"], said["action"]) == (source, "migrated")
    assert target != source
    assert said["passes"] >= 2
    assert said["bytes_copied"] > 8 << 20
    assert said["downtime_ms"] > 0
    assert home(site, user) == target
    kept = sh(site, source, f"ls /srv/workspaces/.wsctl-kept | grep {user}").strip()
    there = manifest(site, target, user)
    assert there == manifest(site, source, f".wsctl-kept/{kept}")
    assert there.count("\n") > 4000
    assert int(sh(site, target, f"du -k /srv/workspaces/{user}/sparse | cut -f1")) < 1000
    assert site.containers() == [f"{target}/ws-u-{user}"]
    no_keys(site, user)
    settle(site)
    back = site.json("migrate-user", user, "--rollback")
    assert (back["target"], back["action"]) == (source, "rolled-back")
    assert manifest(site, source, user) == there
    again = site.json("migrate-user", user, "--to", source)
    assert (again["action"], again["passes"]) == ("unchanged", 0)


def test_a_copy_is_deleted_when_its_time_is_over(site: Site) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    site.run("stop", user, "--grace", "0s")
    said = site.json("migrate-user", user, "--keep", "1s")
    assert (said["action"], site.json("show", user)["state"]) == ("migrated", "stopped")
    time.sleep(1.1)
    site.run("reconcile")
    assert user not in sh(site, source, "ls /srv/workspaces /srv/workspaces/.wsctl-kept")
    site.run("start", user)
    settle(site)


def test_no_write_is_lost(site: Site) -> None:
    """Somebody writes beside the container, on its node's files, as long as it answers there."""
    user = site.user()
    site.run("place", user)
    source, shown = home(site, user), site.json("show", user)
    stop, written = threading.Event(), [0]

    def write() -> None:
        url = f"http://{shown['address']}:{shown['host_port']}/"
        while not stop.is_set():
            number = written[0] + 1
            write = f"echo {number} > /workspace/.new && mv /workspace/.new /workspace/counter"
            script = f"docker exec ws-u-{user} sh -c '{write}'"
            done = site.lab.nodes[source].run(["sh", "-c", script], check=False, timeout=20)
            if done.returncode != 0:
                return
            written[0] = number
            with urllib.request.urlopen(url, timeout=5):
                pass

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: written[0] >= 3)
        said = site.json("migrate-user", user)
    finally:
        stop.set()
        writer.join()
    found = int(sh(site, said["target"], f"cat /srv/workspaces/{user}/counter"))
    assert found >= written[0] >= 3
    settle(site)


@pytest.mark.parametrize("at", ["files.copy", "files.install", "store.swap"] if ALL else ["store.swap"])
def test_killed_in_the_middle_the_same_command_finishes(site: Site, at: str) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    target = next(name for name in site.lab.nodes if name != source)
    sh(
        site,
        source,
        'cd "$1"; echo work > file; dd if=/dev/urandom of=big bs=1M count=20 status=none',
        f"/srv/workspaces/{user}",
    )
    before = sh(site, source, f"cat /srv/workspaces/{user}/big | sha256sum")
    counts = site.folder / "counts"
    base = [sys.executable, "-m", "tests.faults.struck", str(counts)]
    argv = ["migrate-user", user, "--to", target, "-i", str(site.path)]
    done = subprocess.run(
        [*base, at, "killed-after", *argv], capture_output=True, timeout=90, check=False, cwd=os.getcwd()
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert counts.read_text().splitlines()[-1] == at
    eventually(lambda: site.run("migrate-user", user, "--to", target, code=None, timeout=120).code == 0, 90, 2.0)
    assert home(site, user) == target
    assert sh(site, target, f"cat /srv/workspaces/{user}/big | sha256sum") == before
    no_keys(site, user)
    settle(site)


def test_a_full_target_leaves_them_where_they_were(site: Site) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    target = next(name for name in site.lab.nodes if name != source)
    sh(site, source, "dd if=/dev/urandom of=/srv/workspaces/$1/big bs=1M count=20 status=none", user)
    incoming = f"/srv/workspaces/.wsctl-incoming/{user}"
    sh(site, target, 'mkdir -p "$1" && mount -t tmpfs -o size=5m none "$1"', incoming)
    try:
        ran = site.run("migrate-user", user, "--to", target, "-o", "json", code=8)
        assert "no space left" in ran.error["message"]
    finally:
        sh(site, target, 'umount "$1"', incoming)
    assert home(site, user) == source
    assert site.json("show", user)["state"] == "running"
    assert site.containers() == [f"{source}/ws-u-{user}"]
    no_keys(site, user)
    site.run("reconcile")
    settle(site)


def test_a_changed_host_key_of_the_target_is_refused_before_anything(site: Site) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    target = next(name for name in site.lab.nodes if name != source)
    trusted = site.lab.folder / "known_hosts"
    ours, theirs = site.lab.nodes[target].address, site.lab.nodes[source].address
    lines = [line.split() for line in trusted.read_text().splitlines()]
    (stranger,) = {key for names, _, key, *_ in lines if theirs in names.split(",")}
    text = "".join(f"{n} {kind} {stranger if ours in n.split(',') else key}\n" for n, kind, key, *_ in lines)
    wrong = site.folder / "wrong_hosts"
    wrong.write_text(text)
    site.edit(str(trusted), str(wrong))
    ran = site.run("migrate-user", user, "--to", target, "-o", "json", code=None)
    assert ran.code in (7, 8)
    assert "host key" in ran.err
    assert site.containers() == [f"{source}/ws-u-{user}"]
    assert user not in sh(site, target, "ls /srv/workspaces/.wsctl-incoming 2>/dev/null || :")


@pytest.mark.skipif(not ALL, reason="minutes: WSCTL_FAULTS=all")
def test_many_small_files(site: Site) -> None:
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    script = """cd "/srv/workspaces/$1"; perl -e 'for $d (0 .. 199) { mkdir "d$d"; for $f (0 .. 999) {
        open my $o, ">", "d$d/f$f" or die; print $o "$d $f\n" } }'"""
    site.lab.nodes[source].run(["sh", "-c", script, "sh", user], timeout=300)
    ran = site.run("migrate-user", user, "-o", "json", timeout=900)
    assert ran.json["action"] == "migrated"
    listing = 'cd "$1" && find . -type f -printf "%p %s %T@\n" | LC_ALL=C sort | sha256sum; find . -type f | wc -l'
    kept = sh(site, source, f"ls /srv/workspaces/.wsctl-kept | grep {user}").strip()
    there = sh(site, ran.json["target"], listing, f"/srv/workspaces/{user}")
    assert there == sh(site, source, listing, f"/srv/workspaces/.wsctl-kept/{kept}")
    assert there.split()[-1] == "200000"
