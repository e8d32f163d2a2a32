"""Run every stage of the nano recipe in order, examine the model after each, write the report.

Everything that is finished stays finished: a run that was killed goes on from its newest
checkpoint and comes to the same numbers.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openzaya.core.config import config_hash, diff, dump_toml, load_toml, to_mapping
from openzaya.core.errors import ConfigError
from openzaya.core.log import MetricWriter
from openzaya.core.seeding import stream_seed
from openzaya.eval.rollouts import Codec
from openzaya.model.checkpoint import load
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano import s1_pretrain, s2_midtrain, s3_sft, s4_rl
from openzaya.recipes.nano.corpus import Writer, write_corpus
from openzaya.recipes.nano.evaluation import compare_ttc, examine, ttc_items
from openzaya.recipes.nano.settings import SupervisedStage
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.text.chat import ChatTemplate
from openzaya.train.loop import run_stage
from openzaya.ttc.strategies import NANO, MarkovianRSAConfig

Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedrunConfig:
    """The nano recipe as one tree of settings; `--set pretrain.train.steps=10` changes a leaf."""

    seed: int = 0
    """Names every random stream of the run."""
    pretrain: SupervisedStage = field(default_factory=s1_pretrain.stage)
    """Short contexts, traces trimmed hard."""
    midtrain: SupervisedStage = field(default_factory=s2_midtrain.stage)
    """Longer contexts, longer traces."""
    sft: SupervisedStage = field(default_factory=s3_sft.stage)
    """Whole traces and aggregation examples."""
    rl: s4_rl.NanoRL = field(default_factory=s4_rl.stage)
    """Rewards instead of examples."""
    ttc: MarkovianRSAConfig = NANO
    """Test-time compute of the report and of `openzaya demo`."""
    eval_samples: int = 2
    """Rollouts a held-out problem at temperature 1."""
    ttc_per_task: int = 14
    """Held-out problems a task in the comparison of test-time compute."""
    device: str = "cpu"
    """Where to train; the report's figures are for cpu."""


def nano_codec() -> Codec:
    """Return the nano tokenizer with the pinned chat template."""
    return Codec(build_tokenizer(), ChatTemplate.pinned())


def speedrun(run_dir: Path, config: SpeedrunConfig, echo: Echo = print) -> dict[str, Any]:
    """Run or resume all stages in `run_dir`; return the report that was written there.

    Raises ConfigError when `run_dir` belongs to a run with other settings.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    claim(run_dir, config)
    run = Speedrun(run_dir, config, echo)
    model = run.fresh_model()
    for name in ("pretrain", "midtrain", "sft"):
        model = run.finish(name, model, run.supervise)
    model = run.finish("rl", model, run.reinforce)
    return run.report(model)


def claim(run_dir: Path, config: SpeedrunConfig) -> None:
    """Record the resolved settings, or refuse a folder that holds a run with others."""
    path = run_dir / "config.toml"
    if not path.exists():
        path.write_text(dump_toml(config), encoding="utf-8")
        return
    found, wanted = load_toml(path), to_mapping(config)
    changed = diff(found, wanted)
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run with other settings ({'; '.join(changed[:5])}); resume it with "
            "the same settings or choose another folder with --run-dir"
        )
