"""Training on one GPU: does it compute the right thing, and how fast, as a share of the device.

    python bench/gpu_train.py                   all of it, under 150 s
    python bench/gpu_train.py --quick           fewer steps
    python bench/gpu_train.py --only m          one part: check, m, 8b
    python bench/gpu_train.py --profile         and where a step's time goes, by kernel
    python bench/gpu_train.py --preset nano     a small model on whatever device there is

Weights are random and in bf16, tokens random. Every line is one JSON object. `mfu` counts what the
model needs (three times its forward products; attention by the keys that a token sees; nothing
that is computed twice, no optimizer) as a share of an 8192^3 product measured before. Speeds are
medians of `--steps` whole optimizer steps, data transfer and clipping included.
"""

import argparse
import gc
import json
import logging
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.model.config import ZayaConfig
from openzaya.model.fused.compiling import COMPILING
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig, build_optimizer
from openzaya.recipes.planner.flops import muon_flops, token_flops
from openzaya.recipes.planner.memory import activation_bytes, kept_bytes
from openzaya.recipes.planner.parameters import parameters
from openzaya.train.batch import Batch
from openzaya.train.loss import CHUNK_ELEMENTS, chunked_cross_entropy
from openzaya.train.stages import StageConfig
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import StepReport, train_step

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BUDGET_S = 150.0
"""Parts that would begin later are left out."""
HOST_SHARE = 0.94
"""Share of the free memory that a run may be planned to take."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One speed measurement."""

    name: str
    config: ZayaConfig
    context: int
    micro_tokens: int
    micro_steps: int
    """Microbatches of an optimizer step."""
    optim: OptimConfig
    recompute: bool = False
    steps: int = 5

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.micro_tokens * self.micro_steps


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", choices=("check", "m", "8b"), action="append")
    parser.add_argument("--preset", help="try the script on another preset")
    parser.add_argument("--steps", type=int, default=5, help="measured optimizer steps [5]")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    return parser.parse_args()


def say(what: str, **found: Any) -> None:
    """Print one line."""
    print(json.dumps({"what": what, **found}), flush=True)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Report a failure as a line and go on with the next part."""
    begun = time.monotonic()
    torch.compiler.reset()  # every part has shapes of its own
    COMPILING.failures.clear()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts should still run
        say("failed", part=name, error=str(error)[:500], traceback=traceback.format_exc()[-3000:])
    say("part", name=name, seconds=round(time.monotonic() - begun, 1))
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def synchronize() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of `work`, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        synchronize()
        begun = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def matrix_rate() -> float:
    """Return the bf16 matrix rate in FLOP/s."""
    size, inner = (8192, 20) if CUDA else (512, 2)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))

    def work() -> None:
        for _ in range(inner):
            a @ b

    rate = inner * 2 * size**3 / seconds(work, 5)
    found: dict[str, Any] = {"name": "cpu"}
    if CUDA:
        free, total = torch.cuda.mem_get_info()
        found = {
            "name": torch.cuda.get_device_name(),
            "free_gib": round(free / 2**30, 1),
            "total_gib": round(total / 2**30, 1),
        }
    say("device", torch=torch.__version__, matrix_tflops=round(rate / 1e12, 1), **found)
    return rate


@torch.no_grad()
def random_model(config: ZayaConfig, dtype: torch.dtype) -> Zaya:
    """Return a model of random weights on the device, routers spread so that choices vary."""
    torch.set_default_dtype(dtype)
    with DEVICE:
        model = Zaya(config)
    torch.set_default_dtype(torch.float32)
    model.init_weights(torch.Generator(DEVICE).manual_seed(0))
    for name, parameter in model.named_parameters():
        if name.endswith("router_mlp.out_proj.weight"):
            parameter.mul_(10.0)
    return model.train()


def windows(config: ZayaConfig, lengths: list[int], seed: int) -> list[Window]:
    """Return random documents of these lengths, one a window."""
    random = np.random.default_rng(seed)
    found = []
    for length in lengths:
        tokens = random.integers(3, config.vocab_size, length).astype(np.int32)
        found.append(Window(tokens, [length], np.ones(length, dtype=np.bool_), ["random"]))
    return found


def stage(context: int, micro_tokens: int, step_tokens: int, optim: OptimConfig) -> StageConfig:
    """Return a stage of these sizes at a small constant rate."""
    return StageConfig(
        name="bench",
        steps=1000,
        tokens_per_step=step_tokens,
        context_tokens=context,
        micro_tokens=micro_tokens,
        decay_fraction=0.0,
        optim=optim,
        spike_sigmas=1e9,
    )


# --- is it right? ----------------------------------------------------------------------------


def gradients(
    model: Zaya, documents: list[Window], replay_TL: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return all gradients of the mean loss over documents, in fp32, and the loss."""
    model.zero_grad(set_to_none=True)
    batch = Batch.from_windows(documents, DEVICE)
    trunk = model.trunk(batch.ids_T, batch.lengths, replay_TL=replay_TL)
    loss, _ = chunked_cross_entropy(
        trunk.hidden_TD,
        model.embed_tokens.weight,
        batch.targets_T,
        batch.weights_T / batch.total_weight,
        kept_M=batch.kept_M,
    )
    loss.backward()
    found = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[float, str]:
    """Return the largest relative distance of a gradient matrix, and whose it is."""
    worst, name = 0.0, ""
    for key, value in wanted.items():
        if value.ndim < 2 or float(value.norm()) == 0:
            continue
        far = float((found[key] - value).norm() / value.norm())
        if not far <= worst:
            worst, name = far, key
    return worst, name


