"""Which keys of a Hugging Face `zaya` config mean something to us, and what they may say."""

import difflib
from collections.abc import Mapping
from typing import Any

from openzaya.core.errors import ConfigError

FULL = "hybrid"
"""Layer type with full causal attention."""
SLIDING = "hybrid_sliding"
"""Layer type whose attention sees `sliding_window` tokens, the current one included."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("zaya",),
    "hidden_act": ("silu",),
    "num_experts_per_tok": (1,),
    "cca_time0": (2,),
    "cca_time1": (2,),
    "attention_bias": (False,),
    "lm_head_bias": (False,),
    "attention_dropout": (0, 0.0),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (False, None),
}
"""Keys of the Hugging Face config that have one meaning here, with the values we accept."""

IGNORED = frozenset(
    {
        "_attn_implementation",
        "_experts_implementation",
        "_name_or_path",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that say nothing about the arithmetic of our forward pass."""


def unknown_key(key: str, known: set[str]) -> str:
    """Return the message for a config key that is not in `known`, with a suggestion."""
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"config has no key {key!r}; {hint}"


def read_rope(value: Any) -> dict[str, Any]:
    """Return our rotary fields from the nested table; raises ConfigError for an unknown kind."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"rope_parameters is {value!r}; it must be a table per layer type")
    known: dict[str, Any] = {}
    factors: set[float] = set()
    for kind, table in value.items():
        if kind == "rope_type":
            continue
        if kind not in (FULL, SLIDING) or not isinstance(table, Mapping):
            raise ConfigError(
                f"rope_parameters has {kind!r}: {table!r}; expected a table under {FULL!r} and, "
                f"for sliding layers, {SLIDING!r}"
            )
        extra = set(table) - {"rope_type", "rope_theta", "partial_rotary_factor"}
        if extra or table.get("rope_type", "default") != "default":
            raise ConfigError(
                f"rope_parameters[{kind!r}] is {dict(table)!r}; only rope_type 'default' with "
                "rope_theta and partial_rotary_factor is known"
            )
        if "rope_theta" not in table:
            raise ConfigError(f"rope_parameters[{kind!r}] has no rope_theta; add it")
        known["rope_theta" if kind == FULL else "sliding_rope_theta"] = float(table["rope_theta"])
        factors.add(float(table.get("partial_rotary_factor", 1.0)))
    if len(factors) > 1:
        raise ConfigError(
            f"rope_parameters has partial_rotary_factor {sorted(factors)}; all layer types must "
            "rotate the same share of channels"
        )
    return known | ({"partial_rotary_factor": factors.pop()} if factors else {})
