"""SFT and continued pretraining of a finished model on prepared data, whole or by adapters.

Paper: III, IV-A.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.files import write_whole
from openzaya.core.seeding import stream_seed
from openzaya.data.ap_trim import ApTrimConfig
from openzaya.data.mixture import Mixture
from openzaya.data.shards import PreparedData, load_prepared
from openzaya.data.windows import Window, build_windows
from openzaya.model.adapter_files import save_adapter
from openzaya.model.balance import BalanceConfig
from openzaya.model.checkpoint import load
from openzaya.model.lora import LoraConfig, Target, add_lora, merge_lora
from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.recipes.run_folder import claimed
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.evaluate import held_out_loss
from openzaya.train.lineage import content_of
from openzaya.train.loop import is_time_to_evaluate, run_stage
from openzaya.train.saver import Saving
from openzaya.train.stages import StageConfig
from openzaya.train.state import TrainState
from openzaya.train.step import StepReport
from openzaya.train.threads import record_threads
from openzaya.train.trackers import open_writer

Kind = Literal["sft", "continue"]
Echo = Callable[[str], None]

RATES: Mapping[tuple[Kind, bool], float] = {
    ("sft", False): 4e-5,
    ("continue", False): 1e-4,
    ("sft", True): 2e-4,
    ("continue", True): 2e-4,
}
"""Peak rate by kind and by whether adapters are trained. Deviation: D-043."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Settings of a run; what is 0 is chosen from the data and the model.

    Deviation: D-043.
    """

    seed: int = 0
    """Names the order of the data, the held-out windows and the adapters' start."""
    context_tokens: int = 0
    """Longest document; longer ones are trimmed. 0 = 4096, or the model's if that is less."""
    tokens_per_step: int = 65_536
    """Tokens of an optimizer step, or the whole data where they have fewer."""
    micro_tokens: int = 16_384
    """Most tokens in one forward pass."""
    epochs: float = 1.0
    """Times through the data, where steps is 0."""
    steps: int = 0
    """Optimizer steps. 0 = as many as the epochs need."""
    lr: float = 0.0
    """Peak rate of both optimizers. 0 = 4e-5 in SFT, 1e-4 to continue, 2e-4 for adapters."""
    warmup_share: float = 0.03
    """Share of the steps in which the rate rises; it falls linearly over the last fifth."""
    held_out_share: float = 0.01
    """Share of the windows, at least one of several, that only measures the loss."""
    evaluate_every_steps: int = 50
    """Steps between those measurements. A resume may have others."""
    checkpoint_every_steps: int = 50
    """Steps between checkpoints. A resume may have others."""
    weights: dict[str, float] = field(default_factory=dict)
    """Token weight of each data folder by its name; empty = as many tokens as each has."""
    lora_rank: int = 0
    """Rank of the adapters. 0 = train the whole model."""
    lora_alpha: float = 32.0
    """Adapters count alpha / rank."""
    lora_targets: tuple[Target, ...] = ("attention",)
    """attention, experts or both; never the router."""
    move_balance: bool = False
    """Let the routers' balancing biases move; a finished model keeps its own."""
    dtype: str = "float32"
    """Of the weights: float32, bfloat16, or auto for the folder's own."""
    device: str = "cpu"
    """Where to train."""
    masters: Literal["all", "adamw"] = "all"
    """As in `OptimConfig`; with bfloat16 only."""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """As in `MuonConfig`."""
    recompute: bool = False
    """Keep only the layers' inputs for the backward pass: less memory, a third more work."""
    offload: bool = False
    """Keep what the backward pass needs in the host's memory."""
    trackers: tuple[str, ...] = ()
    """wandb, trackio; TensorBoard is used wherever it is installed. A resume may have others."""
    allow_changed: tuple[Literal["code", "model", "tokenizer"], ...] = ()
    """What a resume may have another one of, openzaya's code or torch for one: it need not be
    bit-identical then."""

    def __post_init__(self) -> None:
        """Refuse what no run could mean. Raises ConfigError."""
        for name, fits, wanted in (
            ("epochs", 0 < self.epochs < math.inf, "above 0"),
            ("lr", 0 <= self.lr < math.inf, "from 0"),
            ("warmup_share", 0 <= self.warmup_share <= 1, "from 0 to 1"),
            ("held_out_share", 0 < self.held_out_share < 1, "above 0, for one window, and below 1"),
        ):
            if not fits:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose a number {wanted}")
        usual = LoraConfig()
        is_usual = (self.lora_alpha, self.lora_targets) == (usual.alpha, usual.targets)
        if not self.lora_rank and not is_usual:
            raise ConfigError(
                f"lora_alpha is {self.lora_alpha} and lora_targets {list(self.lora_targets)}, but "
                "there are no adapters; add --lora RANK, or leave both out"
            )


