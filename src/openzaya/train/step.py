"""One optimizer step: pull, pack, forward_backward, update, report."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from openzaya.core.log import declare, span
from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.model.zaya import Zaya
from openzaya.optim import Optimizers, lr_scale
from openzaya.train.batch import Batch
from openzaya.train.loss import chunked_cross_entropy
from openzaya.train.parallel import ALONE, Parallel
from openzaya.train.side_by_side import side_by_side
from openzaya.train.stages import StageConfig
from openzaya.train.state import TrainState

log = logging.getLogger(__name__)

declare("train/loss", "nats/token", "sum of weighted token losses / sum of weights")
declare("train/z_loss", "nats/token", "z_loss * mean squared log-normalizer, where it is trained")
declare("train/grad_norm", "1", "2-norm of all gradients before clipping", healthy=(0.0, 10.0))
declare("train/lr_scale", "1", "learning rate / peak learning rate", healthy=(0.0, 1.0))
declare("train/tokens", "tokens", "tokens of the step")
declare("train/skipped", "steps", "updates left out so far", healthy=(0.0, 10.0))
declare(
    "train/load_entropy", "1", "mean over layers of H(share) / ln E", (0.5, 1.0), "II-A2, Fig. 4"
)
declare("train/skip_fraction", "share", "tokens routed to the skip class", healthy=(0.0, 0.05))


@dataclass(slots=True)
class StepReport:
    """What one step was like."""

    loss: float
    """Mean token loss in nats, without the z-loss."""
    z_loss: float
    """What the z-loss adds to what is minimized."""
    grad_norm: float
    tokens: int
    applied: bool
    lr_scale: float
    load_entropy: list[float]
    skip_fraction: float
    loss_by_source: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Sum of token losses and number of trained tokens of every source."""

    def metrics(self, state: TrainState) -> dict[str, float]:
        """Return the declared metrics."""
        z_loss = {"train/z_loss": self.z_loss} if self.z_loss else {}
        return {
            "train/loss": self.loss,
            **z_loss,
            "train/grad_norm": self.grad_norm,
            "train/lr_scale": self.lr_scale,
            "train/tokens": self.tokens,
            "train/skipped": state.skipped,
            "train/load_entropy": sum(self.load_entropy) / len(self.load_entropy),
            "train/skip_fraction": self.skip_fraction,
        }


@contextmanager
def part(name: str) -> Iterator[None]:
    """Time a part of the step for our spans, and name it in torch's profiles."""
    with span(name), record_function(name):
        yield


def train_step(
    model: Zaya,
    optimizers: Optimizers,
    balancer: RouterBalancer,
    windows: Sequence[Window],
    config: StageConfig,
    state: TrainState,
    parallel: Parallel = ALONE,
) -> StepReport:
    """Do one optimizer step on `windows`, those of all ranks, and advance `state`.

    The loss is normalized over the whole step, so cutting it into microbatches changes nothing.
    A step that is not finite, spikes or trains no token changes neither weights nor balancing
    biases; the last has no loss: it is nan.
    """
    batches = parallel.batches(windows, config.micro_tokens, model.device)
    weight = parallel.total(sum(batch.total_weight for batch in batches))
    optimizers.zero_grad()
    own = forward_backward(model, balancer, batches, max(1.0, weight), config, parallel)
    objective, by_source = parallel.reduce(*own, balancer.tally_LN)
    loss = objective
    if config.z_loss:
        loss = sum(x for x, _ in by_source.values()) / max(1.0, weight)
    with part("train/update"):
        grad_norm = optimizers.grad_norm()
        # Without a loss, momentum and decay alone would move the weights.
        applied = weight > 0 and not state.guard.is_spike(loss=objective, grad_norm=grad_norm)
        scale = lr_scale(state.step, config.schedule)
        if applied:
            optimizers.step(scale, grad_norm)
        entropy, skipped = balancer.load_entropy(), balancer.skip_share()
        if applied:
            balancer.step()
        else:
            balancer.forget()
    tokens = sum(len(window) for window in windows)
    state.step += 1
    state.tokens += tokens
    state.skipped += not applied
    if not applied:
        about = f"loss {objective:.4g}, gradient norm {grad_norm:.4g}"
        about = about if weight else "none of its tokens is trained"
        place = f"{state.skipped} of {state.step} so far"
        log.warning("%s: step %d was left out: %s; %s", config.name, state.step, about, place)
    is_finite = math.isfinite(objective) and math.isfinite(grad_norm)
    state.broken_in_a_row = 0 if is_finite else state.broken_in_a_row + 1
    skip_fraction = sum(skipped) / len(skipped)
    return StepReport(
        loss=loss if weight else math.nan,
        z_loss=objective - loss,
        grad_norm=grad_norm,
        tokens=tokens,
        applied=applied,
        lr_scale=scale,
        load_entropy=entropy,
        skip_fraction=skip_fraction,
        loss_by_source=by_source,
    )


def forward_backward(
    model: Zaya,
    balancer: RouterBalancer,
    batches: Sequence[Batch],
    total_weight: float,
    config: StageConfig,
    parallel: Parallel = ALONE,
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Accumulate the gradients of all microbatches; return the mean loss and sums by source.

    With more ranks they are this rank's part, to be summed.
    """
    losses: list[Tensor] = []
    token_losses: list[Tensor] = []
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def run(own: Zaya, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        with part("train/forward"):
            trunk = parallel.trunk(own, batch)
        with part("train/loss"):
            loss, nll_T = chunked_cross_entropy(
                trunk.hidden_TD,
                own.embed_tokens.weight,
                batch.targets_T,
                batch.weights_T / total_weight,
                kept_M=batch.kept_M,
                z_loss=config.z_loss,
            )
        with part("train/backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), nll_T, trunk.experts_TL, trunk.probs_TLX

    # A window that is longer than a core's share of the tokens leaves room for fewer cores.
    longest = max((len(batch.ids_T) for batch in batches), default=1)
    cores = min(
        parallel.num_cores(model.device, config.micro_tokens), config.micro_tokens // longest
    )
    for loss, nll_T, experts_TL, probs_TLX in side_by_side(run, model, batches, cores):
        balancer.observe(experts_TL, probs_TLX)
        losses.append(loss)
        token_losses.append(nll_T)
    # Only now is the device waited for.
    for batch, nll_T in zip(batches, token_losses, strict=True):
        _add_by_source(sums, batch, nll_T)
    mean = float(torch.stack(losses).sum())
    return mean if math.isfinite(mean) else math.inf, {k: (v[0], v[1]) for k, v in sums.items()}


def _add_by_source(sums: dict[str, list[float]], batch: Batch, nll_T: Tensor) -> None:
    starts = np.cumsum([0, *batch.lengths[:-1]])
    loss = np.add.reduceat((nll_T * batch.weights_T).cpu().numpy(), starts)
    weight = np.add.reduceat(batch.weights_T.cpu().numpy(), starts)
    for source, x, w in zip(batch.sources, loss.tolist(), weight.tolist(), strict=True):
        sums[source][0] += x
        sums[source][1] += w
