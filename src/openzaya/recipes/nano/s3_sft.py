"""SFT: whole traces, and aggregation examples with 1 to 4 candidates from the first token on.

Paper: IV-A, table III (131K context), VI-B(a).
"""

from openzaya.recipes.nano.corpus import CorpusConfig
from openzaya.recipes.nano.s1_pretrain import BALANCE, OPTIM
from openzaya.recipes.nano.settings import TOKENS_PER_STEP, SupervisedStage
from openzaya.train.stages import StageConfig


def stage() -> SupervisedStage:
    """Return the third stage."""
    return SupervisedStage(
        corpus=CorpusConfig(
            trace_tokens=2_080_000,
            aggregation_tokens=1_150_000,
            fact_tokens=50_000,
            hard_share=0.6,
        ),
        train=StageConfig(
            name="sft",
            steps=400,
            tokens_per_step=TOKENS_PER_STEP,
            context_tokens=512,
            rope_theta=10_000.0,
            decay_fraction=0.5,
            final_fraction=0.05,
            optim=OPTIM,
            balance=BALANCE,
            checkpoint_every_steps=40,
        ),
    )
