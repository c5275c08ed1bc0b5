"""What `wsctl node check` finds: a verdict and a fix for each thing that can be wrong with a node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import IMAGE, RESOURCES, capacity, node
from tests.fakes import FakeEngine, FakeFleet
from wsctl.errors import EngineError, HostKeyError
from wsctl.model import PullPolicy, WorkspaceSpec
from wsctl.nodecheck import Check, CheckStatus, check_node

GIB = 1 << 30
SPEC = WorkspaceSpec(image=IMAGE, resources=RESOURCES)
ROOM = capacity(memory_bytes=8 * GIB, cpus_milli=4000)


def checks(engine: FakeEngine, *specs: WorkspaceSpec, **of_node: Any) -> dict[str, Check]:
    """Each check of n1 by its name."""
    of_node.setdefault("capacity", ROOM)
    found = check_node(node("n1", **of_node), lambda name: engine, specs or (SPEC,))
    return {check.check: check for check in found}


def test_a_good_node_passes_everything() -> None:
    found = checks(FakeEngine())
    assert list(found) == ["reach", "engine", "memory", "cpus", "image"]
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
    assert check_node(node("n1"), fleet, (SPEC,)) == [
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
    found = check_node(node("n1", capacity=ROOM), lambda name: engine, (SPEC, other, again))
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
