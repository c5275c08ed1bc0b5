"""`drain-30`: thirty users moved off a node, against the same copies made by plain rsync.

Responsible for: the users and their files, what is compared, and its gate. Not responsible for: the rig.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, alternate, timed, timed_output
from bench.report import Gate, Row, row
from bench.rig import USERS, Rig

ROUNDS = 2
COUNT = 30
PARALLEL = 4
SLOW_S = 1200.0


@dataclass(frozen=True, slots=True)
class Tree:
    """What each user has."""

    files: int
    folders: int
    file_bytes: int

    def __str__(self) -> str:
        return f"{self.files * self.file_bytes >> 20} MiB in {self.files} files"


LARGE = Tree(20_000, 200, (1 << 30) // 20_000 + 1)
"""As in `migrate`. Thirty of them, twice, take 60 GiB of disk, and are more than memory holds."""

SMALL = Tree(700, 20, 160 * 1024)
"""Without a gate: what a move takes beside copying, containers above all, weighs more the less there is to copy."""

GATE = Gate(1.3, "×")

ROOT = "/srv/workspaces"
KEY = "/root/.ssh/wsctl-bench"
SSH = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

FILL = """
import os, sys
count, folders, size = map(int, sys.argv[2:])
for number in range(folders):
    os.makedirs(f"{sys.argv[1]}/d{number}", exist_ok=True)
for number in range(count):
    with open(f"{sys.argv[1]}/d{number % folders}/f{number}", "wb") as file:
        file.write(os.urandom(size))
"""


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl node drain` of 30 running users, four at a time, against `rsync -aHAX --numeric-ids` of the same folders,
    four at a time (`xargs -P`), from the same node to the other one, by SSH with a key that is there already.

    The floor copies once, into an empty place, and nothing else. wsctl looks for room, makes a key for each move,
    copies while the user works, stops them, copies what has changed since, compares both sides, swaps, starts them on
    the target, waits until they answer, and puts the old files aside. Source and target change places after each run.
    """
    return [_measured(rig, rounds, "large", LARGE, GATE), _measured(rig, rounds, "small", SMALL, None)]


def _measured(rig: Rig, rounds: int | None, name: str, tree: Tree, gate: Gate | None) -> Row:
    inventory = rig.inventory(f"drain-{name}", ready="{http: /, timeout: 60s}")
    users = [f"{USERS}drain-{number}" for number in range(COUNT)]
    state = {"source": "n1", "target": "n2"}
    base: list[str | Path] = [rig.wsctl]

    def wsctl(*words: str) -> str:
        return timed_output([*base, *words, "-i", inventory], rig.env)[1]

    def drain(number: str) -> float:
        source, target = state["source"], state["target"]
        words = ("node", "drain", source, "--to", target, "--parallel", str(PARALLEL), "--yes", "-o", "json")
        spent, out = timed_output([*base, *words, "-i", inventory], rig.env, SLOW_S)
        copied = sum(item["bytes_copied"] for item in json.loads(out)["items"] if item["verdict"] == "moved")
        if copied < COUNT * tree.files * tree.file_bytes:
            raise BenchError(f"only {copied} bytes were copied")
        wsctl("node", "uncordon", source)
        state.update(source=target, target=source)
        return spent

    def look(number: str) -> float:
        words = ("node", "drain", state["source"], "--to", state["target"], "--dry-run")
        return timed([*base, *words, "-i", inventory], rig.env)

    def rsync(number: str, *, dry: bool = False) -> float:
        source, target = rig.lab.nodes[state["source"]], rig.lab.nodes[state["target"]]
        there = f"{ROOT}/.bench-floor"
        target.run(["mkdir", "-p", there])
        ssh = f"ssh -i {KEY} {SSH}"
        options = f"{'-n ' if dry else ''}-aHAX --numeric-ids"
        copy = f"rsync {options} -e {shlex.quote(ssh)} {ROOT}/USER/ root@{target.address}:{there}/USER/"
        script = f"printf '%s\\n' {' '.join(users)} | xargs -P {PARALLEL} -I USER {copy}"
        alias = ["ssh", "-F", str(rig.lab.ssh_config), state["source"], script]
        spent = timed(alias, rig.env, SLOW_S)
        found = int(target.run(["sh", "-c", f"find {there} -type f | wc -l"], timeout=SLOW_S).stdout)
        if not dry and found != COUNT * tree.files:
            raise BenchError(f"rsync copied {found} files, not {COUNT * tree.files} (from {source.name})")
        return spent

    def tidy() -> None:
        for node in rig.lab.nodes.values():
            node.run(["sh", "-c", f"rm -rf {ROOT}/.bench-floor {ROOT}/.wsctl-kept/{USERS}*; sync"], timeout=SLOW_S)

    _allow(rig)
    wsctl("node", "cordon", *(name for name in rig.addresses if name != "n1"))
    wsctl("place", *users)
    wsctl("node", "uncordon", "n2")
    for user in users:
        words = [f"{ROOT}/{user}", str(tree.files), str(tree.folders), str(tree.file_bytes)]
        rig.lab.nodes["n1"].run(["python3", "-c", FILL, *words], timeout=SLOW_S)
    try:
        warm = {"wsctl": look, "rsync": lambda number: rsync(number, dry=True)}
        series = alternate(
            f"drain-30 {name}", {"wsctl": drain, "rsync": rsync}, rounds or ROUNDS, warm=warm, after=tidy
        )
    finally:
        rig.clean()
        tidy()
        _forbid(rig)
    return row(
        f"`wsctl node drain` of {COUNT} running users of {tree}, `--parallel {PARALLEL}` / the same copies by rsync, "
        f"{PARALLEL} at a time",
        series,
        "wsctl",
        "rsync",
        gate=gate,
    )


def _allow(rig: Rig) -> None:
    """A key by which both nodes reach each other, for the floor."""
    one, other = rig.lab.nodes["n1"], rig.lab.nodes["n2"]
    for node in (one, other):
        node.run(
            ["sh", "-c", f"mkdir -p -m 700 ~/.ssh; rm -f {KEY} {KEY}.pub; ssh-keygen -q -t ed25519 -N '' -f {KEY}"]
        )
    for node, peer in ((one, other), (other, one)):
        public = peer.run(["cat", f"{KEY}.pub"]).stdout.strip()
        node.run(["sh", "-c", f"echo '{public} wsctl-bench' >> ~/.ssh/authorized_keys"])


def _forbid(rig: Rig) -> None:
    for name in ("n1", "n2"):
        rig.lab.nodes[name].run(
            ["sh", "-c", f"sed -i '/ wsctl-bench$/d' ~/.ssh/authorized_keys; rm -f {KEY} {KEY}.pub"]
        )
