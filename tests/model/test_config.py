"""A config says what the model is, and refuses what it is not."""

from typing import Any

import pytest
import torch
from model.tiny import MIXED, tiny_config

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.zaya import Zaya


@pytest.mark.parametrize(
    "changes",
    [{}, MIXED, {"skip_mode": "identity", "eos_token_id": (1, 60)}, {"eos_token_id": None}],
)
def test_what_is_written_is_read_back(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    assert ZayaConfig.from_hf(config.to_hf()) == config


def test_transformers_reads_the_same_shape() -> None:
    from transformers import ZayaConfig as HfConfig

    raw = tiny_config(**MIXED).to_hf()
    reference = HfConfig(**{k: v for k, v in raw.items() if k != "architectures"})
    assert ZayaConfig.from_hf(reference.to_dict()) == tiny_config(**MIXED)


def test_the_stray_rope_type_of_the_released_config_is_dropped() -> None:
    raw = tiny_config().to_hf()
    raw["rope_parameters"]["rope_type"] = "default"
    assert ZayaConfig.from_hf(raw) == tiny_config()


def test_keys_that_do_not_change_the_arithmetic_are_accepted() -> None:
    raw = tiny_config().to_hf() | {
        "torch_dtype": "bfloat16",
        "transformers_version": "5.0",
        "use_cache": False,
        "initializer_range": 0.5,
        "output_router_logits": True,
        "auto_map": {"AutoModel": "evil.Code"},
    }
    config = ZayaConfig.from_hf(raw)
    assert config == tiny_config()
    assert "auto_map" not in config.to_hf()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_expert", 4, r"no key 'num_expert'; did you mean 'num_experts'"),
        ("hidden_act", "gelu", r"'hidden_act' is 'gelu'; this model needs 'silu'"),
        ("num_experts_per_tok", 2, r"'num_experts_per_tok' is 2"),
        ("attention_dropout", 0.1, r"'attention_dropout' is 0.1"),
        ("cca_time0", 4, r"'cca_time0' is 4"),
        ("tie_word_embeddings", False, r"'tie_word_embeddings' is False"),
        ("model_type", "llama", r"'model_type' is 'llama'"),
        ("rope_parameters", {"hybrid": {"rope_type": "yarn", "rope_theta": 1.0}}, r"yarn"),
        ("rope_parameters", {"full": {"rope_theta": 1.0}}, r"rope_parameters has 'full'"),
        ("rope_parameters", {"hybrid": {}}, r"has no rope_theta"),
        ("layer_types", ["hybrid", "full", "hybrid"], r"layer_types\[1\] is 'full'"),
        ("layer_types", ["hybrid"], r"names 1 layers, but num_hidden_layers is 3"),
        ("layer_types", ["hybrid_sliding"] * 3, r"sliding_window is None"),
    ],
)
def test_a_config_we_cannot_honor_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ZayaConfig.from_hf(tiny_config().to_hf() | {key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, r"hidden_size is 0; it must be a whole number from 1 to 1048576"),
        ({"head_dim": 10**400}, r"head_dim is 10{39}; it must be a whole number"),
        ({"num_hidden_layers": 10**30, "layer_types": ()}, r"num_hidden_layers is 10{30};"),
        ({"max_position_embeddings": 2**32}, r"max_position_embeddings is 4294967296;"),
        ({"num_experts": True}, r"num_experts is True"),
        ({"num_attention_heads": 3}, r"num_key_value_heads = 2 does not divide"),
        ({"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 3}, r"must be even"),
        ({"partial_rotary_factor": 0.4}, r"rotates 3 of head_dim = 8"),
        ({"partial_rotary_factor": 1.5}, r"choose a factor in \[0, 1\]"),
        ({"skip_mode": "none"}, r"choose 'zero' or 'identity'"),
        ({"precision": "fp32"}, r"choose 'hf' or 'paper'"),
        ({"rope_theta": 0.0}, r"rope_theta is 0.0"),
        ({"pad_token_id": "0"}, r"pad_token_id is '0'; it must be a token's number or null"),
        ({"eos_token_id": "1"}, r"eos_token_id is '1'; it must be the number of a token, a list"),
        ({"eos_token_id": 1.0}, r"eos_token_id is 1.0"),
        ({"eos_token_id": True}, r"eos_token_id is True"),
        ({"eos_token_id": -1}, r"eos_token_id is -1"),
        ({"eos_token_id": (1, None)}, r"eos_token_id is \(1, None\)"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_rotary_bases_change_by_layer_type() -> None:
    with torch.device("meta"):
        model = Zaya(tiny_config(**MIXED))
    model.set_rope_theta({"hybrid": 500.0})
    assert model.rope_thetas == {"hybrid": 500.0, "hybrid_sliding": 10.0}
    model.set_rope_theta(7.0)
    assert model.rope_thetas == {"hybrid": 7.0, "hybrid_sliding": 7.0}
    with pytest.raises(ConfigError, match="must be > 0"):
        model.set_rope_theta(0.0)
    with torch.device("meta"):
        plain = Zaya(tiny_config())
    with pytest.raises(ConfigError, match="no 'hybrid_sliding' layers"):
        plain.set_rope_theta({"hybrid_sliding": 5.0})
