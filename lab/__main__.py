"""The lab's command line: parse, call, print.

Exit codes: 0 done, 1 it didn't work, 2 wrong usage or not root, 130 interrupted; `exec` passes on its command's.
Not here: doing any of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

from lab import packages
from lab.lab import Lab, need_root
from lab.shell import LabError

FAULTS = {
    "kill": "cut the power of a node",
    "start": "bring a killed node back, as after a reboot",
    "cut": "take a node's network away",
    "heal": "give it back",
    "freeze": "stop a node's SSH daemon and engine in mid-air",
    "thaw": "let them go on",
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description="Real nodes on one machine.")
    top.add_argument(
        "--name",
        default=os.environ.get("WSCTL_LAB") or "lab",
        help="which lab (default: $WSCTL_LAB, else 'lab')",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="build the lab, or repair or enlarge it")
    up.add_argument("nodes", nargs="?", type=int, metavar="N", help="how many nodes (default: 3)")
    up.add_argument("--no-services", action="store_true", help="no MariaDB, Redis and Nginx")
    up.add_argument(
        "--small-disk",
        action="append",
        default=[],
        metavar="NODE",
        help="a 400 MB disk for this node, which tests may fill",
    )
    verbs.add_parser("install", help="install the Debian packages that labs need, and nothing else")
    verbs.add_parser("down", help="remove all of it, in whatever state it is")
    verbs.add_parser("repair", help="undo every fault, then as `up`")
    verbs.add_parser("status", help="what runs")
    for name, text in FAULTS.items():
        verbs.add_parser(name, help=text).add_argument("node", metavar="NODE")
    inside = verbs.add_parser("exec", help="run a command inside a node, as root")
    inside.add_argument("node", metavar="NODE")
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD…")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; every expected failure becomes one message."""
    arguments = parser().parse_args(argv)
    try:
        need_root()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    try:
        lab = Lab(arguments.name, say=_Printer())
        return _run(lab, arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        command = f"python -m lab --name {arguments.name} down"
        print(f"\nlab: interrupted; `{command}` removes what is there", file=sys.stderr)
        return 130


def _run(lab: Lab, arguments: argparse.Namespace) -> int:
    verb = arguments.verb
    if verb == "up":
        _up(lab, arguments)
    elif verb == "install":
        packages.ensure(services=True, say=_Printer())
    elif verb == "down":
        lab.down()
        print(f"lab {lab.name}: nothing is left")
    elif verb == "repair":
        lab.repair()
        _status(lab)
    elif verb == "status":
        _status(lab)
    elif verb == "exec":
        _exec(lab, arguments.node, arguments.command)
    else:
        getattr(lab, verb)(arguments.node)
        print(f"{arguments.node}: {lab.node(arguments.node).condition}")
    return 0


def _up(lab: Lab, arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    wanted = arguments.nodes or (len(lab.nodes) if lab.exists else 3) or 3
    lab.up(wanted, not arguments.no_services, tuple(arguments.small_disk))
    path = lab.inventory(lab.folder / "inventory.yaml")
    print(f"lab {lab.name}: {len(lab.nodes)} nodes up in {time.monotonic() - began:.1f} s")
    print(f"inventory: {path}")
    print(f"next:      wsctl -i {path} node ls")
    print(f"look in:   ssh -F {lab.ssh_config} n1")
    print(f"remove:    python -m lab --name {lab.name} down")


def _status(lab: Lab) -> None:
    print(f"{'NAME':8} {'ADDRESS':18} {'STATE':8} RUNNING")
    for row in lab.status():
        running = row.get("running_containers")
        count = "-" if running is None else str(running)
        print(f"{row['name']!s:8} {row['address']!s:18} {row['state']!s:8} {count}")


def _exec(lab: Lab, node: str, command: list[str]) -> None:
    words = command[1:] if command[:1] == ["--"] else command
    argv = lab.node(node).enter(words or ["sh", "-i"])
    sys.stdout.flush()
    os.execvp(argv[0], argv)


class _Printer:
    """Whole lines, whichever thread they come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self._lock:
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
