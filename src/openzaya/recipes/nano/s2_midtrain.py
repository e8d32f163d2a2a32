"""Midtraining: a longer context, hence longer traces, and nearly only traces.

Paper: III, table II (32K context, 86.1% long-CoT).
"""

from openzaya.recipes.nano.corpus import CorpusConfig
from openzaya.recipes.nano.s1_pretrain import BALANCE, OPTIM
from openzaya.recipes.nano.settings import TOKENS_PER_STEP, SupervisedStage
from openzaya.train.stages import StageConfig


def stage() -> SupervisedStage:
    """Return the second stage."""
    return SupervisedStage(
        corpus=CorpusConfig(trace_tokens=760_000, fact_tokens=80_000, hard_share=0.5),
        train=StageConfig(
            name="midtrain",
            steps=96,
            tokens_per_step=TOKENS_PER_STEP,
            context_tokens=192,
            rope_theta=10_000.0,
            decay_fraction=0.0,
            optim=OPTIM,
            balance=BALANCE,
            checkpoint_every_steps=40,
        ),
    )
