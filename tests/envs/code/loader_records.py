"""One record of each public set, and the file that a loader reads it from."""

import base64
import json
import pickle
import zlib

SUM = "print(sum(map(int, input().split())))"
BAD = "print(input())"
PAIRS = [{"input": "1 2\n", "output": "3\n"}, {"input": "10 20\n", "output": "30\n"}]
METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
STARTER = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        pass\n"


def packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


RECORDS = {
    "code_contests": {
        "name": "1_A. Sum",
        "description": "Add.",
        "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
        "private_tests": {"input": ["4 5\n"], "output": ["9\n"]},
        "generated_tests": {"input": ["7 7\n"], "output": ["14\n"]},
        "source": 2,
        "difficulty": 7,
        "solutions": {"language": [3, 1, 2], "solution": [SUM, "print 1", "int main() {}"]},
        "incorrect_solutions": {"language": [3], "solution": [BAD]},
        "cf_rating": 800,
        "cf_tags": ["math", ""],
        "time_limit": {"seconds": 2, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
    },
    "code_contests_plus_by_tokens": {
        "source": "Codeforces",
        "id": "1_A",
        "title": "Sum",
        "description": "Add.",
        "time_limit": 2000,
        "memory_limit": 256,
        "validator": '#include "testlib.h"',
        "generator": '#include "testlib.h"',
        "checker": '#include "testlib.h"',
        "correct_submissions": [{"language": "py3", "code": SUM}, {"language": "java", "code": ""}],
        "incorrect_submissions": [{"language": "py3", "code": BAD}],
        "test_cases": PAIRS,
    },
    "codeforces": {
        "id": "1/A",
        "title": "Sum",
        "description": "Add.",
        "input_format": "Two integers.",
        "output_format": "One integer.",
        "interaction_format": None,
        "note": None,
        "examples": PAIRS[:1],
        "official_tests": [*PAIRS, {"input": "1 2 3...", "output": "6"}],
        "time_limit": 1.0,
        "memory_limit": 256.0,
        "rating": 800,
        "tags": ["math"],
        "input_mode": "stdio",
        "generated_checker": None,
    },
    "codeforces_python": {
        "contestId": 1,
        "index": "A",
        "name": "Sum",
        "problem-description": "Add.",
        "input-specification": "Two integers.",
        "output-specification": "One integer.",
        "demo-input": ["1 2\n"],
        "demo-output": ["3\n"],
        "time-limit": "2 seconds",
        "memory-limit": "256 megabytes",
        "rating": 800,
        "tags": [],
        "note": "",
        "programmingLanguage": "PyPy 3",
        "verdict": "OK",
        "code": SUM,
        "test_cases": PAIRS,
    },
    "taco": {
        "question": "Add.",
        "solutions": json.dumps([METHOD]),
        "starter_code": STARTER,
        "input_output": json.dumps(
            {"fn_name": "add", "inputs": [[1, 2], [4, 5]], "outputs": [[3], [9]]}
        ),
        "url": "https://example.org/add",
        "time_limit": "2.0 seconds",
        "memory_limit": "256.0 megabytes",
    },
    "apps": {
        "problem_id": 5,
        "question": "Add.",
        "solutions": json.dumps([SUM]),
        "input_output": json.dumps({"inputs": ["1 2\n", ["4 5"]], "outputs": ["3\n", ["9"]]}),
        "starter_code": "",
        "url": "https://example.org/5",
        "difficulty": "interview",
    },
    "deepcoder": {
        "problem": "Add.",
        "starter_code": STARTER,
        "solutions": [f"```python\n{METHOD}```"],
        "tests": json.dumps(
            [
                {"input": "1\n2", "output": "3", "testtype": "functional"},
                {"input": "4\n5", "output": "9", "testtype": "functional"},
            ]
        ),
        "metadata": {"func_name": "add"},
    },
    "verifiable": {
        "problem_id": "v1",
        "prompt": "Add.",
        "gold_standard_solution": f"```python\n{SUM}\n```",
        "verification_info": json.dumps(
            {
                "language": "python",
                "test_cases": [{"type": "stdin_stdout", "fn_name": None, **pair} for pair in PAIRS],
            }
        ),
    },
    "livecodebench": {
        "question_title": "Sum",
        "question_content": "Add.",
        "platform": "leetcode",
        "question_id": "3001",
        "starter_code": STARTER,
        "difficulty": "medium",
        "public_test_cases": json.dumps(
            [{"input": "1\n2", "output": "3", "testtype": "functional"}]
        ),
        "private_test_cases": packed([{"input": "4\n5", "output": "9", "testtype": "functional"}]),
        "metadata": json.dumps({"func_name": "add"}),
    },
    "leetcode": {
        "task_id": "add",
        "problem_description": "Add.",
        "starter_code": STARTER,
        "entry_point": "Solution().add",
        "prompt": "from typing import *\nimport math\n",
        "completion": METHOD,
        "difficulty": "Easy",
        "tags": ["Math"],
        "input_output": [
            {"input": "a = 1, b = 2", "output": "3"},
            {"input": "a = 4, b = 5", "output": "9"},
            {"input": "a = -4, b = 5", "output": "1"},
            {"input": "a = 1, b = 2", "output": "Error: timed out"},
            {"input": "a = __import__('os').getpid(), b = 2", "output": "1"},
        ],
    },
    "codeio": {
        "problem_description": "Add.",
        "io_requirements": "a, b: int; returns int",
        "refcode": "def main_solution(a, b):\n    return a + b",
        "funcname": "main_solution",
        "ios": [{"input": {"a": n, "b": 1}, "output": n + 1} for n in range(5)],
        "category": "math",
        "meta": {},
    },
}
"""One record of each set, as its files have it."""


def write(folder, *records):
    path = folder / "part.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path
