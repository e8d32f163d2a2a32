"""Every line of the two tables gets the verdict that it names; attacks cost little, run nothing.

cases.tsv takes few golds of declared kinds apart. benchmarks.tsv has golds as the sets hold them
(MATH, AIME, GSM8K, OlympiadBench, Minerva, Omni-MATH), whose kinds are told from their text; each
verdict was decided by hand, and `why` says where the grader refuses what is right.
"""

import time
from itertools import groupby

import pytest
from math_cases import Case, read_cases

from openzaya.core.records import Judgement
from openzaya.envs.math.grade import explain, grade

CASES = read_cases()
BENCHMARKS = read_cases("benchmarks")
GROUPS = [
    pytest.param(list(cases), id=ascii(" ".join(key))[1:-1])
    for key, cases in groupby(
        [*CASES, *BENCHMARKS], key=lambda case: (case.kind, case.gold, case.rules)
    )
]
LONGEST_CPU_S = 2.5


def fault(case: Case) -> str:
    """Return what differs from the expected verdict, or an empty string."""
    began = time.process_time()
    verdict = explain(case.make_gold(), case.reply, started_in_think=False).verdict
    if time.process_time() - began > LONGEST_CPU_S:
        return f"{case.reply[:60]!r} took too long"
    expected = Judgement.RIGHT if case.verdict else Judgement.WRONG
    if verdict.judgement is not expected:
        return f"{case.reply[:60]!r} is {expected}: {case.why}; found {verdict.reason}"
    return "" if case.verdict or verdict.reason else f"{case.reply[:60]!r} is wrong for no reason"


@pytest.mark.parametrize("cases", GROUPS)
def test_each_reply_gets_its_verdict(cases):
    assert [found for case in cases if (found := fault(case))] == []


def test_every_gold_is_a_right_answer_to_itself():
    golds = {(case.gold, case.kind, case.rules): case for case in [*CASES, *BENCHMARKS]}
    wrong = []
    for case in golds.values():
        if "unit_required" in case.rules:
            continue
        verdict = grade(case.make_gold(), f"\\boxed{{{case.gold}}}", started_in_think=False)
        if verdict.judgement is not Judgement.RIGHT:
            wrong.append((case.gold, case.kind, verdict.reason))
    assert wrong == []


def test_there_are_enough_cases_of_both_signs_and_enough_attacks():
    assert len(CASES) >= 900
    assert sum(case.verdict for case in CASES) >= 400
    assert len(BENCHMARKS) >= 1_000
    assert sum("attack" in case.tags for case in CASES) >= 250
    assert not any(case.verdict for case in CASES if "attack" in case.tags)


def test_programs_in_answers_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = [case for case in CASES if "canary" in case.reply]
    assert programs
    for case in programs:
        grade(case.make_gold(), case.reply, started_in_think=False)
    assert list(tmp_path.iterdir()) == []
