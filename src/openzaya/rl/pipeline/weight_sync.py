"""Publish weights to the sampler between two decode steps, and never a torn set.

In one process the sampler shares the trainer's tensors, so publishing is a fingerprint and a new
version; a remote sampler would load the tensors and compare the same fingerprint.

Paper: IV-C(d).
"""

import zlib

import torch
from torch import nn

from openzaya.core.errors import EngineError
from openzaya.engine.engine import Engine


def fingerprint(model: nn.Module) -> int:
    """Return a crc32 over the bytes of all parameters and buffers, by name."""
    value = 0
    for name, tensor in sorted(model.state_dict().items()):
        value = zlib.crc32(name.encode(), value)
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        value = zlib.crc32(raw.numpy().tobytes(), value)
    return value


class WeightPublisher:
    """Announces new weights to an engine that holds the same model object."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        """Keep both."""
        self.model = model
        self.engine = engine

    def publish(self, expected: int) -> int:
        """Let the engine sample with the weights whose fingerprint is `expected`.

        Returns the new version. Raises EngineError when the weights are others: something wrote
        to them between the trainer's fingerprint and now.
        """
        found = fingerprint(self.model)
        if found != expected:
            raise EngineError(
                f"weights to publish have fingerprint {found:08x}, expected {expected:08x}; "
                "publish between optimizer steps, when nothing else writes to the model"
            )
        return self.engine.bump_version()
