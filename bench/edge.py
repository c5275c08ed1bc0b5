"""Nginxes for the benchmarks of the gateway, and the processor that each program runs on.

Responsible for: a configuration's frame, starting and ending it, free ports, pinning. Not responsible for: what is
configured, nor for measuring.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import BenchError
from wsctl.nginx import SEARCHED, lua_modules


@contextmanager
def pinned(number: int) -> Iterator[None]:
    """Programs started here run on one processor (the last if there are fewer): so that a gateway has one of its own,
    and what asks it and what it asks share the other. Else the scheduler's choices are most of the noise."""
    before = os.sched_getaffinity(0)
    processors = sorted(before)
    os.sched_setaffinity(0, {processors[min(number, len(processors) - 1)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def nginx(folder: Path, *http: str, lua: bool = False, main: str = "master_process off;") -> Iterator[Path]:
    """An Nginx with these lines at the http level until the end; gives its configuration file. The first `listen` among
    them is what it is waited for. Raises `BenchError` if it doesn't start."""
    binary = shutil.which("nginx", path=SEARCHED)
    if binary is None:
        raise BenchError("nginx isn't installed: apt-get install nginx")
    folder.mkdir(exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"{lua_modules() if lua else ''}daemon off; {main} pid {folder}/pid;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; {temp}\n" + "\n".join(http) + "\n}\n"
    )
    process = subprocess.Popen([*command(folder)])
    try:
        port = int(re.findall(r"listen ([0-9]+)", " ".join(http))[0])
        until = time.monotonic() + 60
        while not accepts(port):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"Nginx doesn't start: {(folder / 'error.log').read_text()[-400:]}")
            time.sleep(0.05)
        yield config
    finally:
        process.terminate()
        process.wait(20)


def command(folder: Path) -> list[str]:
    """How the Nginx in that folder is called."""
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
