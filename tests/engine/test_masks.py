"""Constraints on the next token: what they leave, what they cost others, and what survives."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from openzaya.engine.engine import Engine
from openzaya.engine.masks import allowed_by
from openzaya.engine.request import SamplingParams
from openzaya.engine.sampling import SamplingTable

PROMPT = [4, 9, 4, 17, 30]
STOP = 39
PLAIN = SamplingParams(max_tokens=14, seed=8)


@dataclass
class Residues:
    """Token i of a reply is i modulo 3; behind `length` tokens comes the stop token."""

    length: int = 10**6
    pause_s: float = 0.0
    seen: list[int] = field(default_factory=list)

    def allows(self, token: int) -> bool:
        at = len(self.seen)
        if at >= self.length:
            return token == STOP
        return token != STOP and token % 3 == at % 3

    def accept(self, token: int) -> None:
        self.seen.append(token)

    @classmethod
    def fill(cls, constraints: Sequence["Residues"], bits_NW: np.ndarray) -> None:
        for one, bits_W in zip(constraints, bits_NW, strict=True):
            time.sleep(one.pause_s)
            allowed = np.array([one.allows(token) for token in range(8 * len(bits_W))])
            bits_W[:] = np.packbits(allowed, bitorder="little")


BOUND = replace(PLAIN, constraint=Residues)


def check(ids: Sequence[int]) -> None:
    assert [token % 3 for token in ids] == [at % 3 for at in range(len(ids))]


def generate(model: Any, params: Sequence[SamplingParams], **sizes: Any) -> list:
    engine = Engine(model, **{"max_slots": len(params), "max_tokens": 64, **sizes})
    return engine.generate([PROMPT] * len(params), params)


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.6, "temperature": 1.7}, {"min_p": 0.3}],
)
def test_the_logprob_is_that_of_the_distribution_the_mask_leaves(any_model, changes):
    params = replace(BOUND, logit_bias=((3, 2.5),), **changes)
    (output,) = generate(any_model, [params])
    ids = output.token_ids
    assert len(ids) == 14
    check(ids)
    logits_TV = any_model(torch.tensor(PROMPT + ids[:-1])).detach().float()[len(PROMPT) - 1 :]
    logits_TV[:, 3] += 2.5
    vocabulary = torch.arange(logits_TV.shape[1])
    truncated = params.top_k or params.top_p < 1 or params.min_p
    for at, (token, logprob) in enumerate(zip(ids, output.logprobs, strict=True)):
        scores_V = logits_TV[at].masked_fill(
            (vocabulary % 3 != at % 3) | (vocabulary == STOP), -torch.inf
        )
        if params.top_k:
            scores_V = scores_V.where(scores_V >= scores_V.topk(2).values[-1], -torch.inf)
        free_V = (scores_V / (params.temperature or 1.0)).log_softmax(dim=-1)
        if params.temperature == 0:
            assert token == int(free_V.argmax())
        if not truncated or params.top_k:
            assert logprob == pytest.approx(float(free_V[token]), abs=1e-3)
        else:
            assert logprob >= float(free_V[token]) - 1e-3


def test_every_request_gets_alone_what_it_gets_in_a_crowd(any_model):
    """To the bit, whether it is masked or beside a masked one."""
    params = [
        PLAIN,
        BOUND,
        replace(PLAIN, temperature=0.0, seed=3),
        replace(BOUND, top_p=0.8, seed=4),
        replace(BOUND, temperature=0.0, constraint=lambda: Residues(length=5)),
        replace(PLAIN, top_k=3, presence_penalty=0.5),
        replace(PLAIN, think_budget=2, think_end_ids=(38, 37), seed=6),
    ]
    together = generate(any_model, params)
    for own, found in zip(params, together, strict=True):
        (alone,) = generate(any_model, [own])
        assert alone.token_ids == found.token_ids
        if any_model.config.head_dim == 32:  # our kernels: the same bits in any batch
            assert alone.logprobs == found.logprobs
        if own.constraint is not None and own.temperature:
            check(found.token_ids)


def test_a_late_mask_is_waited_for(model):
    """A pass that ends long before the mask of its token must not draw by an older one."""
    slow = replace(BOUND, constraint=lambda: Residues(pause_s=0.03), max_tokens=6)
    first, second = generate(model, [slow, replace(BOUND, max_tokens=6)])
    assert first.token_ids == second.token_ids
    check(first.token_ids)


def test_only_what_the_mask_leaves_ends_a_reply(model):
    ends = replace(BOUND, stop_token_ids=(STOP,), constraint=lambda: Residues(length=4))
    (output,) = generate(model, [replace(ends, logit_bias=((STOP, 30.0),))])
    assert (len(output.token_ids), output.token_ids[-1]) == (5, STOP)
    assert output.finish_reason == "stop"
    assert output.logprobs[-1] == 0.0
    check(output.token_ids[:-1])


def test_forced_tokens_come_whatever_the_mask_says_and_are_told_to_it(model):
    made: list[Residues] = []

    def constraint() -> Residues:
        made.append(Residues())
        return made[-1]

    forced = (38, 37, 36)
    params = replace(BOUND, constraint=constraint, think_budget=4, think_end_ids=forced)
    (output,) = generate(model, [params])
    assert tuple(output.token_ids[4:7]) == forced
    assert np.isfinite(output.logprobs).all()
    assert [t % 3 for i, t in enumerate(output.token_ids) if not 4 <= i < 7] == [
        i % 3 for i in range(14) if not 4 <= i < 7
    ]
    assert made[0].seen == output.token_ids[:-1]


def test_masked_rows_are_never_left_to_a_kernel():
    """A block of logits that are all -infinity is nothing that kernels are made for."""
    table, rows, cpu = SamplingTable(3), np.arange(3), torch.device("cpu")
    for row, params in enumerate((PLAIN, BOUND, PLAIN)):
        table.open(row, params)
    parts = table.parts(rows, table.batch(rows, cpu), None, cpu)
    assert [(part.rows.tolist(), part.by_kernel) for part in parts] == [
        ([0, 2], True),
        ([1], False),
    ]
    (alone,) = table.parts(rows[1:2], table.batch(rows[1:2], cpu), None, cpu)
    assert not alone.by_kernel


def test_equal_prompts_share_no_constraint(model):
    outputs = Engine(model, max_slots=4, max_tokens=64).generate([PROMPT] * 4, BOUND)
    assert len({tuple(output.token_ids) for output in outputs}) > 1
    for output in outputs:
        check(output.token_ids)


def test_a_preempted_request_goes_on_under_its_constraint(long_model):
    params = [replace(BOUND, max_tokens=150, seed=seed) for seed in range(4)]
    free = generate(long_model, params, max_tokens=256)
    engine = Engine(long_model, max_slots=4, max_tokens=256, num_blocks=7)
    tight = engine.generate([PROMPT] * 4, params)
    assert engine.stats.preemptions > 0
    for own, other in zip(free, tight, strict=True):
        check(other.token_ids)
        assert own.token_ids == other.token_ids


def test_what_was_aborted_leaves_its_row_free_of_masks(make_model: Callable[..., Any]):
    engine = Engine(make_model(), max_slots=1, max_tokens=64)
    request = engine.add(PROMPT, BOUND)
    for _ in range(3):
        engine.step()
    engine.abort(request)
    (output,) = engine.step()
    check(output.token_ids)
    assert engine._steering.is_idle
    (plain,) = engine.generate([PROMPT], [PLAIN])
    (alone,) = generate(make_model(), [PLAIN])
    assert plain.token_ids == alone.token_ids


@pytest.mark.parametrize("vocab_size", [1, 8, 31, 32, 33, 384])
def test_bits_are_read_where_they_are_written(vocab_size):
    allowed_V = torch.rand(vocab_size, generator=torch.Generator().manual_seed(vocab_size)) < 0.5
    bits_W = np.zeros(-(-vocab_size // 32) * 4, dtype=np.uint8)
    for token in allowed_V.nonzero().flatten().tolist():
        bits_W[token // 8] |= 1 << token % 8
    assert (allowed_by(bits_W[None], vocab_size)[0] == allowed_V.numpy()).all()
