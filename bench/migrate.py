# ruff: noqa: TID251 - stopping by hand is docker-py's work
"""`migrate`: moving a user who works, with 1 GiB in 20,000 files of which 1 % keep changing.

Responsible for: what is compared, and its gates. Not responsible for: the rig. That the downtime which the command
reports is what a client sees through a gateway is a test's affair (tests/integration/test_move_writes.py).
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import APIClient

from bench.measure import BenchError, Series, alternate, say, timed_output
from bench.report import Gate, Row, row
from bench.rig import FLOOR_PORTS, USERS, Rig

ROUNDS = 3
FILES, FOLDERS, BYTES = 20_000, 200, 1 << 30
TREE = "tree-of-the-benchmark"
KEY = "bench-key"

# One folder in a hundred is written anew again and again, for as long as the container lives: 20 files a second, so
# that all of them change while one rsync runs, and the user's own work takes little of the cores that all nodes share.
WORK = (
    "cd /workspace; while :; do for f in d000/* d100/*; do dd if=/dev/urandom of=$f bs=53687 count=1; sleep 0.05; "
    "done; done"
)

PLAIN = """set -e; to=$1:/srv/workspaces/$2/; exec rsync -aHAXS --numeric-ids --delete --stats -e "ssh -F none -l root \
-i /run/lab/bench-key -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/run/lab/bench-key.hosts" \
/srv/workspaces/$2/ "$to" """


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl migrate-user` from one lab node to another, against what one does by hand: stop, rsync, start.

    The same: files, nodes, container, what rsync keeps (owners, links, holes, ACLs, attributes), SSH with host keys
    checked. wsctl does more: it copies in passes, compares both sides, takes leases, commits the swap to SQLite on
    disk, has the target's disk written before it, and tidies up. Compared are the downtime that it reports, and its
    whole process.
    """
    with _Two(rig) as two:
        sides = {"wsctl": two.by_wsctl, "by hand": two.by_hand}
        whole = alternate("migrate", sides, rounds or ROUNDS, after=two.clear)
        down = Series({name: values[-whole.rounds :] for name, values in two.seconds.items()})
    by_hand = whole.seconds["by hand"]
    rest = list(zip(down.seconds["stop"], down.seconds["nothing"], down.seconds["start"], strict=True))
    hand = Series(
        {
            "down": down.seconds["down"],
            "all of it": [stop + copy + start for copy, (stop, _, start) in zip(by_hand, rest, strict=True)],
            "bound": [stop + 1.3 * nothing + start for stop, nothing, start in rest],
        }
    )
    share = Series({"before": down.seconds["before"], "one": [100.0] * whole.rounds})
    return [
        row("moving 1 GiB in 20,000 files, the downtime / stop, rsync, start by hand", hand, "down", "all of it",
            gate=Gate(0.1, "×")),
        row("… / stop, start and 1.3 × an rsync that finds nothing to do", hand, "down", "bound", gate=Gate(1.0, "×")),
        row("… the whole move / one plain rsync", whole, "wsctl", "by hand", gate=Gate(1.3, "×")),
        row("… of the bytes, copied before the stop", share, "before", "one", show=lambda value: f"{value:.1f} %",
            how=lambda a, b: a, figure=lambda value: f"{value:.1f} %", gate=Gate(95.0, "%", at_most=False)),
    ]  # fmt: skip


