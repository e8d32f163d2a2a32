"""The engine on one GPU: right first, then how fast, as shares of what the device can do.

    python bench/gpu_engine.py                 all of it, about six minutes with an 8B model
    python bench/gpu_engine.py --quick         fewer repeats, without transformers
    python bench/gpu_engine.py --preset s      a small model, to try the script itself
    python bench/gpu_engine.py --profile       and where a decode step's time goes, by kernel

Weights are random, in bf16, made on the device. Every line is one JSON object. `of_bound` is the
time that reading the active weights and keys once would take at the measured copy bandwidth, over
the time taken; `of_matrix_rate` the same for the arithmetic of a prompt and an 8192^3 product.
Speeds are medians of `--repeats` runs.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

if not torch.cuda.is_available():  # else Triton may be missing, and the kernels with it
    raise SystemExit(f"torch {torch.__version__} sees no CUDA device; run this where there is one")

from openzaya.engine.cuda.forward import CudaPass
from openzaya.engine.engine import Engine
from openzaya.engine.passes import TorchPass
from openzaya.engine.request import SamplingParams
from openzaya.model.config import ZayaConfig
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya

PROMPT = 128
DECODED = 64
PREFILL = (1, 2048), (8, 2048)


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--unchecked", action="store_true", help="leave out the small models")
    parser.add_argument("--preset", default="zaya1-8b")
    parser.add_argument("--batches", default="1,64", help="decode batches [1,64]")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each [5]")
    return parser.parse_args()


def say(what: str, **found: Any) -> None:
    """Print one line."""
    print(json.dumps({"what": what, **found}), flush=True)


def seconds(work: Callable[[], object], repeats: int, inner: int = 1) -> float:
    """Return the median device time of one call of `work`, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(inner):
            work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / inner)
    return statistics.median(times)


def ceilings(repeats: int) -> tuple[float, float]:
    """Return copy bandwidth in bytes/s, read and written, and the bf16 matrix rate in FLOP/s."""
    source = torch.randn(1 << 30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source), repeats, 10)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    matrix = 2 * 8192**3 / seconds(lambda: a @ b, repeats, 10)
    say(
        "device",
        name=torch.cuda.get_device_name(),
        torch=torch.__version__,
        copy_gb_s=round(copy / 1e9),
        matrix_tflops=round(matrix / 1e12),
    )
    return copy, matrix


@torch.no_grad()
def random_model(config: ZayaConfig, dtype: torch.dtype) -> Zaya:
    """Return a model of random weights on the device, with experts chosen evenly."""
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = Zaya(config)
    torch.set_default_dtype(torch.float32)
    model.init_weights(torch.Generator("cuda").manual_seed(0))
    for name, parameter in model.named_parameters():
        if name.endswith("router_mlp.out_proj.weight"):
            parameter.mul_(30.0)
    if config.skip_mode == "identity":
        for balance_X in model.router_biases():
            balance_X.zero_()  # somebody skips
    return model.eval()


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the length of the difference as a share of the length."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def check(model: Zaya, name: str, most: float) -> bool:
    """Compare prompts and decode steps with the torch pass; return whether they agree."""
    ours, theirs = CudaPass(model, 9, 1024), TorchPass(model, 9, 1024)
    random = np.random.default_rng(0)
    # Prompts, steps of many rows and of few, a piece of a prompt.
    calls = [{0: 300, 1: 70, 2: 1}, *[dict.fromkeys(range(5), 1) for _ in range(4)], {1: 65}]
    calls += [dict.fromkeys(rows, 1) for rows in ((0,), (0,), (1, 0, 7), (7, 1), (0,))]
    worst, flips, tokens = 0.0, 0, 0
    for call in calls:
        ids = random.integers(2, model.config.vocab_size, sum(call.values()))
        lengths, outputs = [*call.values()], np.arange(len(ids))
        found, own = ours.run(ids, lengths, [*call], outputs, want_experts=True)
        wanted, other = theirs.run(ids, lengths, [*call], outputs, want_experts=True)
        assert own is not None
        assert other is not None
        # A flipped choice is another fate: compare the tokens that kept all of theirs.
        same = torch.from_numpy((own == other).all(axis=1)).cuda()
        flips += int((own != other).sum())
        tokens += own.size
        if same.any():
            worst = max(worst, distance(found[same], wanted[same]))
    fine = worst < most and flips <= 0.1 * tokens
    say(
        "check", model=name, worst=worst, most=most, flips=flips, choices=tokens, fine=fine,
        graphs=ours.num_graphs,
    )  # fmt: skip
    return fine


