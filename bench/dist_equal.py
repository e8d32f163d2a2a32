"""Does training on several processes give what one process gives? A table of differences.

    python bench/dist_equal.py             every mesh of two to four processes, about a minute
    python bench/dist_equal.py --quick     the meshes of two processes

Real processes over gloo on this machine, the tiny model of the tests (two layers, four experts),
three steps with Muon, clipping and the router's balancer. Documents have 1 to 61 tokens, in windows
that the context cuts anywhere; some ranks get nothing but padding. `loss` is the largest absolute
difference of three steps, the others are relative to the largest value of each tensor. `counts`
says whether the balancer counted every token of every layer alike. Seconds are CPU seconds of all
processes together, start-up included. Exits with 1 when a loss differs by more than 1e-6, a
gradient by more than 1e-5, or a count at all.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from ranks import largest, on_mesh, spawn, steps
from tiny_training import IN_FP32, stage, window

from openzaya.train.distributed.mesh import MeshConfig

LOSS, GRADIENT = 1e-6, 1e-5
COUNT = 3
MESHES: tuple[tuple[str, dict[str, int]], ...] = (
    ("FSDP2", {"dp_shard": 2}),
    ("HSDP 2x1", {"dp_replicate": 2}),
    ("EP", {"ep": 2}),
    ("CP", {"cp": 2}),
    ("FSDP2", {"dp_shard": 3}),
    ("CP", {"cp": 3}),
    ("HSDP 2x2", {"dp_replicate": 2, "dp_shard": 2}),
    ("EP", {"ep": 4}),
    ("CP", {"cp": 4}),
    ("FSDP2 + EP", {"dp_shard": 2, "ep": 2}),
    ("FSDP2 + CP", {"dp_shard": 2, "cp": 2}),
    ("EP + CP", {"ep": 2, "cp": 2}),
    ("HSDP + EP", {"dp_replicate": 2, "ep": 2}),
    ("HSDP + CP", {"dp_replicate": 2, "cp": 2}),
)


def windows(step: int) -> list:
    """Return documents that cuts fall into and between."""
    return [window([61, 1, 2, 3], seed=step), window([2, 2, 30], seed=step + 7, source="other")]


def cpu_seconds() -> float:
    """Return the CPU time of this process and of children that ended."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two processes only")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    settings = stage(micro_tokens=70, optim=IN_FP32)
    one = steps(lambda _model: None, windows, COUNT, settings=settings)
    print(
        f"{'':12}{'mesh':42}{'loss':>10}{'gradients':>11}{'weights':>10}{'counts':>8}{'CPU s':>7}"
    )
    is_fine = True
    for name, mesh in MESHES:
        config = MeshConfig(**mesh)
        if quick and config.size > 2:
            continue
        began = cpu_seconds()
        two = spawn(on_mesh, config.size, mesh, windows, COUNT, settings)[0]
        loss = max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True))
        gradient = largest(one["gradients"], two["gradients"])
        weight = largest(one["weights"], two["weights"])
        counts = torch.equal(one["counts"], two["counts"])
        is_fine &= loss <= LOSS and gradient <= GRADIENT and counts
        print(
            f"{name:12}{config!s:42}{loss:10.1e}{gradient:11.1e}{weight:10.1e}"
            f"{'equal' if counts else 'DIFFER':>8}{cpu_seconds() - began:7.1f}"
        )
    print("all equal" if is_fine else "NOT EQUAL")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