def finetune(
    kind: Kind,
    model_folder: Path,
    data: Mapping[str, Path],
    run_dir: Path,
    config: FinetuneConfig,
    echo: Echo = print,
) -> dict[str, Any]:
    """Train or resume in `run_dir`; return the report, which is written there as well.

    `run_dir/model` is the result as a model folder; adapters are merged in it, and stand alone, as
    PEFT loads them, in `run_dir/adapter`; checkpoints hold adapters without the model. Raises
    DataError for data of another tokenizer, ConfigError when `run_dir` holds another run, and
    CheckpointError when another process works in it.
    """
    tokenizer = TextTokenizer.load(model_folder)
    prepared = {name: open_data(folder, tokenizer) for name, folder in data.items()}
    model = open_model(model_folder, config, tokenizer)
    content = content_of(model)
    lora = adapt(model, config)
    mixture, held_out = split_data(kind, prepared, model, config)
    stage = stage_of(kind, model, mixture, config)

    def windows_of(step: int) -> list[Window]:
        return mixture.windows_for_step(stage.seed, step, stage.tokens_per_step)

    windows_of(0)  # raises DataError where a step could be empty
    base = content if lora is not None else ""
    saving = Saving(tokenizer_hash=tokenizer.sha256, base=base, allow_changed=config.allow_changed)
    about = {
        "kind": kind,
        "model": str(model_folder.resolve()),
        "content": content,
        "data": {name: found.fingerprint for name, found in prepared.items()},
    }
    # Only what can begin takes the folder; what is allowed to change is a matter of one resume.
    with claimed(run_dir, about, replace(config, allow_changed=())):
        record_threads(run_dir)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        plan = f"{stage.steps} steps of {stage.tokens_per_step} tokens, {count:,} trained"
        echo(f"{stage.name}: {plan}")
        watch = Watch(model, stage, held_out, echo)
        before = watch.held_out_loss()
        folder = run_dir / "checkpoints"
        with closing(open_writer(run_dir, config.trackers)) as writer:
            summary = run_stage(
                model, stage, windows_of, folder, on_step=watch, writer=writer, saving=saving
            )
        save_result(model, lora, tokenizer, model_folder, run_dir)
        report = {
            "kind": kind,
            "steps": stage.steps,
            "tokens": stage.steps * stage.tokens_per_step,
            "trained_parameters": count,
            "loss by source": summary.loss_by_source(),
            "held-out loss": {"before": before, "after": watch.held_out_loss()},
            "model": str(run_dir / "model"),
        }
        write_whole(run_dir / "report.json", json.dumps(report, indent=1) + "\n")
        return report


class Watch:
    """Says how training goes, and measures the held-out loss now and then."""

    def __init__(
        self, model: Zaya, stage: StageConfig, held_out: Sequence[Window], echo: Echo
    ) -> None:
        """Watch a stage of `model`."""
        self.model, self.stage, self.held_out, self.echo = model, stage, held_out, echo

    def held_out_loss(self) -> float:
        """Return the loss now, in nats a token."""
        return held_out_loss(self.model, self.held_out, self.stage.micro_tokens)["eval/loss"]

    def __call__(self, state: TrainState, report: StepReport) -> dict[str, float]:
        """Return the held-out loss after steps that measure it."""
        place = f"{self.stage.name}: step {state.step}/{self.stage.steps}"
        if state.step % 10 == 0 or state.step == self.stage.steps:
            self.echo(f"{place} loss {report.loss:.4f}")
        if not is_time_to_evaluate(state.step, self.stage):
            return {}
        loss = self.held_out_loss()
        self.echo(f"{place} held-out loss {loss:.4f}")
        return {"eval/loss": loss}


def save_result(
    model: Zaya, lora: LoraConfig | None, tokenizer: TextTokenizer, base: Path, run_dir: Path
) -> None:
    """Write the model folder, and the adapters before they are merged into it."""
    if lora is not None:
        save_adapter(model, lora, run_dir / "adapter", str(base.resolve()))
        merge_lora(model)
    model.save(run_dir / "model")
    tokenizer.save(run_dir / "model")
    ChatTemplate.load(base).save(run_dir / "model")