def checks() -> bool:
    """Check small models with all that is special: windows, identity skip, both dtypes."""
    special: dict[str, Any] = {
        "layer_types": ("hybrid_sliding", "hybrid") * 2,
        "num_hidden_layers": 4,
        "sliding_window": 100,
        "skip_mode": "identity",
        "precision": "paper",
    }
    results = []
    for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        for name, changes in (("full", {"precision": "paper"}), ("sliding, identity", special)):
            model = random_model(preset("s", **changes), dtype)
            results.append(check(model, f"{name}, {dtype}", most))
    return all(results)


def active_bytes(model: Zaya, experts_per_layer: float, rows: int, context: int) -> float:
    """Return the bytes that one decode step must read."""
    config = model.config
    size = model.embed_tokens.weight.element_size()
    dense = sum(
        x.nbytes
        for name, x in model.named_parameters()
        if ".experts." not in name and not name.startswith("embed_tokens")
    )
    expert = 3 * config.hidden_size * config.moe_intermediate_size * size
    keys = 2 * config.kv_channels * size * rows * context
    layers = config.num_hidden_layers * (experts_per_layer * expert + keys)
    return dense + layers + model.embed_tokens.weight.nbytes


def decode(model: Zaya, batch: int, copy: float, args: argparse.Namespace) -> float:
    """Measure steps of the engine, and of the pass alone; return the engine's tokens/s."""
    engine = Engine(model, max_slots=batch, max_tokens=1024, kernels="cuda", kept_blocks=0)
    random = np.random.default_rng(0)
    prompts = random.integers(2, model.config.vocab_size, (batch, PROMPT)).tolist()
    rates = []
    for run in range(args.repeats + 1):
        params = SamplingParams(max_tokens=DECODED + 24, seed=run)
        for prompt in prompts:
            engine.add(prompt, params)
        first = engine.stats.tokens_generated
        while engine.stats.tokens_generated - first < 2 * batch:
            engine.step()
        torch.cuda.synchronize()
        begin, done = time.perf_counter(), engine.stats.tokens_generated
        for _ in range(DECODED):
            engine.step()
        torch.cuda.synchronize()
        tokens = engine.stats.tokens_generated - done
        rates.append(tokens / (time.perf_counter() - begin))
        while engine.has_work:
            engine.step()
    rate = statistics.median(rates[1:])
    if args.profile:
        profile_host(engine, prompts)
    alone_s, distinct = step_alone(model, batch, args)
    read = active_bytes(model, distinct, batch, PROMPT + DECODED // 2)
    say(
        "decode",
        batch=batch,
        tokens_s=round(rate, 1),
        step_ms=round(1000 * batch / rate, 3),
        pass_ms=round(1000 * alone_s, 3),
        bound_ms=round(1000 * read / copy, 3),
        of_bound=round(read / copy * rate / batch, 3),
        pass_of_bound=round(read / copy / alone_s, 3),
        experts_per_layer=round(distinct, 2),
        all_rates=[round(x, 1) for x in rates],
    )
    return rate


def step_alone(model: Zaya, batch: int, args: argparse.Namespace) -> tuple[float, float]:
    """Return the device time of one decode pass without sampling, and experts a layer it reads."""
    forward = CudaPass(model, batch, 1024)
    random = np.random.default_rng(1)
    vocab = model.config.vocab_size
    slots, ones, outputs = list(range(batch)), [1] * batch, np.arange(batch)
    last = np.arange(batch) * PROMPT + PROMPT - 1
    prompt = random.integers(2, vocab, batch * PROMPT)
    forward.run(prompt, [PROMPT] * batch, slots, last, want_experts=False)
    ids = random.integers(2, vocab, batch)
    _, experts = forward.run(ids, ones, slots, outputs, want_experts=True)
    assert experts is not None
    distinct = float(
        np.mean([len(set(column) - {model.config.num_experts}) for column in experts.T])
    )

    def step() -> None:
        forward.run(ids, ones, slots, outputs, want_experts=False)

    taken = seconds(step, args.repeats, 16)
    if args.profile:
        profile(step, batch)
    return taken, distinct


def profile_host(engine: Engine, prompts: list[list[int]]) -> None:
    """Print the microseconds per step that the host spends in each function itself."""
    for prompt in prompts:
        engine.add(prompt, SamplingParams(max_tokens=DECODED + 24, seed=9))
    for _ in range(8):
        engine.step()
    trace = cProfile.Profile()
    trace.runcall(lambda: [engine.step() for _ in range(DECODED)])
    while engine.has_work:
        engine.step()
    found: list[tuple[float, str]] = []
    stats: dict[Any, Any] = pstats.Stats(trace).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, _, own, _, _) in stats.items():
        found.append((round(1e6 * own / DECODED, 1), f"{file.rsplit('/', 1)[-1]}:{name}"[:60]))
    say("host", batch=len(prompts), us_by_function={b: a for a, b in sorted(found)[-20:]})


