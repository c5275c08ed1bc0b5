"""The ways that a copy takes where the direct one can't be had: through the control host, by tar, here, by sudo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Lab
from tests.faults.lab_truth import settle
from tests.integration.labsite import Site
from tests.integration.movesite import NASTY, home, manifest, mover, no_keys, sh


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    with mover(fault_lab, tmp_path) as made:
        yield made


def other(site: Site, source: str) -> str:
    return next(name for name in site.lab.nodes if name != source)


def working(site: Site) -> tuple[str, str, str]:
    """A user with every kind of file; where they are, and where they could go."""
    user = site.user()
    site.run("place", user)
    source = home(site, user)
    sh(site, source, NASTY, f"/srv/workspaces/{user}")
    return user, source, other(site, source)


def arrived(site: Site, user: str, source: str, target: str, said: dict[str, object]) -> None:
    """All of it is there, and nothing else is left."""
    assert (said["source"], said["target"], said["action"]) == (source, target, "migrated")
    kept = sh(site, source, f"ls /srv/workspaces/.wsctl-kept | grep {user}").strip()
    assert manifest(site, target, user) == manifest(site, source, f".wsctl-kept/{kept}")
    assert said["left_out"] == 1
    no_keys(site, user)
    settle(site)


def test_through_the_control_host(site: Site) -> None:
    """The nodes reach us, and not each other."""
    user, source, target = working(site)
    there = f"{site.lab.nodes[target].address}/32"
    sh(site, source, 'ip route add unreachable "$1"', there)
    try:
        plan = site.run("migrate-user", user, "--to", target, "--dry-run")
        assert "through this machine" in plan.err
        said = site.json("migrate-user", user, "--to", target, "--bwlimit", "200m")
    finally:
        sh(site, source, 'ip route del "$1"', there)
    assert (said["road"], said["passes"] >= 2) == ("relay", True)
    assert "doesn't reach" in said["road_why"]
    arrived(site, user, source, target, said)


def test_a_key_that_is_refused_takes_the_relay(site: Site) -> None:
    user, source, target = working(site)
    site.lab.nodes[target].sshd_option("AuthorizedKeysFile /run/lab/authorized_keys")
    said = site.json("migrate-user", user, "--to", target)
    assert said["road"] == "relay"
    arrived(site, user, source, target, said)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_node_without_rsync(site: Site, side: str) -> None:
    user, source, target = working(site)
    bare = source if side == "source" else target
    with hidden(site, bare, "/usr/bin/rsync"):
        plan = site.run("migrate-user", user, "--to", target, "--dry-run")
        assert f"{bare} has no rsync" in plan.err
        assert "while nobody works" in plan.err
        said = site.json("migrate-user", user, "--to", target, "--compress")
    assert (said["road"], said["passes"]) == ("tar", 1)
    arrived(site, user, source, target, said)


@contextmanager
def hidden(site: Site, node: str, program: str) -> Iterator[None]:
    sh(site, node, 'mv "$1" "$1.away"', program)
    try:
        yield
    finally:
        sh(site, node, 'mv "$1.away" "$1"', program)


ACCOUNT = """set -e; grep -q ^mover: /etc/passwd || {
echo 'mover:x:1888:1888::/home/mover:/bin/sh' >> /etc/passwd; echo 'mover:x:1888:' >> /etc/group
echo 'mover:*:19000:0:99999:7:::' >> /etc/shadow; }
mkdir -p /home/mover /etc/sudoers.d; chown 1888:1888 /home/mover; chgrp 1888 /run/docker.sock
echo 'mover ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/mover; chmod 440 /etc/sudoers.d/mover"""
NO_ACCOUNT = """sed -i /^mover:/d /etc/passwd /etc/group /etc/shadow; rm -rf /home/mover /etc/sudoers.d/mover
chgrp 0 /run/docker.sock"""


@contextmanager
def accounts(site: Site, *, sudo: bool) -> Iterator[None]:
    """An account with Docker on every node, that isn't root, and may be by `sudo`."""
    for node in site.lab.nodes:
        sh(site, node, ACCOUNT if sudo else ACCOUNT.replace("NOPASSWD: ALL", "ALL"))
    try:
        yield
    finally:
        for node in site.lab.nodes:
            sh(site, node, NO_ACCOUNT)


def test_accounts_that_are_not_root(site: Site) -> None:
    with accounts(site, sudo=True):
        site.edit("user: root", "user: mover")
        user, source, target = working(site)
        said = site.json("migrate-user", user, "--to", target, "--verify", "full")
        assert said["road"] == "direct"
        arrived(site, user, source, target, said)
        assert "wsctl-move" not in sh(site, target, "cat /home/mover/.ssh/authorized_keys")


def test_an_account_that_may_not_be_root_is_refused_before_anything(site: Site) -> None:
    with accounts(site, sudo=False):
        site.edit("user: root", "user: mover")
        user, _, target = working(site)
        ran = site.run("migrate-user", user, "--to", target, "-o", "json", code=8)
        assert "takes root, or sudo without password" in ran.error["message"]
        assert site.json("show", user)["state"] == "running"
        assert site.json("reconcile")["items"] == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_node_that_is_this_machine(site: Site, side: str) -> None:
    """n3's engine by its socket, without SSH; its folder has one name here and there."""
    one = site.lab.nodes["n3"]
    root = one.folder / "data" / "workspaces"
    seen = Path(f"/run/{site.tag}")
    seen.symlink_to(root)
    sh(site, "n3", 'ln -s /srv/workspaces "$1"', str(seen))
    try:
        engine = f"docker_socket: {one.docker_socket_path}, bind_address: {one.address}"
        here = f"{{address: local, {engine}, host_root: {seen}}}"
        site.edit(f"n3: {{address: {one.address}}}", f"n3: {here}")
        user = site.user()
        others = ["n1", "n2"] if side == "source" else ["n3", "n2"]
        for name in others:
            site.run("node", "cordon", name)
        site.run("place", user)
        for name in others:
            site.run("node", "uncordon", name)
        source, target = ("n3", "n1") if side == "source" else ("n1", "n3")
        assert home(site, user) == source
        sh(site, source, NASTY, f"/srv/workspaces/{user}")
        ran = site.run("migrate-user", user, "--to", target, "-o", "json", "-v")
        said = ran.json
        assert "road" in said, (ran.out, ran.err, site.run("audit", user).out)
        assert said["road"] == ("direct" if side == "source" else "relay")
        arrived(site, user, source, target, said)
    finally:
        seen.unlink()
        sh(site, "n3", 'rm "$1"', str(seen))


def test_two_nodes_with_one_folder_are_refused(site: Site) -> None:
    """Somebody forgot to say that the storage is shared: making room on the target would take away the user's files."""
    user, source, _ = working(site)
    before = manifest(site, source, user)
    address = site.lab.nodes[source].address6
    second = f'{{address: "{address}", ports: {site.first_port + 20}-{site.first_port + 29}}}'
    site.edit("nodes:\n", f"nodes:\n  twin: {second}\n")
    ran = site.run("migrate-user", user, "--to", "twin", "-o", "json", code=8)
    assert "the very same folder" in ran.error["message"]
    assert "storage: shared" in ran.error["hint"]
    assert manifest(site, source, user) == before
    assert site.json("show", user)["state"] == "running"
