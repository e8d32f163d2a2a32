"""Reads envs/math/cases.tsv and benchmarks.tsv: one graded reply a line.

Columns: verdict (1 right, 0 wrong), kind (empty: told from the gold), gold, rules (NAME=VALUE;...;
lists with | between items), tags, reply, why. In a reply `<nl>` is a new line, `<u+0664>` a
character by its number and `<rep:20:abc>` a repetition.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from openzaya.core.config import resolve
from openzaya.envs.math.gold import Gold, Rules, parse_gold

FOLDER = Path(__file__).parent / "envs" / "math"
_MACRO = re.compile(r"<nl>|<u\+([0-9A-F]{4,6})>|<rep:([0-9]+):((?:[^<>]|<(?!rep:))*?)>")


@dataclass(frozen=True)
class Case:
    verdict: bool
    kind: str
    gold: str
    rules: str
    tags: str
    reply: str
    why: str

    def make_gold(self) -> Gold:
        return parse_gold(self.gold, self.kind or None, read_rules(self.rules))


def read_rules(text: str) -> Rules:
    changes = [pair.replace("|", ",") for pair in text.split(";") if pair]
    return resolve(Rules(), [], changes)


def expand(text: str) -> str:
    def one(match: re.Match) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return match[3] * int(match[2]) if match[2] else "\n"

    return _MACRO.sub(one, text)


def read_cases(name: str = "cases") -> list[Case]:
    _, *lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [Case(row[0] == "1", *row[1:5], expand(row[5]), row[6]) for row in rows]
