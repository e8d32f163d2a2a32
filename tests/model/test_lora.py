"""Adapters start as nothing, train alone, leave the router, merge exactly and travel alone."""

import pytest
import torch
from model.tiny import distance, tiny_model, tokens

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.lora import (
    CONFIG_FILE,
    LoraConfig,
    adapters,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)
from openzaya.optim import OptimConfig, build_optimizer

BOTH = LoraConfig(rank=4, targets=("attention", "experts"))


def logits(model):
    with torch.no_grad():
        return model(tokens(30), [10, 20])


def trained(config=BOTH, steps=2):
    """Return a model whose adapters are no longer zero."""
    model = tiny_model(1)
    add_lora(model, config)
    optimizers = build_optimizer(model, OptimConfig(lr_adamw=0.05))
    for step in range(steps):
        optimizers.zero_grad()
        model(tokens(30, step), [10, 20]).square().mean().backward()
        optimizers.step()
    return model


def test_adapters_change_nothing_until_they_are_trained():
    model = tiny_model(1)
    before = logits(model)
    add_lora(model, BOTH)
    assert torch.equal(logits(model), before)
    assert len(list(adapters(model))) == 3 * 7


def test_only_adapters_move_and_the_router_has_none():
    base = dict(tiny_model(1).named_parameters())
    model = trained()
    moved = {n for n, p in model.named_parameters() if p.requires_grad}
    assert moved
    assert all(".lora_" in name for name in moved)
    assert not any("gate." in name for name in moved)
    for name, parameter in model.named_parameters():
        plain = name.replace("parametrizations.", "").replace(".original", "")
        if ".lora_" not in name:
            assert torch.equal(parameter, base[plain]), name
    assert distance(logits(model), logits(tiny_model(1))) > 0.01


@pytest.mark.parametrize("fused", ["off", "on"])
def test_merging_keeps_the_function_and_restores_plain_names(fused):
    model = trained()
    model.fused = fused
    before = logits(model)
    merge_lora(model)
    assert distance(logits(model), before) < 1e-6
    assert model.state_dict().keys() == tiny_model(1).state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())


def test_a_saved_adapter_makes_the_same_model_of_its_base(tmp_path):
    model = trained()
    save_adapter(model, BOTH, tmp_path)
    other = tiny_model(1)
    assert load_adapter(other, tmp_path) == BOTH
    assert torch.equal(logits(other), logits(model))


def test_an_adapter_of_another_shape_is_refused_and_leaves_the_model_whole(tmp_path):
    save_adapter(trained(), BOTH, tmp_path)
    other = tiny_model(1, num_hidden_layers=2)
    before = logits(other)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_adapter(other, tmp_path)
    assert torch.equal(logits(other), before)
    assert not list(adapters(other))
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as an adapter"):
        load_adapter(other, tmp_path)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="rank is 0"):
        LoraConfig(rank=0)
    with pytest.raises(ConfigError, match="finite alpha"):
        LoraConfig(alpha=float("nan"))
    with pytest.raises(ConfigError, match="router"):
        LoraConfig(targets=("router",))
    with pytest.raises(ConfigError, match="no adapters"):
        save_adapter(tiny_model(1), BOTH, tmp_path)
    with pytest.raises(ConfigError, match="already"):
        add_lora(trained(steps=0), BOTH)
