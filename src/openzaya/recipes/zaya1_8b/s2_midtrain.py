"""Midtraining at 32K: mostly long chains of thought, each document on two ranks.

Paper: III, table II (32K context, rotary base 1M, 1.2T tokens).
"""

from dataclasses import replace

from openzaya.recipes.zaya1_8b.settings import Phase, stage

MIXTURE = {
    "long_cot": 86.1,
    "web": 5.7,
    "natively_long": 0.8,
    "code": 3.0,
    "math_stem": 3.0,
    "short_instruction": 1.4,
}
"""Percent of tokens.

Paper: III, table II.
"""


def phase() -> Phase:
    """Return midtraining: 1.2T tokens.

    Paper: III, table II; III-A (AP-trimming to 32K); IV-A (context parallelism over 2 ranks).
    Deviation: D-040 (200 steps of warm-up, then a linear decay to a tenth of the peak).
    """
    train = stage("midtrain", 1_200_000_000_000, 32_768, 1_000_000.0)
    return Phase(
        train=replace(train, warmup_steps=200, decay_fraction=1.0, final_fraction=0.1),
        kinds=tuple(MIXTURE),
        mixture=dict(MIXTURE),
        context_parallel=2,
    )
