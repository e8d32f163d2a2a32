"""Between transformers' folders and ours, through both layouts, nothing is lost or added."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model.test_parity import random_config
from model.tiny import tiny_model, to_hf
from safetensors.torch import load_file, save_file

from openzaya.model.checkpoint import Source, load
from openzaya.model.config import ZayaConfig
from openzaya.model.convert import convert
from openzaya.model.shards import SINGLE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SKIP_BIAS = -1.0
"""What transformers 5.23 makes of the skip class's balancing bias, whatever the file says."""


def weights_of(reference: Any) -> dict[str, torch.Tensor]:
    """Return transformers' state under our names; the tied head is the embedding."""
    state = reference.state_dict()
    assert torch.equal(state.pop("lm_head.weight"), state["model.embed_tokens.weight"])
    return {name.removeprefix("model."): value for name, value in state.items()}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Compare names, dtypes and bits."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def released(folder: Path, *, head: bool, stray: bool) -> None:
    """Make of a folder what releases look like: a stored head, a rope_type beside the tables."""
    if head:
        (part,) = (p for p in folder.glob("*.safetensors") if "embed_tokens" in str(load_file(p)))
        tensors = load_file(part)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, part, {"format": "pt"})
        index = folder / "model.safetensors.index.json"
        if index.exists():
            raw = json.loads(index.read_text())
            raw["weight_map"]["lm_head.weight"] = part.name
            index.write_text(json.dumps(raw))
    if stray:
        raw = json.loads((folder / "config.json").read_text())
        raw["rope_parameters"]["rope_type"] = "default"
        (folder / "config.json").write_text(json.dumps(raw))


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(sorted(DTYPES)),
    wide_biases=st.booleans(),
    shard=st.sampled_from(["5KB", "20KB", "5GB"]),
    head=st.booleans(),
    stray=st.booleans(),
)
def test_what_transformers_saves_comes_back_to_it_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    dtype: str,
    wide_biases: bool,
    shard: str,
    head: bool,
    stray: bool,
) -> None:
    """By way of our folder and of the legacy one; balancing biases are fp32 from then on."""
    from transformers import ZayaForCausalLM

    config = random_config(seed)
    assume(config.sliding_window != 1)  # which the legacy layout cannot say
    root = tmp_path_factory.mktemp("trip")
    model = tiny_model(seed, config)
    for bias in model.router_biases():
        bias[-1] = SKIP_BIAS
    reference = to_hf(model).to(DTYPES[dtype])
    wanted = weights_of(reference)
    for name, kept in model.state_dict().items():
        if name.endswith("balancing_biases"):
            if wide_biases:  # as `from_pretrained` keeps them
                reference.get_buffer(f"model.{name}").data = kept.clone()
            wanted[name] = kept.clone() if wide_biases else wanted[name].float()
    reference.save_pretrained(root / "theirs", max_shard_size=shard)
    released(root / "theirs", head=head, stray=stray)

    ours = load(root / "theirs", dtype="auto")
    same(ours.state_dict(), wanted)
    ours.save(root / "ours")
    convert(Source(root / "ours"), root / "legacy", "legacy", max_shard_bytes=20_000)
    convert(Source(root / "legacy"), root / "back", "native")
    assert (root / "back" / SINGLE).read_bytes() == (root / "ours" / SINGLE).read_bytes()
    for folder in ("ours", "legacy", "back"):
        again = load(root / folder, dtype="auto", verify="always")
        same(again.state_dict(), wanted)
        assert again.config == model.config

    found, info = ZayaForCausalLM.from_pretrained(
        root / "back", dtype="auto", output_loading_info=True
    )
    assert not any(info.values())
    same(weights_of(found), wanted)
    assert ZayaConfig.from_hf(found.config.to_dict()) == model.config
