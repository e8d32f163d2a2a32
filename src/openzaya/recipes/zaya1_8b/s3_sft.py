"""SFT at 131K: chat, tools and aggregation examples, each document on eight ranks.

Paper: IV-A, table III (131K context, rotary base 5M, 660B tokens); VI-B(a).
"""

from dataclasses import replace

from openzaya.recipes.zaya1_8b.settings import Phase, stage

MIXTURE = {
    "long_cot": 75.0,
    "web": 9.8,
    "natively_long": 6.4,
    "code": 5.0,
    "math_stem": 2.6,
    "short_instruction": 1.2,
}
"""Percent of tokens.

Paper: IV-A, table III.
"""


def phase() -> Phase:
    """Return SFT: 660B tokens.

    Paper: IV-A, table III (context parallelism over 8 ranks).
    Deviation: D-040 (a tenth of the peak rate, 200 steps of warm-up, decay over the last fifth).
    """
    train = stage("sft", 660_000_000_000, 131_072, 5_000_000.0, peak_share=0.1)
    return Phase(
        train=replace(train, warmup_steps=200, decay_fraction=0.2),
        kinds=tuple(MIXTURE),
        mixture=dict(MIXTURE),
        context_parallel=8,
    )
