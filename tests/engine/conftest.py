from collections.abc import Callable
from typing import Any

import pytest
import torch

from openzaya.core.native.build import compiler
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya


def spread_model(seed: int = 0, **changes: Any) -> Zaya:
    """Return a tiny model whose logits and routes depend clearly on the whole prefix."""
    shape = {
        "vocab_size": 40,
        "eos_token_id": 1,
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


SLIDING = {"layer_types": ("hybrid", "hybrid_sliding", "hybrid"), "sliding_window": 70}


@pytest.fixture(scope="session")
def long_model() -> Zaya:
    return spread_model(max_position_embeddings=512)


@pytest.fixture(scope="session", params=["full", "sliding", "native"])
def any_model(request: pytest.FixtureRequest) -> Zaya:
    """Return a model for contexts of several blocks: full, sliding, and of our kernels' shape."""
    if request.param == "native" and compiler() is None:
        pytest.skip("there is no C++ compiler")
    changes: dict[str, Any] = {} if request.param == "full" else dict(SLIDING)
    if request.param == "native":
        widths = ("hidden_size", "head_dim", "moe_intermediate_size", "router_hidden_size")
        changes |= dict.fromkeys(widths, 32)
    return spread_model(max_position_embeddings=512, **changes)
