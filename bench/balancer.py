"""How evenly experts are used while a model trains, and after its data change all at once.

    python bench/balancer.py                         both ways of balancing, some twenty minutes
    python bench/balancer.py --picture docs/pictures/balancer.png     needs matplotlib
    python bench/balancer.py --cost                  what balancing takes of a step's CPU time

The xs preset (MLP router with depth averaging) learns four of the nano recipe's tasks and its
facts for `--steps` steps, then the five others and the aggregation examples. Load entropy is that
of a step's tokens over the experts, divided by ln E, mean over the layers. One run for each entry
of `--runs`: `nano` balances as the nano recipes do, by distance with slow routers; `distance` does
so with routers that learn as fast as the rest; a number is the rate at which the paper's Adam moves
the biases (0 leaves them), also with fast routers. `nano:4096` makes steps of so many tokens. A run
leaves its curve in `--out`, and one that is there is not done again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.seeding import stream, stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.windows import build_windows
from openzaya.envs.base import Teacher
from openzaya.envs.teaching import AggregationStyle, aggregation, facts, trace
from openzaya.model.balance import BalanceConfig, RouterBalancer
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.recipes.nano.s1_pretrain import BALANCE, OPTIM
from openzaya.recipes.nano.speedrun import nano_codec
from openzaya.recipes.nano.tasks import LEVELS, draw_training
from openzaya.text.document import Document, text_document
from openzaya.train.stages import StageConfig
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import train_step

CONTEXT = 256
CODEC = nano_codec()
TASKS = tuple(LEVELS)
BEFORE, AFTER = TASKS[:4], TASKS[4:]
COLORS = ("#1b6ca8", "#b0643c", "#5b8c5a", "#8a5a8c")

Point = dict[str, float]
"""Step, loss and load entropy."""


def documents(tasks: tuple[str, ...], extra: str, tokens: int) -> list[Document]:
    """Return traces of some tasks and, as every fifth document, facts or aggregation examples."""
    made: list[Document] = []
    total = 0
    while total < tokens:
        rng = stream(0, "balancer", extra, len(made))
        item = draw_training(rng, 0.5, tasks)
        if len(made) % 5:
            turns = trace(item.env, item.problem, rng, Teacher(patience=rng.randint(2, 10)))
            document = CODEC.chat.encode_turns(turns, CODEC.tokenizer, source="mix")
        elif extra == "facts":
            document = text_document(CODEC.tokenizer.encode(facts(rng, 12)), "mix")
        else:
            turns = aggregation(item.env, item.problem, rng, AggregationStyle())
            document = CODEC.chat.encode_turns(turns, CODEC.tokenizer, source="mix")
        made.append(document)
        total += len(document.tokens)
    return made


def mixture(tasks: tuple[str, ...], extra: str, tokens: int) -> Mixture:
    """Return an endless stream of windows."""
    windows = build_windows(documents(tasks, extra, tokens), CONTEXT, window_tokens=512)
    return Mixture({"mix": windows}, {"mix": 1.0})


def with_tokens(entry: str, args: argparse.Namespace) -> tuple[str, argparse.Namespace]:
    """Return the run that an entry names, and the settings with its tokens."""
    run, _, tokens = entry.partition(":")
    return run, argparse.Namespace(**{**vars(args), "tokens": int(tokens or args.tokens)})


def stage_of(run: str, args: argparse.Namespace) -> StageConfig:
    """Return the settings of a run."""
    by_rate = run not in ("nano", "distance")
    fast = replace(OPTIM, muon=replace(OPTIM.muon, router_rate=1.0))
    return StageConfig(
        name="balancer",
        steps=args.steps + args.after,
        tokens_per_step=args.tokens,
        context_tokens=CONTEXT,
        warmup_steps=20,
        decay_fraction=0.0,
        optim=OPTIM if run == "nano" else fast,
        balance=BalanceConfig(learning_rate=float(run)) if by_rate else BALANCE,
    )


class Timed(RouterBalancer):
    """Adds up the CPU time that balancing takes."""

    spent_s = 0.0

    def observe(self, experts_TL: Tensor, probs_TLX: Tensor | None = None) -> None:
        """Observe and take the time."""
        begun = time.process_time()
        super().observe(experts_TL, probs_TLX)
        self.spent_s += time.process_time() - begun

    def step(self) -> None:
        """Step and take the time."""
        begun = time.process_time()
        super().step()
        self.spent_s += time.process_time() - begun


def cost(args: argparse.Namespace) -> None:
    """Print the share of a step's CPU time that each way of balancing takes, median of eight."""
    for entry in args.runs.split(","):
        run, mine = with_tokens(entry, args)
        windows = mixture(BEFORE, "facts", 10 * mine.tokens)
        model, stage = fresh_model(mine.seed), stage_of(run, mine)
        optimizers, balancer = build_optimizer(model, stage.optim), Timed(model, stage.balance)
        state, shares = TrainState(SpikeGuard(stage.spike_sigmas)), []
        for step in range(9):
            part = windows.windows_for_step(mine.seed, step, mine.tokens)
            begun, balancer.spent_s = time.process_time(), 0.0
            train_step(model, optimizers, balancer, part, stage, state)
            shares.append(balancer.spent_s / (time.process_time() - begun))
        share = round(statistics.median(shares[1:]), 5)
        print(json.dumps({"run": entry, "share of a step": share}), flush=True)


