"""Named settings of the paper, and one for the bundled model."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from openzaya.core.errors import ConfigError
from openzaya.ttc.config import MarkovianRSAConfig

FINAL_RESPONSE_TOKENS = 40_960
"""The paper's budget of a final response, used by every preset of the paper."""


def _paper(config: MarkovianRSAConfig) -> MarkovianRSAConfig:
    final_budget = max(config.budget_tokens, FINAL_RESPONSE_TOKENS)
    return replace(config, final_budget_tokens=final_budget)


NANO = MarkovianRSAConfig(
    num_candidates=8, tails_per_prompt=4, rounds=1, budget_tokens=320, tail_tokens=48
)
"""For the bundled nano model, whose traces are some hundred tokens long."""

presets: Mapping[str, MarkovianRSAConfig] = MappingProxyType(
    {
        "16k": _paper(MarkovianRSAConfig(budget_tokens=16_384)),
        "40k": _paper(MarkovianRSAConfig()),
        "40k-8k": _paper(MarkovianRSAConfig(tail_tokens=8_192)),
        "light": _paper(MarkovianRSAConfig(budget_tokens=8_192)),
        "high": _paper(MarkovianRSAConfig(rounds=8, budget_tokens=16_384)),
        "extra-high": _paper(MarkovianRSAConfig(rounds=8, num_candidates=32, budget_tokens=32_768)),
        "delethink": _paper(MarkovianRSAConfig(rounds=4, tails_per_prompt=1, budget_tokens=8_192)),
        "single": _paper(MarkovianRSAConfig(rounds=0, num_candidates=1, tails_per_prompt=1)),
        "nano": NANO,
    }
)
"""Named settings of the paper, and `nano` for the bundled model; the first is recommended."""

DEFAULT_PRESET = "16k"
"""The paper's recommended deployment; `light` is a latency preset that can lose to one rollout."""


def preset(name: str) -> MarkovianRSAConfig:
    """Return a preset by name; `ConfigError` with the nearest name when there is none."""
    if name in presets:
        return presets[name]
    near = difflib.get_close_matches(name, presets, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known presets: {', '.join(presets)}"
    raise ConfigError(f"there is no preset {name!r}; {hint}")
