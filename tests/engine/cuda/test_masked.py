"""Masks where our Triton kernels draw the neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from engine.cuda.small import small_model

from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams

PROMPTS = [[4, 9, 4, 17, 30], [5, 6, 7], [8, 2, 9, 9]]
PLAIN = SamplingParams(max_tokens=24, seed=8)


@dataclass
class Residues:
    """Token i of a reply is i modulo 3."""

    num_seen: int = 0

    def accept(self, token: int) -> None:
        self.num_seen += 1

    @classmethod
    def fill(cls, constraints: Sequence["Residues"], bits_NW: np.ndarray) -> None:
        tokens = np.arange(bits_NW.shape[1] * 8)
        for one, bits_W in zip(constraints, bits_NW, strict=True):
            bits_W[:] = np.packbits(tokens % 3 == one.num_seen % 3, bitorder="little")


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["cuda", "torch"])
def test_masks_hold_on_a_device_and_neighbours_are_as_ever(kernels) -> None:
    model = small_model().cuda()
    bound = replace(PLAIN, constraint=Residues)
    params = [bound, PLAIN, replace(bound, temperature=0.0), PLAIN, replace(bound, top_p=0.7)]
    prompts = [PROMPTS[at % 3] for at in range(5)]
    beside = Engine(model, 5, 64, kernels=kernels).generate(prompts, params)
    free = [replace(own, constraint=None) for own in params]
    alone = Engine(model, 5, 64, kernels=kernels).generate(prompts, free)
    for own, with_masks, without in zip(params, beside, alone, strict=True):
        if own.constraint is None:
            assert with_masks.token_ids == without.token_ids
            if kernels == "cuda":  # torch's products of another number of rows round otherwise
                assert with_masks.logprobs == without.logprobs
        else:
            assert [token % 3 for token in with_masks.token_ids] == [i % 3 for i in range(24)]
            assert np.isfinite(with_masks.logprobs).all()
