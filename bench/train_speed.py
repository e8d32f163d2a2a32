"""Training on a CPU in fp32, beside transformers with the same weights, in turns in one run.

    python bench/train_speed.py              all of it, about ten minutes on two idle cores
    python bench/train_speed.py --quick      one repeat each
    python bench/train_speed.py --threads 1  on a machine where only one core is free; our
                                             microbatches then run one after another

Forward with loss and backward on 8 x 512 tokens of the `s` shape; a whole step of 16K tokens, ours
with Muon and AdamW, theirs with torch's fused AdamW; peak memory of that step in a process of its
own; `xs` on 16 x 256. Medians of wall time and of CPU time; on a busy machine trust the latter.
Both sides run with glibc told to keep freed memory, as `openzaya train` does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.train.memory import keep_freed_memory
from openzaya.train.parallel import ALONE
from openzaya.train.stages import StageConfig
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import forward_backward, train_step

STEP_TOKENS = 16_384
GOALS = {"forward_backward": 1.5, "step": 1.4, "memory": 0.6, "xs_tokens_per_s": 13_000}


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("s", "xs", "memory"), action="append")
    parser.add_argument("--child", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


def say(what: str, **found: Any) -> None:
    """Print one line."""
    print(json.dumps({"what": what, **found}), flush=True)


@torch.no_grad()
def our_model(name: str) -> Zaya:
    """Return a random model whose routers choose all experts."""
    model = Zaya(preset(name))
    model.init_weights(torch.Generator().manual_seed(0))
    for key, parameter in model.named_parameters():
        if key.endswith("router_mlp.out_proj.weight"):
            parameter.mul_(30.0)
    return model.train()


def their_model(model: Zaya) -> Any:
    """Return transformers' model with the same weights."""
    from transformers import ZayaConfig, ZayaForCausalLM

    raw = {k: v for k, v in model.config.to_hf().items() if k not in ("architectures",)}
    raw.pop("model_type")
    theirs = ZayaForCausalLM(ZayaConfig(**raw))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert missing == ["lm_head.weight"], missing
    return theirs.train()


def documents(count: int, length: int, vocabulary: int) -> list[Window]:
    """Return random documents of one length."""
    random = np.random.default_rng(0)
    mask = np.ones(length, dtype=np.bool_)
    return [
        Window(random.integers(3, vocabulary, length).astype(np.int32), [length], mask, ["random"])
        for _ in range(count)
    ]


class Ours:
    """Our model, its pass and its step."""

    def __init__(self, name: str, rows: int, length: int) -> None:
        self.model = our_model(name)
        self.rows, self.length = rows, length
        self.data = documents(STEP_TOKENS // length, length, self.model.config.vocab_size)
        self.optimizers = build_optimizer(self.model)
        self.balancer = RouterBalancer(self.model)
        self.state = TrainState(SpikeGuard(1e9))
        self.stage = StageConfig(
            name="bench", steps=10_000, tokens_per_step=STEP_TOKENS, micro_tokens=rows * length
        )
        self.batches = ALONE.batches(self.data[:rows], rows * length, self.model.device)

    def forward_backward(self) -> float:
        """Return the loss after one pass both ways."""
        self.model.zero_grad(set_to_none=True)
        weight = sum(batch.total_weight for batch in self.batches)
        loss, _ = forward_backward(self.model, self.balancer, self.batches, weight, self.stage)
        return loss

    def step(self) -> float:
        """Return the loss of a whole step."""
        return train_step(
            self.model, self.optimizers, self.balancer, self.data, self.stage, self.state
        ).loss


class Theirs:
    """transformers' model, its pass and a step with torch's AdamW."""

    def __init__(self, ours: Ours) -> None:
        self.model = their_model(ours.model)
        tokens = np.concatenate([window.tokens for window in ours.data]).astype(np.int64)
        self.ids = torch.from_numpy(tokens).view(-1, ours.rows, ours.length)
        self.adamw = torch.optim.AdamW(self.model.parameters(), lr=4e-4, fused=True)

    def forward_backward(self) -> float:
        """Return the loss after one pass both ways."""
        self.model.zero_grad(set_to_none=True)
        loss = self.model(input_ids=self.ids[0], labels=self.ids[0], use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    def step(self) -> float:
        """Return the mean loss of a whole step, with clipping."""
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        for ids in self.ids:
            loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss / len(self.ids)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adamw.step()
        return total


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the median wall and CPU seconds of each, measured in turns after one round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            spent = clock(work)
            if turn:
                times[name].append(spent)
    return {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in times.items()
    }


def compare(name: str, rows: int, length: int, args: argparse.Namespace, *, steps: bool) -> None:
    """Measure passes, and whole steps where wanted, beside transformers."""
    ours = Ours(name, rows, length)
    theirs = Theirs(ours)
    losses = [ours.forward_backward(), theirs.forward_backward()]
    assert abs(losses[0] - losses[1]) < 1e-3, f"other losses for the same weights: {losses}"
    repeats = 1 if args.quick else args.repeats
    kinds = {"forward_backward": rows * length} | ({"step": STEP_TOKENS} if steps else {})
    for kind, tokens in kinds.items():
        works = {"ours": getattr(ours, kind), "theirs": getattr(theirs, kind)}
        count = repeats if kind == "forward_backward" else max(1, repeats // 2)
        found = in_turns(works, count)
        wall, cpu = ({who: tokens / spent[i] for who, spent in found.items()} for i in range(2))
        say(
            kind,
            preset=name,
            threads=args.threads,
            tokens=tokens,
            tokens_per_s={who: round(value) for who, value in wall.items()},
            tokens_per_cpu_s={who: round(value) for who, value in cpu.items()},
            ratio=round(wall["ours"] / wall["theirs"], 2),
            ratio_cpu=round(cpu["ours"] / cpu["theirs"], 2),
            loss=[round(value, 4) for value in losses],
        )


def child(who: str) -> None:
    """Run one whole step and print the most memory the process ever had."""
    ours = Ours("s", 8, 512)
    side: Ours | Theirs = ours
    if who == "theirs":
        side = Theirs(ours)
        del ours
    side.step()
    # Not ru_maxrss: a child begins with its parent's.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"peak_mib": peak}), flush=True)


def memory(args: argparse.Namespace) -> None:
    """Compare the peak memory of a whole step, each in a process of its own."""
    peaks = {}
    for who in ("ours", "theirs"):
        command = [sys.executable, __file__, "--child", who, "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        peaks[who] = json.loads(done.stdout.splitlines()[-1])["peak_mib"]
    say(
        "memory", mib={who: round(peak) for who, peak in peaks.items()},
        ratio=round(peaks["ours"] / peaks["theirs"], 2),
    )  # fmt: skip


def main() -> None:
    """Run the parts that are wanted."""
    args = parse()
    torch.set_num_threads(args.threads)
    kept = keep_freed_memory()
    if args.child:
        child(args.child)
        return
    say("goals", **GOALS, keeps_freed_memory=kept, load=os.getloadavg())
    wanted = args.only or ["s", "xs", "memory"]
    if "s" in wanted:
        compare("s", 8, 512, args, steps=True)
    if "xs" in wanted:
        compare("xs", 16, 256, args, steps=False)
    if "memory" in wanted:
        memory(args)


if __name__ == "__main__":
    main()
