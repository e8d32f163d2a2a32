"""A model and data small enough to train in milliseconds."""

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from openzaya.core.seeding import numpy_stream
from openzaya.data.windows import Window
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.train.loop import CheckpointClock
from openzaya.train.stages import StageConfig

VOCABULARY = 24


def tiny_model(seed: int = 0, vocabulary: int = VOCABULARY, **changes: Any) -> Zaya:
    """Return a model of two layers and four experts."""
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "moe_intermediate_size": 8,
        "num_experts": 4,
        "router_hidden_size": 8,
        "eos_token_id": 2,
    }
    config = preset("nano", **(shape | changes))
    model = Zaya(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def window(lengths: list[int], seed: int = 0, source: str = "copies") -> Window:
    """Return documents that repeat their first half, so that there is something to learn."""
    rng = numpy_stream(seed, "tiny", *lengths)
    parts = []
    for length in lengths:
        half = rng.integers(3, VOCABULARY, size=(length + 1) // 2)
        parts.append(np.concatenate([half, half])[:length])
    tokens = np.concatenate(parts).astype(np.int32)
    mask = np.ones(len(tokens), dtype=np.bool_)
    return Window(tokens, list(lengths), mask, [source] * len(lengths))


def windows_of(step: int) -> list[Window]:
    """Return the windows of a step, a pure function of it."""
    return [window([9, 12, 5], seed=3 * step + i, source="ab"[i % 2]) for i in range(3)]


OPTIM = OptimConfig(muon=MuonConfig(lr=0.02, weight_decay=0.0), lr_adamw=0.01)
IN_FP32 = replace(OPTIM, muon=replace(OPTIM.muon, arithmetic="float32"))
"""For comparing sums in other orders: half precision turns their last bits into thousandths."""


def stage(**changes: object) -> StageConfig:
    """Return a short stage."""
    settings: dict[str, object] = {
        "name": "tiny",
        "steps": 8,
        "tokens_per_step": 78,
        "context_tokens": 32,
        "micro_tokens": 40,
        "warmup_steps": 2,
        "optim": OPTIM,
        "checkpoint_every_steps": 3,
    }
    return StageConfig(**{**settings, **changes})


def terminate_while_saving(monkeypatch: pytest.MonkeyPatch, owner: Any, at_step: int) -> None:
    """Send SIGTERM when the loop has just looked for one at a step, and while `owner` saves it."""

    def is_due(_clock: object, step: int) -> bool:
        if step == at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    real = owner.save

    def save(run: Any, saver: object, *, is_last: bool) -> None:
        if run.state.step == at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        real(run, saver, is_last=is_last)

    monkeypatch.setattr(CheckpointClock, "is_due", is_due)
    monkeypatch.setattr(owner, "save", save)
