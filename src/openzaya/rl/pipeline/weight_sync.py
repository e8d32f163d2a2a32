"""Publish weights to the sampler between two decode steps, and never a torn set.

Paper: IV-C(d).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from openzaya.core.errors import EngineError
from openzaya.engine.engine import Engine
from openzaya.model.shards import fingerprint

Transport = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Carries named tensors to where the sampler stages them."""


def in_process(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stage copies in this process."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class WeightPublisher:
    """Brings the trainer's weights to an engine and remembers how old each version is.

    When the engine runs the trainer's own model object, weights are always current and publishing
    only names them. Otherwise they are staged, checked against the trainer's fingerprint, and
    only then copied over: a torn or mixed set never reaches the sampler.
    """

    def __init__(
        self,
        model: nn.Module,
        sampler: nn.Module,
        engine: Engine,
        transport: Transport = in_process,
    ) -> None:
        """Keep the trainer's model, the model that `engine` runs, and the way between them."""
        self.model = model
        self.sampler = sampler
        self.engine = engine
        self.transport = transport
        self._updates = {engine.weights_version: 0}

    @property
    def is_shared(self) -> bool:
        """True when trainer and sampler are one object."""
        return self.sampler is self.model

    def updates_of(self, version: int) -> int:
        """Return how many updates the weights of a version had seen."""
        return self._updates[version]

    @property
    def published_updates(self) -> int:
        """Updates that the sampler's weights have seen."""
        return self._updates[self.engine.weights_version]

    def restore(self, updates: int) -> None:
        """Say how many updates the sampler's weights have seen, after a checkpoint was loaded."""
        self._updates = {self.engine.weights_version: updates}

    @torch.no_grad()
    def publish(self, updates: int) -> int:
        """Let the engine sample with the trainer's weights; return the new version.

        Raises EngineError, and leaves the sampler as it was, when what arrived is not what was
        sent.
        """
        if not self.is_shared:
            source = self.model.state_dict()
            expected = fingerprint(source)
            staged = self.transport(source)
            found = fingerprint(staged)
            if found != expected:
                raise EngineError(
                    f"the published weights have fingerprint {found}, expected "
                    f"{expected}: the update is torn and was not taken; publish again, "
                    "between optimizer steps"
                )
            for name, tensor in self.sampler.state_dict().items():
                tensor.copy_(staged[name])
        version = self.engine.bump_version()
        self._updates[version] = updates
        return version
