"""Laws of packing rollouts: alignment, budget, nothing lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rl import group

from openzaya.rl.pipeline.packer import pack_groups

CPU = torch.device("cpu")


@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    prompt=st.lists(st.integers(3, 60), min_size=1, max_size=5),
    budget=st.integers(8, 40),
)
@settings(max_examples=60, deadline=None)
def test_every_response_token_keeps_its_input_route_logprob_and_advantage(
    lengths: list[int], prompt: list[int], budget: int
) -> None:
    made = group([0.0] * len(lengths), lengths=lengths, prompt_ids=prompt)
    advantages = torch.arange(1, len(lengths) + 1).float().unsqueeze(0)
    packs = pack_groups([made], advantages, budget, CPU)
    longest = max(lengths) + len(prompt) - 1
    found: dict[int, tuple[list[int], list[float]]] = {}
    for pack in packs:
        assert len(pack.ids_T) == sum(pack.lengths) <= max(budget, longest)
        assert int(pack.mask_T.sum()) == len(pack.targets_N)
        starts = torch.tensor([0, *pack.lengths[:-1]]).cumsum(0).tolist()
        for start, length in zip(starts, pack.lengths, strict=True):
            inside = (pack.rows_N >= start) & (pack.rows_N < start + length)
            g = int(pack.advantages_N[inside][0]) - 1
            assert (pack.advantages_N[inside] == g + 1).all()
            rollout = made.rollouts[g]
            ids = pack.ids_T[start : start + length].tolist()
            # the input of position r is followed by target r: prompt + response, shifted by one
            rows = (pack.rows_N[inside] - start).tolist()
            targets = pack.targets_N[inside].tolist()
            assert [*ids, targets[-1]] == prompt + rollout.token_ids
            assert [([*ids, targets[-1]])[r + 1] for r in rows] == targets
            routes = pack.replay_TL[start : start + length].numpy()
            assert (routes == rollout.experts).all()
            found[g] = (targets, pack.logprobs_N[inside].tolist())
    assert sorted(found) == list(range(len(lengths)))
    for g, (targets, logprobs) in found.items():
        assert targets == made.rollouts[g].token_ids
        assert logprobs == pytest.approx(made.rollouts[g].logprobs)


def test_rollouts_of_advantage_zero_cost_nothing() -> None:
    made = group([0.0, 1.0, 0.5])
    packs = pack_groups([made], torch.tensor([[-1.0, 0.0, 2.0]]), 100, CPU)
    assert [len(p.lengths) for p in packs] == [2]
    assert pack_groups([made], torch.zeros(1, 3), 100, CPU) == []