def check() -> None:
    """Compare the fused forward with the plain one on packed documents of many lengths.

    Choices are replayed, because one that flips is another fate. bf16 against fp32 of the same
    weights; the plain bf16 forward's own distance says what is usual. Only the last case compiles.
    """
    changes: dict[str, Any] = {"precision": "paper", "num_hidden_layers": 4, "vocab_size": 4096}
    sliding = {"layer_types": ("hybrid_sliding", "hybrid") * 2, "sliding_window": 100}
    cases = {
        "full": changes,
        "sliding, identity": {**changes, **sliding, "skip_mode": "identity"},
        "head of 128": {**changes, "head_dim": 128, "num_attention_heads": 4},
        "compiled": changes,
    }
    wanted = COMPILING.wanted
    lengths = [1, 2, 700, 3, 129, 512, 64, 1]
    for name, more in cases.items():
        COMPILING.wanted = wanted and name == "compiled"
        low = random_model(preset("s", **more), torch.bfloat16)
        high = random_model(preset("s", **more), torch.float32)
        with torch.no_grad():
            for mine, theirs in zip(high.parameters(), low.parameters(), strict=True):
                mine.copy_(theirs)
            for model in (low, high):
                for balance_X in model.router_biases():
                    balance_X[-1] = 0.05  # some tokens skip
        documents = windows(low.config, lengths, 1)
        ids = torch.from_numpy(np.concatenate([w.tokens for w in documents])).long().to(DEVICE)
        with torch.no_grad():
            replay = high.trunk(ids, lengths).experts_TL
        found = {}
        for key, model, fused in (
            ("fp32", high, "off"), ("plain", low, "off"), ("fused", low, "on"),
        ):  # fmt: skip
            model.fused = fused  # type: ignore[assignment]
            found[key] = gradients(model, documents, replay)
        fused, plain = (distance(found[key], found["fp32"]) for key in ("fused", "plain"))
        say(
            "check", case=name, fused=fused[0], fused_worst=fused[1], plain=plain[0],
            loss={key: float(value["loss"]) for key, value in found.items()},
            fine=fused[0] < 1.5 * plain[0] + 0.01, not_compiled=COMPILING.failures,
        )  # fmt: skip
    COMPILING.wanted = wanted


# --- how fast? -------------------------------------------------------------------------------


def planned(run: Run) -> dict[str, float]:
    """Return the memory that the run needs, in bytes, before it is tried."""
    count = parameters(run.config)
    masters = 4 if run.optim.masters == "all" else 0
    momentum = 2 if run.optim.muon.momentum_dtype == "bfloat16" else 4
    layers, tokens = run.config.num_hidden_layers, run.micro_tokens
    each = activation_bytes(run.config, 2)
    activations = (layers * kept_bytes(run.config) + each) if run.recompute else layers * each
    head = run.config.vocab_size * run.config.hidden_size
    logits = min(CHUNK_ELEMENTS, tokens * run.config.vocab_size)
    found = {
        "weights": 2.0 * count.total,
        "gradients": 2.0 * count.total,
        "muon": count.muon * (masters + momentum),
        # Master, two averages and an fp32 gradient while the step lasts.
        "adamw": count.adamw * 16.0,
        "activations": tokens * activations,
        "logits": 10.0 * logits + 8.0 * head,
    }
    # The update's copies find the room that activations and logits have left.
    return found | {"total": sum(found.values())}


