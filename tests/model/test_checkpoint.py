"""A model folder is read whole and right, or refused with a reason; both layouts."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from model.tiny import MIXED, distance, tiny_model, to_hf, tokens
from safetensors.torch import load_file, save_file

import openzaya
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model import checkpoint, shards
from openzaya.model.checkpoint import Source, load, save_model
from openzaya.model.convert import convert
from openzaya.model.shards import CHECKSUMS, INDEX, SINGLE, Shards, TensorSpec, write_shards
from openzaya.model.zaya import Zaya

IDS = tokens(25, 3)


@pytest.fixture
def model() -> Zaya:
    return tiny_model(1, **MIXED)


@pytest.fixture
def folder(model: Zaya, tmp_path: Path) -> Path:
    """Return a folder of several shards."""
    save_model(model, tmp_path / "saved", max_shard_bytes=20_000)
    return tmp_path / "saved"


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def equal(found: Zaya, wanted: Zaya) -> bool:
    with torch.no_grad():
        return torch.equal(found(IDS), wanted(IDS))


def test_what_is_saved_is_loaded_bit_for_bit(model: Zaya, folder: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    again = openzaya.load(folder)
    assert equal(again, model)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.config == model.config
    assert not again.training
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_transformers_loads_what_we_save(model: Zaya, folder: Path) -> None:
    from transformers import ZayaForCausalLM

    for balance in model.router_biases():
        # transformers 5.23 sets the skip bias to -1 after loading, whatever the file says.
        balance[-1] = -1.0
    save_model(model, folder, max_shard_bytes=20_000)
    reference, info = ZayaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        assert distance(reference(IDS[None]).logits[0], model(IDS)) < 2e-5


def test_we_load_what_transformers_saves(model: Zaya, tmp_path: Path) -> None:
    reference = to_hf(model)
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert equal(load(tmp_path), model)


def test_rotary_bases_and_skip_mode_survive(tmp_path: Path) -> None:
    model = tiny_model(2, skip_mode="identity")
    model.set_rope_theta(777.0)
    model.save(tmp_path)
    again = load(tmp_path)
    assert (again.config.skip_mode, again.rope_thetas) == ("identity", {"hybrid": 777.0})
    assert equal(again, model)
    assert load(tmp_path, skip_mode="zero").config.skip_mode == "zero"


def test_saving_over_a_loaded_folder_replaces_it_whole(model: Zaya, folder: Path) -> None:
    loaded = load(folder)
    with torch.no_grad():
        loaded.embed_tokens.weight += 1
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    loaded.save(folder)
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    assert [path.name for path in folder.glob("*.safetensors*")] == [SINGLE]
    assert equal(load(folder), loaded)


def test_bf16_folders_keep_the_balancing_biases_in_fp32(model: Zaya, folder: Path) -> None:
    half = load(folder, dtype="bfloat16")
    assert half.dtype is torch.bfloat16
    for found, wanted in zip(half.router_biases(), model.router_biases(), strict=True):
        assert torch.equal(found, wanted)
    half.save(folder)
    again = load(folder, dtype="auto")
    assert equal(again, half)
    assert load(folder).dtype is torch.float32
    with pytest.raises(ConfigError, match="dtype is 'int8'; choose one of auto, float32"):
        load(folder, dtype="int8")


def test_large_folders_stay_mapped_and_small_ones_do_not(
    model: Zaya, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mapped_files() -> set[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[-1] for line in lines if str(folder) in line}

    small = load(folder)
    assert not mapped_files()
    monkeypatch.setattr(checkpoint, "SMALL_BYTES", 0)
    monkeypatch.setattr(shards, "READ_BYTES", 0)
    # Not verified either: reading every byte would defeat the mapping.
    damage(folder / shard_of(folder, "model.embed_tokens.weight"))
    mapped = load(folder)
    assert mapped_files()
    assert not equal(mapped, small)


def shard_of(folder: Path, name: str) -> str:
    return str(json.loads((folder / INDEX).read_text())["weight_map"][name])


def damage(path: Path) -> None:
    """Flip one bit in the middle of the data."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[(start + len(data)) // 2] ^= 16
    path.write_bytes(data)


