"""The model shapes that recipes and tests name."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import unknown_key

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "nano": {
        "vocab_size": 384,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 128,
        "num_experts": 8,
        "router_hidden_size": 32,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 4_096,
    },
    "xs": {
        "vocab_size": 4_096,
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 128,
        "num_experts": 8,
        "router_hidden_size": 32,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 8_192,
    },
    "s": {
        "vocab_size": 32_000,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 512,
        "num_experts": 16,
        "router_hidden_size": 256,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 8_192,
    },
    "m": {
        "vocab_size": 24_576,
        "hidden_size": 1_024,
        "num_hidden_layers": 9,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "moe_intermediate_size": 1_024,
        "num_experts": 16,
        "router_hidden_size": 256,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 32_768,
    },
    "zaya1-8b": {},
}
"""Differences from the defaults of `ZayaConfig`, by preset name."""


def preset(name: str, **changes: Any) -> ZayaConfig:
    """Return the config of a preset with some fields changed.

    Raises ConfigError for a preset or a field that does not exist, with a suggestion.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known presets: {', '.join(PRESETS)}"
        raise ConfigError(f"no model preset is called {name!r}; {hint}")
    known = {field.name for field in fields(ZayaConfig)}
    for key in changes:
        if key not in known:
            raise ConfigError(unknown_key(key, known))
    return ZayaConfig(**{**PRESETS[name], **changes})
