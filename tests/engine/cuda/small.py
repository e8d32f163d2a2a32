"""A model small enough for an interpreter, with nothing at its neutral value."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openzaya.model.config import Precision, ZayaConfig
from openzaya.model.zaya import Zaya

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "router_hidden_size": 20,
    "rope_theta": 100.0,
    "sliding_rope_theta": 10.0,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
}
SLIDING: dict[str, Any] = {
    "layer_types": ("hybrid_sliding", "hybrid"),
    "sliding_window": 37,
    "skip_mode": "identity",
}
SHAPES = {
    "full": {},
    "sliding, identity skip": SLIDING,
    "one key head": {"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 32},
}


@torch.no_grad()
def small_model(seed: int = 0, **changes: Any) -> Zaya:
    """Return a model as if trained; every class of the router is chosen by somebody."""
    model = Zaya(ZayaConfig(**{**SIZES, **changes}))
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    for name, x in model.named_parameters():
        if x.ndim == 1:
            x.add_(torch.randn(x.shape, generator=generator) * 0.2)
        if name.endswith("router_mlp.out_proj.weight"):
            x.mul_(30.0)
    model.embed_tokens.weight.mul_(15.0)
    for balance_X in model.router_biases():
        balance_X.add_(torch.randn(balance_X.shape, generator=generator) * 0.05)
        balance_X[-1] = 0.0
    return model.eval()


@torch.no_grad()
def in_bf16(model: Zaya, precision: Precision) -> Zaya:
    """Return a bf16 copy whose balancing biases stay fp32."""
    copy = Zaya(replace(model.config, precision=precision))
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)
    for kept, bias in zip(copy.router_biases(), model.router_biases(), strict=True):
        kept.data = bias.clone()
    return copy.eval()


@torch.no_grad()
def raised(model: Zaya) -> Zaya:
    """Return an fp32 copy of a bf16 model."""
    copy = Zaya(model.config)
    copy.load_state_dict({name: x.float() for name, x in model.state_dict().items()})
    return copy.eval()


def tokens(count: int, seed: int = 0) -> np.ndarray:
    """Return random token ids."""
    return np.random.default_rng(seed).integers(2, 61, count)


def noise(*shape: int, seed: int = 0, device: Any = "cpu", dtype: Any = torch.float32) -> Tensor:
    """Return normal random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)
