"""RL, the first stage of the cascade in small: the harder level and self-aggregation prompts.

Paper: IV-B (MaxRL, DPPO, SMTSN, canary), IV-C(a) (router replay), IV-E (momentum-free Muon),
VI-B(b) (self-aggregation prompts).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random

from openzaya.core.records import Message, Verdict
from openzaya.core.seeding import stream
from openzaya.envs import catalog
from openzaya.envs.base import Problem
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.recipes.nano.tasks import draw_training
from openzaya.rl.config import Prompt, RLConfig
from openzaya.rl.spine import LengthRewardConfig
from openzaya.rl.tails import TailEntry, TailPool
from openzaya.text.tails import aggregation_messages


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoRL:
    """The RL stage and where its prompts come from."""

    train: RLConfig
    """Pipeline, objective, optimizer."""
    hard_share: float = 0.85
    """Share of plain prompts from the harder level."""
    aggregation_share: float = 0.3
    """Share of prompts with tails of the policy's own earlier rollouts, once there are some."""
    max_candidates: int = 4
    """C is drawn from 1..max_candidates."""
    tail_tokens: int = 48
    """tau, as in the nano preset of Markovian RSA."""


def stage() -> NanoRL:
    """Return the last stage."""
    return NanoRL(
        train=RLConfig(
            name="rl",
            steps=60,
            prompts_per_step=40,
            group_size=8,
            max_response_tokens=320,
            max_oversampling=1.0,
            sync_every=1,
            min_groups=6,
            micro_tokens=16_384,
            length_norm=320.0,
            length_reward=LengthRewardConfig(coefficient=0.0, max_tokens=320),
            optim=OptimConfig(
                muon=MuonConfig(lr=0.0015, momentum=None, weight_decay=0.0), lr_adamw=5e-4
            ),
            checkpoint_every_steps=10,
            slots=320,
            context_tokens=768,
            pool_size=512,
        )
    )


class NanoPrompts:
    """Draws the prompts of a step: a pure function of the step and of the pool."""

    def __init__(self, config: NanoRL, seed: int) -> None:
        """Keep the settings."""
        self.config = config
        self.seed = seed

    def __call__(self, step: int, attempt: int, pool: TailPool) -> Sequence[Prompt]:
        """Return a batch of plain and self-aggregation prompts."""
        rng = stream(self.seed, "prompts", step, attempt)
        keys = list(pool.entries)
        prompts = []
        for i in range(self.config.train.prompts_per_step):
            if keys and rng.random() < self.config.aggregation_share:
                entry = pool.entries[rng.choice(keys)]
                prompts.append(self._aggregation(rng, entry, f"{step}.{attempt}.{i}"))
            else:
                prompts.append(self._plain(rng, f"{step}.{attempt}.{i}"))
        return prompts

    def _plain(self, rng: Random, key: str) -> Prompt:
        item = draw_training(rng, self.config.hard_share)
        payload = {"env": item.env.name, "problem": asdict(item.problem)}
        return Prompt((Message("user", item.problem.prompt),), payload, item.env.name, key)

    def _aggregation(self, rng: Random, entry: TailEntry, key: str) -> Prompt:
        count = min(rng.randint(1, self.config.max_candidates), len(entry.tails))
        messages = aggregation_messages(entry.question, rng.sample(entry.tails, count))
        return Prompt(messages, entry.payload, "aggregation", key, keeps_tails=False)


def score(prompt: Prompt, text: str) -> Verdict:
    """Judge a rollout by the environment that made the problem."""
    env = catalog.get(prompt.payload["env"])
    return env.score(Problem(**prompt.payload["problem"]), text)
