"""Read the legacy layout: attention and expert layers alternate, experts are stored one by one.

    legacy layer 2i     (attention)   ->  the first half of layer i
    legacy layer 2i+1   (experts)     ->  the second half of layer i

Legacy applies residual scaling at the entry of the next half-layer, the current layout at the exit
of this one; the numbers are the same, their homes shift by one.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.config import FULL, SLIDING, ZayaConfig, unknown_key

_MARKS = ("zaya_mlp_expansion", "zaya_layers", "ffn_hidden_size", "ffn_hidden_size_list", "cca")
_PLAIN = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "max_position_embeddings": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "swa_rotary_base": "sliding_rope_theta",
    "partial_rotary_factor": "partial_rotary_factor",
    "rotary_percent": "partial_rotary_factor",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "skip_mode": "skip_mode",
}
_ELSEWHERE = frozenset(
    "num_hidden_layers num_attention_heads num_key_value_heads num_query_groups head_dim kv_channels "
    "cca_num_q_heads num_query_groups_list ffn_hidden_size ffn_hidden_size_list num_experts "
    "num_moe_experts zaya_mlp_expansion zaya_layers swa_layers clamp_temp cca moe_router_topk".split()
)
_IGNORED = frozenset(
    "architectures model_type dtype torch_dtype transformers_version use_cache auto_map "
    "residual_in_fp32 zaya_use_mod zaya_use_eda zaya_high_prec scale_residual_merge fused_add_norm "
    "activation_func gated_linear_unit add_bias_linear attention_bias attention_dropout "
    "lm_head_bias tie_word_embeddings sliding_window rope_scaling normalization cca_time0 "
    "cca_time1 apply_rope_fusion bias_activation_fusion activation_func_fp8_input_store "
    "initializer_range hidden_act".split()
)
_RENAMED = (
    (r"self_attn\.qkv\.linear_q\.", "self_attn.qkv_proj.q_proj."),
    (r"self_attn\.qkv\.linear_k\.", "self_attn.qkv_proj.k_proj."),
    (r"self_attn\.qkv\.val_proj1\.", "self_attn.qkv_proj.v_proj_current."),
    (r"self_attn\.qkv\.val_proj2\.", "self_attn.qkv_proj.v_proj_delayed."),
    (r"self_attn\.qkv\.conv_qk\.0\.", "self_attn.qkv_proj.conv_qk_depthwise."),
    (r"self_attn\.qkv\.conv_qk\.1\.", "self_attn.qkv_proj.conv_qk_grouped."),
    (r"self_attn\.qkv\.temp$", "self_attn.qk_norm.temp"),
    (r"self_attn\.o_proj\.", "self_attn.o_proj."),
    (r"zaya_block\.router\.rmsnorm_eda\.", "mlp.gate.router_mlp.norm."),
    (r"zaya_block\.router\.router_mlp\.0\.", "mlp.gate.router_mlp.fc1."),
    (r"zaya_block\.router\.router_mlp\.2\.", "mlp.gate.router_mlp.fc2."),
    (r"zaya_block\.router\.router_mlp\.4\.", "mlp.gate.router_mlp.out_proj."),
    (r"zaya_block\.router\.", "mlp.gate."),
)
_EXPERT = re.compile(r"zaya_block\.experts\.local_experts\.(\d+)\.linear_fc([12])\.weight$")
_LAYER = re.compile(r"layers\.(\d+)\.(.+)$")
_TEMP_LOW, _TEMP_HIGH = 1e-7, 2.0


def is_legacy(raw: Mapping[str, Any]) -> bool:
    """Tell whether a config.json describes the legacy layout."""
    return any(mark in raw for mark in _MARKS)


def read_config(raw: Mapping[str, Any]) -> ZayaConfig:
    """Return the current form of a legacy config.json.

    Both published shapes are read: single values, and per-layer lists in which layers of the other
    kind hold 0. Raises ConfigError for an unknown key, an odd number of layers or lists whose
    entries differ, which the current layout cannot express.
    """
    for key in raw:
        if key not in _PLAIN and key not in _ELSEWHERE and key not in _IGNORED:
            raise ConfigError("legacy " + unknown_key(key, set(_PLAIN) | _ELSEWHERE))
    if raw.get("moe_router_topk", 1) != 1:
        raise ConfigError(f"moe_router_topk is {raw['moe_router_topk']}; only 1 is known")
    halves = raw.get("num_hidden_layers")
    if not isinstance(halves, int) or halves < 2 or halves % 2:
        raise ConfigError(
            f"legacy num_hidden_layers is {halves!r}; expected an even number: attention and "
            "expert layers alternate"
        )
    known: dict[str, Any] = {ours: raw[key] for key, ours in _PLAIN.items() if key in raw}
    heads = _one(raw, "cca_num_q_heads", "num_attention_heads")
    known |= {
        "num_hidden_layers": halves // 2,
        "num_attention_heads": heads,
        "num_key_value_heads": _one(
            raw, "num_query_groups_list", "num_query_groups", "num_key_value_heads"
        ),
        "moe_intermediate_size": _one(raw, "ffn_hidden_size_list", "ffn_hidden_size") // 2,
        "router_hidden_size": _one(raw, "zaya_mlp_expansion"),
        "num_experts": _one(raw, "num_experts", "num_moe_experts", "zaya_layers"),
    }
    known["head_dim"] = raw.get("head_dim") or raw.get("kv_channels") or 128
    return ZayaConfig(**known, **_read_sliding(raw, halves))


def _one(raw: Mapping[str, Any], *keys: str) -> int:
    """Return the value of the first key that is there; lists must agree where they are not 0."""
    for key in keys:
        value = raw.get(key)
        if isinstance(value, int):
            return value
        if isinstance(value, list):
            found = {x for x in value if isinstance(x, int) and x > 0}
            if len(found) == 1:
                return int(found.pop())
            raise ConfigError(
                f"legacy {key} holds the values {sorted(found)}; the current layout needs one "
                "value for all layers"
            )
    raise ConfigError(f"the legacy config has none of {', '.join(keys)}; add one")


def _read_sliding(raw: Mapping[str, Any], halves: int) -> dict[str, Any]:
    """Return layer types and window; legacy counts the tokens before the current one."""
    windows = raw.get("swa_layers")
    if not windows:
        return {}
    if not isinstance(windows, list) or len(windows) not in (halves, halves // 2):
        raise ConfigError(
            f"legacy swa_layers is {windows!r}; expected one window per layer ({halves})"
        )
    used = windows[::2] if len(windows) == halves else windows
    sizes = {w for w in used if w}
    if len(sizes) > 1:
        raise ConfigError(f"legacy swa_layers has windows {sorted(sizes)}; only one is expressible")
    types = tuple(SLIDING if w else FULL for w in used)
    return {"layer_types": types, "sliding_window": sizes.pop() + 1 if sizes else None}


def convert(
    tensors: Iterator[tuple[str, Tensor]], config: ZayaConfig, *, clamp_temp: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Yield current names and tensors; a layer's experts come as soon as all of them were seen.

    `clamp_temp` is the legacy flag by which the key temperature is exp(clamp(T, 1e-7, 2)).
    Raises CheckpointError for names that the legacy layout does not have.
    """
    stacks: dict[str, list[Tensor | None]] = {}
    for stored_name, tensor in tensors:
        name = stored_name.removeprefix("model.")
        match = _LAYER.match(name)
        if match is None:
            yield _outer_name(name, config), tensor
            continue
        half, rest = int(match[1]), match[2]
        expert = _EXPERT.match(rest)
        if expert is None:
            current = _inner_name(half, rest, stored_name)
            is_temp = clamp_temp and current.endswith("qk_norm.temp")
            yield current, (tensor.clamp(_TEMP_LOW, _TEMP_HIGH).exp() if is_temp else tensor)
            continue
        leaf = "gate_up_proj" if expert[2] == "1" else "down_proj"
        target = f"layers.{half // 2}.mlp.experts.{leaf}"
        stack = stacks.setdefault(target, [None] * config.num_experts)
        index = int(expert[1])
        if index >= config.num_experts:
            raise CheckpointError(
                f"{stored_name!r} names expert {index}, the config has {config.num_experts}; the "
                "files do not belong together"
            )
        stack[index] = tensor
        whole = [member for member in stack if member is not None]
        if len(whole) == config.num_experts:
            del stacks[target]
            yield target, torch.stack(whole)
    if stacks:
        target, stack = next(iter(stacks.items()))
        gone = [i for i, member in enumerate(stack) if member is None]
        raise CheckpointError(f"{target} lacks experts {gone[:4]}; download the folder again")


