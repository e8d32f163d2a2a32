"""The ledger: what is recorded of every sampled token until its request finishes.

Every token keeps its id, log-probability, weights version and, on request, the experts of all
inputs. Rows are preallocated numpy, so that a decode step touches no Python object per request.

Paper: IV-C a (router replay), IV-B1 a (PipelineRL).
Source: arXiv:2510.11370 (R3), arXiv:2509.19128.
"""

import numpy as np
import numpy.typing as npt

from openzaya.core.errors import EngineError
from openzaya.engine.request import FinishReason, Output, Request

Rows = npt.NDArray[np.intp]
NO_TOKEN = -1


class Ledger:
    """One row per running request, from its admission to its output."""

    def __init__(self, num_rows: int, max_tokens: int, num_layers: int) -> None:
        shape = (num_rows, max_tokens)
        # zeros, not full: pages are only committed when a long generation writes them.
        self._tokens = np.zeros(shape, dtype=np.int64)
        self._logprobs = np.zeros(shape, dtype=np.float32)
        self._versions = np.zeros(shape, dtype=np.int32)
        self._experts: npt.NDArray[np.uint8] | None = None
        self._experts_shape = (*shape, num_layers)
        self._stop_ids = np.full((num_rows, 1), NO_TOKEN, dtype=np.int64)
        self._limits = np.zeros(num_rows, dtype=np.intp)
        self._prompt_lens = np.zeros(num_rows, dtype=np.intp)
        self.counts: Rows = np.zeros(num_rows, dtype=np.intp)
        """Tokens sampled so far, per row."""
        self.last_tokens: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        """The newest token, per row: the next decode step's input."""

    def open(self, request: Request) -> None:
        """Start the row of an admitted request."""
        row, stops = request.row, request.params.stop_token_ids
        missing = len(stops) - self._stop_ids.shape[1]
        if missing > 0:
            self._stop_ids = np.pad(
                self._stop_ids, ((0, 0), (0, missing)), constant_values=NO_TOKEN
            )
        self._stop_ids[row] = NO_TOKEN
        self._stop_ids[row, : len(stops)] = stops
        self._limits[row] = request.limit
        self._prompt_lens[row] = len(request.prompt)
        self.counts[row] = 0
        if request.params.capture_experts and self._experts is None:
            self._experts = np.zeros(self._experts_shape, dtype=np.uint8)

    @property
    def captures(self) -> bool:
        """True once any request has asked for its experts."""
        return self._experts is not None

    def record(
        self,
        rows: Rows,
        tokens: npt.NDArray[np.int64],
        logprobs: npt.NDArray[np.float32],
        version: int,
    ) -> npt.NDArray[np.bool_]:
        """Append one sampled token to each row; return which rows are finished by it.

        Raises `EngineError` when a log-probability is not a number: the weights have diverged.
        """
        if np.isnan(logprobs).any():
            raise EngineError(
                "the model returned logits that are not finite, expected numbers; the weights are "
                "broken or have diverged: load an earlier checkpoint"
            )
        at = self.counts[rows]
        self._tokens[rows, at] = tokens
        self._logprobs[rows, at] = logprobs
        self._versions[rows, at] = version
        self.last_tokens[rows] = tokens
        self.counts[rows] = at + 1
        stopped = (self._stop_ids[rows] == tokens[:, None]).any(axis=1)
        finished: npt.NDArray[np.bool_] = stopped | (at + 1 >= self._limits[rows])
        return finished

    def record_prompt_experts(self, request: Request, experts: npt.NDArray[np.uint8]) -> None:
        """Keep the experts [n, L] of all inputs, those that are recorded already excepted.

        Only the newest token is missing when an interrupted generation was computed again.
        """
        if self._experts is not None:
            start = len(experts) - 1 if self.counts[request.row] else 0
            self._experts[request.row, start : len(experts)] = experts[start:]

    def record_experts(self, rows: Rows, experts: npt.NDArray[np.uint8]) -> None:
        """Keep the experts [B, L] of the newest token of each row, now that it is an input."""
        if self._experts is not None:
            self._experts[rows, self._prompt_lens[rows] + self.counts[rows] - 1] = experts

    def inputs(self, request: Request) -> npt.NDArray[np.int64]:
        """Return the prompt of a request and what it generated so far."""
        count = int(self.counts[request.row]) if request.row >= 0 else 0
        if count == 0:
            return request.prompt
        return np.concatenate((request.prompt, self._tokens[request.row, :count]))

    def experts(self, request: Request, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        """Return the experts [n, L] of a span of inputs; None if the request did not ask."""
        if self._experts is None or not request.params.capture_experts:
            return None
        return self._experts[request.row, start:stop]

    def reason(self, row: int) -> FinishReason:
        """Return why a finished row ended: a stop token wins over the limit."""
        return "stop" if self.last_tokens[row] in self._stop_ids[row] else "length"

    def output(self, request: Request, reason: FinishReason) -> Output:
        """Return the record of a request that ran, as far as it came."""
        row, prompt_len = request.row, len(request.prompt)
        count = int(self.counts[row]) if row >= 0 else 0
        experts = None
        if request.params.capture_experts and self._experts is not None and count:
            experts = self._experts[row, : prompt_len + count - 1].copy()
        return Output(
            request_id=request.request_id,
            prompt_len=prompt_len,
            token_ids=self._tokens[row, :count].tolist(),
            logprobs=self._logprobs[row, :count].tolist(),
            versions=self._versions[row, :count].tolist(),
            experts=experts,
            finish_reason=reason,
        )
