"""Activation checkpointing: keep a layer's input, and compute the rest again for the gradient.

The second pass takes the experts of the first: its scores could differ in the last bit, and
another choice would give another gradient than the loss's.

Paper: IV-B1(f).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from openzaya.model.router import Routing

Layer = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Routing]]
"""Stream, router state and replayed choice of every token to the new stream and the routing."""


def recomputed(
    layer: Layer, x_TD: Tensor, state_TR: Tensor | None, replay_T: Tensor | None
) -> tuple[Tensor, Routing]:
    """Return what the layer returns, keeping only its inputs and its choices."""
    chosen = [] if replay_T is None else [replay_T]

    def run(x_TD: Tensor, state_TR: Tensor | None) -> tuple[Tensor, ...]:
        new_TD, routing = layer(x_TD, state_TR, chosen[0] if chosen else None)
        if not chosen:
            chosen.append(routing.expert_T)
        return new_TD, routing.expert_T, routing.gate_T, routing.state_TR, routing.probs_TX

    # Stopping early is done by an exception, which compiled regions must not meet.
    new_TD, *parts = checkpoint(
        run, x_TD, state_TR, use_reentrant=False, preserve_rng_state=False, early_stop=False
    )
    return new_TD, Routing(*parts)


def on_host(device: torch.device, *, wanted: bool) -> AbstractContextManager[object]:
    """Keep what the backward pass needs in the host's memory while the block runs."""
    return save_on_cpu(pin_memory=device.type == "cuda") if wanted else nullcontext()
