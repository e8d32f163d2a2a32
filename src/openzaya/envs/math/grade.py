"""Grade a reply against a gold, and say how: region, candidates, reading, the rule that decided."""

from dataclasses import dataclass

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.math.extract import Extraction, extract
from openzaya.envs.math.gold import Gold
from openzaya.envs.math.judge import Reading, Rule, judge_candidate
from openzaya.envs.math.limits import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """A verdict with its explanation."""

    verdict: Verdict
    rule: Rule
    region: str
    readings: tuple[Reading, ...]


def grade(gold: Gold, reply: str, *, started_in_think: bool = True) -> Verdict:
    """Return the verdict on a whole reply. Never raises for what a reply says."""
    return explain(gold, reply, started_in_think=started_in_think).verdict


def explain(gold: Gold, reply: str, *, started_in_think: bool = True) -> Grading:
    """Return the verdict on a whole reply and how it came about."""
    try:
        found = extract(
            reply,
            started_in_think=started_in_think,
            marker_required=gold.rules.marker_required,
        )
    except Refused as refusal:
        return Grading(verdict=wrong(str(refusal)), rule="extract", region="", readings=())
    readings = [judge_candidate(gold, one) for one in found.candidates]
    return conclude(found, readings)


def conclude(found: Extraction, readings: list[Reading]) -> Grading:
    """Return the verdict: every candidate has to be right.

    A statement that cannot be read is prose and no candidate, unless nothing else is left.
    """
    counted = [r for r in readings if r.candidate.marker != "statement" or not r.is_prose]
    counted = counted or readings[-1:]
    faulty = [reading for reading in counted if reading.fault]
    if not faulty:
        last = counted[-1]
        return Grading(
            verdict=right(f"{last.candidate.marker}: {last.parsed}"),
            rule=last.rule,
            region=found.region,
            readings=tuple(counted),
        )
    rule: Rule
    if len(faulty) < len(counted):
        texts = ", ".join(repr(reading.candidate.text[:40]) for reading in counted)
        verdict, rule = wrong(f"different answers are marked: {texts}"), "candidates"
    else:
        verdict, rule = wrong(faulty[-1].fault), faulty[-1].rule
    return Grading(verdict=verdict, rule=rule, region=found.region, readings=tuple(counted))
