"""The legacy layout: attention and experts as alternating layers, one tensor per expert.

A legacy layer scales the residual stream at the entry of the next half layer, a current one at its
own exit, so the scales move by half a layer; the first half layer has no residual to scale.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import FULL, SLIDING

_SCALES = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
_ATTENTION: Mapping[str, str] = {
    "qkv_proj.q_proj.weight": "qkv.linear_q.weight",
    "qkv_proj.k_proj.weight": "qkv.linear_k.weight",
    "qkv_proj.v_proj_current.weight": "qkv.val_proj1.weight",
    "qkv_proj.v_proj_delayed.weight": "qkv.val_proj2.weight",
    "qkv_proj.conv_qk_depthwise.weight": "qkv.conv_qk.0.weight",
    "qkv_proj.conv_qk_depthwise.bias": "qkv.conv_qk.0.bias",
    "qkv_proj.conv_qk_grouped.weight": "qkv.conv_qk.1.weight",
    "qkv_proj.conv_qk_grouped.bias": "qkv.conv_qk.1.bias",
    "qk_norm.temp": "qkv.temp",
    "o_proj.weight": "o_proj.weight",
}
_ROUTER: Mapping[str, str] = {
    "down_proj.weight": "down_proj.weight",
    "down_proj.bias": "down_proj.bias",
    "router_states_scale": "router_states_scale",
    "router_mlp.norm.weight": "rmsnorm_eda.weight",
    "router_mlp.fc1.weight": "router_mlp.0.weight",
    "router_mlp.fc1.bias": "router_mlp.0.bias",
    "router_mlp.fc2.weight": "router_mlp.2.weight",
    "router_mlp.fc2.bias": "router_mlp.2.bias",
    "router_mlp.out_proj.weight": "router_mlp.4.weight",
    "balancing_biases": "balancing_biases",
}
_LEGACY_KEYS = frozenset(
    [
        "cca",
        "zaya_mlp_expansion",
        "zaya_layers",
        "cca_num_q_heads",
        "num_query_groups_list",
        "ffn_hidden_size",
        "ffn_hidden_size_list",
        "zaya_use_mod",
        "zaya_use_eda",
        "norm_epsilon",
        "swa_layers",
    ]
)


def is_legacy(raw: Mapping[str, Any], names: set[str]) -> bool:
    """Tell whether a config and its tensor names are of the legacy layout."""
    return bool(_LEGACY_KEYS & set(raw)) or any(".zaya_block." in name for name in names)


def legacy_names(config: ZayaConfig) -> dict[str, tuple[str, ...]]:
    """Return the legacy tensor of every current one; several mean a stack over experts."""
    out: dict[str, tuple[str, ...]] = {
        "model.embed_tokens.weight": ("model.embed_tokens.weight",),
        "model.norm.weight": ("model.final_norm.weight",),
        "model.input_hidden_states_scale": ("model.layers.0.res_scale.hidden_states_scale",),
        "model.input_hidden_states_bias": ("model.layers.0.res_scale.hidden_states_bias",),
    }
    for layer in range(config.num_hidden_layers):
        new, attention, experts = (
            f"model.layers.{number}" for number in (layer, 2 * layer, 2 * layer + 1)
        )
        last = layer == config.num_hidden_layers - 1
        after = "model.res_scale" if last else f"model.layers.{2 * layer + 2}.res_scale"
        out[f"{new}.input_layernorm.weight"] = (f"{attention}.input_norm.weight",)
        out[f"{new}.post_attention_layernorm.weight"] = (f"{experts}.input_norm.weight",)
        for part in _SCALES:
            out[f"{new}.post_attention_residual_scale.{part}"] = (f"{experts}.res_scale.{part}",)
            out[f"{new}.post_mlp_residual_scale.{part}"] = (f"{after}.{part}",)
        for name, old in _ATTENTION.items():
            out[f"{new}.self_attn.{name}"] = (f"{attention}.self_attn.{old}",)
        for name, old in _ROUTER.items():
            if layer or name != "router_states_scale":
                out[f"{new}.mlp.gate.{name}"] = (f"{experts}.zaya_block.router.{old}",)
        each = f"{experts}.zaya_block.experts.local_experts"
        for name, old in (("gate_up_proj", "linear_fc1"), ("down_proj", "linear_fc2")):
            out[f"{new}.mlp.experts.{name}"] = tuple(
                f"{each}.{expert}.{old}.weight" for expert in range(config.num_experts)
            )
    return out


def needs_exponential(raw: Mapping[str, Any]) -> bool:
    """Tell whether the stored key temperatures are logarithms, as `clamp_temp` says."""
    return bool(raw.get("clamp_temp", False))


def legacy_config(raw: Mapping[str, Any]) -> ZayaConfig:
    """Translate a legacy config, with numbers or with one number per layer.

    Raises ConfigError for a model whose layers differ in shape or that lacks the skip class or
    the depth average.
    """
    for key in ("zaya_use_mod", "zaya_use_eda", "tie_word_embeddings"):
        if not raw.get(key, True):
            raise ConfigError(f"legacy config has {key} = {raw[key]!r}; only true is known")
    for key in ("attention_bias", "lm_head_bias", "add_bias_linear"):
        if raw.get(key, False):
            raise ConfigError(f"legacy config has {key} = {raw[key]!r}; only false is known")
    if raw.get("moe_router_topk", 1) != 1:
        raise ConfigError(
            f"legacy config has moe_router_topk = {raw['moe_router_topk']}; only 1 is known"
        )
    halves = raw.get("zaya_layers") or []
    count = len(halves) or int(_need(raw, "num_hidden_layers"))
    if count % 2:
        raise ConfigError(f"legacy config has {count} layers; expected attention, expert pairs")
    experts = set(halves[1::2]) or {_need(raw, "num_experts")}
    if len(experts) != 1 or any(entry != "a" for entry in halves[0::2]):
        raise ConfigError(
            f"zaya_layers is {list(halves)[:6]}...; expected 'a' and one number in turn"
        )
    window, types = _sliding(raw, count)
    defaults = ZayaConfig()
    theta = raw.get("rope_theta", raw.get("rotary_base", defaults.rope_theta))
    eos = raw.get("eos_token_id", defaults.eos_token_id)
    return ZayaConfig(
        vocab_size=_need(raw, "vocab_size"),
        hidden_size=_need(raw, "hidden_size"),
        num_hidden_layers=count // 2,
        num_attention_heads=_per_layer(raw, "cca_num_q_heads", "num_attention_heads"),
        num_key_value_heads=_kv_heads(raw),
        head_dim=raw.get("head_dim") or raw.get("kv_channels") or defaults.head_dim,
        moe_intermediate_size=_per_layer(raw, "ffn_hidden_size_list", "ffn_hidden_size") // 2,
        num_experts=experts.pop(),
        router_hidden_size=_per_layer(raw, "zaya_mlp_expansion", "zaya_mlp_expansion"),
        layer_types=types,
        sliding_window=window,
        rope_theta=float(theta),
        sliding_rope_theta=float(raw.get("swa_rotary_base") or defaults.sliding_rope_theta),
        partial_rotary_factor=raw.get("partial_rotary_factor", raw.get("rope_pct", 0.5)),
        max_position_embeddings=raw.get(
            "max_position_embeddings", defaults.max_position_embeddings
        ),
        rms_norm_eps=raw.get("norm_epsilon", defaults.rms_norm_eps),
        pad_token_id=raw.get("pad_token_id", defaults.pad_token_id),
        bos_token_id=raw.get("bos_token_id", defaults.bos_token_id),
        eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
    )


def to_legacy(config: ZayaConfig) -> dict[str, Any]:
    """Return the legacy config of a model, with numbers instead of per-layer lists.

    Raises ConfigError for a window that it cannot say.
    """
    if SLIDING in config.layer_types and config.sliding_window == 1:
        raise ConfigError(
            "sliding_window is 1; the legacy layout counts the tokens before the current one, and "
            "0 of them means a layer without a window: keep the native layout"
        )
    swa = [0] * (2 * config.num_hidden_layers)
    for layer, kind in enumerate(config.layer_types):
        if kind == SLIDING and config.sliding_window is not None:
            # Legacy counts the tokens before the current one.
            swa[2 * layer] = config.sliding_window - 1
    eos = config.eos_token_id
    return {
        "architectures": ["ZayaForCausalLM"],
        "model_type": "zaya",
        "cca": True,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": 2 * config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_query_groups": config.num_key_value_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "ffn_hidden_size": 2 * config.moe_intermediate_size,
        "num_experts": config.num_experts,
        "moe_router_topk": 1,
        "zaya_mlp_expansion": config.router_hidden_size,
        "zaya_use_mod": True,
        "zaya_use_eda": True,
        "zaya_high_prec": True,
        "residual_in_fp32": True,
        "scale_residual_merge": True,
        "clamp_temp": False,
        "activation_func": "swiglu",
        "gated_linear_unit": True,
        "norm_epsilon": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "swa_layers": swa if SLIDING in config.layer_types else None,
        "swa_rotary_base": config.sliding_rope_theta,
        "partial_rotary_factor": config.partial_rotary_factor,
        "max_position_embeddings": config.max_position_embeddings,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "lm_head_bias": False,
        "add_bias_linear": False,
    }


def _need(raw: Mapping[str, Any], key: str) -> Any:
    if raw.get(key) is None:
        raise ConfigError(f"legacy config has no {key}; it cannot be translated without it")
    return raw[key]


def _per_layer(raw: Mapping[str, Any], listed: str, single: str) -> int:
    """Return the one non-zero number of a per-layer list, or the plain number."""
    value = raw.get(listed)
    if value is None:
        value = _need(raw, single)
    if not isinstance(value, Sequence):
        return int(value)
    found = sorted({int(entry) for entry in value if entry})
    if len(found) != 1:
        raise ConfigError(f"legacy config has {listed} with values {found}; expected one value")
    return found[0]


def _kv_heads(raw: Mapping[str, Any]) -> int:
    for key in ("num_query_groups_list", "num_query_groups", "num_key_value_heads"):
        if raw.get(key) is not None:
            return _per_layer(raw, key, key)
    return _per_layer(raw, "num_query_groups", "num_query_groups")


def _sliding(raw: Mapping[str, Any], count: int) -> tuple[int | None, tuple[str, ...]]:
    """Return the window, the current token included, and the layer types."""
    windows = list(raw.get("swa_layers") or [])[:count]
    if not any(windows):
        return None, ()
    attention = windows[0::2] if len(windows) == count else windows
    sizes = sorted({int(size) for size in attention if size})
    if len(attention) != count // 2 or len(sizes) != 1:
        raise ConfigError(
            f"swa_layers has {len(windows)} entries with windows {sizes}; expected one entry per "
            f"layer ({count}) and one window"
        )
    return sizes[0] + 1, tuple(SLIDING if size else FULL for size in attention)
