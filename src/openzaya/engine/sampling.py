"""Batched sampling in fp32, with one uniform draw per token that belongs to the request alone.

The draw for token i of a request is a pure function of (seed, i) (named Philox stream), and the
token is the inverse cumulative distribution at that draw, so given equal logits the token does not
depend on what else is in the batch. Logits themselves may differ in their last bits between
batches of different size (matrix products sum in another order); a draw that falls within that
distance of a boundary between two tokens can then change its token. In fp32 that is rarer than one
in 10^5 tokens for small models.

Paper: App. E (min-p).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.core.seeding import numpy_stream
from openzaya.engine.request import SamplingParams

BLOCK_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncation:
    """Top-k, top-p and min-p of the N rows of a batch that use any of them."""

    rows_N: Tensor
    """Which rows of the batch."""
    top_k_N1: Tensor
    """Tokens kept; the vocabulary's size or more keeps all."""
    top_p_N1: Tensor
    """Mass kept; infinity keeps all."""
    log_min_p_N1: Tensor
    """Log of the smallest kept share of the best probability; -infinity keeps all."""
    by_rank: bool
    """False when no row uses top-k or top-p, which saves sorting the vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingBatch:
    """The sampling parameters of one batch as tensors; None marks what no row uses."""

    temperature_B1: Tensor | None
    """Divides the logits (1 for greedy rows)."""
    greedy_B: Tensor | None
    """True where the likeliest token is taken."""
    all_greedy: bool
    """No row draws at all."""
    truncation: Truncation | None
    """Rows that sample from a part of the vocabulary."""


class Part(NamedTuple):
    """Rows of a batch that are drawn together."""

    rows: slice | npt.NDArray[np.intp]
    """Which ones."""
    batch: SamplingBatch
    """Their parameters."""
    forced: npt.NDArray[np.int64] | None
    """The token that each must take, negative where it is drawn; None if all are."""
    by_kernel: bool
    """Whether the kernel of a pass may draw them."""


class SamplingTable:
    """Sampling parameters and uniform draws of the running requests, one row each.

    Rows are numpy so that a batch is gathered in a few microseconds, whatever its size.
    """

    def __init__(self, num_rows: int) -> None:
        self._temperature = np.ones(num_rows, dtype=np.float32)
        self._top_p = np.ones(num_rows, dtype=np.float32)
        self._top_k = np.zeros(num_rows, dtype=np.int64)
        self._min_p = np.zeros(num_rows, dtype=np.float32)
        self._is_masked = np.zeros(num_rows, dtype=np.bool_)
        self._uniforms = np.zeros((num_rows, BLOCK_TOKENS), dtype=np.float32)
        self._streams: list[np.random.Generator | None] = [None] * num_rows

    def open(self, row: int, params: SamplingParams) -> None:
        """Start the request of `row`: keep its parameters, restart its stream of draws."""
        self._temperature[row] = params.temperature
        self._top_p[row] = params.top_p
        self._top_k[row] = params.top_k
        self._min_p[row] = params.min_p
        self._is_masked[row] = params.constraint is not None
        is_random = params.temperature > 0
        self._streams[row] = numpy_stream(params.seed, "engine", "token") if is_random else None

    def uniforms(
        self, rows: npt.NDArray[np.intp], at: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float32]:
        """Return the draw in [0, 1) of token `at` of each row; tokens are asked for in order."""
        column = at % BLOCK_TOKENS
        for row in rows[column == 0]:
            generator = self._streams[row]
            if generator is not None:
                # 24-bit draws: exact in fp32 and never rounded up to 1.
                self._uniforms[row] = generator.random(BLOCK_TOKENS, dtype=np.float32)
        drawn: npt.NDArray[np.float32] = self._uniforms[rows, column]
        return drawn

    def batch(self, rows: npt.NDArray[np.intp], device: torch.device) -> SamplingBatch:
        """Return the parameters of `rows` in that order."""
        temperature = self._temperature[rows]
        greedy = temperature == 0
        plain = np.where(greedy, np.float32(1), temperature)
        top_p, top_k, min_p = self._top_p[rows], self._top_k[rows], self._min_p[rows]
        ranked = ((top_p < 1) | (top_k > 0)) & ~greedy
        cut = np.flatnonzero(self._is_cut(rows))
        truncation = None
        if cut.size:
            no_limit = np.iinfo(np.int64).max
            with np.errstate(divide="ignore"):
                log_min_p = np.log(min_p[cut])
            truncation = Truncation(
                rows_N=torch.from_numpy(cut).to(device),
                top_k_N1=_column(np.where(top_k[cut] > 0, top_k[cut], no_limit), device),
                top_p_N1=_column(np.where(top_p[cut] < 1, top_p[cut], np.float32(np.inf)), device),
                log_min_p_N1=_column(log_min_p, device),
                by_rank=bool(ranked.any()),
            )
        return SamplingBatch(
            temperature_B1=_column(plain, device) if (plain != 1).any() else None,
            greedy_B=torch.from_numpy(greedy).to(device) if greedy.any() else None,
            all_greedy=bool(greedy.all()),
            truncation=truncation,
        )

    def parts(
        self,
        rows: npt.NDArray[np.intp],
        batch: SamplingBatch,
        forced: npt.NDArray[np.int64] | None,
        device: torch.device,
    ) -> list[Part]:
        """Return the rows of `batch` that a pass's own kernel may draw, and the others.

        The kernels know no truncation, masks or forced tokens, and round differently from `sample`.
        Which of the two draws a row is decided by its request alone, never by its neighbours.
        """
        by_sample = self._is_cut(rows) | self._is_masked[rows]
        if forced is not None:
            by_sample |= forced >= 0
        if by_sample.all() or not by_sample.any():
            return [Part(slice(None), batch, forced, by_kernel=not by_sample.any())]
        plain, special = np.flatnonzero(~by_sample), np.flatnonzero(by_sample)
        return [
            Part(plain, self.batch(rows[plain], device), None, by_kernel=True),
            Part(
                special,
                self.batch(rows[special], device),
                None if forced is None else forced[special],
                by_kernel=False,
            ),
        ]

    def _is_cut(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Tell which rows draw from a part of the vocabulary only."""
        is_cut = (self._top_p[rows] < 1) | (self._top_k[rows] > 0) | (self._min_p[rows] > 0)
        drawn: npt.NDArray[np.bool_] = is_cut & (self._temperature[rows] > 0)
        return drawn


