"""Real processes that talk over gloo: run a function on each, get what each returns."""

import json
import multiprocessing
import pickle
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_training import stage, tiny_model, window, windows_of

from openzaya.data.prepare import PrepareConfig, prepare
from openzaya.model.balance import RouterBalancer
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.mesh import MeshConfig, Ranks
from openzaya.train.evaluate import held_out_loss
from openzaya.train.parallel import ALONE
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import train_step

LOSS, GRADIENT = 1e-6, 1e-5
"""How far sums in another order may lead; gradients relative to a tensor's largest value."""
WEIGHT = 1e-3
"""AdamW makes much of the last bits of a gradient that is as small as its epsilon."""


def spawn(function, world, *arguments, timeout_s=60):
    """Fork `world` ranks; return what `function(rank, *arguments)` returns on each.

    Forked, since importing torch again would take longer than the tests.
    """
    context = multiprocessing.get_context("fork")
    # A file where ranks meet: a port that is free now may be taken when rank 0 wants it.
    meeting = tempfile.TemporaryDirectory()
    pipes, children = [], []
    for rank in range(world):
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(
            target=_child, args=(theirs, rank, world, f"{meeting.name}/ranks", function, arguments)
        )
        child.start()
        theirs.close()
        pipes.append(mine)
        children.append(child)
    results = []
    try:
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(timeout_s):
                raise AssertionError(f"rank {rank} of {world} did not answer in {timeout_s} s")
            try:
                kind, value = pipe.recv()
            except EOFError:
                kind, value = "error", "died without a word"
            results.append((kind, pickle.loads(value) if kind == "value" else value))
    finally:
        for child in children:
            child.join(timeout=5)
            if child.is_alive():
                child.kill()
        meeting.cleanup()
    errors = [
        f"rank {rank}:\n{value}" for rank, (kind, value) in enumerate(results) if kind == "error"
    ]
    assert not errors, "\n".join(errors)
    return [value for _, value in results]


def _child(pipe, rank, world, meeting, function, arguments):
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(meeting, world)
        dist.init_process_group("gloo", rank=rank, world_size=world, store=store)
        value = function(rank, *arguments)
        dist.barrier()
        dist.destroy_process_group()
        # Copied: a tensor sent as it is would be shared memory of a process that ends.
        pipe.send(("value", pickle.dumps(value)))
    except BaseException:  # noqa: BLE001 - told to the parent
        pipe.send(("error", traceback.format_exc()))
    finally:
        pipe.close()


def straddling(step):
    """Return documents of every size, so that cuts fall inside and between documents.

    One of 61 tokens lies on all ranks; after it come documents of one and two tokens.
    """
    return [window([61, 1, 2, 3], seed=step), window([2, 2, 30], seed=step + 7, source="other")]


def steps(parallel_of, windows=windows_of, count=3, model=None, settings=None):
    """Train some steps; return losses, first gradients, weights, counts, norms, the loss after it.

    `parallel_of(model)` gives the ranks, or None for one process.
    """
    model = tiny_model() if model is None else model
    settings = stage() if settings is None else settings
    parallel = parallel_of(model) or ALONE
    optimizers = parallel.optimizers(model, settings.optim)
    balancer = RouterBalancer(model, settings.balance)
    state = TrainState(SpikeGuard(6.0))
    reports, gradients = [], {}
    for step in range(count):
        reports.append(
            train_step(model, optimizers, balancer, windows(step), settings, state, parallel)
        )
        if step == 0:
            gradients = {
                n: whole(p.grad, parallel, n)
                for n, p in model.named_parameters()
                if p.requires_grad
            }
    held_out = held_out_loss(model, windows(count), settings.micro_tokens, parallel)
    return {
        "held_out": held_out["eval/loss"],
        "loss": [r.loss for r in reports],
        "norm": [r.grad_norm for r in reports],
        "sources": [r.loss_by_source for r in reports],
        "gradients": gradients,
        "weights": {n: whole(p.detach(), parallel, n) for n, p in model.named_parameters()},
        "counts": balancer.last_LX.clone(),
        "biases": [b.clone() for b in model.router_biases()],
    }


def whole(tensor, parallel, name):
    """Return a tensor put together from all ranks."""
    if parallel is ALONE:
        return tensor.clone()
    part = parallel.parts[name]
    out = torch.zeros(part.shape)
    box = tuple(slice(a, a + n) for a, n in zip(part.offsets, part.sizes, strict=True))
    out[box] = tensor.to_local()
    dist.all_reduce(out)
    return out / parallel.ranks.config.dp_replicate


def on_mesh(rank, mesh, windows, count, settings=None, recompute=False, changes=()):
    """Run `steps` on a mesh; the first rank returns what it got."""
    config = MeshConfig(**mesh)
    model = tiny_model(**dict(changes))
    model.recompute = recompute
    got = steps(lambda model: Cluster(model, Ranks(config)), windows, count, model, settings)
    return got if rank == 0 else None


def largest(one, two):
    """Return the largest difference between two dicts of tensors, relative to the largest value."""
    return max(
        float((t - two[n]).abs().max()) / max(1e-3, float(t.abs().max())) for n, t in one.items()
    )


FOLDER = Path(__file__).parent


STAGE = """
name = "tiny"
steps = 6
tokens_per_step = 2048
context_tokens = 256
micro_tokens = 512
checkpoint_every_steps = 2
"""


def prepared(folder):
    """Write a prepared folder for the nano vocabulary, and a stage."""
    build_tokenizer().save(folder / "tokenizer")
    lines = [json.dumps({"text": f"{i} and {i + 1} make {2 * i + 1}. " * 4}) for i in range(400)]
    (folder / "sums.jsonl").write_text("\n".join(lines) + "\n")
    source = {"sums": str(folder / "sums.jsonl")}
    prepare(folder / "data", source, folder / "tokenizer", PrepareConfig())
    (folder / "stage.toml").write_text(STAGE)
