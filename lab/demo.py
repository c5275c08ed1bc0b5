"""`make demo`: one tour of wsctl on three real nodes, with the real output of every command.

Each step is checked, so the tour is also a test: it exits 1 at the first thing that isn't as told, 2 if it can't begin,
130 when interrupted. Its lab and its temporary folder are removed in every case. Not here: running and showing
commands (stage.py), building nodes (lab.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lab import cgroups, network
from lab.lab import Lab, need_root
from lab.packages import NODE_PACKAGES, SERVICE_PACKAGES, missing
from lab.shell import LabError
from lab.stage import MAP, Stage, Surprise, check, open_page
from lab.view import DEFAULT_ROOT

USERS = ("ada", "ben", "cleo", "dan", "eva", "finn", "gina", "hugo", "iris", "jon", "kim", "lea")
BUSY = {"ada", "ben", "cleo"}
IDLE_S = 3
NOTE = "ben was here\n"


# --- the tour ------------------------------------------------------------------------------------------------------


def tour(stage: Stage) -> None:
    """Everything, in order. Each part leaves the cluster as the next one expects it."""
    look_around(stage)
    placed = place_users(stage)
    started = time.monotonic()
    route(stage)
    keep_a_file(stage, placed["ben"]["NODE"])
    stop_the_idle(stage, started)
    bring_back(stage, placed["ben"])
    cordon(stage)
    refuse(stage)


def look_around(stage: Stage) -> None:
    """What there is before anything is placed."""
    stage.chapter(
        "The inventory",
        "One YAML file names the servers and describes the container that every user gets.",
        "wsctl reaches each server's Docker socket through SSH; nothing is installed there.",
    )
    text = (stage.folder / "inventory.yaml").read_text()
    print("\n" + text[text.index("\nworkspace:") :].strip(), flush=True)
    stage.wsctl("inventory", "check")
    nodes = stage.table("node", "ls")
    check([node["REACHABLE"] for node in nodes] == ["yes"] * 3, "a node isn't reachable")


def place_users(stage: Stage) -> dict[str, dict[str, str]]:
    """One rehearsal, then everybody; returns the rows of the table, by user."""
    stage.chapter("Placing users", "Where would ada go, and why? A dry run shows the plan and every node's score.")
    plan = stage.wsctl("place", "ada", "--dry-run", "--explain")
    check(plan.startswith("+ reserve"), "the plan doesn't begin with a reservation")
    (stage.folder / "users.txt").write_text("\n".join(USERS) + "\n")
    stage.remark(f"Now {len(USERS)} users from a list. Running means: the user's page answers.")
    placed = {row["USER"]: row for row in stage.table("place", "--from", "users.txt", "--parallel", "6")}
    check(tuple(placed) == USERS, "not everybody was placed")
    check({(row["STATE"], row["ACTION"]) for row in placed.values()} == {("running", "created")}, "somebody isn't new")
    per_node = [sum(row["NODE"] == node for row in placed.values()) for node in ("n1", "n2", "n3")]
    check(per_node == [4, 4, 4], f"the users aren't spread over the nodes: {per_node}")
    home = placed["ada"]["NODE"]
    stage.remark(f"Who lives on {home}?")
    there = {row["USER"] for row in stage.table("ls", "--node", home)}
    check(there == {user for user, row in placed.items() if row["NODE"] == home}, f"others are on {home}")
    stage.remark("Placing is safe to repeat: a placed user stays where they are.")
    again = stage.table("place", "ada", "--explain")[0]
    check((again["NODE"], again["ACTION"]) == (home, "unchanged"), "placing ada again changed something")
    return placed


def route(stage: Stage) -> None:
    """Map and snippet for Nginx, and a page through it."""
    stage.chapter(
        "Routing to them",
        "Nginx learns from a generated map which user is at which address. The snippet is included once;",
        "the map is written anew after changes. `nginx -t` reads it before it is put in place.",
    )
    stage.wsctl("render-gateway", "--snippet", "--out", "gateway/wsctl.snippet")
    stage.put_live("--check")
    text = (stage.folder / MAP).read_text()
    entries = [line.strip() for line in text.splitlines() if line.startswith('    "u:')]
    check(len(entries) == len(USERS), "the map doesn't have everybody")
    stage.remark(f"{len(entries)} lines like this one:   {entries[0]}")
    check("Workspace of ada" in stage.fetch("/ws/ada/", 200).text, "ada's page isn't hers")
    stage.fetch("/ws/nobody/", 404)


def keep_a_file(stage: Stage, node: str) -> None:
    """Write through the gateway, read on the node."""
    stage.chapter("A user's files", "They are in a folder on the user's node, so they outlive the container.")
    stage.fetch("/ws/ben/notes.txt", 201, body=NOTE)
    kept = (stage.lab.nodes[node].workspaces / "ben" / "notes.txt").read_text()
    check(kept == NOTE, "the file isn't on the node")
    stage.remark(f"{node}:/srv/workspaces/ben/notes.txt holds: {kept.strip()}")


def stop_the_idle(stage: Stage, started: float) -> None:
    """Two runs of the reaper, and who is left."""
    stage.chapter(
        "Stopping the idle",
        "`reap-idle` is the cron job. Active is who was touched, who was started, and whose container sent data.",
        f"ada keeps her page open, ben has just saved a file, cleo is touched; the others do nothing for {IDLE_S} s.",
    )
    reap = ("reap-idle", "--idle", f"{IDLE_S}s")
    with open_page(stage, "/ws/ada/"):
        time.sleep(max(0.0, IDLE_S + 0.5 - (time.monotonic() - started)))
        stage.wsctl("touch", "cleo")
        kept, stopped = kept_and_stopped(stage.table(*reap))
        check(kept == BUSY and kept | stopped == set(USERS), f"kept {sorted(kept)}, stopped {sorted(stopped)}")
        stage.remark(f"{IDLE_S} s later, only ada's page is still open.")
        time.sleep(IDLE_S)
        still, since = kept_and_stopped(stage.table(*reap))
        check(still == {"ada"} and since == kept - {"ada"}, f"kept {sorted(still)}, stopped {sorted(since)}")
    stopped = {row["USER"] for row in stage.table("ls", "--state", "stopped")}
    check(stopped == set(USERS) - {"ada"}, f"stopped are {sorted(stopped)}")


def kept_and_stopped(verdicts: list[dict[str, str]]) -> tuple[set[str], set[str]]:
    """The users of two of the reaper's verdicts."""
    kept = {row["USER"] for row in verdicts if row["VERDICT"] == "kept"}
    stopped = {row["USER"] for row in verdicts if row["VERDICT"] == "stopped"}
    return kept, stopped


