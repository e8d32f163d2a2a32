"""How evenly the experts are used while a model trains, and after its data change all at once.

    python bench/balancer.py                         350 steps of the xs preset, some ten minutes
    python bench/balancer.py --picture docs/pictures/balancer.png     needs matplotlib

The xs preset (MLP router with depth averaging) learns four of the nano recipe's tasks and its
facts for `--steps` steps, then the five others and the aggregation examples. Load entropy is that
of a step's tokens over the experts, divided by ln E, mean over the layers. One run for each rate at
which the balancing biases move; 0 switches them off.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from openzaya.core.seeding import stream, stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.windows import build_windows
from openzaya.envs.base import Teacher
from openzaya.envs.teaching import AggregationStyle, aggregation, facts, trace
from openzaya.model.balance import BalanceConfig, RouterBalancer
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.recipes.nano.s1_pretrain import OPTIM
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


def entropies(balance: BalanceConfig, args: argparse.Namespace) -> list[float]:
    """Train once; return the mean load entropy of every step."""
    shape = preset("xs", vocab_size=preset("nano").vocab_size, pad_token_id=0)
    model = Zaya(shape)
    model.init_weights(torch.Generator().manual_seed(stream_seed(args.seed, "init")))
    model.train()
    stage = StageConfig(
        name="balancer",
        steps=args.steps + args.after,
        tokens_per_step=args.tokens,
        context_tokens=CONTEXT,
        warmup_steps=20,
        decay_fraction=0.0,
        optim=OPTIM,
        balance=balance,
    )
    optimizers = build_optimizer(model, stage.optim)
    balancer = RouterBalancer(model, balance)
    state = TrainState(SpikeGuard(stage.spike_sigmas))
    half = args.steps * args.tokens // 2
    phases = (mixture(BEFORE, "facts", half), mixture(AFTER, "aggregation", half))
    found = []
    for step in range(stage.steps):
        windows = phases[step >= args.steps].windows_for_step(args.seed, step, args.tokens)
        report = train_step(model, optimizers, balancer, windows, stage, state)
        found.append(sum(report.load_entropy) / len(report.load_entropy))
        if step % 10 == 0:
            line = {"step": step, "loss": round(report.loss, 4), "entropy": round(found[-1], 4)}
            print(json.dumps(line), flush=True)
    return found


def draw(curves: dict[str, Sequence[float]], change: int, path: Path) -> None:
    """Draw the curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, values), color in zip(curves.items(), ("#1b6ca8", "#b0643c"), strict=False):
        axes.plot(values, label=name, color=color, linewidth=1.4)
    axes.axvline(change, color="#888888", linewidth=0.8, linestyle="--")
    axes.annotate("other data", (change, 0.02), xytext=(4, 0), textcoords="offset points")
    for height in (0.97, 0.90):
        axes.axhline(height, color="#cccccc", linewidth=0.7)
    axes.set(xlabel="optimizer step", ylabel="load entropy / ln E", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the figures, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--after", type=int, default=60, help="steps on the other data [60]")
    parser.add_argument("--tokens", type=int, default=8_192, help="tokens of a step [8192]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", default="0.01,0", help="of the biases, a step [0.01,0]")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    curves = {
        f"rate {rate}" if float(rate) else "no balancing": entropies(
            BalanceConfig(learning_rate=float(rate)), args
        )
        for rate in args.rates.split(",")
    }
    for name, values in curves.items():
        before, after = values[args.steps - 10 : args.steps], values[args.steps :]
        recovered = next(
            (i for i, v in enumerate(after) if v >= 0.90 and min(after[i:]) >= 0.90), None
        )
        summary = {
            "run": name,
            "entropy before the change": round(sum(before) / len(before), 4),
            "lowest after": round(min(after), 4),
            "steps until 0.90 for good": recovered,
            "entropy at the end": round(sum(after[-10:]) / 10, 4),
        }
        print(json.dumps(summary))
    if args.picture:
        draw(curves, args.steps, args.picture)


if __name__ == "__main__":
    main()
