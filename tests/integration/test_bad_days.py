"""Three in the morning: nodes, databases, Redis and terminals that misbehave, on real parts.

Each test asserts the exit code, that nothing was lost or left half-done, and what the operator is told to do.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site, eventually


@pytest.fixture
def site(fault_lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite, on the lab that is repaired afterwards."""
    made = Site(fault_lab, tmp_path)
    try:
        yield made
    finally:
        fault_lab.repair()
        made.sweep()


def mysql_site(lab: Lab, folder: Path) -> Site:
    """A site on a database of its own in the lab's MariaDB."""
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    return Site(lab, folder, state=lab.mysql_url.rpartition("/")[0] + f"/{database}")


# ---------------------------------------------------------------------------------------------- nodes


@pytest.mark.parametrize("fault", ["cut", "freeze", "stop_engine", "stop_sshd"])
def test_new_users_go_elsewhere_and_placed_ones_stay(site: Site, fault: str) -> None:
    users = [site.user(f"u{n}") for n in range(3)]
    placed = {item["node"]: item["user"] for item in site.run("place", *users, "-o", "json").items}
    victim = site.lab.nodes["n2"]
    {
        "cut": lambda: site.lab.cut("n2"),
        "freeze": lambda: site.lab.freeze("n2"),
        "stop_engine": victim.stop_engine,
        "stop_sshd": victim.stop_sshd,
    }[fault]()
    began = time.monotonic()
    listed = {item["name"]: item for item in site.json("node", "ls")["items"]}
    assert [listed[n]["reachable"] for n in ("n1", "n2", "n3")] == [True, False, True]
    assert listed["n2"]["reason"]
    assert time.monotonic() - began < 40
    new = [site.user(f"v{n}") for n in range(4)]
    nodes = {item["node"] for item in site.run("place", *new, "-o", "json").items}
    assert nodes == {"n1", "n3"}
    # Its user is neither placed elsewhere nor dropped from the map.
    failed = site.run("place", placed["n2"], "-o", "json", code=8)
    assert "stays placed there" in failed.error["message"]
    assert failed.error["hint"] == "wsctl node check n2"
    assert f'"u:{placed["n2"]}"' in site.run("render-gateway").out
    reaped = {i["user"]: i for i in site.json("reap-idle", "--idle", "1ms", "--dry-run", code=9)["items"]}
    assert reaped[placed["n2"]]["verdict"] == "unknown"
    checked = site.run("node", "check", "n2", "-o", "json", code=8)
    assert checked.items[0]["status"] == "FAIL"
    assert checked.items[0]["fix"]


def test_a_node_that_dies_and_returns(site: Site) -> None:
    alice = site.user()
    site.run("node", "cordon", "n1", "n2")
    site.run("place", alice)
    site.lab.kill("n3")
    site.run("node", "uncordon", "n1", "n2")
    site.run("stop", alice, code=8)
    assert site.json("ls")["items"][0]["state"] == "running"
    site.lab.start("n3")
    again = site.json("place", alice)
    assert (again["node"], again["action"], again["state"]) == ("n3", "started", "running")
    assert site.containers() == [f"n3/ws-u-{alice}"]


def test_a_full_disk_is_said_and_leaves_nothing(new_lab: Callable[[], Lab], tmp_path: Path) -> None:
    lab = new_lab()
    lab.up(2, services=False, small_disk=("n1",))
    site = Site(lab, tmp_path)
    site.run("node", "cordon", "n2")
    alice, bob = site.user(), site.user("bob")
    site.run("place", bob)
    lab.nodes["n1"].fill_disk()
    failed = site.run("place", alice, "-o", "json", code=7)
    assert "no space left" in json.dumps(failed.error).lower()
    assert [item["user"] for item in site.json("ls")["items"]] == [bob]
    assert site.containers("n1", everything=True) == [f"n1/ws-u-{bob}"]
    site.run("node", "uncordon", "n2")
    assert site.json("place", alice)["node"] == "n2"


def test_a_missing_image_is_a_reason_not_a_crash(site: Site) -> None:
    site.edit("image: wsctl-lab/workspace:1", "image: wsctl-lab/nothing:9")
    failed = site.run("place", site.user(), "-o", "json", code=7)
    assert "image" in failed.error["message"]
    assert site.json("ls")["items"] == []
    # Pulling is tried when it may be, and its failure is told just so.
    site.edit("pull: never", "pull: missing")
    failed = site.run("place", site.user("bob"), "-o", "json", code=7, timeout=180)
    assert len(failed.error["details"]["nodes"]) == 3
    assert site.json("ls")["items"] == []


