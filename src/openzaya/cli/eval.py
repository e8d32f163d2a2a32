"""`openzaya eval`: look into how answers are judged; `grade` explains one verdict."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openzaya.core.errors import RequestError

if TYPE_CHECKING:
    from openzaya.core.records import Verdict
    from openzaya.envs.math.gold import Gold
    from openzaya.envs.math.grade import Grading

NAME = "eval"
SUMMARY = "Explain how an answer is judged: grade one reply in mathematics."

EXAMPLES = r"""
examples:
  openzaya eval grade --gold 1/3 --answer 0.333 --set tolerance=0.001
  openzaya eval grade --gold '\{1, 2\}' --answer '\boxed{x = 1 \text{ or } x = 2}'
  openzaya eval grade --gold '(0,1)' --kind interval --answer '0 < x < 1' --json
  openzaya eval grade --gold 42 -f reply.txt          a long reply; -f - reads standard input
"""
MORE = """
kinds: integer rational decimal tuple set interval matrix choice text expression other
rules for --set: tolerance relative_tolerance variables unit unit_required thousands allow choices
  synonyms positive common_log marker_required second_tier (docs/guides/math_grading.md)
A reply without think markers is all final region; with them, what follows the last one counts.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand and its flags."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="grade")
    grade = actions.add_parser(
        "grade",
        help="grade one reply and say which step decided",
        description="Grade one reply in mathematics and say which step decided.",
        epilog=EXAMPLES + MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    grade.add_argument("--gold", required=True, help="the right answer")
    grade.add_argument("--answer", help="the answer, or a whole reply")
    grade.add_argument("-f", "--file", help="read the reply from a file (- = stdin)")
    grade.add_argument("--kind", help="the gold's type; told from its text when left out")
    grade.add_argument(
        "--in-think", action="store_true", help="the reply starts inside the think block"
    )
    grade.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a rule of the gold"
    )
    grade.add_argument("--json", action="store_true", help="print one JSON object for machines")
    grade.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def run(args: argparse.Namespace) -> int:
    """Grade and print. Returns 0 whatever the verdict."""
    from openzaya.core.config import resolve
    from openzaya.envs.math.gold import Rules, parse_gold
    from openzaya.envs.math.grade import explain
    from openzaya.envs.math.kinds import Kind
    from openzaya.envs.math.second import check_gold
    from openzaya.sandbox.pool import shared_pool

    reply = read_reply(args.answer, args.file)
    gold = parse_gold(args.gold, args.kind, resolve(Rules(), [], args.set))
    pool = shared_pool() if gold.kind is Kind.OTHER else None
    if pool is not None:
        check_gold(gold, pool)
    grading = explain(gold, reply, started_in_think=args.in_think, pool=pool)
    if args.json:
        print(json.dumps(to_json(gold, grading)))
    else:
        show(gold, grading)
    return 0


def read_reply(answer: str | None, file: str | None) -> str:
    """Return the reply. Raises RequestError when there is none, or two."""
    if (answer is None) == (file is None):
        raise RequestError("give the reply with --answer, or name a file with -f (- = stdin)")
    if answer is not None:
        return answer
    if file == "-":
        return sys.stdin.read()
    assert file is not None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read: {error}; give a text file") from error


def to_json(gold: "Gold", grading: "Grading") -> dict[str, object]:
    """Return the grading for machines."""
    verdict: Verdict = grading.verdict
    return {
        "verdict": verdict.judgement.value,
        "reason": verdict.reason,
        "rule": grading.rule,
        "kind": gold.kind.value,
        "gold": gold.text,
        "region": grading.region,
        "candidates": [
            {
                "marker": reading.candidate.marker,
                "text": reading.candidate.text,
                "start": reading.candidate.start,
                "parsed": reading.parsed,
                "rule": reading.rule,
                "fault": reading.fault,
            }
            for reading in grading.readings
        ],
    }


def show(gold: "Gold", grading: "Grading") -> None:
    """Print the way from the reply to the verdict."""
    unit = f", unit {gold.rules.unit}" if gold.rules.unit else ""
    names = f", in {', '.join(gold.rules.variables)}" if gold.rules.variables else ""
    print(f"gold       {gold.text}  ({gold.kind.value}{names}{unit})")
    if grading.region:
        text = " ".join(grading.region.split())
        shown = text if len(text) <= 60 else f"... {text[-56:]}"
        print(f"region     {len(grading.region)} characters: {printable(shown)}")
    for reading in grading.readings:
        candidate = reading.candidate
        print(
            f"candidate  {candidate.marker} at {candidate.start}: {printable(candidate.text[:72])}"
        )
        print(f"  read as  {reading.parsed[:100] or '(unreadable)'}")
        outcome = f"wrong: {reading.fault}" if reading.fault else "right"
        print(f"  step     {reading.rule}: {printable(outcome)}")
    verdict = grading.verdict
    print(f"verdict    {verdict.judgement.value}, decided by {grading.rule}")
    if verdict.reason:
        print(f"reason     {printable(verdict.reason)}")


def printable(text: str) -> str:
    """Return text that any terminal can show: control characters and surrogates escaped."""
    escaped = text.encode("ascii", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in escaped)