def test_a_flipped_bit_is_found_in_every_shard(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(CheckpointError, match=rf"{path.name} has CRC-32 .* damaged"):
            load(folder)
        assert isinstance(load(folder, verify="never"), Zaya)
        path.write_bytes(whole)
    assert isinstance(load(folder, verify="always"), Zaya)


def test_verification_needs_checksums_that_fit(folder: Path) -> None:
    edit_json(folder / CHECKSUMS, tensors={"other": "00000000"})
    with pytest.raises(CheckpointError, match="does not list the tensors"):
        load(folder)
    (folder / CHECKSUMS).unlink()
    assert isinstance(load(folder), Zaya)
    with pytest.raises(CheckpointError, match=r"has no checksums.json"):
        load(folder, verify="always")
    with pytest.raises(ConfigError, match="verify is 'yes'"):
        load(folder, verify="yes")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_shard_is_refused(folder: Path, share: float) -> None:
    path = folder / shard_of(folder, "model.norm.weight")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=rf"{path.name} \([\d,]+ bytes\) cannot be read"):
        load(folder)


def test_a_shard_that_is_cut_while_it_is_read_is_no_model(folder: Path) -> None:
    found = Shards(folder)
    path = folder / shard_of(folder, "model.norm.weight")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="was cut while it was read"):
        dict(zip(found.names, map(found.read, found.names), strict=True))


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    shard = folder / shard_of(folder, "model.norm.weight")
    shard.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=rf"{shard.name} is missing, but the index names it"):
        load(folder)
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError, match=f"has neither {INDEX} nor {SINGLE}"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        load(folder)
    with pytest.raises(CheckpointError, match="is not a model folder"):
        load(folder / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[]", "holds a list; expected a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
    ],
)
def test_an_unreadable_index_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_an_index_of_another_save_is_refused(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    index["model.norm.weight"] = shard_of(folder, "model.embed_tokens.weight")
    edit_json(folder / INDEX, weight_map=index)
    with pytest.raises(CheckpointError, match=r"holds 'model.norm.weight', but it does not"):
        load(folder)


def rewrite(folder: Path, source: Path, **changes: torch.Tensor | None) -> Path:
    """Return a copy as one shard, without checksums, with tensors replaced or left out."""
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    shards = Shards(source)
    tensors = {name: shards.get(name).clone() for name in shards.names}
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / SINGLE)
    return folder


def test_tensors_that_do_not_fit_the_config_are_refused(folder: Path, tmp_path: Path) -> None:
    def expect(message: str, **changes: torch.Tensor | None) -> None:
        expect.count += 1  # type: ignore[attr-defined]
        bad = rewrite(tmp_path / str(expect.count), folder, **changes)  # type: ignore[attr-defined]
        with pytest.raises(CheckpointError, match=message):
            load(bad)

    expect.count = 0  # type: ignore[attr-defined]
    expect("lacks 1 of .* 'model.norm.weight'", **{"model.norm.weight": None})
    expect("does not know, for example 'model.lora'", **{"model.lora": torch.zeros(1)})
    shape = r"has shape \(3,\); config.json asks for \(24,\)"
    expect(shape, **{"model.norm.weight": torch.zeros(3)})
    expect("lm_head.weight that differs", **{"lm_head.weight": torch.zeros(61, 24)})
    kept = Shards(folder).get("model.embed_tokens.weight").clone()
    tied = rewrite(tmp_path / "tied", folder, **{"lm_head.weight": kept})
    assert equal(load(tied), load(folder))


