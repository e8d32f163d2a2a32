"""Model folders in the Hugging Face layout: load memory-mapped, save in shards, check every byte.

    config.json                          architecture
    model.safetensors                    or model-00001-of-0000N.safetensors with an index
    checksums.json                       sha256 of every weight file (ours; optional when reading)

Tensor names are transformers' own. Folders in the legacy layout (alternating attention and expert
layers) load too; see `openzaya.model.legacy`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model import legacy
from openzaya.model.config import Precision, SkipMode, ZayaConfig
from openzaya.model.files import describe, read_json, verify_files, write_json
from openzaya.model.zaya import Zaya

PREFIX = "model."
"""What transformers puts before every name."""
HEAD = "lm_head.weight"
"""The tied head; some files store it beside the embedding."""
BUFFER = "balancing_biases"
"""Kept in fp32 whatever the weights are: rounding it would change routing."""
SINGLE, INDEX, CHECKSUMS = "model.safetensors", "model.safetensors.index.json", "checksums.json"
SHARD_BYTES = 5_000_000_000
VERIFY_UP_TO_BYTES = 1_000_000_000
"""Folders up to this size are verified by default: hashing takes 3 s a GB and core."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Verify = Literal["auto", "always", "never"]


def load(
    path: str | Path,
    dtype: str = "float32",
    device: str = "cpu",
    precision: Precision = "hf",
    *,
    skip_mode: SkipMode | None = None,
    verify: Verify = "auto",
) -> Zaya:
    """Return the model of a folder or hub id, in evaluation mode.

    Weights whose dtype is already `dtype` stay memory-mapped on CPU: nothing is copied, pages come
    from disk when they are touched. `skip_mode` overrides what the folder says. `verify` compares
    checksums.json, when there is one: "auto" for folders up to 1 GB.

    Raises CheckpointError for missing, damaged or ill-fitting files, ConfigError for the config.
    """
    folder = resolve_folder(path)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    raw = read_json(folder / "config.json")
    is_legacy = legacy.is_legacy(raw)
    config = legacy.read_config(raw) if is_legacy else ZayaConfig.from_hf(raw)
    config = replace(config, precision=precision)
    if skip_mode is not None:
        config = replace(config, skip_mode=skip_mode)
    files = weight_files(folder)
    size = sum(file.stat().st_size for file in files)
    if verify == "always" or (verify == "auto" and size <= VERIFY_UP_TO_BYTES):
        verify_files(folder, CHECKSUMS)
    with torch.device("meta"):
        model = Zaya(config)
    tensors = read_tensors(files)
    if is_legacy:
        clamp_temp = bool(raw.get("clamp_temp", False))
        tensors = legacy.convert(tensors, config, clamp_temp=clamp_temp)
    fill(model, tensors, DTYPES[dtype], torch.device(device), folder)
    return model.eval()


def resolve_folder(path: str | Path) -> Path:
    """Return a local folder; a hub id that is not one is fetched with huggingface_hub."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    name = str(path)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{path} is not a model folder; expected a folder with config.json and "
            "*.safetensors, or a hub id like Zyphra/ZAYA1-8B"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{name} is no local folder and could not be fetched from the hub ({error}); check "
            "the name and the network, or give the path of a downloaded folder"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder. Raises CheckpointError when one is missing."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(
                f"{folder / INDEX} has no weight_map; expected a table from tensor to file: "
                "download the folder again"
            )
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = [SINGLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing[:3])}; expected {len(names)} weight file(s): "
            "download the folder again"
        )
    return [folder / name for name in names]


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and memory-mapped tensor of every file, one at a time.

    Raises CheckpointError for a truncated or otherwise unreadable file.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}); it is {file.stat().st_size} bytes long and "
                "perhaps truncated: download or convert it again"
            ) from error


def fill(
    model: Zaya,
    tensors: Iterator[tuple[str, Tensor]],
    dtype: torch.dtype,
    device: torch.device,
    folder: Path,
) -> None:
    """Put tensors into a model on the meta device, converting only where the dtype differs.

    Raises CheckpointError for unknown, missing or misshapen tensors.
    """
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    left = set(wanted)
    for stored_name, tensor in tensors:
        name = stored_name.removeprefix(PREFIX)
        if stored_name == HEAD:
            continue
        if name not in left:
            raise CheckpointError(
                f"{folder} has a tensor {stored_name!r} that this configuration has no place for "
                "(or has it twice); expected the names of transformers' zaya: check config.json"
            )
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{folder}: {stored_name!r} has shape {tuple(tensor.shape)}, config.json asks for "
                f"{tuple(wanted[name].shape)}; the two files do not belong together"
            )
        kept = torch.float32 if name.endswith(BUFFER) else dtype
        _assign(model, name, tensor.to(device=device, dtype=kept))
        left.discard(name)
    if left:
        raise CheckpointError(
            f"{folder} lacks {len(left)} tensors, for example {sorted(left)[0]!r}; expected "
            f"{len(wanted)}: download the folder again or correct config.json"
        )


def _assign(model: Zaya, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        # A buffer is written to by the balancer, so it must not stay mapped to the file.
        module._buffers[leaf] = tensor.clone()
    else:
        module._parameters[leaf] = torch.nn.Parameter(tensor)


def save_model(
    model: Zaya,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, the weights in shards of at most `shard_bytes`, index and checksums.

    `dtype` converts while writing (balancing biases stay fp32). Existing weight files in the
    folder are replaced only after all new ones are written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    shards = _plan_shards(model, dtype, shard_bytes)
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    tensors = model.state_dict()
    weight_map: dict[str, str] = {}
    total = 0
    for file, shard in zip(names, shards, strict=True):
        part = {PREFIX + name: _to_store(name, tensors[name], dtype) for name in shard}
        total += sum(t.numel() * t.element_size() for t in part.values())
        weight_map |= dict.fromkeys(part, file)
        temporary = target / f"{file}.tmp"
        save_file(part, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
    _remove_old(target)
    for file in names:
        (target / f"{file}.tmp").rename(target / file)
    if len(names) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(target / INDEX, index)
    write_json(target / CHECKSUMS, {name: describe(target / name) for name in names})
    raw = replace(model.config, **_live_rope(model)).to_hf()
    raw["dtype"] = str(dtype or model.dtype).removeprefix("torch.")
    write_json(target / "config.json", raw)
    eos = raw.get("eos_token_id")
    generation = {"eos_token_id": eos, "pad_token_id": raw.get("pad_token_id"), "do_sample": True}
    write_json(target / "generation_config.json", {"temperature": 1.0, "top_p": 1.0, **generation})


def _live_rope(model: Zaya) -> dict[str, float]:
    """Return the rotary bases as training left them."""
    names: Mapping[str, str] = {"hybrid": "rope_theta", "hybrid_sliding": "sliding_rope_theta"}
    return {names[kind]: theta for kind, theta in model.rope_thetas.items()}


def _to_store(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    kept = torch.float32 if name.endswith(BUFFER) else dtype or tensor.dtype
    return tensor.detach().to(device="cpu", dtype=kept).contiguous()


def _plan_shards(model: Zaya, dtype: torch.dtype | None, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in model.state_dict().items():
        size = tensor.numel() * (dtype or tensor.dtype).itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _remove_old(folder: Path) -> None:
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        with suppress(FileNotFoundError):
            old.unlink()

