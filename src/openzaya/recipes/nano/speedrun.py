"""Run every stage of the nano recipe in order, examine the model after each, write the report.

Everything that is finished stays finished: a run that was killed goes on from its newest
checkpoint and comes to the same numbers.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from openzaya.core.config import config_hash, diff, dump_toml, from_mapping, load_toml
from openzaya.core.errors import ConfigError
from openzaya.core.files import write_whole
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.core.seeding import stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.windows import Window, build_windows
from openzaya.eval.rollouts import Codec
from openzaya.model.checkpoint import load
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano import s1_pretrain, s2_midtrain, s3_sft, s4_rl
from openzaya.recipes.nano.corpus import Writer, write_corpus
from openzaya.recipes.nano.evaluation import compare_ttc, examine, ttc_items
from openzaya.recipes.nano.picture import load_entropy_picture
from openzaya.recipes.nano.report import ENTROPY_PICTURE, entropy_by_stage, report_card
from openzaya.recipes.nano.settings import SupervisedStage
from openzaya.recipes.nano.tasks import held_out
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.rl.stages import RLStage, StepOutcome, run_rl
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import Document
from openzaya.train.lineage import without_harmless
from openzaya.train.lock import RunLock
from openzaya.train.loop import run_stage
from openzaya.train.saver import Saving
from openzaya.train.state import TrainState
from openzaya.train.step import StepReport
from openzaya.train.threads import record_threads
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.presets import NANO

Echo = Callable[[str], None]

WINDOW_TOKENS = 512
"""Windows of the shorter stages hold several contexts; documents never see each other."""


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


def speedrun(
    run_dir: Path, config: SpeedrunConfig, echo: Echo = print, allow_changed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run or resume all stages in `run_dir`; return the report that was written there.

    `allow_changed` is that of `train.saver.Saving`. Raises ConfigError when `run_dir` belongs to a
    run with other settings, CheckpointError when another process works in it.
    """
    with RunLock(run_dir):
        claim(run_dir, config)
        record_threads(run_dir)
        run = Speedrun(run_dir, config, echo, allow_changed)
        model = run.fresh_model()
        for name in ("pretrain", "midtrain", "sft"):
            model = run.finish(name, model, run.supervise)
        model = run.finish("rl", model, run.reinforce)
        return run.report(model)


def claim(run_dir: Path, config: SpeedrunConfig) -> None:
    """Record the resolved settings, or refuse a folder that holds a run with others."""
    path = run_dir / "config.toml"
    if not path.exists():
        write_whole(path, dump_toml(config))
        return
    found = from_mapping(SpeedrunConfig, load_toml(path), str(path))
    changed = without_harmless(diff(found, config))
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run with other settings ({'; '.join(changed[:5])}); resume it with "
            "the same settings or choose another folder with --run-dir"
        )


