"""What single requests do to their own next token: penalties, a budget for thinking, masks.

Rows that ask for none of it are not touched, and an idle `Steering` costs one test a step. Every
row is computed on its own, so a request's tokens do not depend on what else is in the batch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.masks import Masks
from openzaya.engine.request import Request, SamplingParams

FREE = -1
"""Marks rows in `Steering.forced` whose token is drawn."""


class Penalty:
    """The penalties and biases of one request.

    Source: the OpenAI API reference (presence, frequency, logit_bias); arXiv:1909.05858
    (repetition, as `transformers` reads it).
    """

    def __init__(self, request: Request, vocab_size: int, device: torch.device) -> None:
        params = request.params
        self._params = params
        self._counts_V = torch.zeros(vocab_size, device=device)
        self._in_prompt_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._in_prompt_V[torch.from_numpy(request.prompt).to(device)] = True
        self._bias_V: Tensor | None = None
        if params.logit_bias:
            self._bias_V = torch.zeros(vocab_size, device=device)
            for token, bias in params.logit_bias:
                self._bias_V[token] += bias

    def apply(self, logits_V: Tensor) -> Tensor:
        """Return the changed logits, in the order that `SamplingParams` names."""
        params, used_V = self._params, self._counts_V > 0
        scores_V = logits_V
        if params.repetition_penalty != 1:
            rate = params.repetition_penalty
            lowered_V = torch.where(scores_V > 0, scores_V / rate, scores_V * rate)
            scores_V = torch.where(used_V | self._in_prompt_V, lowered_V, scores_V)
        if params.frequency_penalty or params.presence_penalty:
            scores_V = scores_V - params.frequency_penalty * self._counts_V
            scores_V = scores_V - params.presence_penalty * used_V
        return scores_V if self._bias_V is None else scores_V + self._bias_V

    def count(self, token: int) -> None:
        """Take note of a generated token."""
        self._counts_V[token] += 1


@dataclass(kw_only=True, slots=True)
class ThinkBudget:
    """Watches one thought and ends it when its tokens are spent."""

    left: int
    """Tokens that may still come before the end is forced."""
    end_ids: tuple[int, ...]
    """What is forced."""
    close_ids: frozenset[int]
    """Ids any of which ends the thought."""
    ended: bool = False
    """No more to watch."""
    num_forced: int = 0
    """Of the `end_ids`."""
    recent: tuple[int, ...] = ()
    """The newest tokens, as many as `end_ids` at most."""

    @property
    def next_forced(self) -> int:
        """The id that must come now, or `FREE`."""
        return self.end_ids[self.num_forced] if not self.ended and self.left <= 0 else FREE

    def count(self, token: int) -> None:
        """Take note of a generated token."""
        if self.ended:
            return
        if self.left <= 0:
            self.num_forced += 1
            self.ended = self.num_forced == len(self.end_ids)
            return
        self.left -= 1
        self.recent = (*self.recent, token)[-len(self.end_ids) :]
        self.ended = token in self.close_ids or self.recent == self.end_ids
        if self.left == 0:
            # Of an end that has begun by itself only the rest is forced.
            begun = (n for n in range(len(self.recent), 0, -1) if self._has_begun(n))
            self.num_forced = next(begun, 0)

    def _has_begun(self, num_ids: int) -> bool:
        """Say whether the newest tokens are the first `num_ids` of the end."""
        return self.recent[-num_ids:] == self.end_ids[:num_ids]


class Steering:
    """The running requests that change their own next token, by ledger row."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._penalties: dict[int, Penalty] = {}
        self._budgets: dict[int, ThinkBudget] = {}
        self.masks = Masks(vocab_size)
        """What the next token of some may be."""

    @property
    def is_idle(self) -> bool:
        """True when no running request asks for anything."""
        return not (self._penalties or self._budgets or self.masks)

    def open(self, request: Request) -> None:
        """Start the row of an admitted request."""
        params = request.params
        if _penalizes(params):
            self._penalties[request.row] = Penalty(request, self._vocab_size, self._device)
        if params.think_budget is not None:
            self._budgets[request.row] = ThinkBudget(
                left=params.think_budget,
                end_ids=params.think_end_ids,
                close_ids=frozenset(params.think_close_ids),
            )
        self.masks.open(request)

    def close(self, row: int) -> None:
        """Forget the row of a request that ended."""
        self._penalties.pop(row, None)
        self._budgets.pop(row, None)
        self.masks.close(row)

    def adjust(self, rows: npt.NDArray[np.intp], logits_BV: Tensor) -> Tensor:
        """Return the logits with the penalties and biases of their requests."""
        if not self._penalties:
            return logits_BV
        changed_BV = logits_BV.to(torch.float32, copy=True)
        for at, row in enumerate(rows.tolist()):
            if row in self._penalties:
                changed_BV[at] = self._penalties[row].apply(changed_BV[at])
        return changed_BV

    def forced(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64] | None:
        """Return the token that each row must take, `FREE` where it is drawn; None if all are."""
        if not self._budgets:
            return None
        budgets = (self._budgets.get(row) for row in rows.tolist())
        ids = np.array([FREE if b is None else b.next_forced for b in budgets], dtype=np.int64)
        return ids if (ids != FREE).any() else None

    def count(self, rows: npt.NDArray[np.intp], tokens: npt.NDArray[np.int64]) -> None:
        """Take note of the token that each row got; there is a next one."""
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            for watcher in (self._penalties.get(row), self._budgets.get(row)):
                if watcher is not None:
                    watcher.count(token)
        self.masks.count(rows.tolist(), tokens.tolist())


def _penalizes(params: SamplingParams) -> bool:
    """Say whether the logits of a request change."""
    return bool(
        params.logit_bias
        or params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1
    )
