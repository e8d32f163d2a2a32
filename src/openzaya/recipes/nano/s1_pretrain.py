"""Pretraining: the shortest context, so most traces are trimmed; facts beside traces.

Paper: III, table II (4K context, rotary base 10K).
"""

from openzaya.model.balance import BalanceConfig
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.recipes.nano.corpus import CorpusConfig
from openzaya.recipes.nano.settings import TOKENS_PER_STEP, SupervisedStage
from openzaya.train.stages import StageConfig

OPTIM = OptimConfig(muon=MuonConfig(lr=0.015, weight_decay=0.0, router_rate=0.3), lr_adamw=0.004)
"""Peak rates of all supervised stages, found at this size. Deviation: D-008, D-047."""
BALANCE = BalanceConfig(method="distance")
"""A stage has hundreds of steps, not hundreds of thousands, in which no fixed rate keeps up with
the routers: docs/lab_log.md. Deviation: D-044."""


def stage() -> SupervisedStage:
    """Return the first stage."""
    return SupervisedStage(
        corpus=CorpusConfig(trace_tokens=1_000_000, fact_tokens=200_000, hard_share=0.3),
        train=StageConfig(
            name="pretrain",
            steps=144,
            tokens_per_step=TOKENS_PER_STEP,
            context_tokens=96,
            rope_theta=10_000.0,
            warmup_steps=30,
            decay_fraction=0.0,
            optim=OPTIM,
            balance=BALANCE,
            checkpoint_every_steps=40,
        ),
    )