def test_wide_tensors_are_aligned_behind_narrow_ones(tmp_path: Path) -> None:
    # A mapped fp32 tensor at an odd address would have to be copied, or crash on some machines.
    values = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2)}
    write_shards(
        tmp_path,
        [
            TensorSpec(name=name, dtype=x.dtype, shape=tuple(x.shape), make=lambda x=x: x)
            for name, x in values.items()
        ],
    )
    data = (tmp_path / SINGLE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    assert header["b"]["data_offsets"][0] % 4 == 0
    assert all(torch.equal(Shards(tmp_path).get(name), x) for name, x in values.items())


def test_an_unknown_config_key_is_refused_with_a_suggestion(folder: Path) -> None:
    edit_json(folder / "config.json", router_hiden_size=12)
    with pytest.raises(ConfigError, match="did you mean 'router_hidden_size'"):
        load(folder)


def test_a_value_of_the_wrong_kind_in_a_config_is_refused(
    model: Zaya, folder: Path, tmp_path: Path
) -> None:
    edit_json(folder / "config.json", rope_parameters={"hybrid": {"rope_theta": "big"}})
    for bad in (folder, as_legacy(model, tmp_path / "legacy", swa_layers=5)):
        with pytest.raises(ConfigError, match=r"config.json holds a value of the wrong kind: "):
            load(bad)


def as_legacy(model: Zaya, folder: Path, **changes: Any) -> Path:
    """Write a legacy folder by the published renaming, spelled out here once more."""
    names = {
        "self_attn.qkv_proj.q_proj": "self_attn.qkv.linear_q",
        "self_attn.qkv_proj.k_proj": "self_attn.qkv.linear_k",
        "self_attn.qkv_proj.v_proj_current": "self_attn.qkv.val_proj1",
        "self_attn.qkv_proj.v_proj_delayed": "self_attn.qkv.val_proj2",
        "self_attn.qkv_proj.conv_qk_depthwise": "self_attn.qkv.conv_qk.0",
        "self_attn.qkv_proj.conv_qk_grouped": "self_attn.qkv.conv_qk.1",
        "self_attn.qk_norm.temp": "self_attn.qkv.temp",
        "mlp.gate.router_mlp.norm": "zaya_block.router.rmsnorm_eda",
        "mlp.gate.router_mlp.fc1": "zaya_block.router.router_mlp.0",
        "mlp.gate.router_mlp.fc2": "zaya_block.router.router_mlp.2",
        "mlp.gate.router_mlp.out_proj": "zaya_block.router.router_mlp.4",
        "mlp.gate": "zaya_block.router",
        "input_layernorm": "input_norm",
        "post_attention_layernorm": "input_norm",
    }
    out: dict[str, torch.Tensor] = {}
    last = model.config.num_hidden_layers - 1
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] != "layers":
            new = {"norm.weight": "final_norm.weight"}.get(name, name)
            new = new.replace("input_hidden_states_", "layers.0.res_scale.hidden_states_")
            out[f"model.{new}"] = value
            continue
        layer, rest = int(parts[1]), ".".join(parts[2:])
        attention = rest.startswith(("self_attn", "input_layernorm"))
        half = f"model.layers.{2 * layer + (0 if attention else 1)}"
        if rest.startswith("post_attention_residual_scale"):
            out[f"model.layers.{2 * layer + 1}.res_scale.{parts[-1]}"] = value
        elif rest.startswith("post_mlp_residual_scale"):
            after = "model" if layer == last else f"model.layers.{2 * layer + 2}"
            out[f"{after}.res_scale.{parts[-1]}"] = value
        elif rest.startswith("mlp.experts"):
            linear = "linear_fc1" if "gate_up" in rest else "linear_fc2"
            for expert, matrix in enumerate(value):
                each = f"{half}.zaya_block.experts.local_experts.{expert}.{linear}.weight"
                out[each] = matrix
        else:
            old = next((k for k in names if rest.startswith(k)), None)
            new = rest if old is None else names[old] + rest.removeprefix(old)
            out[f"{half}.{new}"] = value
    folder.mkdir()
    save_file({name: value.clone() for name, value in out.items()}, folder / SINGLE)
    plain = {
        "cca": True,
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "head_dim": 8,
        "ffn_hidden_size": 32,
        "num_experts": 4,
        "moe_router_topk": 1,
        "zaya_mlp_expansion": 12,
        "norm_epsilon": 1e-5,
        "rope_theta": 100.0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(plain | changes))
    return folder


