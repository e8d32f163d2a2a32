"""Measure the engine's decode throughput on a model with random weights.

    python bench/engine_throughput.py --threads 1 --batch 64 256
    python bench/engine_throughput.py --profile           share of the model in one decode step

The default shape is the nano preset, prompts of 40 tokens and 80 new ones. Times are wall clock and
CPU time of the process: on a shared machine only the second repeats.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import torch

from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya


def make_model(name: str) -> Zaya:
    """Return a preset with random weights."""
    model = Zaya(preset(name))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


@contextmanager
def timed(model: Zaya) -> Iterator[dict[str, float]]:
    """Collect the CPU seconds of the model's trunk and head while the block runs."""
    spent = {"trunk": 0.0, "head": 0.0}

    def wrap(name: str) -> Callable[..., object]:
        inner = getattr(model, name)

        def call(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            result = inner(*args, **kwargs)
            spent[name] += time.process_time() - start
            return result

        return call

    for name in spent:
        setattr(model, name, wrap(name))
    try:
        yield spent
    finally:
        for name in spent:
            delattr(model, name)


def start(model: Zaya, batch: int, args: argparse.Namespace) -> Engine:
    """Return an engine with `batch` requests of distinct prompts queued."""
    rng = Random(0)
    context = args.prompt + args.new
    engine = Engine(model, max_slots=batch, max_tokens=context, prefill_tokens=batch * args.prompt)
    for seed in range(batch):
        prompt = [rng.randrange(model.config.vocab_size) for _ in range(args.prompt)]
        params = SamplingParams(max_tokens=args.new, seed=seed, capture_experts=args.capture)
        engine.add(prompt, params)
    return engine


def measure(model: Zaya, batch: int, args: argparse.Namespace) -> None:
    """Print the throughput of one batch from its arrival to its end."""
    engine = start(model, batch, args)
    wall, cpu = time.perf_counter(), time.process_time()
    engine.step()
    first = time.perf_counter() - wall
    with timed(model) as spent:
        decode_wall, decode_cpu = time.perf_counter(), time.process_time()
        steps = 0
        while engine.has_work:
            engine.step()
            steps += 1
        decode = time.perf_counter() - decode_wall
        decode_cpu = time.process_time() - decode_cpu
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = engine.stats.tokens_generated
    print(
        f"batch {batch}: {tokens / wall:,.0f} tokens/s wall, {tokens / cpu:,.0f} tokens/s CPU; "
        f"prefill + first {1e3 * first:.0f} ms; "
        f"decode step {1e3 * decode / steps:.2f} ms wall, {1e3 * decode_cpu / steps:.2f} ms CPU"
    )
    if args.profile:
        ours = decode_cpu - sum(spent.values())
        parts = {**spent, "engine": ours}
        shares = ", ".join(
            f"{name} {1e3 * seconds / steps:.2f} ms ({seconds / decode_cpu:.0%})"
            for name, seconds in parts.items()
        )
        print(f"  CPU: {shares}")


def main() -> None:
    """Read the arguments and measure every batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--prompt", type=int, default=40, help="tokens per prompt")
    parser.add_argument("--new", type=int, default=80, help="new tokens per request")
    parser.add_argument("--capture", action="store_true", help="record the experts too")
    parser.add_argument("--profile", action="store_true", help="say where a decode step goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = make_model(args.preset)
    for batch in args.batch:
        measure(model, batch, args)


if __name__ == "__main__":
    main()
