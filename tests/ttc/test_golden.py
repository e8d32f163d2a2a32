"""Barrier runs give the very results that the first version of the loop gave.

`golden.json` was written by that version: hashes of whole results, cut to the fields it had. Write
it again with `python tests/ttc/test_golden.py` only where results are meant to change.
"""

import asyncio
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
from ttc.fake_sampler import FakeSampler, no_sleep, think_then_answer

from openzaya.core.errors import EngineError
from openzaya.core.errors import UpstreamError as Upstream
from openzaya.core.records import Message, SampleRequest
from openzaya.core.seeding import stream_seed
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig
from openzaya.ttc.strategies import config_from, preset

GOLDEN = Path(__file__).with_name("golden.json")
SMALL = MarkovianRSAConfig(
    num_candidates=6, tails_per_prompt=3, rounds=2, budget_tokens=20, tail_tokens=5
)
CONFIGS = {
    "small": SMALL,
    "final": replace(SMALL, final_budget_tokens=50, final_candidates=2, final_temperature=0.5),
    "parallel": MarkovianRSAConfig(num_candidates=5, rounds=0, budget_tokens=100),
    "delethink": config_from({"strategy": "delethink"}, SMALL),
    "rsa": config_from({"strategy": "rsa"}, replace(SMALL, budget_tokens=40)),
    "hybrid": replace(SMALL, budget_tokens=40, tail_source="answer_or_thinking"),
    "balanced, cache, line": replace(SMALL, subset="balanced", order="cache", snap="line"),
    "all": replace(SMALL, tail_source="all", rounds=3),
    "answer": replace(SMALL, tail_source="answer", budget_tokens=60),
    "16k": preset("16k"),
    "nano": preset("nano"),
}
HISTORY = (Message("system", "be brief"), Message("user", "hi"), Message("user", "what is it?"))


def lost(slots_of_stage: dict[int, set[int]], seed: int):
    seeds = {
        stream_seed(seed, "ttc", "sample", stage, slot)
        for stage, slots in slots_of_stage.items()
        for slot in slots
    }
    return lambda r, c: Upstream("down") if r.seed in seeds else think_then_answer(r, c)


class Flaky:
    """Every call fails once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, request: SampleRequest, call: int) -> str | EngineError:
        if request.seed in self.seen:
            return think_then_answer(request, call)
        self.seen.add(request.seed)
        return EngineError("hiccup")


def never_finishes(request: SampleRequest, _call: int) -> str:
    return f"w{request.seed % 7} " * 80


SCRIPTS = {
    "some lost": lambda seed: lost({0: {0, 2, 3, 5}, 1: {1}}, seed),
    "most lost": lambda seed: lost({1: {0, 1, 2, 3, 4}}, seed),
    "last stage lost": lambda seed: lost({2: set(range(6))}, seed),
    "flaky": lambda _seed: Flaky(),
    "never finishes": lambda _seed: never_finishes,
    "empty": lambda _seed: lambda r, c: "",
}


def result_of(config: MarkovianRSAConfig, script: Any, seed: int, question: Any) -> dict[str, Any]:
    rsa = MarkovianRSA(config, sleep=no_sleep)
    return asyncio.run(
        rsa.run(question, FakeSampler(script), seed, task_hint="Be exact.")
    ).to_json()


def results() -> dict[str, dict[str, Any]]:
    """Return every golden run by its name."""
    runs = {
        f"{name}, seed {seed}": result_of(config, think_then_answer, seed, "what is it?")
        for name, config in CONFIGS.items()
        for seed in (0, 7)
    }
    for name, script in SCRIPTS.items():
        runs[name] = result_of(SMALL, script(3), 3, HISTORY)
    return runs


def shape_of(value: Any) -> Any:
    """Return the names that a result holds, one level for each kind of record."""
    return {
        "result": sorted(value),
        "config": sorted(value["config"]),
        "usage": sorted(value["usage"]),
        "round": sorted(value["rounds"][0]),
        "candidate": sorted(value["rounds"][0]["candidates"][0]),
    }


def digest(result: dict[str, Any], shape: dict[str, list[str]]) -> str:
    """Hash what the first version knew of a result."""

    def cut(value: dict[str, Any], kind: str) -> dict[str, Any]:
        return {name: value[name] for name in shape[kind]}

    kept = cut(result, "result")
    kept["config"] = cut(result["config"], "config")
    kept["usage"] = cut(result["usage"], "usage")
    kept["rounds"] = [
        cut(r, "round") | {"candidates": [cut(c, "candidate") for c in r["candidates"]]}
        for r in result["rounds"]
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="module")
def now() -> dict[str, dict[str, Any]]:
    return results()


def test_barrier_runs_are_byte_identical_to_the_first_version(now):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {name: digest(run, golden["shape"]) for name, run in now.items()} == golden["runs"]


if __name__ == "__main__":
    every = results()
    shape = shape_of(every["small, seed 0"])
    runs = {name: digest(run, shape) for name, run in every.items()}
    GOLDEN.write_text(json.dumps({"shape": shape, "runs": runs}, indent=1) + "\n", encoding="utf-8")
