"""Pretraining in two phases at 4K: broad data first, then more code, mathematics and reasoning.

Paper: III, table II (4K context, rotary base 10K, 8T and 4T tokens).
"""

from dataclasses import replace

from openzaya.recipes.zaya1_8b.settings import Phase, stage

CONTEXT_TOKENS = 4_096
"""Paper: table II (4K)."""
ROPE_THETA = 10_000.0
"""Paper: table II (10K)."""


def phase_1() -> Phase:
    """Return the first phase: 8T tokens; the shares of its data are not published.

    Paper: III, table II.
    Deviation: D-040 (2,000 steps of warm-up, then flat).
    """
    train = stage("pretrain1", 8_000_000_000_000, CONTEXT_TOKENS, ROPE_THETA)
    return Phase(
        train=replace(train, warmup_steps=2_000),
        kinds=("web", "code", "math", "multilingual", "long_cot"),
    )


def phase_2() -> Phase:
    """Return the second phase: 4T tokens; the shares of its data are not published.

    It goes on at the peak rate. `train.loop` would start its optimizer fresh, as for every stage.

    Paper: III, table II.
    Deviation: D-040 (no warm-up, flat).
    """
    return Phase(
        train=stage("pretrain2", 4_000_000_000_000, CONTEXT_TOKENS, ROPE_THETA),
        kinds=("web", "code", "math", "multilingual", "long_cot", "reasoning", "instruction"),
    )
