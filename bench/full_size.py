"""Load a full-size ZAYA1-8B folder of random bf16 weights and decode a few tokens.

    python bench/full_size.py DIR --write          write 17.7 GB once, one tensor at a time
    python bench/full_size.py DIR                  load (memory-mapped), prefill, decode
    python bench/full_size.py DIR --compare        the same with transformers, for the ratio
    python bench/full_size.py DIR --preset nano    a small folder, to try the script itself

Every run is a process of its own, so the peak memory is its own as well.
"""

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openzaya.model.checkpoint import PREFIX, expected_shapes, load, write_folder
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
    parser.add_argument("--compare", action="store_true", help="use transformers instead of ours")
    parser.add_argument("--preset", default="zaya1-8b")
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens [32]")
    parser.add_argument("--tokens", type=int, default=24, help="decoded tokens [24]")
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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load with our own code, prefill and decode greedily."""
    from openzaya.engine.engine import Engine
    from openzaya.engine.request import SamplingParams

    begun = time.perf_counter()
    model = load(args.folder, dtype="bfloat16")
    loaded = time.perf_counter() - begun
    prompt = [5 + i % 100 for i in range(args.prompt)]
    engine = Engine(model, max_slots=1, max_tokens=args.prompt + args.tokens + 8)
    warm = SamplingParams(max_tokens=2, temperature=0.0)
    engine.generate([prompt], warm)
    begun = time.perf_counter()
    engine.generate([prompt], SamplingParams(max_tokens=1, temperature=0.0))
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    params = SamplingParams(max_tokens=args.tokens, temperature=0.0)
    output = engine.generate([prompt], params)[0]
    spent = time.perf_counter() - begun - first
    return {"load_s": loaded, "prefill_s": first, "decode": (len(output.token_ids) - 1) / spent}


def measure_transformers(args: argparse.Namespace) -> dict[str, Any]:
    """The same with transformers' own model and generate loop."""
    from transformers import ZayaForCausalLM

    begun = time.perf_counter()
    model = ZayaForCausalLM.from_pretrained(args.folder, dtype=torch.bfloat16).eval()
    loaded = time.perf_counter() - begun
    ids = torch.tensor([[5 + i % 100 for i in range(args.prompt)]])
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        model.generate(ids, max_new_tokens=2, **options)
        begun = time.perf_counter()
        model.generate(ids, max_new_tokens=1, **options)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        model.generate(ids, max_new_tokens=args.tokens, **options)
        spent = time.perf_counter() - begun - first
    return {"load_s": loaded, "prefill_s": first, "decode": (args.tokens - 1) / spent}


def main() -> None:
    """Write or measure, print one line of JSON."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.write:
        begun = time.perf_counter()
        write(args.folder, args.preset)
        figures: dict[str, Any] = {"write_s": time.perf_counter() - begun}
    else:
        figures = measure_transformers(args) if args.compare else measure(args)
        figures["tokens_per_s"] = figures.pop("decode")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures["peak_rss_gib"] = peak
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
