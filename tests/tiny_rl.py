"""An RL stage small enough for tests: a tiny model that is rewarded for writing digits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_training import tiny_model

from openzaya.core.records import Message, Verdict, right, wrong
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.rl.config import Group, Prompt, RLConfig, Rollout
from openzaya.rl.stages import RLStage, StepOutcome, run_rl
from openzaya.rl.tails import TailPool
from openzaya.text.chat import ChatTemplate

TOKENIZER = build_tokenizer()
CHAT = ChatTemplate.pinned()
LAYERS, EXPERTS = 2, 4


def model(seed: int = 0) -> Zaya:
    """Return a model for the nano tokenizer."""
    return tiny_model(seed, vocabulary=TOKENIZER.vocab_size)


def config(**changes: Any) -> RLConfig:
    """Return settings for milliseconds a step."""
    settings: dict[str, Any] = {
        "steps": 4,
        "prompts_per_step": 3,
        "group_size": 4,
        "max_response_tokens": 6,
        "sync_every": 1,
        "min_groups": 1,
        "max_oversampling": 3.0,
        "micro_tokens": 60,
        "length_norm": 6.0,
        "optim": OptimConfig(
            muon=MuonConfig(lr=0.02, momentum=None, weight_decay=0.0), lr_adamw=0.01
        ),
        "checkpoint_every_steps": 2,
        "slots": 12,
        "context_tokens": 64,
        "pool_size": 8,
    }
    return RLConfig(**{**settings, **changes})


def score(prompt: Prompt, text: str) -> Verdict:
    """Right when the reply holds a digit."""
    return right() if any(c in "0123456789" for c in text) else wrong("no digit")


def prompts(step: int, attempt: int, pool: TailPool) -> Sequence[Prompt]:
    """Return three prompts; from the second step on, one depends on the pool."""
    found = []
    for i in range(3):
        text, keeps = f"{step}{attempt}{i}", True
        if i == 0 and len(pool):
            key, entry = next(reversed(pool.entries.items()))
            text, keeps = f"{key} {entry.tails[-1][-3:]}", False
        message = Message("user", text)
        found.append(Prompt((message,), {"i": i}, "ab"[i % 2], f"{step}.{attempt}.{i}", keeps))
    return found


def stage(settings: RLConfig | None = None, scorer: Any = score, seed: int = 0) -> RLStage:
    """Return a stage with a model of its own.

    What reaches the budget counts as ended: a model that knows nothing hardly ends within six
    tokens, and what is cut is wrong.
    """
    made = RLStage(model(seed), scorer, TOKENIZER, CHAT, settings or config(), tail_tokens=8)
    sample = made.engine.generate

    def generate(asked: list[list[int]], params: list[SamplingParams]) -> list[Output]:
        return [replace(output, finish_reason="stop") for output in sample(asked, params)]

    made.engine.generate = generate  # type: ignore[method-assign,assignment]
    return made


def run(
    run_dir: Path, settings: RLConfig, scorer: Any = score
) -> tuple[RLStage, list[StepOutcome]]:
    """Run a stage to its end, or on from its checkpoint."""
    made = stage(settings, scorer)
    outcomes: list[StepOutcome] = []
    run_rl(made, prompts, run_dir, on_step=lambda _step, outcome: outcomes.append(outcome))
    return made, outcomes


def group(
    rewards: Sequence[float],
    version: int = 0,
    lengths: Sequence[int] = (),
    prompt_ids: Sequence[int] = (1, 9, 8),
    key: str = "k",
) -> Group:
    """Return a hand-made group."""
    rollouts = []
    for g, reward in enumerate(rewards):
        count = lengths[g] if lengths else 3
        inputs = len(prompt_ids) + count - 1
        rollouts.append(
            Rollout(
                token_ids=[10 + (7 * g + i) % 50 for i in range(count)],
                logprobs=[-5.0 - 0.1 * i for i in range(count)],
                versions=[version] * count,
                experts=np.array(
                    [[(g + t + n) % (EXPERTS + 1) for n in range(LAYERS)] for t in range(inputs)],
                    dtype=np.uint8,
                ),
                text="x" * count,
                reward=reward,
                is_flagged=False,
                is_cut=False,
            )
        )
    prompt = Prompt((Message("user", "q"),), {"n": [1]}, "src", key)
    return Group(prompt, list(prompt_ids), tuple(rollouts))


def with_rollout(made: Group, index: int, **changes: Any) -> Group:
    """Return a group with one rollout changed."""
    rollouts = list(made.rollouts)
    rollouts[index] = replace(rollouts[index], **changes)
    return replace(made, rollouts=tuple(rollouts))