class Draw(NamedTuple):
    """One token for every row of a batch."""

    tokens_B: Tensor
    """The tokens."""
    logprobs_B: Tensor
    """Their log-probabilities under the distribution drawn from; for forced tokens under the one
    before truncation, which may have left them none."""
    kept_BV: Tensor
    """Log-probabilities of the distribution drawn from; for a fast draw the raw logits."""
    temperature_B1: Tensor | None = None
    """What still divides `kept_BV`."""

    def logprobs_of(self, row: int) -> Tensor:
        """Return the log-probabilities [V] of the distribution that one row was drawn from."""
        scores_V = self.kept_BV[row].float()
        if self.temperature_B1 is not None:
            scores_V = scores_V / self.temperature_B1[row]
        return scores_V.log_softmax(dim=-1)


def sample(
    logits_BV: Tensor,
    uniforms_B: Tensor,
    batch: SamplingBatch,
    forced_B: Tensor | None = None,
) -> Draw:
    """Draw the token of every row.

    `uniforms_B` is in [0, 1) and unused by greedy rows, whose log-probability is the one under
    temperature 1. Where `forced_B` is not negative, it is the token. A token of probability zero is
    never drawn. Logits that are not finite give a log-probability that is not a number.
    """
    scores_BV = logits_BV.float()
    if batch.temperature_B1 is not None:
        scores_BV = scores_BV / batch.temperature_B1
    free_BV = kept_BV = scores_BV.log_softmax(dim=-1)
    if batch.all_greedy:
        tokens_B = kept_BV.argmax(dim=-1)
    else:
        if batch.truncation is not None:
            rows_N = batch.truncation.rows_N
            cut_NV = truncate(free_BV[rows_N], batch.truncation)
            kept_BV = free_BV.index_copy(0, rows_N, cut_NV)
        tokens_B = invert_cdf(kept_BV, uniforms_B)
        if batch.greedy_B is not None:
            tokens_B = torch.where(batch.greedy_B, kept_BV.argmax(dim=-1), tokens_B)
    if forced_B is None:
        return Draw(tokens_B, _pick(kept_BV, tokens_B), kept_BV)
    is_forced_B = forced_B >= 0
    tokens_B = torch.where(is_forced_B, forced_B, tokens_B)
    logprobs_B = torch.where(is_forced_B, _pick(free_BV, tokens_B), _pick(kept_BV, tokens_B))
    return Draw(tokens_B, logprobs_B, kept_BV)


def likeliest(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """Return the `count` likeliest ids with their log-probabilities; none of probability zero."""
    best_N = logprobs_V.topk(min(count, len(logprobs_V)))
    pairs = zip(best_N.indices.tolist(), best_N.values.tolist(), strict=True)
    return tuple((token, logprob) for token, logprob in pairs if logprob > -np.inf)


def _pick(logprobs_BV: Tensor, tokens_B: Tensor) -> Tensor:
    """Return the log-probability of each row's token."""
    return logprobs_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)


def invert_cdf(logprobs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Return per row the first token whose cumulative probability exceeds the draw."""
    cumulative_BV = logprobs_BV.exp().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    # Just below the total at most: the token found then always has a probability above zero.
    below_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))
    draw_B1 = torch.minimum(uniforms_B.unsqueeze(-1) * total_B1, below_B1)
    tokens_B1 = torch.searchsorted(cumulative_BV, draw_B1, right=True)
    return tokens_B1.squeeze(-1).clamp_(max=logprobs_BV.shape[-1] - 1)


def truncate(logprobs_NV: Tensor, truncation: Truncation) -> Tensor:
    """Return the renormalized log-probabilities of the kept tokens; -infinity elsewhere.

    Equal probabilities are ranked by id, the smaller first. The likeliest token is always kept.

    Paper: App. E (min-p).
    """
    best_N1 = logprobs_NV.amax(dim=-1, keepdim=True)
    keep_NV = logprobs_NV >= best_N1 + truncation.log_min_p_N1
    if truncation.by_rank:
        ranked_NV, order_NV = logprobs_NV.sort(dim=-1, descending=True, stable=True)
        rank_V = torch.arange(logprobs_NV.shape[-1], device=logprobs_NV.device)
        in_top_k_NV = rank_V < truncation.top_k_N1
        probs_NV = ranked_NV.masked_fill(~in_top_k_NV, -torch.inf).softmax(dim=-1)
        before_NV = probs_NV.cumsum(dim=-1) - probs_NV
        nucleus_NV = in_top_k_NV & ((before_NV < truncation.top_p_N1) | (rank_V == 0))
        keep_NV = keep_NV & torch.zeros_like(keep_NV).scatter(-1, order_NV, nucleus_NV)
    return logprobs_NV.masked_fill(~keep_NV, -torch.inf).log_softmax(dim=-1)


def _column(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a numpy vector as a tensor of one column."""
    return torch.from_numpy(values).to(device).unsqueeze(-1)