def test_an_image_missing_on_one_node_sends_new_users_to_the_others(site: Site) -> None:
    node = site.lab.nodes["n1"]
    node.run(["docker", "tag", "wsctl-lab/workspace:1", f"only/here:{site.tag}"])
    site.edit("image: wsctl-lab/workspace:1", f"image: only/here:{site.tag}")
    users = [site.user(f"u{n}") for n in range(3)]
    assert {item["node"] for item in site.run("place", *users, "-o", "json").items} == {"n1"}


def test_a_taken_port_is_skipped_with_nothing_left_behind(site: Site) -> None:
    site.run("node", "cordon", "n2", "n3")
    node = site.lab.nodes["n1"]
    holder = f"holder-{site.tag}"
    publish = f"{node.address}:{site.first_port}:8080"
    label = f"io.wsctl.cluster={site.tag}"
    node.run(["docker", "run", "-d", "--name", holder, "--label", label, "-p", publish, "wsctl-lab/workspace:1"])
    alice, bob = site.user(), site.user("bob")
    placed = site.json("place", alice)
    assert (placed["action"], placed["host_port"]) == ("created", site.first_port + 1)
    # In a batch the ports are seen beforehand; a process that isn't a container is only met at the start.
    squatter = subprocess.Popen(
        [
            "nsenter",
            f"--net=/proc/{node.pid}/ns/net",
            sys.executable,
            "-c",
            SQUAT,
            node.address,
            str(site.first_port + 2),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline().strip() == "ready"
        placed = site.json("place", bob)
        assert (placed["action"], placed["host_port"]) == ("created", site.first_port + 3)
    finally:
        squatter.kill()
        squatter.communicate()
    assert site.containers("n1", everything=True) == sorted([f"n1/{holder}", f"n1/ws-u-{alice}", f"n1/ws-u-{bob}"])


SQUAT = """
import socket, sys, time
s = socket.socket(); s.bind((sys.argv[1], int(sys.argv[2]))); s.listen()
print("ready", flush=True); time.sleep(60)
"""


def test_a_port_range_of_one(site: Site) -> None:
    site.edit(f"ports: {site.first_port}-{site.first_port + 29}", f"ports: {site.first_port}")
    users = [site.user(f"u{n}") for n in range(4)]
    done = site.run("place", *users, "-o", "json", code=9)
    assert sorted(item["action"] for item in done.items) == ["created", "created", "created", "failed"]
    assert "no free port" in next(item for item in done.items if item["action"] == "failed")["error"]["message"]


def test_a_container_that_never_answers_is_failed_and_can_be_tried_again(site: Site) -> None:
    site.edit("  ready: {http: /, timeout: 30s}", "  ready: {http: /, timeout: 1s}\n  command: [sleep, '600']")
    alice = site.user()
    failed = site.run("place", alice, "-o", "json", code=8)
    assert failed.error["code"] == "not-ready"
    assert site.json("show", alice)["state"] == "failed"
    site.edit("ready: {http: /, timeout: 1s}", "ready: null")
    assert site.json("place", alice)["state"] == "running"


def test_an_unknown_host_key_is_refused_until_trusted(site: Site) -> None:
    known = site.folder / "known_hosts"
    known.write_text("")
    site.edit(str(site.lab.known_hosts), str(known))
    failed = site.run("place", site.user(), "-o", "json", code=7)
    assert "host key" in json.dumps(failed.error)
    error = site.run("node", "check", "n1", "-o", "json", code=8)
    assert error.items[0]["fix"] == "wsctl node trust n1"
    site.run("node", "trust", "n1", code=5)
    site.run("node", "trust", "n1", "--fingerprint", "SHA256:wrong", code=5)
    assert known.read_text() == ""
    shown = site.run("node", "trust", "n1", stdin="yes\n", code=0)
    fingerprint = next(w for w in shown.out.split() if w.startswith("SHA256:"))
    assert site.json("node", "trust", "n1", "--fingerprint", fingerprint)["action"] == "unchanged"
    assert site.json("place", site.user())["node"] == "n1"
    site.lab.nodes["n1"].rotate_host_key()
    changed = site.run("stop", site.user(), "-o", "json", code=8)
    assert changed.error["code"] in ("host-key", "node-unreachable")
    assert "changed" in changed.error["message"].lower()


# ---------------------------------------------------------------------------------------------- state and leases


def test_a_database_that_is_away_changes_nothing(fault_lab: Lab, tmp_path: Path) -> None:
    site = mysql_site(fault_lab, tmp_path)
    alice = site.user()
    try:
        site.run("place", alice)
        fault_lab.stop_service("mariadb", kill=True)
        failed = site.run("place", site.user("bob"), "-o", "json", code=10)
        assert failed.error["code"] == "backend"
        site.run("ls", code=10)
        site.run("stop", alice, code=10)
        fault_lab.start_service("mariadb")
        assert site.json("place", alice)["action"] == "unchanged"
        assert len(site.containers(everything=True)) == 1
    finally:
        fault_lab.repair()
        site.sweep()


def test_a_read_only_database_refuses_before_any_effect(fault_lab: Lab, tmp_path: Path) -> None:
    site = mysql_site(fault_lab, tmp_path)
    try:
        site.run("ls")
        site.run("touch", site.user(), code=4)
        fault_lab.sql("SET GLOBAL read_only=1")
        failed = site.run("place", site.user(), "-o", "json", code=10)
        assert "read" in failed.error["message"]
        assert site.containers(everything=True) == []
    finally:
        fault_lab.sql("SET GLOBAL read_only=0")
        site.sweep()


def test_an_unwritable_sqlite_file_refuses_before_any_effect(site: Site) -> None:
    site.run("place", site.user())
    database = site.folder / "wsctl.db"
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("PRAGMA journal_mode=DELETE")
    # root may write anything: only a mount or an attribute stops it, so a folder takes the file's place.
    kept = database.rename(site.folder / "kept.db")
    database.mkdir()
    failed = site.run("place", site.user("bob"), "-o", "json", code=10)
    assert failed.error["hint"]
    database.rmdir()
    kept.rename(database)
    assert len(site.containers(everything=True)) == 1


@pytest.mark.parametrize("backend", ["sqlite", "mysql"])
def test_a_newer_schema_is_refused(fault_lab: Lab, tmp_path: Path, backend: str) -> None:
    site = mysql_site(fault_lab, tmp_path) if backend == "mysql" else Site(fault_lab, tmp_path)
    site.run("db", "upgrade")
    row = "999, 'from-the-future', 'x', {now}, {now}"
    insert = "INSERT INTO schema_migrations (version, name, checksum, started_at, applied_at) VALUES "
    if backend == "mysql":
        database = site.state.rpartition("/")[2]
        fault_lab.sql(f"{insert.replace('schema_', database + '.schema_')}({row.format(now='UTC_TIMESTAMP(6)')})")
    else:
        with closing(sqlite3.connect(site.folder / "wsctl.db")) as db, db:
            db.execute(f"{insert}({row.format(now=0)})")
    failed = site.run("place", site.user(), "-o", "json", code=10)
    assert failed.error["code"] == "schema"
    assert "999" in failed.error["message"]
    assert site.containers(everything=True) == []


def test_redis_gone_is_a_quick_refusal(fault_lab: Lab, tmp_path: Path) -> None:
    site = Site(fault_lab, tmp_path, coordination=fault_lab.redis_url)
    try:
        alice = site.user()
        site.run("place", alice)
        fault_lab.stop_service("redis", kill=True)
        began = time.monotonic()
        failed = site.run("place", site.user("bob"), "-o", "json", code=10)
        assert time.monotonic() - began < 10
        assert "redis" in failed.error["message"].lower()
        # Reading doesn't need leases.
        assert len(site.json("ls")["items"]) == 1
        fault_lab.start_service("redis")
        assert site.json("place", site.user("bob"))["action"] == "created"
    finally:
        fault_lab.repair()
        site.sweep()


@pytest.mark.parametrize("redis", [False, True])
def test_a_held_lease_is_busy_shown_and_breakable(fault_lab: Lab, tmp_path: Path, redis: bool) -> None:
    site = Site(fault_lab, tmp_path, coordination=fault_lab.redis_url if redis else None)
    site.edit("  ready: {http: /, timeout: 30s}", "  ready: {http: /, timeout: 30s}\n  command: [sleep, '600']")
    alice = site.user()
    slow = site.start("place", alice)
    try:
        (lease,) = eventually(lambda: site.json("lease", "ls")["items"])
        assert (lease["name"], lease["command"]) == (f"user:{alice}", "place")
        busy = site.run("stop", alice, "--wait", "0", "-o", "json", code=6)
        assert busy.error["code"] == "busy"
        assert str(slow.pid) in busy.error["message"]
        site.run("lease", "break", f"user:{alice}", code=5)
        assert site.json("lease", "break", f"user:{alice}", "--yes")["action"] == "broken"
        site.run("lease", "break", f"user:{alice}", "--yes", code=4)
    finally:
        slow.kill()
        slow.communicate()
        site.sweep()


# ---------------------------------------------------------------------------------------------- terminals and signals


def test_ctrl_c_in_the_middle_and_the_same_command_again(site: Site) -> None:
    site.edit("  ready: {http: /, timeout: 30s}", "  ready: {http: /, timeout: 60s}\n  command: [sleep, '600']")
    alice = site.user()
    process = site.start("place", alice)
    eventually(site.containers)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert site.json("lease", "ls")["items"] == []
    site.edit("ready: {http: /, timeout: 60s}", "ready: null")
    again = site.json("place", alice)
    assert again["state"] == "running"
    assert len(site.containers(everything=True)) == 1


def test_sigterm_and_kill_leave_what_the_next_run_finishes(site: Site) -> None:
    site.edit("  ready: {http: /, timeout: 30s}", "  ready: {http: /, timeout: 60s}\n  command: [sleep, '600']")
    for name, sign in (("alice", signal.SIGTERM), ("bob", signal.SIGKILL)):
        process = site.start("place", site.user(name))
        user = site.user(name)
        eventually(lambda user=user: any(user in found for found in site.containers()))
        process.send_signal(sign)
        process.communicate(timeout=20)
    site.edit("ready: {http: /, timeout: 60s}", "ready: null")
    # The killed one's lease runs out by itself; whoever can't wait breaks it.
    held = [lease["name"] for lease in site.json("lease", "ls")["items"]]
    for name in held:
        site.run("lease", "break", name, "-y")
    assert {site.json("place", site.user(name))["state"] for name in ("alice", "bob")} == {"running"}
    assert len(site.containers(everything=True)) == 2


def test_a_closed_pipe_is_no_error(site: Site) -> None:
    site.run("place", *[site.user(f"u{n}") for n in range(3)])
    shell = f"{' '.join(site.command('ls'))} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(site: Site) -> None:
    alice = site.user()
    site.run("place", alice)
    assert "not confirmed" in _in_terminal(site, ["rm", alice], b"n\n", 5)
    assert site.containers() != []
    assert "removed" in _in_terminal(site, ["rm", alice], b"y\n", 0)
    assert site.containers(everything=True) == []


def _in_terminal(site: Site, args: list[str], answer: bytes, code: int) -> str:
    """Run a command on a pseudo-terminal, answer its question, and return what the terminal showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(site.folder)
        os.environ["TERM"] = "xterm"
        os.execv(site.command()[0], site.command(*args))
    shown = bytearray()
    threading.Timer(3.0, lambda: os.write(terminal, answer)).start()
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    text = shown.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == code, text
    return text


def test_no_free_ride_for_bad_user_ids(site: Site) -> None:
    for bad in ("Alice", "..", "a/b", "a\nb", "a;b", "$(id)", "a" * 64, "", "-rf"):
        failed = site.run("place", "-o", "json", "--", bad, code=2)
        assert failed.out == ""
        assert failed.error["code"] == "usage"
    assert site.containers(everything=True) == []
    words = ["default", "include", "hostnames"]
    site.run("place", *words)
    try:
        assert "checked" in site.run("render-gateway", "--check").out
    finally:
        site.run("rm", *words, "-y")


def test_nothing_listens_where_the_inventory_points(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site.edit("nodes:\n", f"nodes:\n  n9: {{address: 127.0.0.1, ssh: {{port: {port}}}}}\n")
    listed = {item["name"]: item for item in site.json("node", "ls")["items"]}
    assert listed["n9"]["reachable"] is False
    assert "refused" in listed["n9"]["reason"].lower()
