"""Adapters start as nothing, train alone, leave the router, merge exactly and travel alone."""

import json
import resource

import pytest
import torch
from model.tiny import distance, tiny_model, tokens
from safetensors.torch import load_file

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.adapter_files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from openzaya.model.lora import LoraConfig, adapters, add_lora, merge_lora
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


def test_a_full_disk_is_a_clear_error_and_leaves_the_adapter_of_before(tmp_path):
    """The process may write files of 4,000 bytes only: the kernel fails its write (EFBIG)."""
    save_adapter(trained(), BOTH, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with pytest.raises(CheckpointError, match="adapters could not be written to"):
            save_adapter(trained(), BOTH, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_folder_is_what_peft_adds_to_the_base(tmp_path):
    """PEFT's own sums, on the tensors as they are in the file."""
    save_adapter(trained(), BOTH, tmp_path, "models/base")
    raw = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (raw["peft_type"], raw["task_type"]) == ("LORA", "CAUSAL_LM")
    assert raw["base_model_name_or_path"] == "models/base"
    assert raw["target_parameters"] == ["experts.gate_up_proj", "experts.down_proj"]
    scale = raw["lora_alpha"] / raw["r"]
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    model, merged = tiny_model(1), trained()
    merge_lora(merged)
    expected = dict(merged.named_parameters())
    first = "base_model.model.model.layers.0"
    for name, place in {
        "self_attn.o_proj.weight": "self_attn.o_proj",
        "self_attn.qkv_proj.v_proj_delayed.weight": "self_attn.qkv_proj.v_proj_delayed",
        "mlp.experts.gate_up_proj": "mlp.experts.base_layer",
        "mlp.experts.down_proj": "mlp.experts",
    }.items():
        base = dict(model.named_parameters())[f"layers.0.{name}"]
        a, b = (tensors[f"{first}.{place}.lora_{part}.weight"] for part in "AB")
        if base.ndim == 3:
            a = a.reshape(len(base), -1, a.shape[-1])
            b = b.reshape(b.shape[0], -1, len(base))
            delta = torch.einsum("o r e, e r i -> e o i", b, a)
        else:
            delta = b @ a
        got = base + scale * delta
        torch.testing.assert_close(got, expected[f"layers.0.{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"peft_type": "IA3"}, {"rank_pattern": {"q_proj": 8}}]
)
def test_another_kind_of_adapter_is_refused(tmp_path, change):
    save_adapter(trained(), BOTH, tmp_path)
    raw = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(raw | change))
    model = tiny_model(1)
    with pytest.raises(CheckpointError, match=f"{next(iter(change))}.*expected plain LoRA"):
        load_adapter(model, tmp_path)
    assert not list(adapters(model))


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
