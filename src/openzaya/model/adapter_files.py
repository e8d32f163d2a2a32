"""Adapters in a folder of their own, as PEFT writes and loads them.

PEFT keeps a stack of experts as two matrices: the experts' A below each other, and B with the
expert as the fastest index of its columns. The second stack's wrapper is around the first's, which
is therefore a `base_layer`.

Letters: E experts, O rows, I columns of a matrix, R rank.

Source: PEFT 0.21 (`LoraConfig.target_parameters`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.lora import (
    ATTENTION,
    EXPERTS,
    LoraConfig,
    LowRank,
    Target,
    adapters,
    add_lora,
    merge_lora,
)
from openzaya.model.shards import replace_file, write_json
from openzaya.model.zaya import Zaya

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model.model."
"""What PEFT puts before the names of transformers, which put "model." before ours."""
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "lora_bias": False}
"""Variants of LoRA that we do not have, switched off."""
Factors = Mapping[str, tuple[Tensor, Tensor]]
"""A and B by the name of the parameter that they adapt."""


def save_adapter(model: Zaya, config: LoraConfig, folder: str | Path, base: str = "") -> None:
    """Write the adapters alone; `base` names their model. Raises ConfigError where there are none.

    `PeftModel.from_pretrained` loads the folder onto transformers' ZayaForCausalLM.
    """
    factors = _factors(model)
    if not factors:
        raise ConfigError("the model has no adapters to save; call add_lora before training")
    write_adapter(factors, config, folder, base)


def write_adapter(
    factors: Factors,
    config: LoraConfig,
    folder: str | Path,
    base: str = "",
) -> None:
    """Write A and B by the name of the parameter that they adapt; see `save_adapter`.

    Each file appears whole or not at all. Raises CheckpointError when the disk is full.
    """
    tensors = _tensors(factors)
    raw: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": list(ATTENTION) if "attention" in config.targets else [],
        "target_parameters": [f"experts.{name}" for name in EXPERTS if "experts" in config.targets],
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        **PLAIN,
    }
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    try:
        replace_file(root / WEIGHTS_FILE, lambda part: save_file(tensors, part, {"format": "pt"}))
    except SafetensorError as error:  # a full disk, for one
        raise CheckpointError(
            f"the adapters could not be written to {root} ({error}); make room or choose another "
            "folder"
        ) from error
    write_json(root / CONFIG_FILE, raw)


def load_adapter(model: Zaya, folder: str | Path) -> LoraConfig:
    """Add the adapters of a folder to their base model and return their settings.

    Raises CheckpointError when the folder cannot be read, holds another kind of adapter, or
    belongs to a model of another shape.
    """
    root = Path(folder)
    try:
        raw = json.loads((root / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(root / WEIGHTS_FILE)
        config = _config_of(raw)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{root} cannot be read as an adapter ({error}); expected the folder that training "
            "with --lora wrote, or PEFT for the same matrices"
        ) from error
    add_lora(model, config)
    own = _tensors(_factors(model))
    wrong = [
        name
        for name in sorted(own.keys() | tensors.keys())
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if wrong:
        merge_lora(model)  # the adapters just added are zero
        raise CheckpointError(
            f"the adapter in {root} does not fit the model: {wrong[0]!r} is missing or of another "
            "shape; load it into the model it was trained on"
        )
    for path, part in adapters(model):
        _take(path, part, tensors)
    return config


def _config_of(raw: dict[str, Any]) -> LoraConfig:
    """Read PEFT's settings; raises ValueError for a kind of adapter that we do not have."""
    strange = {"peft_type": raw["peft_type"]} if raw["peft_type"] != "LORA" else {}
    strange |= {k: raw[k] for k, v in PLAIN.items() if raw.get(k, v) != v}
    strange |= {
        k: raw[k] for k in ("rank_pattern", "alpha_pattern", "modules_to_save") if raw.get(k)
    }
    if strange:
        raise ValueError(f"its settings say {strange}, expected plain LoRA")
    targets: list[Target] = []
    if raw.get("target_modules"):
        targets.append("attention")
    if raw.get("target_parameters"):
        targets.append("experts")
    return LoraConfig(rank=raw["r"], alpha=raw["lora_alpha"], targets=tuple(targets))


def _names(path: str) -> tuple[str, str]:
    """Return PEFT's names of A and B for the parameter that they adapt."""
    module, _, parameter = path.rpartition(".")
    if parameter == EXPERTS[0]:
        module += ".base_layer"
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def _factors(model: Zaya) -> Factors:
    return {path: (part.lora_a, part.lora_b) for path, part in adapters(model)}


def _tensors(factors: Factors) -> dict[str, Tensor]:
    return {name: t for path, pair in factors.items() for name, t in _written(path, *pair)}


def _written(path: str, a: Tensor, b: Tensor) -> list[tuple[str, Tensor]]:
    """Return both matrices of an adapter in PEFT's layout, by its names."""
    a, b = a.detach().cpu(), b.detach().cpu()
    if a.ndim == 3:
        # [E, R, I] to [E R, I], and [E, O, R] to [O, R E].
        a, b = a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)
    return list(zip(_names(path), (a.contiguous(), b.contiguous()), strict=True))


@torch.no_grad()
def _take(path: str, part: LowRank, tensors: dict[str, Tensor]) -> None:
    """Copy an adapter's matrices out of PEFT's layout."""
    a, b = (tensors[name] for name in _names(path))
    if part.lora_a.ndim == 3:
        experts, rank, columns = part.lora_a.shape
        a = a.view(experts, rank, columns)
        b = b.view(-1, rank, experts).permute(2, 0, 1)
    part.lora_a.copy_(a)
    part.lora_b.copy_(b)
