"""The seam between a training step and the ranks it runs on; `Alone` is one process.

`train.distributed` implements it for many. The step asks for its share of the windows, for sums
over all ranks, and for decisions that all ranks take alike; it never sees a process group.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.data.windows import Window
from openzaya.model.zaya import Trunk, Zaya
from openzaya.optim import OptimConfig, Optimizers, build_optimizer
from openzaya.train.batch import Batch, split_windows
from openzaya.train.saver import Saver, Saving
from openzaya.train.side_by_side import num_cores

Sums = dict[str, tuple[float, float]]
"""Sum of token losses and number of trained tokens of every source."""


class Parallel(Protocol):
    """How a step is spread over ranks."""

    @property
    def is_first(self) -> bool:
        """Tell whether this rank is the one that writes metrics and reports."""
        ...

    def dtype(self, model: Zaya) -> torch.dtype:
        """Return what the layers compute in."""
        ...

    def optimizers(self, model: Zaya, config: OptimConfig) -> Optimizers:
        """Return the optimizer of this rank's part of the parameters."""
        ...

    def saver(self, folder: Path, identity: Mapping[str, Any], saving: Saving) -> Saver:
        """Return what loads and saves this rank's part of the state."""
        ...

    def load_weights(self, model: Zaya, weights: Mapping[str, Tensor]) -> None:
        """Copy this rank's part of the weights into the model."""
        ...

    def num_cores(self, device: torch.device, micro_tokens: int) -> int:
        """Return how many microbatches this rank runs at a time, on a core each."""
        ...

    def batches(
        self, windows: Sequence[Window], micro_tokens: int, device: torch.device
    ) -> list[Batch]:
        """Return this rank's share of a step as microbatches; equally many on every rank."""
        ...

    def total(self, value: float) -> float:
        """Return the sum of a value over the step: each token once."""
        ...

    def trunk(self, model: Zaya, batch: Batch) -> Trunk:
        """Run the layers over one of `batches`; the choices returned leave padding out."""
        ...

    def reduce(self, loss: float, sums: Sums, tally_LN: Tensor) -> tuple[float, Sums]:
        """Return the step's loss and sums over all ranks; add up the balancer's tally in place."""
        ...

    def release(self, model: Zaya) -> None:
        """Let go of weights that a forward pass has gathered, when no backward pass follows."""
        ...

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return every flag as true when any rank has it."""
        ...


class Alone:
    """One process: nothing to share, nothing to add up."""

    is_first = True

    def dtype(self, model: Zaya) -> torch.dtype:
        """Return the weights' dtype."""
        return model.dtype

    def optimizers(self, model: Zaya, config: OptimConfig) -> Optimizers:
        """Return the optimizer of all parameters."""
        return build_optimizer(model, config)

    def saver(self, folder: Path, identity: Mapping[str, Any], saving: Saving) -> Saver:
        """Return the saver of a whole state."""
        return Saver(folder, identity, saving)

    def load_weights(self, model: Zaya, weights: Mapping[str, Tensor]) -> None:
        """Copy all weights into the model. Raises CheckpointError when they do not fit it."""
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            found = " ".join(str(error).split())
            raise CheckpointError(
                f"the weights do not fit the model ({found:.300}); resume with the model they were "
                "saved from"
            ) from error

    def num_cores(self, device: torch.device, micro_tokens: int) -> int:
        """Return as many as torch has threads, while each has enough to do."""
        return num_cores(device, micro_tokens)

    def batches(
        self, windows: Sequence[Window], micro_tokens: int, device: torch.device
    ) -> list[Batch]:
        """Return the whole step as microbatches; those that run together share `micro_tokens`."""
        most = micro_tokens // self.num_cores(device, micro_tokens)
        return [Batch.from_windows(part, device) for part in split_windows(windows, most)]

    def total(self, value: float) -> float:
        """Return the value."""
        return value

    def trunk(self, model: Zaya, batch: Batch) -> Trunk:
        """Run the layers over packed documents."""
        return model.trunk(batch.ids_T, lengths=batch.lengths)

    def reduce(self, loss: float, sums: Sums, tally_LN: Tensor) -> tuple[float, Sums]:
        """Return loss and sums as they are."""
        del tally_LN
        return loss, sums

    def release(self, model: Zaya) -> None:
        """Do nothing."""

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return the flags."""
        return flags


ALONE = Alone()
