"""Drawing tokens from logits in two launches, whatever the vocabulary's size.

The first takes the largest score, its place and the sum of exponentials of every stretch of the
vocabulary; the second finds, per row, the stretch in which the draw falls and the token in it.
"""

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import Value, cdiv, constexpr, jit, tile, tl

STRETCH = 4096


@jit
def _summarize(  # noqa: PLR0913 (a kernel's arguments are its interface)
    logits: Value,  # [B, V] fp32
    temperature: Value,  # [B] fp32
    best: Value,  # [B, N] fp32, written
    place: Value,  # [B, N] int32, written
    mass: Value,  # [B, N] fp32, written
    V: Value,
    N: Value,
    BV: constexpr,
) -> None:
    """Largest score, its index and the sum of exponentials below it of one stretch of a row."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * BV + tl.arange(0, BV)
    score = tl.load(logits + row * V + token, mask=token < V, other=float("-inf"))
    score = score / tl.load(temperature + row)
    top = tl.max(score, axis=0)
    weight = tl.where(score == float("-inf"), 0.0, tl.exp(score - top))
    tl.store(best + row * N + part, top)
    tl.store(place + row * N + part, part * BV + tl.argmax(score, axis=0))
    tl.store(mass + row * N + part, tl.sum(weight, axis=0))


@jit
def _pick(  # noqa: PLR0913 (a kernel's arguments are its interface)
    logits: Value,  # [B, V] fp32
    temperature: Value,  # [B] fp32
    greedy: Value,  # [B] int32
    uniform: Value,  # [B] fp32
    best: Value,  # [B, N]
    place: Value,  # [B, N]
    mass: Value,  # [B, N]
    tokens: Value,  # [B] int32, written
    logprobs: Value,  # [B] fp32, written
    V: Value,
    N: Value,
    BV: constexpr,
    BN: constexpr,
) -> None:
    """The token of one row: the first whose cumulative probability exceeds the draw."""
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    part = tl.arange(0, BN)
    tops = tl.load(best + row * N + part, mask=part < N, other=float("-inf"))
    masses = tl.load(mass + row * N + part, mask=part < N, other=0.0)
    top = tl.max(tops, axis=0)
    masses = tl.where(masses == 0.0, 0.0, masses * tl.exp(tops - top))
    total = tl.sum(masses, axis=0)
    upto = tl.cumsum(masses, axis=0)
    # Just below the total at most, so that some token is found.
    aim = tl.minimum(tl.load(uniform + row) * total, total * 0.99999994)
    first = tl.min(tl.where(upto > aim, part, BN), axis=0)
    # Rounding of the two sums may differ; then it is the last stretch with any mass.
    last = tl.max(tl.where(masses > 0, part, 0), axis=0)
    first = tl.where(first < BN, first, last)
    before = tl.sum(tl.where(part < first, masses, 0.0), axis=0)
    token = first * BV + tl.arange(0, BV)
    score = tl.load(logits + row * V + token, mask=token < V, other=float("-inf")) / heat
    weight = tl.where(score == float("-inf"), 0.0, tl.exp(score - top))
    inside = tl.cumsum(weight, axis=0)
    found = tl.min(tl.where((inside > aim - before) & (weight > 0), token, V), axis=0)
    final = tl.max(tl.where(weight > 0, token, 0), axis=0)
    drawn = tl.where(found < V, found, final)
    champion = tl.argmax(tops, axis=0)
    likeliest = tl.sum(
        tl.where(part == champion, tl.load(place + row * N + part, mask=part < N, other=0), 0),
        axis=0,
    )
    chosen = tl.where(tl.load(greedy + row) != 0, likeliest, drawn)
    score = tl.load(logits + row * V + chosen) / heat
    tl.store(tokens + row, chosen)
    tl.store(logprobs + row, score - top - tl.log(total))


def draw(
    logits_BV: Tensor, temperature_B: Tensor, greedy_B: Tensor, uniform_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return tokens (int64) and their log-probabilities, both [B] on the CPU.

    `greedy_B` is int32, not 0 where the likeliest token is taken; such rows have temperature 1.
    Logits that are not finite give a log-probability that is not a number. This waits for the
    device, once.
    """
    rows, vocab = logits_BV.shape
    device = logits_BV.device
    parts = cdiv(vocab, STRETCH)
    best_BN, mass_BN = (torch.empty((rows, parts), device=device) for _ in range(2))
    place_BN = torch.empty((rows, parts), dtype=torch.int32, device=device)
    drawn_2B = torch.empty((2, rows), dtype=torch.int32, device=device)
    stretch = min(STRETCH, tile(vocab))
    _summarize[(rows, parts)](
        logits_BV, temperature_B, best_BN, place_BN, mass_BN, vocab, parts, BV=stretch, num_warps=8
    )
    _pick[(rows,)](
        logits_BV,
        temperature_B,
        greedy_B,
        uniform_B,
        best_BN,
        place_BN,
        mass_BN,
        drawn_2B[0],
        drawn_2B[1].view(torch.float32),
        vocab,
        parts,
        BV=stretch,
        BN=tile(parts),
        num_warps=8,
    )
    host_2B = drawn_2B.cpu()
    return host_2B[0].long(), host_2B[1].view(torch.float32)
