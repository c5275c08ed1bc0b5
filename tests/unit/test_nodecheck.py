"""What `wsctl node check` finds: a verdict and a fix for each thing that can be wrong with a node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.builders import IMAGE, RESOURCES, capacity, node
from tests.fakes import GOOD_MACHINE, FakeClock, FakeCommands, FakeEngine, FakeFleet
from wsctl.errors import EngineError, HostKeyError, NodeUnreachable
from wsctl.findings import Check, CheckStatus
from wsctl.machinecheck import check_machine
from wsctl.model import PullPolicy, WorkspaceSpec
from wsctl.nodecheck import check_node

GIB = 1 << 30
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES)
ROOM = capacity(memory_bytes=8 * GIB, cpus_milli=4000)


def checks(
    engine: FakeEngine, *specs: WorkspaceSpec, machine: FakeCommands | None = None, **of_node: Any
) -> dict[str, Check]:
    """Each check of n1 by its name."""
    of_node.setdefault("capacity", ROOM)
    commands = machine or FakeCommands()
    found = check_node(node("n1", **of_node), lambda name: engine, specs or (SPEC,), commands, FakeClock())
    return {check.check: check for check in found}


def test_a_good_node_passes_everything() -> None:
    found = checks(FakeEngine())
    assert list(found) == ["reach", "engine", "memory", "cpus", "time", "image", "disk", "inodes", "rsync", "sshd"]
    assert {check.status for check in found.values()} == {CheckStatus.OK}
    assert {check.fix for check in found.values()} == {None}
    assert found["reach"].detail == "SSH to 10.0.0.11, ports on 10.0.0.1"
    assert found["engine"].detail == "Docker 20.10.24, API 1.41"
    assert found["memory"].detail == "capacity 8.0 GiB of 8.0 GiB"
    assert found["cpus"].detail == "capacity 4 of 4 cores"


def test_this_machine_is_reached_by_its_socket() -> None:
    assert "this machine's socket" in checks(FakeEngine(), address="local")["reach"].detail


def test_what_follows_a_failed_reach_is_left_out() -> None:
    fleet = FakeFleet(["n1"])
    fleet.unreachable["n1"] = HostKeyError("n1", "unknown host key", hint="wsctl node trust n1")
    assert check_node(node("n1"), fleet, (SPEC,), FakeCommands(), FakeClock()) == [
        Check("reach", CheckStatus.FAIL, "unknown host key", "wsctl node trust n1")
    ]
    frozen = FakeEngine()
    frozen.freeze()
    (only,) = checks(frozen).values()
    assert (only.check, only.status) == ("reach", CheckStatus.FAIL)
    assert "no answer" in only.detail


@pytest.mark.parametrize(
    ("api", "status"),
    [
        ("1.41", "OK"),
        ("1.51", "OK"),
        ("2.0", "OK"),
        ("1.40", "FAIL"),
        ("1.5", "FAIL"),
        ("banana", "WARN"),
        ("", "WARN"),
    ],
)
def test_the_engines_age(api: str, status: str) -> None:
    found = checks(FakeEngine(api_version=api))["engine"]
    assert found.status.value == status
    assert (found.fix is not None) == (status == "FAIL")


def test_more_memory_promised_than_there_is() -> None:
    found = checks(FakeEngine(memory_bytes=4 * GIB))["memory"]
    assert (found.status, found.fix) == (CheckStatus.WARN, "lower nodes.n1.capacity.memory")
    assert found.detail == "capacity 8.0 GiB of 4.0 GiB"


@pytest.mark.parametrize(("milli", "status"), [(40_000, "OK"), (40_001, "WARN")])
def test_cores_may_be_shared_up_to_a_point(milli: int, status: str) -> None:
    assert checks(FakeEngine(), capacity=capacity(cpus_milli=milli, memory_bytes=GIB))["cpus"].status.value == status


def test_an_absent_image_is_a_warning_unless_it_may_not_be_pulled() -> None:
    engine = FakeEngine(images=set())
    found = checks(engine)["image"]
    assert (found.status, found.fix) == (CheckStatus.WARN, f"docker pull {IMAGE}   # on n1")
    never = WorkspaceSpec(image=IMAGE, resources=RESOURCES, pull=PullPolicy.NEVER)
    assert checks(engine, never)["image"].status is CheckStatus.FAIL
    assert checks(engine, never, SPEC)["image"].status is CheckStatus.WARN, "one class may pull it for all"


def test_every_image_is_checked_once() -> None:
    other = WorkspaceSpec(image="gpu:1", resources=RESOURCES, name="gpu")
    again = WorkspaceSpec(image=IMAGE, resources=RESOURCES, name="small")
    engine = FakeEngine()
    found = check_node(
        node("n1", capacity=ROOM), lambda name: engine, (SPEC, other, again), FakeCommands(), FakeClock()
    )
    assert [check.detail for check in found if check.check == "image"] == ["gpu:1 is not on the node", IMAGE]


def test_an_engine_that_cannot_tell_about_images() -> None:
    engine = FakeEngine()
    engine.fail("has_image", EngineError("n1", "layer store is broken"))
    found = checks(engine)["image"]
    assert (found.status, found.detail) == (CheckStatus.FAIL, "layer store is broken")


def test_a_check_as_json() -> None:
    assert Check("image", CheckStatus.WARN, "x", "y").to_dict() == {
        "check": "image",
        "status": "WARN",
        "detail": "x",
        "fix": "y",
    }


@pytest.mark.parametrize(
    ("off_s", "status", "text"),
    [
        (0, "OK", "its engine has this machine's time, within 0.1 s"),
        (-1.9, "OK", "its engine has this machine's time, within 1.9 s"),
        (2, "WARN", "its engine is 2.0 s ahead of this machine"),
        (-59.9, "WARN", "its engine is 59.9 s behind this machine"),
        (3600, "FAIL", "its engine is 3600.0 s ahead of this machine"),
    ],
)
def test_the_nodes_clock(off_s: float, status: str, text: str) -> None:
    found = checks(FakeEngine(system_time=FakeClock().now() + timedelta(seconds=off_s)))["time"]
    assert (found.status.value, found.detail) == (status, text)
    assert (found.fix is None) == (status == "OK")


def test_an_engine_without_a_clock() -> None:
    assert checks(FakeEngine(system_time=None))["time"].status is CheckStatus.WARN


@pytest.mark.parametrize(
    ("old", "new", "check", "status", "text"),
    [
        ("", "", "disk", "OK", "/srv/workspaces: 57.2 GiB free of 95.4 GiB (40 % used)"),
        ("40000000 60000000", "85000000 15000000", "disk", "WARN", "(85 % used)"),
        ("40000000 60000000", "92000000 2000000", "disk", "FAIL", "(98 % used)"),
        ("40000000 60000000", "92000000 -50", "disk", "FAIL", "(100 % used)"),
        ("root there", "root absent", "disk", "OK", "it isn't there yet, the engine makes it"),
        ("disk /dev/vda1", "disk", "disk", "WARN", "the size of /srv/workspaces is unknown"),
        ("600000 5400000", "5900000 100000", "inodes", "FAIL", "100000 free of 6000000 (98 % used)"),
        ("6000000 600000 5400000 10%", "0 0 0 -", "inodes", "OK", "doesn't count them"),
        ("==rsync rsync  version 3.2.7", "==rsync", "rsync", "WARN", "copied by tar"),
        ("", "", "rsync", "OK", "rsync 3.2.7"),
        ("==getfattr /usr/bin/getfattr", "==getfattr", "rsync", "OK", "without getfattr (apt install attr)"),
        ("maxsessions 10", "maxsessions 1", "sshd", "WARN", "MaxSessions 1, MaxStartups 10:30:100"),
        ("maxstartups 10:30:100", "maxstartups 5:30:100", "sshd", "WARN", "MaxStartups 5:30:100"),
        ("==sshd ", "==x ", "sshd", "WARN", "its limits are unknown: sshd doesn't say"),
    ],
)
def test_the_machine(old: str, new: str, check: str, status: str, text: str) -> None:
    said = (
        GOOD_MACHINE.replace("disk /dev/vda1 100000000 40000000 60000000 40%", "disk ")
        if old == "disk /dev/vda1"
        else (GOOD_MACHINE.replace(old, new))
    )
    found = checks(FakeEngine(), machine=FakeCommands(said))[check]
    assert (found.status.value, text in found.detail) == (status, True), found
    assert found.status is CheckStatus.OK or found.fix


def test_only_root_may_ask_sshd() -> None:
    said = "".join(
        line for line in GOOD_MACHINE.splitlines(keepends=True) if "sshd" not in line and "asked" not in line
    )
    assert (
        checks(FakeEngine(), machine=FakeCommands(said))["sshd"].detail == "its limits are unknown: only root may ask"
    )


def test_shared_storage_needs_no_rsync() -> None:
    machine = FakeCommands(GOOD_MACHINE.replace("==rsync rsync  version 3.2.7", "==rsync"))
    shared = replace(node("n1"), storage="shared")
    found = {check.check: check for check in check_machine(shared, machine)}
    assert (found["rsync"].status, found["rsync"].detail[:9]) == (CheckStatus.OK, "not there")
    machine = FakeCommands(GOOD_MACHINE.replace("==getfattr /usr/bin/getfattr", "==getfattr"))
    assert {check.check: check for check in check_machine(shared, machine)}["rsync"].detail == "rsync 3.2.7"


@pytest.mark.parametrize(
    "machine",
    [
        FakeCommands("This account is currently not available.\n", code=1),
        FakeCommands(error=NodeUnreachable("n1", "This account is currently not available.")),
    ],
)
def test_a_key_that_may_run_no_commands_is_one_warning(machine: FakeCommands) -> None:
    found = checks(FakeEngine(), machine=machine)
    assert list(found) == ["reach", "engine", "memory", "cpus", "time", "image", "machine"]
    assert found["machine"].status is CheckStatus.WARN
    assert "This account is currently not available." in found["machine"].detail


def test_this_machine_has_no_sshd_in_between() -> None:
    assert "sshd" not in checks(FakeEngine(), address="local")