class Speedrun:
    """One run: its folder, its settings, and the results of finished stages."""

    def __init__(
        self, run_dir: Path, config: SpeedrunConfig, echo: Echo, allow_changed: tuple[str, ...] = ()
    ) -> None:
        """Prepare the metrics file and the codec."""
        self.run_dir = run_dir
        self.config = config
        self.echo = echo
        self.codec = nano_codec()
        self.saving = Saving(
            tokenizer_hash=self.codec.tokenizer.sha256, allow_changed=allow_changed
        )
        self.writer = MetricWriter(run_dir / "metrics.jsonl")
        self.results: dict[str, dict[str, Any]] = {}

    def fresh_model(self) -> Zaya:
        """Return a randomly initialized nano model."""
        tokenizer = self.codec.tokenizer
        model = Zaya(preset("nano", eos_token_id=tokenizer.eos_id, pad_token_id=0))
        seed = stream_seed(self.config.seed, "init")
        model.init_weights(torch.Generator().manual_seed(seed))
        return model.to(self.config.device)

    def finish(self, name: str, model: Zaya, work: Callable[[str, Zaya], dict[str, Any]]) -> Zaya:
        """Do a stage, examine the model and keep both, or take them from an earlier session."""
        folder = self.run_dir / name
        done = folder / "result.json"
        if not done.exists():
            self.echo(f"{name}: started")
            begun = time.monotonic()
            result = work(name, model)
            result["train_s"] = round(time.monotonic() - begun, 1)
            begun = time.monotonic()
            seed = stream_seed(self.config.seed, "examine")
            result["pass@1"] = examine(model, self.codec, self.config.eval_samples, seed)
            result["eval_s"] = round(time.monotonic() - begun, 1)
            export(model, self.codec, folder / "model")
            write_json(done, result)
        self.results[name] = json.loads(done.read_text(encoding="utf-8"))
        self.echo(f"{name}: {summary_line(self.results[name])}")
        return load(folder / "model", device=self.config.device)

    def supervise(self, name: str, model: Zaya) -> dict[str, Any]:
        """Write the stage's corpus and train on it."""
        stage: SupervisedStage = getattr(self.config, name)
        writer = Writer(
            self.codec.tokenizer,
            self.codec.chat,
            stage.corpus,
            stream_seed(self.config.seed, "corpus", name),
        )
        mixture, card = mix(write_corpus(writer), stage.train.context_tokens, self.config.seed)
        self.echo(f"{name}: {card}")
        train = replace(stage.train, seed=stream_seed(self.config.seed, "order", name))

        def report(state: TrainState, step: StepReport) -> None:
            if state.step % 20 == 0 or state.step == train.steps:
                self.echo(f"{name}: step {state.step}/{train.steps} loss {step.loss:.3f}")

        summary = run_stage(
            model,
            train,
            lambda step: mixture.windows_for_step(train.seed, step, train.tokens_per_step),
            self.run_dir / name / "checkpoints",
            on_step=report,
            writer=self.writer,
            saving=self.saving,
        )
        return {
            "corpus": card,
            "steps": train.steps,
            "tokens": train.steps * train.tokens_per_step,
            "loss by source": summary.loss_by_source(),
            "load entropy by layer": summary.load_entropy(),
        }

    def reinforce(self, name: str, model: Zaya) -> dict[str, Any]:
        """Run the RL stage."""
        settings = self.config.rl
        seed = stream_seed(self.config.seed, "rl")
        stage = RLStage(
            model,
            s4_rl.score,
            self.codec.tokenizer,
            self.codec.chat,
            replace(settings.train, seed=seed),
            settings.tail_tokens,
        )

        def report(step: int, outcome: StepOutcome) -> None:
            if step % 5 == 0 or step == settings.train.steps:
                reward = outcome.metrics["rl/reward"]
                self.echo(f"{name}: step {step}/{settings.train.steps} reward {reward:.3f}")

        state = run_rl(
            stage,
            s4_rl.NanoPrompts(settings, seed),
            self.run_dir / name / "checkpoints",
            on_step=report,
            writer=self.writer,
            saving=self.saving,
        )
        return {"steps": settings.train.steps, "reward by step": state.rewards}

    def report(self, model: Zaya) -> dict[str, Any]:
        """Compare test-time compute on the final model; write report and model."""
        items = ttc_items(self.config.ttc_per_task)
        seed = stream_seed(self.config.seed, "ttc")
        done = self.run_dir / "ttc.json"
        if not done.exists():
            self.echo(f"test-time compute on {len(items)} problems")
            table = compare_ttc(model, self.codec, items, self.config.ttc, seed)
            write_json(done, {"rows": table.rows()})
        report = {
            "config hash": config_hash(self.config),
            "stages": self.results,
            "test-time compute": json.loads(done.read_text(encoding="utf-8")),
            "problems": {"held out": len(held_out()), "test-time compute": len(items)},
        }
        write_json(self.run_dir / "report.json", report)
        entropy = entropy_by_stage(read_metrics(self.run_dir / "metrics.jsonl"))
        picture = load_entropy_picture(entropy)
        (self.run_dir / ENTROPY_PICTURE).write_text(picture, encoding="utf-8")
        (self.run_dir / "REPORT.md").write_text(report_card(report), encoding="utf-8")
        export(model, self.codec, self.run_dir / "model")
        return report


def mix(documents: Sequence[Document], context_tokens: int, seed: int) -> tuple[Mixture, str]:
    """Trim and pack each source apart and mix them as they come; return a data card line too."""
    sources: dict[str, list[Document]] = {}
    for document in documents:
        name = document.source if document.source in ("facts", "aggregation") else "traces"
        sources.setdefault(name, []).append(document)
    windows: dict[str, list[Window]] = {}
    card = []
    for name, members in sources.items():
        size = max(context_tokens, WINDOW_TOKENS)
        windows[name] = build_windows(members, context_tokens, window_tokens=size, seed=seed)
        before = sum(len(d.tokens) for d in members)
        after = sum(len(w) for w in windows[name])
        card.append(f"{name} {before} tokens, {after} after trimming to {context_tokens}")
    weights = {name: float(sum(len(w) for w in members)) for name, members in windows.items()}
    return Mixture(windows, weights), "; ".join(card)


def export(model: Zaya, codec: Codec, folder: Path) -> None:
    """Write a complete model folder: weights, tokenizer, chat template."""
    model.save(folder)
    codec.tokenizer.save(folder)
    codec.chat.save(folder)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a result that is there whole or not at all."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def summary_line(result: dict[str, Any]) -> str:
    """Return a finished stage's pass@1 in one line."""
    scores = result["pass@1"]
    parts = [
        f"{level} {scores[kind][level]['all'][0]:.3f} ({kind})"
        for kind in ("temperature 1", "greedy")
        for level in ("easy", "hard")
    ]
    return f"pass@1 {', '.join(parts)}; {result['train_s']:.0f} s + {result['eval_s']:.0f} s"
