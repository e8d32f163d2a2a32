"""Muon on a CPU: half precision beside fp32, what it costs in exactness and what it saves.

    python bench/muon.py                 errors, stacks of the shapes of `s` and `xs`, steps of `s`
    python bench/muon.py --preset xs     whole steps of another preset
    python bench/muon.py --repeats 3

Errors are relative, in the Frobenius norm, against the iteration on singular values in fp64. Times
are CPU time, medians, both arithmetics in turns in one process.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from directions import KINDS, error_of, exact, in_bf16, matrix_of

from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import Muon, MuonConfig, newton_schulz
from openzaya.optim.groups import claim_parameters
from openzaya.optim.native.library import reason_against_half
from openzaya.optim.newton_schulz import STEPS, Arithmetic
from openzaya.train.memory import keep_freed_memory

SHAPES = ((512, 1024), (1024, 512), (512, 512), (128, 128))
STACKS = ((1, 1024, 512), (1, 512, 512), (16, 256, 128), (16, 128, 128), (16, 32, 64))
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "auto")


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="s")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def print_errors() -> None:
    """Print a line for each kind and shape."""
    print(f"{'':26}{'shape':12}{'fp32':>10}{'half':>10}{'bf16':>10}")
    for kind in KINDS:
        for shape in SHAPES:
            matrix = matrix_of(kind, *shape)
            wanted = exact(matrix)
            found = [newton_schulz(matrix.unsqueeze(0), STEPS, a)[0] for a in ARITHMETICS]
            errors = [error_of(x, wanted) for x in (*found, in_bf16(matrix))]
            numbers = "".join(f"{error:10.1e}" for error in errors)
            print(f"{kind:26}{shape[0]} x {shape[1]:<{9 - len(str(shape[0]))}}{numbers}")


def in_turns(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return median CPU seconds of each piece of work."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):
        for work, found in zip(works, times, strict=True):
            start = time.process_time()
            work()
            if repeat:
                found.append(time.process_time() - start)
    return [statistics.median(found) for found in times]


def print_times(name: str, repeats: int) -> None:
    """Print CPU time of stacks on one thread, then of whole steps on one and two."""
    torch.set_num_threads(1)
    for shape in STACKS:
        stack = torch.randn(shape)
        works = [lambda a=a, stack=stack: newton_schulz(stack, STEPS, a) for a in ARITHMETICS]
        old, new = in_turns(works, 5 * repeats)
        print(f"stack {shape}: {old * 1e3:.2f} and {new * 1e3:.2f} ms, ratio {old / new:.2f}")
    model = Zaya(preset(name))
    model.init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    claims = [c for c in claim_parameters(model.named_parameters()) if c.rule.owner == "muon"]
    steps = [Muon(claims, MuonConfig(lr=1e-6, arithmetic=a)).step for a in ARITHMETICS]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        old, new = in_turns(steps, repeats)
        print(f"step of {name}, threads {threads}: {old:.3f} and {new:.3f} s, {old / new:.2f}")


def main() -> None:
    """Print all of it."""
    args = parse()
    keep_freed_memory()
    if reason := reason_against_half():
        print(f"no half precision here: {reason}")
    print_errors()
    print_times(args.preset, args.repeats)


if __name__ == "__main__":
    main()
