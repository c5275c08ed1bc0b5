"""Verdicts on nodes: by example, and what holds whatever was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsctl.health import (
    Evidence,
    Health,
    Others,
    Rules,
    Sign,
    judge,
    knocked,
    looked,
    nothing_known,
    threshold,
    witnessed,
)

RULES = Rules()
WELL = Evidence(100.0, 100.0)
DEAD = Evidence(80.0, 80.0, misses=8, silences=6, denied=frozenset({"n9"}), reason="gave no answer")
HUNG = Evidence(80.0, 100.0, misses=8, reason="the engine doesn't answer")
BAD = {Health.SUSPECT, Health.DOWN}


NOBODY = Others()


def one(known: Evidence, others: Others = NOBODY, now: float = 100.0, rules: Rules = RULES) -> tuple[Health, str]:
    """The verdict on one node among enough others that are well."""
    fleet = {"n1": known} | {f"w{number}": Evidence(now, now) for number in range(9)}
    verdict = judge(fleet, {"n1": others}, now, rules).verdicts["n1"]
    return verdict.health, verdict.reason


@pytest.mark.parametrize(
    ("known", "others", "health"),
    [
        (WELL, Others(), Health.OK),
        (HUNG, Others(), Health.SUSPECT),
        (DEAD, Others(), Health.DOWN),
        (replace(DEAD, silences=2), Others(), Health.SUSPECT),
        (replace(DEAD, denied=frozenset()), Others(), Health.SUSPECT),
        (replace(DEAD, alive_at=90.1), Others(), Health.SUSPECT),
        (replace(DEAD, alive_at=90.0), Others(), Health.DOWN),
        (replace(DEAD, misses=1, well_at=90.0), Others(), Health.OK),
        (replace(DEAD, misses=0), Others(), Health.DOWN),  # no look has come to an end for 20 s
        (DEAD, Others(alive_s=9.9), Health.SUSPECT),
        (DEAD, Others(alive_s=10.0), Health.DOWN),
        (DEAD, Others(well_s=6.9, alive_s=6.9), Health.OK),
        (DEAD, Others(well_s=7.1, alive_s=7.1), Health.SUSPECT),
        (nothing_known(100.0), Others(), Health.OK),
        (nothing_known(90.0), Others(), Health.OK),
        (nothing_known(87.0), Others(), Health.SUSPECT),
    ],
)
def test_one_node(known: Evidence, others: Others, health: Health) -> None:
    assert one(known, others)[0] is health


def test_a_verdict_says_why() -> None:
    assert one(HUNG)[1] == "its machine answers, its engine doesn't: the engine doesn't answer"
    assert one(DEAD)[1] == "no sign of life: gave no answer; n9 can't reach it either"
    assert "no other node could be asked" in one(replace(DEAD, denied=frozenset()))[1]
    assert one(nothing_known(87.0))[1] == "no sign of life"


def test_what_observations_add() -> None:
    known = looked(nothing_known(0.0), Sign.SILENT, 1.0, "gave no answer")
    known = knocked(knocked(known, False, 2.0), False, 3.0, "no route")
    known = witnessed(witnessed(known, "n2", False, 4.0), "n3", None, 4.0)
    assert known == Evidence(0.0, 0.0, 1, 2, frozenset({"n2"}), "no route")
    alive = Evidence(0.0, 5.0, 1, 0, frozenset(), "no route")
    assert knocked(known, True, 5.0) == witnessed(known, "n2", True, 5.0) == alive
    assert looked(known, Sign.ALIVE, 5.0, "hangs") == replace(alive, misses=2, reason="hangs")
    assert looked(known, Sign.WELL, 5.0) == nothing_known(5.0)
    assert looked(replace(alive, alive_at=6.0), Sign.ALIVE, 5.0).alive_at == 6.0, "a late answer takes nothing back"


@pytest.mark.parametrize(("nodes", "least"), [(1, 2), (2, 2), (3, 2), (6, 2), (7, 3), (9, 3), (10, 4), (100, 33)])
def test_how_many_are_too_many(nodes: int, least: int) -> None:
    assert threshold(nodes, RULES) == least


def test_a_third_at_once_is_us() -> None:
    fleet = {"n1": DEAD, "n2": replace(DEAD, alive_at=95.0), "n3": HUNG, **{f"w{n}": WELL for n in range(3)}}
    judgement = judge(fleet, {}, 100.0, RULES)
    assert [judgement.verdicts[f"n{n}"].health for n in (1, 2, 3)] == [Health.UNSURE, Health.UNSURE, Health.SUSPECT]
    assert judgement.alarm is not None
    assert "2 of 6 nodes vanished at once (n1, n2): it may be this side" in judgement.alarm


def test_those_that_fell_lately_count() -> None:
    fleet = {"n1": DEAD, "n2": WELL}
    assert judge(fleet, {}, 100.0, RULES).verdicts["n1"].health is Health.DOWN
    judgement = judge(fleet, {}, 100.0, RULES, fallen=["n3"])
    assert judgement.verdicts["n1"].health is Health.UNSURE
    assert "1 more went down lately" in str(judgement.alarm)


def test_one_after_the_other_is_not_at_once() -> None:
    now = 2000.0
    fleet = {"n1": replace(DEAD, alive_at=0.0), "n2": replace(DEAD, alive_at=now - 11), "n3": Evidence(now, now)}
    assert {v.health for n, v in judge(fleet, {}, now, RULES).verdicts.items() if n != "n3"} == {Health.DOWN}
    together = {**fleet, "n2": replace(DEAD, alive_at=1.0)}
    assert judge(together, {}, now, RULES).verdicts["n1"].health is Health.UNSURE, "however long that is"


def test_who_cant_compare_notes_decides_nothing() -> None:
    judgement = judge({"n1": DEAD, "n2": HUNG, "n3": WELL}, {}, 100.0, RULES, unable="Redis: can't connect")
    assert [v.health for v in judgement.verdicts.values()] == [Health.UNSURE, Health.UNSURE, Health.OK]
    assert judgement.alarm == "Redis: can't connect"


# --------------------------------------------------------------------------------------------------- whatever was seen

AGES = st.floats(0, 60, allow_nan=False)
RULE = st.builds(
    lambda suspect, more, misses, percent, least: Rules(2.0, suspect, suspect + more, misses, percent, least),
    st.floats(1, 10), st.floats(1, 20), st.integers(1, 5), st.integers(1, 100), st.integers(1, 5),
)  # fmt: skip
EVIDENCE = st.builds(
    lambda well, ago, misses, silences, denied: Evidence(100 - well - ago, 100 - ago, misses, silences, denied, "x"),
    AGES, AGES, st.integers(0, 9), st.integers(0, 9), st.frozensets(st.sampled_from("ab")),
)  # fmt: skip
FLEETS = st.dictionaries(st.sampled_from([f"n{n}" for n in range(12)]), EVIDENCE, min_size=1)
OTHERS = st.dictionaries(
    st.sampled_from([f"n{n}" for n in range(12)]), st.builds(Others, st.none() | AGES, st.none() | AGES)
)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine that has other work to do is no reason to fail."""

