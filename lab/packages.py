"""The Debian packages a lab needs: which are missing, and installing those, and only those.

Their services must not start: the lab runs its own instances, on its own ports and folders. Not here: configuring
any of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.shell import CLEAN_ENV, LabError, run

NODE_PACKAGES = (
    "docker.io",
    "openssh-server",
    "rsync",
    "attr",
    "restic",
    "sudo",
    "gawk",
    "mawk",
    "busybox-static",
    "iptables",
    "iproute2",
    "util-linux",
    "procps",
    "e2fsprogs",
)
SERVICE_PACKAGES = (
    "mariadb-server",
    "galera-4",
    "redis-server",
    "nginx",
    "libnginx-mod-http-lua",
    "openssl",
    "curl",
    "wrk",
    "lsof",  # a member of a Galera cluster that is filled looks who listens
    "faketime",
)
POLICY = Path("/usr/sbin/policy-rc.d")
LOCK = Path("/var/lib/dpkg")
"""A folder, which exists anyway: locking it leaves no file behind."""


def missing(wanted: tuple[str, ...]) -> list[str]:
    """Those of `wanted` that aren't completely installed."""
    form = "-f=${Package} ${db:Status-Status}\n"
    lines = run(["dpkg-query", "-W", form, *wanted], check=False).stdout.splitlines()
    installed = {line.split()[0] for line in lines if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def ensure(services: bool, say: Callable[[str], None]) -> None:
    """Install what is missing, saying so first."""
    if shutil.which("dpkg-query") is None:
        raise LabError("the lab needs Debian or a relative of it: there is no dpkg-query here")
    ensure_some(NODE_PACKAGES + (SERVICE_PACKAGES if services else ()), say)
    if shutil.which("docker") is None:
        ensure_some(("docker-cli",), say)  # since Debian 13 the client is a package of its own


def ensure_some(wanted: tuple[str, ...], say: Callable[[str], None]) -> None:
    """The same for packages by name."""
    if not missing(wanted):
        return
    with _one_at_a_time(), _no_autostart():
        absent = missing(wanted)
        if not absent:
            return
        say(f"installing Debian packages: {' '.join(absent)}")
        environment = CLEAN_ENV | {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], timeout=300, env=environment)
        options = ["-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
        run(["apt-get", "install", *options, *absent], timeout=1200, env=environment)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Tests run in several processes, each with a lab of its own: apt-get doesn't wait for another's update, and who
    finished first would let the services of the others' packages start."""
    fd = os.open(LOCK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def _no_autostart() -> Iterator[None]:
    """While inside, package scripts may not start services; a policy that exists already decides itself."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\n# made by wsctl's lab while it installs packages\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
