"""Compare our engine with transformers on this CPU: same weights, same process, turn by turn.

    python bench/cpu_engine.py                          the s preset in fp32, two threads
    python bench/cpu_engine.py --dtype bfloat16 --batches 1
    python bench/cpu_engine.py --busy                   beside a process that keeps one core busy
    python bench/cpu_engine.py --greedy 200             are greedy outputs the same, token for token
    python bench/cpu_engine.py --shared 16              candidates of one question against one
    python bench/cpu_engine.py --memory                 peak memory of a process of each

Every figure is the median of `--repeats` runs that alternate between the two. Ours is measured
through the engine: scheduling, sampling and recording included; transformers as forward passes on
its own cache and an argmax.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams
from openzaya.model.checkpoint import load
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya

PROMPT = 128
"""Tokens before the measured decode steps."""
STEPS = {1: 48, 16: 16, 64: 10}
"""Decode steps of one run."""


def make_model(name: str) -> Zaya:
    """Return a preset with random weights whose logits and routes are spread out."""
    model = Zaya(preset(name))
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.norm.weight.mul_(4.0)
        for part, parameter in model.named_parameters():
            if part.endswith("router_mlp.out_proj.weight"):
                parameter.mul_(3.0)
    return model.eval()


def prompts(count: int, length: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Return random prompts."""
    return np.random.default_rng(seed).integers(3, vocab, (count, length)).tolist()


def our_model(folder: str) -> Zaya:
    """Load a folder with our code."""
    return load(folder)


def their_model(folder: str) -> torch.nn.Module:
    """Load a folder with transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def our_decode(model: Zaya, batch: int, steps: int) -> float:
    """Return the seconds of `steps` decode steps of a full batch."""
    engine = Engine(model, max_slots=batch, max_tokens=PROMPT + steps + 8)
    params = SamplingParams(max_tokens=steps + 4, temperature=0.0)
    for prompt in prompts(batch, PROMPT, model.config.vocab_size):
        engine.add(prompt, params)
    while engine.stats.decode_steps < 1 or engine.stats.tokens_prefilled < batch * PROMPT:
        engine.step()
    start = time.perf_counter()
    for _ in range(steps):
        engine.step()
    return time.perf_counter() - start


def their_decode(model: torch.nn.Module, batch: int, steps: int) -> float:
    """The same with transformers."""
    from transformers import DynamicCache

    ids = torch.tensor(prompts(batch, PROMPT, model.config.vocab_size))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=cache, use_cache=True)
        start = time.perf_counter()
        for _ in range(steps):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=cache, use_cache=True)
        return time.perf_counter() - start


def our_prefill(model: Zaya, length: int) -> float:
    """Return the seconds from a prompt of `length` tokens to its first token."""
    engine = Engine(model, max_slots=1, max_tokens=length + 8, prefill_tokens=length)
    engine.add(prompts(1, length, model.config.vocab_size)[0], SamplingParams(max_tokens=2))
    start = time.perf_counter()
    engine.step()
    return time.perf_counter() - start


def their_prefill(model: torch.nn.Module, length: int) -> float:
    """The same with transformers."""
    ids = torch.tensor(prompts(1, length, model.config.vocab_size))
    with torch.inference_mode():
        start = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
        return time.perf_counter() - start


def alternate(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[float, float]:
    """Return the medians of both, measured in turns after one unmeasured round."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for kept, run in zip(times, (ours, theirs), strict=True):
            seconds = run()
            if turn:
                kept.append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


def compare_greedy(model: Zaya, peer: torch.nn.Module, count: int) -> None:
    """Print how many greedy outputs of one continuous batch are transformers'."""
    rng = np.random.default_rng(1)
    asked = [
        rng.integers(3, model.config.vocab_size, int(n)).tolist()
        for n in rng.integers(1, 300, count)
    ]
    params = SamplingParams(max_tokens=24, temperature=0.0)
    found = Engine(model, max_slots=32, max_tokens=400, prefill_tokens=512).generate(asked, params)
    same = 0
    with torch.inference_mode():
        for prompt, output in zip(asked, found, strict=True):
            expected = peer.generate(
                torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None
            )
            same += expected[0, len(prompt) :].tolist() == output.token_ids
    print(f"greedy outputs equal to transformers': {same} of {count}")


def compare_shared(model: Zaya, count: int, length: int, repeats: int) -> None:
    """Print what `count` candidates of one question cost until each has its first token."""
    prompt = prompts(1, length, model.config.vocab_size)[0]

    def run(candidates: int) -> tuple[float, int]:
        engine = Engine(model, max_slots=count, max_tokens=length + 8, prefill_tokens=length)
        for seed in range(candidates):
            engine.add(prompt, SamplingParams(max_tokens=4, seed=seed))
        start = time.perf_counter()
        while engine.stats.tokens_generated < candidates:
            engine.step()
        return time.perf_counter() - start, engine.stats.tokens_prefilled

    pairs = [(run(1)[0], run(count)) for _ in range(repeats + 1)][1:]
    one = statistics.median(single for single, _ in pairs)
    many = statistics.median(several[0] for _, several in pairs)
    print(f"prompt tokens computed for {count} candidates of {length}: {pairs[0][1][1]}")
    print(f"ms to the first tokens: {many * 1e3:.1f}, {one * 1e3:.1f} for one: {many / one:.2f}x")


def peak_memory(folder: str, engine: str) -> float:
    """Return the peak RSS in MB of a process that loads a folder and decodes."""
    script = (
        "import resource, sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import cpu_engine as c\n"
        f"model = c.{engine}_model({folder!r})\n"
        f"c.{engine}_decode(model, 16, 8)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--prefill", type=int, default=1024)
    parser.add_argument("--busy", action="store_true", help="keep one core busy meanwhile")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="only compare outputs")
    parser.add_argument("--shared", type=int, default=0, metavar="N", help="only shared prompts")
    parser.add_argument("--memory", action="store_true", help="only peak memory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        made = make_model(args.preset)
        made.save(folder)
        if args.memory:
            sizes = {engine: peak_memory(folder, engine) for engine in ("our", "their")}
            print(f"peak memory: ours {sizes['our']:.0f} MB, transformers {sizes['their']:.0f} MB")
            return
        peer = their_model(folder).to(dtype)
        model = made.to(dtype)
        for balance_X in model.router_biases():
            balance_X.data = balance_X.float()
    if args.greedy:
        compare_greedy(model, peer, args.greedy)
        return
    if args.shared:
        compare_shared(model, args.shared, args.prefill, args.repeats)
        return
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.busy else None
    print(f"{args.preset} {args.dtype}, {args.threads} threads{', one core busy' * args.busy}")
    print(f"{'':16} {'ours':>12} {'transformers':>14} {'ratio':>7}   tokens/s")
    rows = [(f"prefill 1x{args.prefill}", args.prefill, our_prefill, their_prefill, ())]
    rows *= bool(args.prefill)
    for batch in args.batches:
        steps = STEPS.get(batch, 8)
        tokens = batch * steps
        rows.append((f"decode batch {batch}", tokens, our_decode, their_decode, (batch, steps)))
    for name, tokens, ours, theirs, rest in rows:
        given = rest or (args.prefill,)
        mine, other = alternate(
            lambda run=ours, a=given: run(model, *a),
            lambda run=theirs, a=given: run(peer, *a),
            args.repeats,
        )
        print(f"{name:16} {tokens / mine:12.1f} {tokens / other:14.1f} {other / mine:6.2f}x")
    if hog is not None:
        hog.kill()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