def speed(run: Run, rate: float, *, profile: bool) -> None:
    """Run whole optimizer steps and print what they cost."""
    plan = planned(run)
    gib = {key: round(value / 2**30, 1) for key, value in plan.items()}
    fits = not CUDA or plan["total"] < HOST_SHARE * torch.cuda.mem_get_info()[0]
    say("plan", run=run.name, gib=gib, fits=fits, micro_tokens=run.micro_tokens)
    if not fits:
        return
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    model = random_model(run.config, torch.bfloat16)
    model.recompute = run.recompute
    if not CUDA:
        model.fused = "on"
    optimizers, balancer = build_optimizer(model, run.optim), RouterBalancer(model)
    config = stage(run.context, run.micro_tokens, run.step_tokens, run.optim)
    state = TrainState(SpikeGuard(1e9))
    lengths = [run.context] * (run.step_tokens // run.context)
    data = [windows(run.config, lengths, seed) for seed in range(2)]
    reports: list[StepReport] = []

    def step() -> None:
        reports.append(train_step(model, optimizers, balancer, data[state.step % 2], config, state))

    begun = time.monotonic()
    step()
    synchronize()
    first_s = time.monotonic() - begun
    step_s = seconds(step, run.steps)
    update_s = seconds(lambda: optimizers.step(0.0, 1.0), 2)
    flops = token_flops(run.config, run.context)
    work = flops.train * run.step_tokens
    forward_s = step_s - update_s
    say(
        "speed",
        run=run.name,
        parameters=run.config.num_parameters(),
        active=run.config.num_active_parameters(),
        step_tokens=run.step_tokens,
        step_s=round(step_s, 4),
        update_s=round(update_s, 4),
        first_step_s=round(first_s, 1),
        tokens_per_s=round(run.step_tokens / step_s),
        tokens_per_s_without_update=round(run.step_tokens / forward_s),
        mfu=round(work / step_s / rate, 4),
        mfu_without_update=round(work / forward_s / rate, 4),
        muon_of_matrix_rate=round(sum(muon_flops(run.config)) / update_s / rate, 3),
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 1) if CUDA else None,
        reserved_gib=round(torch.cuda.max_memory_reserved() / 2**30, 1) if CUDA else None,
        loss=[round(report.loss, 3) for report in reports],
        load_entropy=round(statistics.mean(reports[-1].load_entropy), 3),
        applied=all(report.applied for report in reports),
        not_compiled=COMPILING.failures,
    )
    if profile:
        show_profile(step, run.name)


def compiled_or_not(run: Run, rate: float, *, profile: bool) -> None:
    """Measure; where the compiler fails inside a backward pass, measure again without it."""
    try:
        speed(run, rate, profile=profile)
        return
    except Exception as error:
        if not COMPILING.wanted or isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        say("again without compiling", run=run.name, error=str(error)[:500])
    COMPILING.wanted = False
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
    try:
        speed(run, rate, profile=profile)
    finally:
        COMPILING.wanted = True


def show_profile(step: Callable[[], None], name: str) -> None:
    """Print the kernels of one step by time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])
    with profiler(activities=activities) as found:
        step()
        synchronize()
    rows = []
    for event in found.key_averages():
        spent = event.self_device_time_total if CUDA else event.self_cpu_time_total
        if spent:
            rows.append((spent / 1e3, event.count, event.key[:110]))
    rows.sort(reverse=True)
    total = sum(row[0] for row in rows)
    say("profile", run=name, device_ms=round(total, 2))
    for spent, count, key in rows[:45]:
        say("kernel", ms=round(spent, 2), share=round(spent / total, 3), calls=count, name=key)


def medium() -> ZayaConfig:
    """Return the shape of the half-billion run: ZAYA1-8B's proportions at half its width."""
    return preset("m", precision="paper")


def runs(args: argparse.Namespace) -> dict[str, Run]:
    """Return the measurements by name."""
    steps = 2 if args.quick else args.steps
    muon = MuonConfig(lr=1e-4)
    lean = OptimConfig(muon=MuonConfig(lr=1e-4, momentum_dtype="bfloat16"), masters="all")
    if args.preset:
        config = preset(args.preset, precision="paper")
        small = {"config": config, "context": 64, "micro_tokens": 256, "micro_steps": 2}
        return {
            "m": Run(name=args.preset, optim=OptimConfig(muon=muon), steps=steps, **small),
            "8b": Run(
                name=f"{args.preset}, lean",
                optim=OptimConfig(muon=lean.muon, masters="adamw"),
                recompute=True,
                steps=steps,
                **small,
            ),
        }
    big = preset("zaya1-8b", precision="paper")
    large = not CUDA or torch.cuda.mem_get_info()[1] > 100 * 2**30
    return {
        "m": Run(
            name="0.5B",
            config=medium(),
            context=4096,
            micro_tokens=65_536,
            micro_steps=8,
            optim=OptimConfig(muon=muon, lr_adamw=1e-4),
            steps=steps,
        ),
        "8b": Run(
            name="8B" if large else "8B without masters",
            config=big,
            context=4096,
            micro_tokens=16_384 if large else 8_192,
            micro_steps=8,
            optim=lean if large else OptimConfig(muon=lean.muon, masters="adamw"),
            recompute=True,
            steps=min(steps, 2),
        ),
    }


def main() -> None:
    """Run the parts that are wanted, within the time."""
    args = parse()
    logging.basicConfig(level=logging.WARNING)
    begun = time.monotonic()
    if not CUDA:
        torch.set_num_threads(1)
    COMPILING.wanted = not args.eager
    rate = 1e12
    with part("ceiling"):
        rate = matrix_rate()
    wanted = args.only or ["m", "8b", "check"]
    table = runs(args)
    for name in wanted:
        if time.monotonic() - begun > BUDGET_S - 20:
            say("left out", part=name, why="out of time")
            continue
        with part(name):
            if name == "check":
                check()
            else:
                compiled_or_not(table[name], rate, profile=args.profile)
    say("done", seconds=round(time.monotonic() - begun, 1))


if __name__ == "__main__":
    main()
