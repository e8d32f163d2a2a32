import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint import Source, load, save_model
from openzaya.model.convert import convert
from openzaya.model.presets import preset
from openzaya.model.quantize import FORMATS, dequantize, is_quantized, quantize
from openzaya.model.quantized import load_quantized
from openzaya.model.shards import SINGLE
from openzaya.model.zaya import Zaya


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Zaya(preset("nano"))
    model.init_weights(torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("model")
    save_model(model, path)
    return path


@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-6, 1e6),
    name=st.sampled_from(["int8", "int4"]),
)
def test_every_weight_is_within_half_a_step_or_clipped_by_a_better_scale(
    seed: int, scale: float, name: str
) -> None:
    form = FORMATS[name]
    weight = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(seed)) * scale
    data, scales = quantize(weight, form)
    assert data.dtype is form.dtype
    assert scales.dtype is torch.bfloat16
    assert (tuple(data.shape), tuple(scales.shape)) == form.shapes((3, 5, 128))
    error = (dequantize(data, scales) - weight).abs().view(-1, form.group_size)
    step = scales.float().abs().view(-1, 1)
    half_step = 0.5 if form.bits == 8 else 2.6  # int4 may clip the largest for the others' sake
    assert (error <= step * (half_step + 0.01) + 127 * step * 2**-8 * (form.bits == 8)).all()
    rms = error.pow(2).mean().sqrt() / scale
    assert rms < (0.01 if form.bits == 8 else 0.12)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_whole_steps_come_back_exactly(name: str) -> None:
    form = FORMATS[name]
    low = -(2 ** (form.bits - 1))
    whole = torch.arange(form.group_size) % (-2 * low) + low
    whole[0] = low + (form.bits == 8)
    weight = whole.clamp(min=low + (form.bits == 8)).float().expand(4, -1) * 0.25
    assert torch.equal(dequantize(*quantize(weight, form)), weight)


def test_a_group_of_zeros_stays_zero() -> None:
    for form in FORMATS.values():
        assert not dequantize(*quantize(torch.zeros(2, 64), form)).any()


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="rows of 48 weights do not divide into groups of 32"):
        quantize(torch.zeros(2, 48), FORMATS["int4"])


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_quantized_folder_loads_as_integers_and_as_the_dequantized_model(
    name: str, folder: Path, tmp_path: Path
) -> None:
    form = FORMATS[name]
    convert(Source(folder), tmp_path / "q", "native", form=form)
    small = load_quantized(tmp_path / "q")
    wide = load(tmp_path / "q", verify="always")
    original = load(folder)
    for key, tensor in original.state_dict().items():
        kept = small.tensors[key]
        if is_quantized(key):
            assert isinstance(kept, tuple)
            assert torch.equal(dequantize(*kept), wide.state_dict()[key])
            assert torch.equal(kept[0], quantize(tensor, form)[0])
        else:
            assert isinstance(kept, torch.Tensor)
            assert torch.equal(kept, tensor)
            assert torch.equal(wide.state_dict()[key], tensor)
    for part in ("gate", "norm", "conv", "scale", "temp", "bias"):
        assert not any(is_quantized(key) for key in original.state_dict() if f"{part}." in key)


def test_only_our_formats_are_read_and_originals_are_not_taken_for_quantized(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"not quantized; load it with openzaya\.load"):
        load_quantized(folder)
    convert(Source(folder), tmp_path / "q", "native", form=FORMATS["int4"])
    with pytest.raises(CheckpointError, match="is quantized; convert the original"):
        convert(Source(tmp_path / "q"), tmp_path / "r", "native")
    config = json.loads((tmp_path / "q/config.json").read_text())
    config["quantization_config"]["quant_method"] = "fp8"
    (tmp_path / "q/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"is quantized as .*fp8.*expected quant_method"):
        load(tmp_path / "q")


QUERY = "model.layers.0.self_attn.qkv_proj.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        (QUERY, torch.float32, r"is torch\.float32; expected torch\.int8"),
        (f"{QUERY}.scales", torch.float32, r"is torch\.float32; expected torch\.bfloat16"),
        ("model.norm.weight", torch.int8, r"is torch\.int8; expected torch\.bfloat16 or"),
    ],
)
def test_tensors_of_another_dtype_are_refused(
    name: str, dtype: torch.dtype, said: str, folder: Path, tmp_path: Path
) -> None:
    convert(Source(folder), tmp_path, "native", form=FORMATS["int8"])
    tensors = load_file(tmp_path / SINGLE)
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, tmp_path / SINGLE)
    for read in (load, load_quantized):
        with pytest.raises(CheckpointError, match=f"'{name}' .* {said}"):
            read(tmp_path)


def test_a_small_quantized_folder_is_verified_and_not_mapped(folder: Path, tmp_path: Path) -> None:
    convert(Source(folder), tmp_path, "native", form=FORMATS["int4"])
    model = load_quantized(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    data = bytearray((tmp_path / SINGLE).read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"has CRC-32 .* damaged"):
        load_quantized(tmp_path)
    assert model.dtype is torch.float32


def test_a_quantized_folder_whose_rows_do_not_divide_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    convert(Source(folder), tmp_path, "native", form=FORMATS["int8"])
    config = json.loads((tmp_path / "config.json").read_text())
    config["moe_intermediate_size"] = 96
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / SINGLE)
    for name, tensor in list(tensors.items()):
        if name.endswith("gate_up_proj"):
            tensors[name] = tensor[:, :192].contiguous()
            tensors[f"{name}.scales"] = tensors[f"{name}.scales"][:, :192].contiguous()
        elif name.endswith("experts.down_proj"):  # one scale for the 64 first of 96 weights
            tensors[name] = tensor[..., :96].contiguous()
            tensors[f"{name}.scales"] = tensors[f"{name}.scales"][..., :1].contiguous()
    save_file(tensors, tmp_path / SINGLE)
    for read in (load, load_quantized):
        with pytest.raises(ConfigError, match="rows of 96 weights do not divide into groups of 64"):
            read(tmp_path)


def test_the_legacy_layout_has_no_integers(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="legacy layout has no quantized form"):
        convert(Source(folder), tmp_path / "q", "legacy", form=FORMATS["int8"])