def open_model(folder: Path, config: FinetuneConfig, tokenizer: TextTokenizer) -> Zaya:
    """Load the model to train.

    Raises ConfigError for a device that does not work, DataError for a tokenizer with more ids.
    """
    check_device(config.device)
    model = load(folder, config.dtype, config.device, precision="paper")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise DataError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} ids and a model of "
            f"{model.config.vocab_size}; put the tokenizer there that belongs to the model"
        )
    # A large folder is mapped read-only; training writes.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def check_device(name: str) -> None:
    """Raise ConfigError for a device that this machine or this torch does not have."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device is {name!r}, which does not work here ({reason}); `openzaya doctor` says "
            "what this machine has"
        ) from error


def open_data(folder: Path, tokenizer: TextTokenizer) -> PreparedData:
    """Open prepared data; raise DataError when its ids belong to another tokenizer."""
    prepared = load_prepared(folder)
    found = TextTokenizer.load(folder / "tokenizer").sha256
    if found != tokenizer.sha256:
        raise DataError(
            f"{folder} was prepared with the tokenizer {found[:12]}, but the model has "
            f"{tokenizer.sha256[:12]}; prepare the data again with --tokenizer set to the model"
        )
    return prepared


def adapt(model: Zaya, config: FinetuneConfig) -> LoraConfig | None:
    """Add the adapters that are wanted."""
    if not config.lora_rank:
        return None
    lora = LoraConfig(rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
    add_lora(model, lora, stream_seed(config.seed, "lora"))
    return lora


def split_data(
    kind: Kind, prepared: Mapping[str, PreparedData], model: Zaya, config: FinetuneConfig
) -> tuple[Mixture, list[Window]]:
    """Trim, pack and hold some windows out; return the mixture and the windows held out.

    Too long conversations without reasoning are dropped in SFT and cut into pieces otherwise.
    """
    context = context_of(model, config)
    trim = ApTrimConfig(no_reasoning="split_text" if kind == "sft" else "split")
    kept: dict[str, list[Window]] = {}
    held_out: list[Window] = []
    for name, documents in prepared.items():
        windows = build_windows(
            documents, context, trim, seed=stream_seed(config.seed, "windows", name)
        )
        count = math.ceil(len(windows) * config.held_out_share)
        # One more than are held out: something has to be left to train on.
        able = list(islice((i for i, w in enumerate(windows) if has_target(w)), count + 1))
        if len(able) < 2:
            raise DataError(
                f"the data {name!r} fill too few windows of {context} tokens with something to "
                f"train on: {len(able)} of {len(windows)}, expected at least 2, one of which is "
                "held out; add data or shorten context_tokens"
            )
        chosen = set(able[:-1])
        held_out += [windows[i] for i in sorted(chosen)]
        kept[name] = [window for i, window in enumerate(windows) if i not in chosen]
    sizes = {name: float(sum(map(len, windows))) for name, windows in kept.items()}
    return Mixture(kept, config.weights or sizes), held_out


def has_target(window: Window) -> bool:
    """Tell whether a window has a trained token; a document's first one cannot be predicted."""
    firsts = np.cumsum([0, *window.lengths[:-1]])
    mask = window.loss_mask
    return bool(mask.sum() > mask[firsts].sum())


def context_of(model: Zaya, config: FinetuneConfig) -> int:
    """Return the longest document. Raises ConfigError beyond what the model is meant for."""
    most = model.config.max_position_embeddings
    if config.context_tokens > most:
        raise ConfigError(
            f"context_tokens is {config.context_tokens}, but the model is meant for {most}"
        )
    return config.context_tokens or min(4096, most)


def stage_of(kind: Kind, model: Zaya, mixture: Mixture, config: FinetuneConfig) -> StageConfig:
    """Return the stage: as many steps as the epochs need, at the rate of the kind."""
    total = mixture.num_tokens
    per_step = min(config.tokens_per_step, total)
    steps = config.steps or max(1, round(config.epochs * total / per_step))
    lr = config.lr or RATES[kind, config.lora_rank > 0]
    return StageConfig(
        name=kind,
        steps=steps,
        tokens_per_step=per_step,
        context_tokens=context_of(model, config),
        rope_theta=model.rope_thetas.get("hybrid", model.config.rope_theta),
        micro_tokens=config.micro_tokens,
        warmup_steps=math.ceil(config.warmup_share * steps),
        decay_fraction=0.2,
        optim=OptimConfig(
            muon=MuonConfig(lr=lr, momentum_dtype=config.momentum_dtype),
            lr_adamw=lr,
            masters=config.masters,
        ),
        balance=BalanceConfig() if config.move_balance else BalanceConfig(learning_rate=0.0),
        recompute=config.recompute,
        offload=config.offload,
        evaluate_every_steps=config.evaluate_every_steps,
        checkpoint_every_steps=config.checkpoint_every_steps,
        seed=stream_seed(config.seed, "order"),
    )


def named(folders: Sequence[str]) -> dict[str, Path]:
    """Return prepared folders by name: NAME=DIR, or the folder's own name."""
    found: dict[str, Path] = {}
    for word in folders:
        name, equals, place = word.partition("=")
        if not equals:
            place, name = word, Path(word.rstrip("/")).name
        if not name or name in found:
            raise ConfigError(f"the data {word!r} have the name {name!r}, which is empty or taken")
        found[name] = Path(place)
    return found
