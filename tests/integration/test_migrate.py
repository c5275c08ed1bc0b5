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

MANIFEST = r"""cd "$1" && find . ! -type p -printf '%p|%y|%m|%U|%G|%s|%T@|%l|%n\n' |
sed 's/^\(.*|d|.*|.*|.*|\)[0-9]*\(|.*|.*|\).*$/\1\2/' |
LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; python3 - "$1" <<'END'
import os, sys
for top, folders, files in os.walk(os.fsencode(sys.argv[1])):
    for name in sorted(folders + files):
        path = os.path.join(top, name)
        for key in sorted(os.listxattr(path, follow_symlinks=False)):
            print(path, key, os.getxattr(path, key, follow_symlinks=False))
END
"""

NASTY = r"""set -e; cd "$1"; mkdir deep many; ln -s /etc/passwd outside; ln -s missing dangling
echo one > deep/a; ln deep/a deep/b
printf x > "$(printf 'latin-\351')"; printf y > "$(printf 'line\nbreak')"; echo z > ' -rf --delete'
truncate -s 8M sparse; printf end >> sparse; for n in $(seq 2000); do echo $n > many/$n; done
chmod 4711 deep/a; chown 1234:4321 deep; touch -d '2001-02-03 04:05:06.789' deep/a; mkfifo pipe
python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.note", b"kept \xff")' deep/a"""


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        for node in made.lab.nodes.values():
            script = f"rm -rf /srv/workspaces/.wsctl-*/*-{made.tag}* /run/wsctl-move/{made.tag}.*"
            node.run(["sh", "-c", script], check=False, timeout=20)
        made.sweep()


def sh(site: Site, node: str, script: str, *args: str) -> str:
    return str(site.lab.nodes[node].run(["sh", "-c", script, "sh", *args], timeout=60).stdout)


def manifest(site: Site, node: str, folder: str) -> str:
    return sh(site, node, MANIFEST, f"/srv/workspaces/{folder}").replace(folder, "USER")


def home(site: Site, user: str) -> str:
    return str(site.json("show", user)["node"])


def no_keys(site: Site, user: str) -> None:
    for name in site.lab.nodes:
        left = sh(
            site,
            name,
            'cat ~/.ssh/authorized_keys 2>/dev/null | grep ":$1:" || :; ls /run/wsctl-move 2>/dev/null || :',
            user,
        )
        assert user not in left, left


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
            script = f"docker exec ws-u-{user} sh -c 'echo {number} > /workspace/counter'"
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


@pytest.mark.parametrize("at", ["files.copy", "files.install", "store.swap"])
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