class _Two:
    """Two nodes, one tree; what is measured beside the sides, round by round (the first is the warm-up)."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.source, self.target = list(rig.lab.nodes.values())[:2]
        self.inventory = rig.inventory("migrate", ready="{http: /, timeout: 30s}")
        self.seconds: dict[str, list[float]] = {n: [] for n in ("down", "before", "stop", "start", "nothing")}

    def __enter__(self) -> _Two:
        say("migrate: writing the files")
        _write_tree(self.source.workspaces / TREE)
        shutil.copy(self.rig.lab.ssh_key, self.source.folder / KEY)
        shutil.copy(self.rig.lab.known_hosts, self.source.folder / f"{KEY}.hosts")
        others = [name for name in self.rig.lab.nodes if name != self.source.name]
        self.rig.run("node", "cordon", *others, "-i", str(self.inventory))
        return self

    def __exit__(self, *_: object) -> None:
        for name in (KEY, f"{KEY}.hosts"):
            (self.source.folder / name).unlink()
        self.clear()
        shutil.rmtree(self.source.workspaces / TREE)

    def by_wsctl(self, number: str) -> float:
        user = f"{USERS}w-{number}"
        with self._working(user):
            self.rig.run("node", "uncordon", self.target.name, "-i", str(self.inventory))
            argv: list[str | Path] = [
                self.rig.wsctl,
                "migrate-user",
                "-i",
                self.inventory,
                user,
                "--to",
                self.target.name,
            ]
            argv += ["-o", "json"]
            spent, out = timed_output(argv, self.rig.env)
            self.rig.run("node", "cordon", self.target.name, "-i", str(self.inventory))
        said = json.loads(out)
        if said["bytes_copied"] < BYTES:
            raise BenchError(f"only {said['bytes_copied']} bytes were copied")
        self.seconds["down"].append(said["downtime_ms"] / 1000)
        self.seconds["before"].append(100 * (1 - said["bytes_stopped"] / said["bytes_copied"]))
        return spent

    def by_hand(self, number: str) -> float:
        user = f"{USERS}h-{number}"
        with self._working(user) as client:
            self.seconds["stop"].append(_seconds(lambda: client.stop(f"ws-u-{user}", timeout=10)))
            spent = self._rsync(user)
            self.seconds["nothing"].append(self._rsync(user))
            self.seconds["start"].append(_seconds(lambda: self._start(user)))
        return spent

    def clear(self) -> None:
        """Remove the users' containers, files and copies, and what wsctl knows of them; the tree stays."""
        self.rig.clean()
        for node in (self.source, self.target):
            node.run(["sh", "-c", f"rm -rf /srv/workspaces/.wsctl-*/{USERS}*"], timeout=120)

    @contextmanager
    def _working(self, user: str) -> Iterator[APIClient]:
        """The user runs on the source, with the files, and changes some of them."""
        folder = self.source.workspaces / user
        self.source.run(["cp", "-a", f"/srv/workspaces/{TREE}", f"/srv/workspaces/{user}"], timeout=180)
        self.rig.run("place", "-i", str(self.inventory), user)
        if not folder.is_dir():
            raise BenchError(f"{user} isn't on {self.source.name}")
        client = self.rig.clients[self.source.name]
        client.exec_start(client.exec_create(f"ws-u-{user}", ["sh", "-c", WORK])["Id"], detach=True)
        time.sleep(2)
        yield client
        self.rig.run("rm", "-i", str(self.inventory), user, "--yes")

    def _rsync(self, user: str) -> float:
        script = ["sh", "-c", PLAIN, "sh", self.target.address, user]
        return _seconds(lambda: self.source.run(script, timeout=180))

    def _start(self, user: str) -> None:
        flags = self.rig.shape.flags(f"ws-u-{user}", self.target.address, FLOOR_PORTS[0], self.rig.source(user))
        self.target.run(["docker", "run", "-d", *flags])
        _await(f"http://{self.target.address}:{FLOOR_PORTS[0]}/")


def _write_tree(folder: Path) -> None:
    import random

    chance = random.Random(1)
    blob, size = chance.randbytes(1 << 22), BYTES // FILES + 1
    for number in range(FILES):
        inside = folder / f"d{number % FOLDERS:03}"
        inside.mkdir(parents=True, exist_ok=True)
        start = chance.randrange(len(blob) - size)
        (inside / f"f{number:05}").write_bytes(blob[start : start + size])


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _await(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"{url} doesn't answer: {error}") from error
            time.sleep(0.005)
