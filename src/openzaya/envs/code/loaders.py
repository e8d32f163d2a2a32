"""Load a public data set by its name, from files that the user has downloaded.

    problems, report = load_problems("codeforces", [Path("train-00000.jsonl")])
    print(report)

Records that cannot become a problem are skipped and counted by reason.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from openzaya.core.errors import DataError
from openzaya.envs.code.problem import Problem
from openzaya.envs.code.sources.apps import (
    load_apps,
    load_deepcoder,
    load_taco,
    load_verifiable,
)
from openzaya.envs.code.sources.codeforces import load_codeforces, load_submissions
from openzaya.envs.code.sources.contests import (
    load_code_contests,
    load_code_contests_plus,
    load_code_contests_plus_by_tokens,
)
from openzaya.envs.code.sources.functions import load_code_arc, load_code_io
from openzaya.envs.code.sources.leetcode import load_leetcode
from openzaya.envs.code.sources.livecodebench import load_live_code_bench
from openzaya.envs.code.sources.records import Loader, Report, read_files

SETS: dict[str, tuple[str, Loader]] = {
    "code_contests": ("deepmind/code_contests", load_code_contests),
    "code_contests_plus": ("ByteDance-Seed/Code-Contests-Plus", load_code_contests_plus),
    "code_contests_plus_by_tokens": (
        "ByteDance-Seed/Code-Contests-Plus",
        load_code_contests_plus_by_tokens,
    ),
    "codeforces": ("open-r1/codeforces", load_codeforces),
    "codeforces_python": ("MatrixStudio/Codeforces-Python-Submissions", load_submissions),
    "taco": ("BAAI/TACO", load_taco),
    "apps": ("codeparrot/apps", load_apps),
    "deepcoder": ("agentica-org/DeepCoder-Preview-Dataset", load_deepcoder),
    "verifiable": ("PrimeIntellect/verifiable-coding-problems", load_verifiable),
    "livecodebench": ("livecodebench/code_generation_lite", load_live_code_bench),
    "leetcode": ("newfacade/LeetCodeDataset", load_leetcode),
    "codeio": ("hkust-nlp/CodeIO-PyEdu-Reasoning-Raw", load_code_io),
    "codearc": ("anjiangwei/CodeARC-Problems", load_code_arc),
}
"""Our name, the hub's name, and the loader of each set."""


def load_problems(name: str, paths: Iterable[Path]) -> tuple[list[Problem], Report]:
    """Read files of a set; return its problems and what became of the records.

    Raises DataError for a set that there is no loader for, or a file that cannot be read.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SETS)}"
        raise DataError(f"there is no loader for {name!r}; {hint}")
    report = Report()
    _, loader = SETS[name]
    problems: dict[str, Problem] = {}
    for problem in loader(read_files(paths, report), report):
        if problem.id in problems:
            report.skipped["another record has its id"] += 1
            report.num_kept -= 1
        else:
            problems[problem.id] = problem
    return list(problems.values()), report