FALLEN = st.frozensets(st.sampled_from(["x1", "x2", "x3"]))


@PATIENT
@given(FLEETS, OTHERS, RULE, FALLEN)
def test_down_has_all_its_reasons(
    fleet: dict[str, Evidence], others: dict[str, Others], rules: Rules, fallen: frozenset[str]
) -> None:
    judgement = judge(fleet, others, 100.0, rules, fallen=fallen)
    down = [name for name, verdict in judgement.verdicts.items() if verdict.health is Health.DOWN]
    for name in down:
        known, seen = fleet[name], others.get(name, Others())
        assert known.silences >= rules.misses
        assert known.denied
        assert 100 - known.alive_at >= rules.down_after_s
        assert seen.alive_s is None or seen.alive_s >= rules.down_after_s
        silent = judgement.verdicts[name].silent_s
        near = [n for n in down if abs(judgement.verdicts[n].silent_s - silent) <= rules.window_s]
        assert len(near) + len(fallen) < threshold(len(fleet) + len(fallen), rules)


@PATIENT
@given(FLEETS, OTHERS, RULE)
def test_the_unable_do_nothing(fleet: dict[str, Evidence], others: dict[str, Others], rules: Rules) -> None:
    verdicts = judge(fleet, others, 100.0, rules, unable="no database").verdicts.values()
    assert not {verdict.health for verdict in verdicts} & BAD


@PATIENT
@given(EVIDENCE, RULE, st.floats(0, 30))
def test_time_without_a_word_makes_nothing_better(known: Evidence, rules: Rules, later: float) -> None:
    order = [Health.OK, Health.SUSPECT, Health.DOWN]
    rules = replace(rules, alarm_least=2)
    before, after = (judge({"n1": known}, {}, 100.0 + more, rules).verdicts["n1"].health for more in (0.0, later))
    assert order.index(after) >= order.index(before)


@PATIENT
@given(EVIDENCE, RULE, st.sampled_from(["look", "knock", "witness", "well"]))
def test_an_answer_makes_nothing_worse(known: Evidence, rules: Rules, way: str) -> None:
    order = [Health.OK, Health.SUSPECT, Health.DOWN]
    heard = {
        "look": lambda: looked(known, Sign.ALIVE, 100.0, "hangs"),
        "knock": lambda: knocked(known, True, 100.0),
        "witness": lambda: witnessed(known, "c", True, 100.0),
        "well": lambda: looked(known, Sign.WELL, 100.0),
    }[way]()
    rules = replace(rules, alarm_least=2)
    after = judge({"n1": heard}, {}, 100.0, rules).verdicts["n1"].health
    assert after is not Health.DOWN
    if way == "well":
        assert after is Health.OK
    before = judge({"n1": replace(known, misses=heard.misses)}, {}, 100.0, rules).verdicts["n1"].health
    assert order.index(after) <= order.index(before)


@PATIENT
@given(st.lists(st.tuples(st.sampled_from(["look", "knock", "ask"]), st.floats(0.01, 3)), max_size=40))
def test_silence_alone_needs_its_time_and_its_number(steps: list[tuple[str, float]]) -> None:
    now, known, silent = 0.0, nothing_known(0.0), 0
    for what, seconds in steps:
        now += seconds
        if what == "look":
            known = looked(known, Sign.SILENT, now)
        elif what == "knock":
            known, silent = knocked(known, False, now), silent + 1
        else:
            known = witnessed(known, "n2", False, now)
        verdict = judge({"n1": known, "n2": Evidence(now, now)}, {}, now, RULES).verdicts["n1"]
        if verdict.health is Health.DOWN:
            assert (now >= RULES.down_after_s, silent >= RULES.misses, "ask" in [step for step, _ in steps]) == (
                True,
            ) * 3
