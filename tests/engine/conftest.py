from collections.abc import Callable

import pytest
import torch

from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya


def spread_model(seed: int = 0, **changes: int) -> Zaya:
    """Return a tiny model whose logits and routes depend clearly on the whole prefix."""
    shape = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "router_hidden_size": 16,
        "max_position_embeddings": 128,
    }
    model = Zaya(preset("nano", **{**shape, **changes}))
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        # The fresh embedding gives nearly equal logits, the fresh router nearly equal scores.
        model.embed_tokens.weight.mul_(10.0)
        model.norm.weight.mul_(2.0)
        for name, parameter in model.named_parameters():
            if name.endswith("router_mlp.out_proj.weight"):
                parameter.mul_(30.0)
    return model.eval()


@pytest.fixture(scope="session")
def model() -> Zaya:
    return spread_model()


@pytest.fixture
def make_model() -> Callable[..., Zaya]:
    return spread_model