def fresh_model(seed: int) -> Zaya:
    """Return the xs model at its start."""
    model = Zaya(preset("xs", vocab_size=preset("nano").vocab_size, pad_token_id=0))
    model.init_weights(torch.Generator().manual_seed(stream_seed(seed, "init")))
    return model.train()


def train(run: str, args: argparse.Namespace, path: Path) -> None:
    """Train once; write a line for every step."""
    model, stage = fresh_model(args.seed), stage_of(run, args)
    optimizers = build_optimizer(model, stage.optim)
    balancer = RouterBalancer(model, stage.balance)
    state = TrainState(SpikeGuard(stage.spike_sigmas))
    half = args.steps * args.tokens // 2
    phases = (mixture(BEFORE, "facts", half), mixture(AFTER, "aggregation", half))
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as lines:
        for step in range(stage.steps):
            windows = phases[step >= args.steps].windows_for_step(args.seed, step, args.tokens)
            report = train_step(model, optimizers, balancer, windows, stage, state)
            entropy = sum(report.load_entropy) / len(report.load_entropy)
            line = {"step": step, "loss": round(report.loss, 4), "entropy": round(entropy, 4)}
            print(json.dumps(line), file=lines, flush=True)
            if step % 10 == 0:
                print(json.dumps({"run": path.stem, **line}), flush=True)
    part.rename(path)


def summary(name: str, points: Sequence[Point], change: int) -> dict[str, object]:
    """Return the figures of a curve: the means are over twenty steps."""
    after = [p for p in points if p["step"] >= change]
    late = [p for p in points if change - 20 <= p["step"] < change]
    last = after[-1]["step"]
    end = [p for p in after if p["step"] > last - 20]
    low = [p["step"] for p in after if p["entropy"] < 0.90]
    return {
        "run": name,
        "entropy before the change": mean(late, "entropy"),
        "loss before the change": mean(late, "loss"),
        "lowest after": min(p["entropy"] for p in after),
        "last step below 0.90, after the change": max(low) - change if low else None,
        "entropy at the end": mean(end, "entropy"),
        "loss at the end": mean(end, "loss"),
    }


def mean(points: Sequence[Point], key: str) -> float:
    """Return the mean of a figure over points."""
    return round(sum(p[key] for p in points) / max(1, len(points)), 4)


def label(entry: str) -> str:
    """Return what the legend calls a run."""
    run, _, tokens = entry.partition(":")
    names = {"nano": "by distance, slow routers (nano recipes)", "distance": "by distance"}
    name = names.get(run) or (f"Adam, rate {run}" if float(run) else "no balancing")
    return name + (f"; {int(tokens):,} tokens a step" if tokens else "")


def draw(curves: dict[str, Sequence[Point]], change: int, path: Path) -> None:
    """Draw load entropy and, below it, loss."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7, 4.6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    for (entry, points), color in zip(curves.items(), COLORS, strict=False):
        steps = [p["step"] for p in points]
        for axes, key in ((upper, "entropy"), (lower, "loss")):
            axes.plot(
                steps, [p[key] for p in points], label=label(entry), color=color, linewidth=1.1
            )
    for height in (0.97, 0.90):
        upper.axhline(height, color="#cccccc", linewidth=0.7, zorder=0)
        upper.annotate(f"{height:.2f}", (0, height), fontsize=7, color="#888888", va="bottom")
    for axes in (upper, lower):
        axes.axvline(change, color="#888888", linewidth=0.8, linestyle="--")
        axes.spines[["top", "right"]].set_visible(False)
    upper.annotate("other data", (change, 0.03), xytext=(4, 0), textcoords="offset points")
    upper.set(ylabel="load entropy / ln E", ylim=(0, 1.02))
    lower.set(xlabel="optimizer step", ylabel="loss, nats a token", yscale="log")
    upper.legend(frameon=False, loc="lower center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run what is missing, print the figures, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--after", type=int, default=60, help="steps on the other data [60]")
    parser.add_argument("--tokens", type=int, default=8_192, help="tokens of a step [8192]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="nano,0.002", help="[nano,0.002]")
    parser.add_argument("--out", type=Path, default=Path("runs/balancer"))
    parser.add_argument("--cost", action="store_true", help="take the time of balancing instead")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.cost:
        cost(args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, Sequence[Point]] = {}
    for entry in args.runs.split(","):
        run, mine = with_tokens(entry, args)
        path = args.out / f"{run}-{mine.steps}-{mine.tokens}-{mine.seed}.jsonl"
        if not path.exists():
            train(run, mine, path)
        lines = path.read_text(encoding="utf-8").splitlines()
        curves[entry] = [json.loads(line) for line in lines]
        print(json.dumps(summary(entry, curves[entry], args.steps)))
    if args.picture:
        draw(curves, args.steps, args.picture)


if __name__ == "__main__":
    main()
