"""The fixed examination that every stage of the nano recipe takes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from openzaya.backends.local import LocalSampler
from openzaya.core.records import Verdict
from openzaya.engine.engine import Engine
from openzaya.eval.protocol import Score
from openzaya.eval.rollouts import Codec, EvalConfig, Outcome, pass_at_1, sample_and_judge
from openzaya.eval.ttc import Comparison, compare
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano.tasks import LEVELS, Item, held_out
from openzaya.ttc.config import MarkovianRSAConfig

EVAL_SLOTS = 256
"""Sequences decoded at once."""
EVAL_CONTEXT = 768
"""Longest prompt plus reply of any nano question, aggregation prompts included."""


def judge_of(items: Sequence[Item]) -> Callable[[int, str], Verdict]:
    """Return the judge of replies to the i-th item."""
    return lambda i, reply: items[i].env.score(items[i].problem, reply)


def examine(model: Zaya, codec: Codec, num_samples: int, seed: int) -> dict[str, Any]:
    """Return pass@1 by task and level, at temperature 1 (avg@num_samples) and greedy."""
    items = held_out()
    engine = Engine(model, max_slots=EVAL_SLOTS, max_tokens=EVAL_CONTEXT)
    questions = [item.problem.prompt for item in items]
    report: dict[str, Any] = {}
    for name, temperature in (("temperature 1", 1.0), ("greedy", 0.0)):
        config = EvalConfig(num_samples=num_samples, temperature=temperature, seed=seed)
        outcomes = sample_and_judge(engine, codec, questions, judge_of(items), config)
        report[name] = _by_level(items, outcomes)
    return report


def _by_level(items: Sequence[Item], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return {level: {"all": score, task: score, ...}} with scores as [mean, error]."""
    table: dict[str, Any] = {}
    for level in ("easy", "hard"):
        picked = [(i, o) for i, o in zip(items, outcomes, strict=True) if i.level == level]
        table[level] = {"all": _cell(pass_at_1([o for _, o in picked]))}
        for task in LEVELS:
            table[level][task] = _cell(pass_at_1([o for i, o in picked if i.env.name == task]))
        table[level]["tokens per reply"] = sum(o.num_tokens for _, o in picked) / max(
            1, sum(len(o.rewards) + o.num_infra for _, o in picked)
        )
    return table


def _cell(score: Score) -> list[float]:
    return [round(score.mean, 4), round(score.error, 4)]


def ttc_items(per_task: int) -> list[Item]:
    """Return the first `per_task` held-out problems of every task's harder level."""
    chosen: list[Item] = []
    for task in LEVELS:
        hard = [i for i in held_out() if i.env.name == task and i.level == "hard"]
        chosen.extend(hard[:per_task])
    return chosen


def compare_ttc(
    model: Zaya,
    codec: Codec,
    items: Sequence[Item],
    config: MarkovianRSAConfig,
    seed: int,
    on_done: Callable[[], None] = lambda: None,
) -> Comparison:
    """Compare single rollout, vote and Markovian RSA on `items` with the model in memory."""
    engine = Engine(model, max_slots=EVAL_SLOTS, max_tokens=EVAL_CONTEXT)
    sampler = LocalSampler(engine, codec.tokenizer, codec.chat)
    questions = [item.problem.prompt for item in items]
    try:
        return asyncio.run(
            compare(questions, judge_of(items), sampler, config, seed=seed, on_done=on_done)
        )
    finally:
        sampler.close()
