"""A plan as text and as JSON: what an operator confirms is what is done, and it is the same everywhere."""

from __future__ import annotations

import json

import pytest

from tests.builders import CAPACITY, RESOURCES
from wsctl.model import NodeState, PlacementState, ReadyProbe
from wsctl.plan import (
    AwaitReady,
    Claim,
    CreateContainer,
    MarkNode,
    Plan,
    PullImage,
    PurgeData,
    QuarantineContainer,
    Release,
    RemoveContainer,
    Reserve,
    Settle,
    StartContainer,
    Step,
    StopContainer,
    Work,
)

STEPS: list[tuple[Step, str]] = [
    (
        Reserve("alice", "n1", "spread", "10.0.0.11", 20000, RESOURCES, CAPACITY, "default"),
        "+ reserve  alice on n1 port 20000   (spread)",
    ),
    (Claim("alice", "n1", "", 4, PlacementState.STARTING), "~ claim    alice on n1 as starting, generation 5"),
    (
        Claim("alice", "n1", "", 4, PlacementState.STARTING, port=20007),
        "~ claim    alice on n1 port 20007 as starting, generation 5",
    ),
    (PullImage("alice", "n1", "absent", "studio/ws:1"), "+ pull     studio/ws:1 on n1   (absent)"),
    (CreateContainer("alice", "n1", "new"), "+ create   ws-u-alice on n1   (new)"),
    (StartContainer("alice", "n1", ""), "+ start    ws-u-alice on n1"),
    (
        AwaitReady("alice", "n1", "", ReadyProbe("/", 30.0)),
        "? await    ws-u-alice on n1 answers on HTTP / within 30 s",
    ),
    (
        AwaitReady("alice", "n1", "", ReadyProbe(None, 2.5)),
        "? await    ws-u-alice on n1 answers on its port within 2.5 s",
    ),
    (StopContainer("alice", "n1", "idle 2h"), "- stop     ws-u-alice on n1   (idle 2h)"),
    (RemoveContainer("alice", "n1", "stale"), "- remove   ws-u-alice on n1   (stale)"),
    (
        QuarantineContainer("alice", "n1", "stale copy", "0123456789abcdef", "alice-2"),
        "- keep     alice-2 on n1, stopped, as ws-q-alice-01234567   (stale copy)",
    ),
    (
        PurgeData("alice", "n1", "asked", "/srv/workspaces/", "studio/ws:1"),
        "- purge    /srv/workspaces/alice on n1, all files, for good   (asked)",
    ),
    (Settle("alice", "n1", "", PlacementState.RUNNING), "~ record   alice on n1 as running"),
    (Release("alice", "n1", "removed"), "- release  alice from n1   (removed)"),
    (MarkNode("", "n1", "disk", NodeState.CORDONED, "disk"), "~ mark     n1 as cordoned   (disk)"),
]


@pytest.mark.parametrize(("step", "line"), STEPS, ids=[step.verb for step, _ in STEPS])
def test_each_step_is_one_line(step: Step, line: str) -> None:
    assert step.line() == line
    assert "\n" not in step.line()


@pytest.mark.parametrize("step", [step for step, _ in STEPS], ids=[step.verb for step, _ in STEPS])
def test_each_step_is_plain_json(step: Step) -> None:
    plain = step.to_dict()
    assert plain["step"] == step.verb
    assert (plain["user"], plain["node"], plain["cause"]) == (step.user, step.node, step.cause)
    assert json.loads(json.dumps(plain)) == plain


def test_values_that_are_not_plain_stay_out_of_json() -> None:
    assert STEPS[0][0].to_dict() == {
        "step": "reserve", "user": "alice", "node": "n1", "cause": "spread", "address": "10.0.0.11", "port": 20000,
        "workspace_class": "default", "home": None, "only_ready": False,
    }  # fmt: skip


def test_the_base_step_acts_on_the_users_container() -> None:
    assert Step("alice", "n1", "why").text() == "ws-u-alice on n1"


def test_a_plan_renders_its_steps_then_its_warnings_then_its_notes() -> None:
    start, stop = StartContainer("alice", "n1", ""), StopContainer("bob", "n2", "idle")
    works = (
        Work("alice", "started", (start,), base_generation=3, warnings=("image is old",)),
        Work("bob", "stopped", (stop,)),
        Work("carol", "unchanged"),
    )
    plan = Plan(works, notes=("n3 is unreachable",))
    assert list(plan) == [start, stop]
    assert not plan.is_empty
    assert plan.render() == (
        "+ start    ws-u-alice on n1\n- stop     ws-u-bob on n2   (idle)\n! image is old\n! n3 is unreachable"
    )
    assert plan.to_dict() == {
        "plan": [
            {"target": "alice", "action": "started", "steps": [start.to_dict()], "warnings": ["image is old"]},
            {"target": "bob", "action": "stopped", "steps": [stop.to_dict()], "warnings": []},
            {"target": "carol", "action": "unchanged", "steps": [], "warnings": []},
        ],
        "notes": ["n3 is unreachable"],
    }


def test_an_empty_plan_says_so() -> None:
    assert Plan().is_empty
    assert Plan((Work("alice", "unchanged"),)).is_empty
    assert Plan((Work("alice", "unchanged"),)).render() == "nothing to do"


def test_equal_plans_are_equal() -> None:
    assert Plan((Work("a", "x", (StartContainer("a", "n", ""),)),)) == Plan(
        (Work("a", "x", (StartContainer("a", "n", ""),)),)
    )
    assert StartContainer("a", "n", "") != StopContainer("a", "n", "")
