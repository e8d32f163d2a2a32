"""Router replay: the trainer follows the routes that the sampler took.

The sampler records the expert of every token that it fed to the model; the trainer reuses these
choices in its forward pass while gates, and so the routers' gradients, stay live.

Paper: IV-C(a).
Source: arXiv:2510.11370.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openzaya.core.errors import DataError
from openzaya.engine.request import Output
from openzaya.model.zaya import Zaya


def route_problem(
    experts: NDArray[np.uint8] | None, num_inputs: int, num_layers: int, num_experts: int
) -> str:
    """Return what is wrong with recorded routes, or an empty string.

    A response of n tokens after a prompt of p has p + n - 1 routes: the last sampled token was
    never an input. Class `num_experts` means skip. A misaligned record is a reason to drop the
    rollout, not to stop the run.
    """
    if experts is None:
        return "no routes were recorded"
    if experts.shape != (num_inputs, num_layers):
        return f"routes have shape {experts.shape}, expected {(num_inputs, num_layers)}"
    if experts.size and int(experts.max()) > num_experts:
        return f"routes name class {int(experts.max())}, expected at most {num_experts}"
    return ""


def replay_tensor(experts: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Return the routes [T, L] of packed rollouts, in the order of their packing."""
    return torch.from_numpy(np.concatenate(experts)).to(device)


@dataclass(frozen=True, slots=True)
class Parity:
    """How well the trainer's log-probabilities agree with the sampler's.

    Paper: IV-C(a) (KL 1.3e-4, Pearson r above 0.9996 for the 8B model).
    """

    kl: float
    """Mean k3 estimate of KL(sampler || trainer) in nats per token."""
    pearson: float
    """Correlation of the two log-probabilities; 1 when either is constant."""
    max_difference: float
    """Largest absolute difference of log-probabilities."""
    num_tokens: int
    """Sampled tokens compared."""


@torch.no_grad()
def measure_parity(
    model: Zaya,
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Output],
    *,
    temperature: float = 1.0,
    replay: bool = True,
) -> Parity:
    """Compare the sampler's recorded log-probabilities with a packed forward pass.

    Without `replay` the routers choose anew, which shows what replay is worth. Raises DataError
    when nothing was sampled or routes are missing.
    """
    ids: list[int] = []
    lengths: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    for prompt, output in zip(prompts, outputs, strict=True):
        start = len(ids)
        ids += [*prompt, *output.token_ids[:-1]]
        lengths.append(len(ids) - start)
        first = start + len(prompt) - 1
        rows += range(first, first + len(output.token_ids))
        targets += output.token_ids
    routes = [output.experts for output in outputs if output.experts is not None]
    if not targets or (replay and len(routes) < len(outputs)):
        raise DataError(
            f"{len(targets)} sampled tokens and {len(routes)} route records of {len(outputs)} "
            "outputs; sample with capture_experts=True and at least one token"
        )
    device = model.device
    replay_TL = replay_tensor(routes, device) if replay else None
    trunk = model.trunk(torch.tensor(ids, device=device), lengths=lengths, replay_TL=replay_TL)
    logits_NV = model.head(trunk.hidden_TD[torch.tensor(rows, device=device)]).float()
    logprobs_NV = (logits_NV / temperature).log_softmax(dim=-1)
    target_N = torch.tensor(targets, device=device)
    trainer_N = logprobs_NV.gather(1, target_N.unsqueeze(1)).squeeze(1).double()
    recorded = [value for output in outputs for value in output.logprobs]
    sampler_N = torch.tensor(recorded, dtype=torch.float64, device=device)
    difference_N = trainer_N - sampler_N
    pair = torch.stack([trainer_N, sampler_N])
    constant = bool((pair.std(dim=1, correction=0) == 0).any())
    return Parity(
        kl=float((difference_N.exp() - 1 - difference_N).mean()),
        pearson=1.0 if constant else float(torch.corrcoef(pair)[0, 1]),
        max_difference=float(difference_N.abs().max()),
        num_tokens=len(targets),
    )
