"""The sampler against plain references, and its statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import RequestError
from openzaya.engine.request import SamplingParams
from openzaya.engine.sampling import BLOCK_TOKENS, SamplingTable, invert_cdf, sample

CPU = torch.device("cpu")


def logits_of(seed: int, rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def batch_of(params: list[SamplingParams]) -> tuple[SamplingTable, np.ndarray]:
    table = SamplingTable(len(params))
    for row, own in enumerate(params):
        table.open(row, own)
    return table, np.arange(len(params))


def reference(logits: list[float], params: SamplingParams) -> list[float]:
    """Return the distribution by the definition, in Python floats."""
    best = max(logits)
    weights = [math.exp((x - best) / params.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    kept = order[: params.top_k] if params.top_k else order
    mass, total, nucleus = 0.0, sum(weights[i] for i in kept), []
    for i in kept:
        if mass < params.top_p * total or params.top_p == 1:
            nucleus.append(i)
        mass += weights[i]
    final = [i for i in nucleus if weights[i] >= params.min_p * weights[order[0]]]
    total = sum(weights[i] for i in final)
    return [weights[i] / total if i in final else 0.0 for i in range(len(logits))]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.01, 0.37, 0.83, 1.0]),
    top_k=st.sampled_from([0, 1, 4, 100]),
    min_p=st.sampled_from([0.0, 1e-5, 0.11, 1.0]),
)
def test_the_distribution_drawn_from_is_the_definition_whatever_else_is_in_the_batch(
    seed: int, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    params = SamplingParams(
        max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p
    )
    others = [
        SamplingParams(max_tokens=1),
        SamplingParams(max_tokens=1, temperature=0.0),
        SamplingParams(max_tokens=1, min_p=0.2),
    ]
    count = 200
    logits_BV = logits_of(seed, 4, 12)[[1, *range(3), *[3] * count]]
    expected = reference(logits_BV[-1].tolist(), params)
    table, rows = batch_of([SamplingParams(max_tokens=1), *others, *[params] * count])
    uniforms_B = torch.cat([torch.zeros(4), torch.arange(count) / count])
    tokens_B, logprobs_B, *_ = sample(logits_BV, uniforms_B, table.batch(rows, CPU))
    assert int(tokens_B[2]) == int(logits_BV[2].argmax())
    found = dict(zip(tokens_B[4:].tolist(), logprobs_B[4:].exp().tolist(), strict=True))
    for token, probability in found.items():
        assert probability == pytest.approx(expected[token], rel=1e-4)
    assert {i for i, p in enumerate(expected) if p > 0.01} <= set(found)


def test_draws_follow_the_distribution_chi_square() -> None:
    """Chi-square with 9 degrees of freedom exceeds 33.7 once in 10^4 times; seeds are fixed."""
    logits_V = logits_of(1, 1, 10)[0]
    count = 20_000
    table, rows = batch_of([SamplingParams(max_tokens=1, seed=4, temperature=1.3)])
    drawn = [table.uniforms(rows, np.array([i])) for i in range(count)]
    uniforms_B = torch.from_numpy(np.concatenate(drawn))
    batch = table.batch(np.zeros(count, dtype=np.intp), CPU)
    tokens_B, *_ = sample(logits_V.expand(count, -1), uniforms_B, batch)
    expected_V = (logits_V / 1.3).softmax(dim=-1) * count
    observed_V = torch.bincount(tokens_B, minlength=10)
    assert float(((observed_V - expected_V) ** 2 / expected_V).sum()) < 33.7


def test_draws_are_a_function_of_seed_and_position_only() -> None:
    params = [SamplingParams(max_tokens=1, seed=seed) for seed in (7, 8, 7)]
    table, rows = batch_of(params)
    count = 2 * BLOCK_TOKENS + 3
    together = np.stack([table.uniforms(rows, np.full(3, i)) for i in range(count)])
    np.testing.assert_array_equal(together[:, 0], together[:, 2])
    table.open(1, params[0])
    single = np.concatenate([table.uniforms(rows[1:2], np.array([i])) for i in range(count)])
    np.testing.assert_array_equal(single, together[:, 0])
    assert len(np.unique(together[:, :2])) > 2 * count - 5
    assert together.min() >= 0
    assert together.max() < 1


def test_equal_logits_give_equal_tokens_in_any_company() -> None:
    logits_BV = logits_of(2, 64, 300)
    uniforms_B = torch.rand(64, generator=torch.Generator().manual_seed(0))
    table, rows = batch_of(
        [SamplingParams(max_tokens=1, top_p=0.9 if i % 3 else 1.0) for i in range(64)]
    )
    together_B, logprobs_B, *_ = sample(logits_BV, uniforms_B, table.batch(rows, CPU))
    for i in range(64):
        token_1, logprob_1, *_ = sample(
            logits_BV[i : i + 1], uniforms_B[i : i + 1], table.batch(rows[i : i + 1], CPU)
        )
        assert int(token_1) == int(together_B[i])
        assert float(logprob_1) == pytest.approx(float(logprobs_B[i]), abs=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float) -> None:
    logprobs_BV = torch.tensor([[-torch.inf, 0.6, 0.4, -torch.inf]]).log()
    logprobs_BV = torch.where(logprobs_BV.isnan(), -torch.inf, logprobs_BV)
    assert int(invert_cdf(logprobs_BV, torch.tensor([uniform]))) in (1, 2)


def test_equal_probabilities_are_ranked_by_id() -> None:
    table, rows = batch_of([SamplingParams(max_tokens=1, top_k=2)])
    batch = table.batch(rows, CPU)
    tokens = {
        int(sample(torch.zeros(1, 3000), torch.tensor([u]), batch)[0])
        for u in (0.0, 0.4, 0.6, 0.99)
    }
    assert tokens == {0, 1}


def test_a_batch_of_plain_requests_carries_no_tensors_to_apply() -> None:
    table, rows = batch_of([SamplingParams(max_tokens=1, seed=i) for i in range(3)])
    batch = table.batch(rows, CPU)
    assert (batch.temperature_B1, batch.greedy_B, batch.truncation) == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.5},
    ],
)
def test_values_outside_their_range_are_refused_by_name(changes: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(changes))} is .*expected"):
        SamplingParams(**{"max_tokens": 1, **changes})