LISTS: dict[str, Any] = {
    "num_hidden_layers": 99,
    "zaya_layers": ["a", 4, "a", 4, "a", 4],
    "cca_num_q_heads": [4, 0, 4, 0, 4, 0],
    "num_attention_heads": 3,
    "num_query_groups_list": [2, 0, 2, 0, 2, 0],
    "ffn_hidden_size_list": [0, 32, 0, 32, 0, 32],
    "zaya_mlp_expansion": [0, 12, 0, 12, 0, 12],
    # Legacy counts the tokens before the current one.
    "swa_layers": [0, 0, 3, 0, 0, 0],
    "swa_rotary_base": 10.0,
}


def test_a_legacy_folder_gives_the_same_logits(tmp_path: Path) -> None:
    model = tiny_model(4)
    assert equal(load(as_legacy(model, tmp_path / "legacy")), model)


def test_a_legacy_config_of_lists_gives_the_same_logits(model: Zaya, tmp_path: Path) -> None:
    again = load(as_legacy(model, tmp_path / "legacy", **LISTS))
    assert again.config.layer_types == MIXED["layer_types"]
    assert again.config.sliding_window == 4
    assert equal(again, model)


def test_legacy_logarithmic_temperatures_become_temperatures(tmp_path: Path) -> None:
    model = tiny_model(4)
    folder = as_legacy(model, tmp_path / "legacy", clamp_temp=True)
    again = load(folder)
    for found, stored in zip(again.layers, model.layers, strict=True):
        wanted = stored.self_attn.qk_norm.temp.clamp(1e-7, 2).exp()
        torch.testing.assert_close(found.self_attn.qk_norm.temp, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zaya_use_mod": False}, "zaya_use_mod = False"),
        ({"moe_router_topk": 2}, "moe_router_topk = 2"),
        ({"num_hidden_layers": 7}, "has 7 layers; expected attention, expert pairs"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"ffn_hidden_size_list": [0, 32, 0, 64]}, r"values \[32, 64\]; expected one value"),
        ({"swa_layers": [2, 0, 3, 0, 0, 0]}, r"windows \[2, 3\]; expected one entry per"),
        ({"zaya_layers": ["a", 4, "a", 5]}, "expected 'a' and one number in turn"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; it must be the number of a token"),
        ({"eos_token_id": [[1], 2]}, r"eos_token_id is \(\[1\], 2\)"),
        ({"bos_token_id": 2.5}, "bos_token_id is 2.5; it must be a token's number"),
    ],
)
def test_a_legacy_config_we_cannot_honor_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = as_legacy(tiny_model(4), tmp_path / "legacy", **changes)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_converting_there_and_back_changes_no_bit(
    model: Zaya, folder: Path, tmp_path: Path
) -> None:
    convert(Source(folder), tmp_path / "legacy", "legacy", max_shard_bytes=20_000)
    there = Source(tmp_path / "legacy")
    assert there.layout == "legacy"
    wanted = load_file(as_legacy(model, tmp_path / "spelled", **LISTS) / SINGLE)
    assert there.shards.names == set(wanted)
    assert all(torch.equal(there.shards.get(name), value) for name, value in wanted.items())
    assert equal(load(tmp_path / "legacy", verify="always"), model)
    convert(there, tmp_path / "back", "native")
    back, first = Shards(tmp_path / "back"), Shards(folder)
    assert back.names == first.names
    assert all(torch.equal(back.get(name), first.get(name)) for name in first.names)
    with pytest.raises(CheckpointError, match="both source and target"):
        convert(there, tmp_path / "legacy", "native")