def _outer_name(name: str, config: ZayaConfig) -> str:
    if name.startswith("res_scale."):
        last = config.num_hidden_layers - 1
        return f"layers.{last}.post_mlp_residual_scale.{name.removeprefix('res_scale.')}"
    return re.sub(r"^final_norm\.", "norm.", name)


def _inner_name(half: int, rest: str, stored_name: str) -> str:
    layer, is_experts = divmod(half, 2)
    if rest.startswith("input_norm."):
        norm = "post_attention_layernorm" if is_experts else "input_layernorm"
        return f"layers.{layer}.{norm}.{rest.removeprefix('input_norm.')}"
    if rest.startswith("res_scale."):
        leaf = rest.removeprefix("res_scale.")
        if half == 0:
            return f"input_{leaf}"
        if is_experts:
            return f"layers.{layer}.post_attention_residual_scale.{leaf}"
        return f"layers.{layer - 1}.post_mlp_residual_scale.{leaf}"
    for pattern, replacement in _RENAMED:
        if re.match(pattern, rest):
            return f"layers.{layer}." + re.sub(pattern, replacement, rest, count=1)
    raise CheckpointError(
        f"{stored_name!r} is not a name of the legacy layout; expected names such as "
        "layers.0.self_attn.qkv.linear_q.weight"
    )
