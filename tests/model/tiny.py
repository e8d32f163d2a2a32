"""Small models with every parameter away from its starting value, and their reference."""

from typing import Any

import torch
from torch import Tensor

from openzaya.model.cache import Cache
from openzaya.model.config import ZayaConfig
from openzaya.model.zaya import Zaya

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "router_hidden_size": 12,
    "rope_theta": 100.0,
    "sliding_rope_theta": 10.0,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
}
MIXED: dict[str, Any] = {
    "layer_types": ("hybrid", "hybrid_sliding", "hybrid"),
    "sliding_window": 4,
}


def tiny_config(**changes: Any) -> ZayaConfig:
    """Return a config of a model that runs in a millisecond."""
    return ZayaConfig(**{**SIZES, **changes})


@torch.no_grad()
def train(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter and balancing bias a random value, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor, scale: float) -> Tensor:
        return torch.randn(x.shape, generator=generator) * scale

    for name, x in sorted(model.named_parameters()):
        name = name.removeprefix("model.")
        if name.endswith("temp"):
            x.copy_(0.7 + torch.rand(x.shape, generator=generator))
        elif x.ndim == 1:
            one = name.endswith(("scale", "norm.weight", "layernorm.weight"))
            x.copy_(noise(x, 0.2) + (1.0 if one else 0.0))
        elif name == "embed_tokens.weight":
            x.copy_(noise(x, 0.5))
        else:
            fan_in = x.shape[1:].numel() if ".experts." not in name else x.shape[-1]
            x.copy_(noise(x, 1.5 / fan_in**0.5))
    for name, x in sorted(model.named_buffers()):
        if name.endswith("balancing_biases"):
            x.copy_(noise(x, 0.2))


def tiny_model(seed: int = 0, config: ZayaConfig | None = None, **changes: Any) -> Zaya:
    """Return a model as if trained, in evaluation mode."""
    model = Zaya(config or tiny_config(**changes))
    train(model, seed)
    return model.eval()


def tokens(count: int, seed: int = 0, vocab: int = 61) -> Tensor:
    """Return random token ids."""
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed))


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference as a share of the largest value."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def to_hf(model: Zaya) -> Any:
    """Return transformers' model with the same weights."""
    from transformers import ZayaConfig as HfConfig
    from transformers import ZayaForCausalLM

    raw = model.config.to_hf()
    reference = ZayaForCausalLM(
        HfConfig(**{k: v for k, v in raw.items() if k not in ("architectures", "model_type")})
    )
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    result = reference.load_state_dict(weights, strict=False)
    assert result.missing_keys == ["lm_head.weight"]
    assert not result.unexpected_keys
    return reference.eval()


def feed(model: Zaya, cache: Cache, calls: list[dict[int, Tensor]]) -> dict[int, list[Tensor]]:
    """Run calls, each a table from slot to new tokens; return the hidden rows of each slot."""
    rows: dict[int, list[Tensor]] = {}
    with torch.no_grad():
        for call in calls:
            lengths = [len(part) for part in call.values()]
            out = model.trunk(torch.cat([*call.values()]), lengths, cache, [*call]).hidden_TD
            for slot, part in zip(call, out.split(lengths), strict=True):
                rows.setdefault(slot, []).append(part)
    return rows