def profile(step: Callable[[], None], tokens: int) -> None:
    """Print the device time of a step by kernel."""
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CPU, kind.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    events = [event for event in trace.key_averages() if event.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    kernels = {
        event.key[:60]: [event.count, round(event.self_device_time_total)] for event in events[:18]
    }
    say("profile", tokens=tokens, count_and_us_by_kernel=kernels)


def prefill(model: Zaya, matrix: float, args: argparse.Namespace) -> None:
    """Measure prompts."""
    config = model.config
    dense = sum(
        x.numel()
        for name, x in model.named_parameters()
        if x.ndim > 1 and ".experts." not in name and not name.startswith("embed_tokens")
    )
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    for count, length in PREFILL:
        forward = CudaPass(model, count, length)
        ids = np.random.default_rng(2).integers(2, config.vocab_size, count * length)
        slots, lengths = list(range(count)), [length] * count
        last = np.arange(count) * length + length - 1

        def run(
            forward: CudaPass = forward,
            ids: Any = ids,
            slots: list[int] = slots,
            lengths: list[int] = lengths,
            last: Any = last,
        ) -> None:
            for slot in slots:
                forward.cache.reset(slot)
            forward.run(ids, lengths, slots, last, want_experts=False)

        taken = seconds(run, args.repeats)
        if args.profile:
            profile(run, count * length)
        attention = 2 * length * config.num_attention_heads * config.head_dim
        work = count * length * 2 * (dense + config.num_hidden_layers * (expert + attention))
        say(
            "prefill",
            prompts=count,
            length=length,
            tokens_s=round(count * length / taken),
            tflops=round(work / taken / 1e12, 1),
            of_matrix_rate=round(work / taken / matrix, 3),
        )
        del forward


@torch.no_grad()
def theirs(model: Zaya, batches: list[int], ours: dict[int, float], repeats: int) -> None:
    """Measure transformers' generate with the same weights."""
    from transformers import ZayaConfig as HfConfig
    from transformers import ZayaForCausalLM

    raw = model.config.to_hf()
    known = {key: value for key, value in raw.items() if key not in ("architectures", "model_type")}
    torch.set_default_dtype(model.dtype)
    with torch.device("cuda"):
        reference = ZayaForCausalLM(HfConfig(**known))
    torch.set_default_dtype(torch.float32)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    reference.load_state_dict(weights, strict=False)
    reference.eval()
    for batch in batches:
        ids = torch.randint(2, model.config.vocab_size, (batch, PROMPT), device="cuda")

        def run(tokens: int, ids: Tensor = ids) -> float:
            begin = time.perf_counter()
            reference.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                min_new_tokens=tokens, max_new_tokens=tokens,
            )  # fmt: skip
            torch.cuda.synchronize()
            return time.perf_counter() - begin

        run(2)
        few, many = 2, 18
        times = [(run(many) - run(few)) / (many - few) for _ in range(repeats)]
        rate = batch / statistics.median(times)
        say(
            "transformers", batch=batch, tokens_s=round(rate, 1),
            ours_over_theirs=round(ours[batch] / rate, 2),
        )  # fmt: skip


def main() -> None:
    """Run everything in order."""
    args = parse()
    if args.quick:
        args.repeats = min(args.repeats, 3)
    begin = time.perf_counter()
    copy, matrix = ceilings(args.repeats)
    if not args.unchecked and not checks():
        raise SystemExit("the kernels do not agree with torch; speeds would mean nothing")
    say("elapsed", seconds=round(time.perf_counter() - begin))
    model = random_model(preset(args.preset, precision="paper"), torch.bfloat16)
    check(model, f"{args.preset}, bf16", 0.15)
    batches = [int(batch) for batch in args.batches.split(",")]
    ours = {batch: decode(model, batch, copy, args) for batch in batches}
    say("elapsed", seconds=round(time.perf_counter() - begin))
    prefill(model, matrix, args)
    if not args.quick:
        try:
            theirs(model, batches, ours, min(args.repeats, 3))
        except (ImportError, RuntimeError, ValueError) as problem:
            say("transformers", problem=f"{type(problem).__name__}: {problem}"[:300])
    say("elapsed", seconds=round(time.perf_counter() - begin))


if __name__ == "__main__":
    main()