def bring_back(stage: Stage, before: dict[str, str]) -> None:
    """From stopped to running, with the file as it was."""
    stage.chapter(
        "Bringing one back",
        "Stopped users keep their node, their port and their files. The gateway says that they are stopped.",
    )
    stage.put_live()
    stage.fetch("/ws/ben/notes.txt", 503)
    stage.remark("Once he is running again, one route is added: that of ben.")
    after = stage.table("place", "ben")[0]
    check((after["STATE"], after["ACTION"]) == ("running", "started"), "ben isn't running again")
    check([after[key] for key in ("NODE", "PORT")] == [before[key] for key in ("NODE", "PORT")], "ben moved")
    changes = stage.table("render-gateway", "--diff", "--out", MAP)
    check([(row["CHANGE"], row["USER"]) for row in changes] == [("+", "ben")], "that isn't the one change of a route")
    stage.put_live()
    check(stage.fetch("/ws/ben/notes.txt", 200).text == NOTE, "ben's file isn't as he left it")


def cordon(stage: Stage) -> None:
    """A node that gets nobody new."""
    wanted = stage.chosen_node("mia")
    stage.chapter(
        "Taking a node out of the choice",
        f"A new user, mia, would go to {wanted}. A cordoned node gets nobody new; who is there stays.",
    )
    stage.wsctl("node", "cordon", wanted, "--reason", "disk swap on Friday")
    placed = stage.table("place", "mia", "--explain")[0]
    check(placed["NODE"] != wanted, "mia went to the cordoned node")
    states = {row["NAME"]: row["STATE"] for row in stage.table("node", "ls")}
    check(states[wanted] == "cordoned", f"{wanted} isn't cordoned")


def refuse(stage: Stage) -> None:
    """Three refusals with their exit codes."""
    stage.chapter("When it says no", "Every refusal says what, why and what to type; the exit code says which kind.")
    stage.wsctl("place", "../etc", expect=2)
    stage.wsctl("show", "nobody", expect=4)
    stage.wsctl("rm", "ada", expect=5)
    check("Workspace of ada" in stage.fetch("/ws/ada/", 200).text, "ada's workspace is gone")


# --- before and after ----------------------------------------------------------------------------------------------


def main() -> int:
    """The demo from nothing to nothing."""
    try:
        need_root()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    remove_leftovers()
    lab = Lab(f"demo-{os.getpid():x}")
    began = time.monotonic()
    code = 1
    try:
        code = perform(lab)
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        code = 130
    except (LabError, Surprise, subprocess.TimeoutExpired) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
    finally:
        code = clean_up(lab) or code
    if code == 0:
        print(f"The whole demo took {time.monotonic() - began:.0f} s. Next: docs/getting-started.md", flush=True)
    return code


def perform(lab: Lab) -> int:
    """Build the lab, give the tour."""
    absent = missing(NODE_PACKAGES + SERVICE_PACKAGES)
    if absent:
        print(f"Once only: installing {len(absent)} Debian packages for the lab.", flush=True)
    print("Building three nodes on this machine, each with its own network, sshd and Docker Engine …", flush=True)
    lab.up(3)
    with tempfile.TemporaryDirectory(prefix="wsctl-demo-") as name:
        folder = Path(name)
        lab.inventory(folder / "inventory.yaml")
        (folder / "gateway").symlink_to(lab.gateway_folder)
        tour(Stage(lab, folder))
    return 0


def clean_up(lab: Lab) -> int:
    """Take the lab down, whatever state it is in; 1 if something of it is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("\nTaking the lab down …", flush=True)
    try:
        lab.down()
    except LabError as error:
        print(f"demo: {error}\ndemo: try again: python -m lab --name {lab.name} down", file=sys.stderr)
        return 1
    left = [str(lab.folder)] if lab.folder.exists() else []
    left += network.bridges_of(lab.folder)
    left += [f"process {pid}" for pid in cgroups.members(lab.group)]
    if left:
        print(f"demo: left behind: {', '.join(left)}", file=sys.stderr)
        return 1
    print("Nothing is left: no process, no network, no file.", flush=True)
    return 0


def remove_leftovers() -> None:
    """Labs of demos that were killed: named by a process that is no more."""
    for folder in Path(os.environ.get("WSCTL_LAB_ROOT") or DEFAULT_ROOT).glob("demo-*"):
        pid = folder.name.removeprefix("demo-")
        with suppress(ValueError, LabError):
            if not Path(f"/proc/{int(pid, 16)}").exists():
                Lab(folder.name).down()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
