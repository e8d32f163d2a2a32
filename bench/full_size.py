"""Load a full-size ZAYA1-8B folder of random bf16 weights and decode a few tokens.

    python bench/full_size.py DIR --write              write 17.7 GB once, one tensor at a time
    openzaya convert DIR DIR-int4 --weights int4       and its quantized copies
    python bench/full_size.py DIR                      load (memory-mapped), prefill, decode
    python bench/full_size.py DIR --batch 8            the same for 8 prompts at once
    python bench/full_size.py DIR --compare            turn by turn with transformers
    python bench/full_size.py DIR --preset nano        a small folder, to try the script itself

Speeds are medians of `--repeats` runs. Every call is a process of its own, so the peak memory,
mapped pages included, is its own as well (not with --compare, which holds both).
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openzaya.model.checkpoint import PREFIX, expected_shapes, write_folder
from openzaya.model.presets import preset
from openzaya.model.router import SKIP_BIAS
from openzaya.model.shards import TensorSpec

STD = 0.02
BUFFER = "balancing_biases"


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--compare", action="store_true", help="transformers in turns with ours")
    parser.add_argument("--preset", default="zaya1-8b")
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens [32]")
    parser.add_argument("--tokens", type=int, default=24, help="decoded tokens [24]")
    parser.add_argument("--batch", type=int, default=1, help="prompts at once [1]")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each [5]")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def write(folder: Path, name: str) -> None:
    """Write random weights one tensor at a time."""
    config = preset(name)
    generator = torch.Generator().manual_seed(0)
    specs = (
        TensorSpec(
            name=PREFIX + key,
            dtype=torch.float32 if key.endswith(BUFFER) else torch.bfloat16,
            shape=shape,
            make=partial(draw, key, shape, generator),
        )
        for key, shape in expected_shapes(config).items()
    )
    write_folder(folder, config, specs, torch.bfloat16)


def draw(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return one random tensor of the checkpoint, scales at 1 and biases at 0."""
    if key.endswith(BUFFER):
        balance_X = torch.zeros(shape)
        balance_X[-1] = SKIP_BIAS
        return balance_X
    if len(shape) == 1:
        one = key.endswith(("norm.weight", "_scale", "layernorm.weight", ".temp"))
        return torch.full(shape, float(one), dtype=torch.bfloat16)
    # Drawn in bf16 directly: an fp32 expert stack would double the memory.
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, STD, generator=generator)


Run = Callable[[int], None]
"""Generates that many tokens for every prompt, greedily."""


def ours(args: argparse.Namespace, prompts: list[list[int]]) -> Run:
    """Load with our own code and return a run of the engine."""
    from openzaya.engine.engine import Engine
    from openzaya.engine.passes import load_model
    from openzaya.engine.request import SamplingParams

    model = load_model(args.folder, dtype="bfloat16")
    context = args.prompt + args.tokens + 8
    engine = Engine(model, max_slots=args.batch, max_tokens=context, kept_blocks=0)

    def run(tokens: int) -> None:
        engine.generate(prompts, SamplingParams(max_tokens=tokens, temperature=0.0))

    return run


def theirs(args: argparse.Namespace, prompts: list[list[int]]) -> Run:
    """The same with transformers' own model and generate loop."""
    from transformers import ZayaForCausalLM

    model = ZayaForCausalLM.from_pretrained(args.folder, dtype=torch.bfloat16).eval()

    def run(tokens: int) -> None:
        with torch.inference_mode():
            model.generate(
                torch.tensor(prompts),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )

    return run


def timed(run: Run, tokens: int) -> float:
    """Return the seconds of one run."""
    begun = time.perf_counter()
    run(tokens)
    return time.perf_counter() - begun


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load, then prefill and decode in turns; decoding is what more tokens cost."""
    prompts = [[5 + (i * 7 + 31 * p) % 9000 for i in range(args.prompt)] for p in range(args.batch)]
    figures: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    for name, make in {"ours": ours, "transformers": theirs}.items():
        if name == "ours" or args.compare:
            begun = time.perf_counter()
            runs[name] = make(args, prompts)
            figures[f"{name}_load_s"] = time.perf_counter() - begun
            runs[name](2)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            times[name].append((timed(run, 1), timed(run, args.tokens)))
    for name, pairs in times.items():
        first = statistics.median(short for short, _ in pairs)
        spent = statistics.median(long - short for short, long in pairs)
        figures[f"{name}_prefill_s"] = first
        figures[f"{name}_tokens_per_s"] = args.batch * (args.tokens - 1) / spent
    return figures


def main() -> None:
    """Write or measure, print one line of JSON."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.write:
        begun = time.perf_counter()
        write(args.folder, args.preset)
        figures: dict[str, Any] = {"write_s": time.perf_counter() - begun}
    else:
        figures = measure(args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures["peak_rss_gib"] = peak
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
