"""The engine: continuous batching of generation requests over the slots of one cache.

A step admits waiting requests, computes pieces of their prompts, samples the first token of the
prompts that are complete, and decodes one token for every running request.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.core.errors import ConfigError, EngineError, RequestError
from openzaya.engine.capture import Ledger
from openzaya.engine.listening import Listeners
from openzaya.engine.passes import Kernels
from openzaya.engine.prefill import Chunk
from openzaya.engine.prefix import PrefixCache
from openzaya.engine.request import (
    EngineStats,
    FinishReason,
    OnStart,
    OnToken,
    Output,
    Request,
    SamplingParams,
    check_ids,
    read_prompt,
    sibling_seed,
)
from openzaya.engine.runner import Runner
from openzaya.engine.sampling import Draw, SamplingBatch, SamplingTable
from openzaya.engine.scheduler import Scheduler
from openzaya.engine.steering import Steering
from openzaya.engine.weights import replace_weights
from openzaya.model.config import ZayaConfig
from openzaya.model.quantized import QuantizedZaya
from openzaya.model.zaya import Zaya

DEFAULT_CONTEXT_TOKENS = 4096
MAX_CAPTURED_EXPERTS = 255


class Engine:
    """Generates tokens for many requests at once with one model.

    `add` and `abort` may be called from any thread; `step` and `generate` from one thread at a
    time. Tokens and log-probabilities do not depend on what else runs (see engine/sampling.py for
    the last-bits caveat). An exception out of `step` leaves the engine unusable.

    Raises `ConfigError` for sizes that cannot work.
    """

    def __init__(
        self,
        model: Zaya | QuantizedZaya,
        max_slots: int = 64,
        max_tokens: int | None = None,
        *,
        prefill_tokens: int = 2048,
        kernels: Kernels = "auto",
        num_blocks: int | Mapping[str, int] | None = None,
        kept_blocks: int | None = None,
    ) -> None:
        """Allocate the cache: `max_slots` requests at once, of `max_tokens` context each.

        `max_tokens` counts prompt and generation; by default the model's positions, at most 4096.
        `prefill_tokens` bounds the prompt tokens computed in one step beside the decodes.
        `num_blocks` bounds the memory: blocks of 64 tokens, for all layer types or by type; by
        default enough for every slot's whole context. With less, requests wait, or are put back and
        go on later. `kept_blocks` bounds what stays of finished requests for prompts that begin
        alike: None = whatever is not in use, 0 = nothing.
        `kernels`: "native" (C++, CPU), "cuda" (Triton), "torch", or "auto": the fastest that works.
        """
        positions = model.config.max_position_embeddings
        self.max_tokens = context_tokens(model.config, max_tokens)
        if not 2 <= self.max_tokens <= positions:
            raise ConfigError(
                f"max_tokens is {max_tokens}, expected 2 to {positions} (max_position_embeddings "
                "of the model); choose a context in that range"
            )
        if max_slots < 1 or prefill_tokens < 1 or (kept_blocks or 0) < 0:
            raise ConfigError(
                f"max_slots is {max_slots}, prefill_tokens {prefill_tokens} and kept_blocks "
                f"{kept_blocks}, expected at least 1, 1 and 0; choose larger ones"
            )
        self._model = model
        self.stats = EngineStats()
        self.prefill_tokens = prefill_tokens
        self._num_experts: int = model.config.num_experts
        self._vocab_size: int = model.config.vocab_size
        if isinstance(num_blocks, int):
            num_blocks = dict.fromkeys(model.config.layer_types, num_blocks)
        self._runner = Runner(
            model, max_slots + 1, self.max_tokens, kernels=kernels, num_blocks=num_blocks
        )
        self._ledger = Ledger(max_slots, self.max_tokens, model.config.num_hidden_layers)
        cache = self._runner.cache
        self._prefix = PrefixCache(cache, kept_blocks)
        self._scheduler = Scheduler(max_slots, cache, self._prefix, self._ledger, self.stats)
        self._sampling = SamplingTable(max_slots)
        self._steering = Steering(self._vocab_size, self._runner.device)
        self._listeners = Listeners()
        self._decode_batch: tuple[int, SamplingBatch] | None = None
        self._version = 0
        self._lock = Lock()
        self._next_id = 0
        self._arrived: list[Request] = []
        self._aborted: list[int] = []
        self._unclaimed: list[Output] = []

    @property
    def weights_version(self) -> int:
        """Version recorded with every token sampled from now on."""
        return self._version

    def set_weight(self, tenant: str, weight: float) -> None:
        """Give a tenant `weight` times the share of others; call it between steps.

        Raises `ConfigError` for a weight that is not above 0.
        """
        self._scheduler.queue.set_weight(tenant, weight)

    def bump_version(self) -> int:
        """Declare that the model's weights have changed; return the new version.

        Call it between steps. Running requests go on with the cache that older weights wrote; those
        that wait, or are preempted, never meet it.

        Paper: IV-B1 a (PipelineRL).
        """
        self._version += 1
        self._runner.refresh()
        self._scheduler.new_version()
        return self._version

    def swap_weights(self, state: Mapping[str, Tensor], fingerprint: str | None = None) -> int:
        """Copy new weights over the model's and return the new version; call it between steps.

        `fingerprint` is that of engine/weights.py. Raises `EngineError`, and changes nothing, when
        names, shapes, dtypes or the fingerprint differ.
        """
        if not isinstance(self._model, Zaya):
            raise EngineError(
                "a quantized model takes no new weights; load its folder with openzaya.load"
            )
        replace_weights(self._model, state, fingerprint)
        return self.bump_version()

    @property
    def has_work(self) -> bool:
        """True while `step` has something to do or to return."""
        waiting = self._arrived or self._aborted or self._unclaimed
        return bool(waiting) or self._scheduler.has_work

    @property
    def vocab_size(self) -> int:
        """Ids that the model knows."""
        return self._vocab_size

    @property
    def num_running(self) -> int:
        """Requests that are prefilled or decoded now."""
        return self._scheduler.num_running

    def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        priority: int = 0,
        *,
        tenant: str = "",
        salt: str = "",
        on_start: OnStart | None = None,
        on_token: OnToken | None = None,
    ) -> int:
        """Queue a request and return its id; smaller `priority` is admitted first.

        Requests of one priority are admitted so that every `tenant` is served alike. Only requests
        with the same `salt` share what was computed of equal prompts. `step` calls `on_start` when
        it admits the request and `on_token` for every sampled token.

        Raises `ContextLengthError` for a prompt that leaves no room for a token, `RequestError`
        for one that is empty, for ids outside the vocabulary and for one that needs more blocks
        than there are.
        """
        prompt = read_prompt(prompt_ids, self.max_tokens, self._vocab_size)
        check_ids(params, self._vocab_size)
        if params.capture_experts and self._num_experts > MAX_CAPTURED_EXPERTS:
            raise RequestError(
                f"the model has {self._num_experts} experts, expected at most "
                f"{MAX_CAPTURED_EXPERTS} to record them as bytes; set capture_experts=False"
            )
        limit = min(params.max_tokens, self.max_tokens - len(prompt))
        self._scheduler.room.check_alone(len(prompt) + limit - 1)
        with self._lock:
            request = Request(
                request_id=self._next_id,
                prompt=prompt,
                params=params,
                priority=priority,
                limit=limit,
                tenant=tenant,
                salt=salt,
                on_start=on_start,
                on_token=on_token,
            )
            self._next_id += 1
            self._arrived.append(request)
        return request.request_id

    def abort(self, request_id: int) -> None:
        """End a request at the next step, which returns what it has; finished ones are ignored."""
        with self._lock:
            self._aborted.append(request_id)

    def step(self) -> list[Output]:
        """Run one step and return the requests that ended; does nothing without work."""
        unclaimed, self._unclaimed = self._unclaimed, []
        return unclaimed + self._step()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Output]:
        """Generate for all prompts and return the outputs in order.

        With one `params` for all, prompt 0 uses its seed and prompt i a seed derived from it and i,
        so that equal prompts get different samples; with a list, seeds are used as given. Other
        requests go on meanwhile; the next `step` returns those that ended.
        """
        if isinstance(params, SamplingParams):
            seeds = (sibling_seed(params.seed, index) for index in range(len(prompts)))
            params = [replace(params, seed=seed) for seed in seeds]
        if len(params) != len(prompts):
            raise RequestError(
                f"got {len(params)} params for {len(prompts)} prompts, expected one each; pass one "
                "SamplingParams for all or a list of equal length"
            )
        outputs: dict[int, Output] = {}
        with self._aborting_on_error() as pending:
            for prompt, own in zip(prompts, params, strict=True):
                pending.append(self.add(prompt, own))
            mine = set(pending)
            while len(outputs) < len(mine):
                for output in self._step():
                    if output.request_id in mine:
                        outputs[output.request_id] = output
                    else:
                        self._unclaimed.append(output)
        return [outputs[request_id] for request_id in pending]

    @contextmanager
    def _aborting_on_error(self) -> Iterator[list[int]]:
        """Give a list of request ids that are aborted unless the block ends well."""
        pending: list[int] = []
        finished = False
        try:
            yield pending
            finished = True
        finally:
            if not finished:
                for request_id in pending:
                    self.abort(request_id)

    @torch.no_grad()
    def _step(self) -> list[Output]:
        """Admit, prefill, decode; return the requests that ended."""
        outputs = self._take_messages()
        for request in self._scheduler.admit():
            self._open(request)
        chunks = self._scheduler.next_chunks(self.prefill_tokens)
        if chunks:
            outputs += self._prefill(chunks)
        self._scheduler.make_decode_room()
        decodes = bool(self._scheduler.decoding)
        if decodes:
            outputs += self._decode()
        self.stats.steps += decodes or bool(chunks)
        self._scheduler.room.report(self.stats)
        self.stats.prefix_bytes = self._prefix.nbytes
        return outputs

    def _take_messages(self) -> list[Output]:
        """Queue what `add` brought, take out what `abort` named."""
        if not (self._arrived or self._aborted):
            return []
        with self._lock:
            arrived, self._arrived = self._arrived, []
            aborted, self._aborted = self._aborted, []
        for request in arrived:
            self._scheduler.submit(request)
        outputs = []
        for request_id in aborted:
            slot = self._scheduler.find_slot(request_id)
            if slot is not None:
                outputs.append(self._close(self._scheduler.decoding[slot], "abort"))
                self._scheduler.release(slot)
            else:
                withdrawn = self._scheduler.withdraw(request_id)
                if withdrawn is not None:
                    outputs.append(self._close(withdrawn, "abort"))
        return outputs

    def _open(self, request: Request) -> None:
        """Start everything that is kept for an admitted request."""
        self._ledger.open(request)
        self._sampling.open(request.row, request.params)
        self._steering.open(request)
        self._listeners.open(request)

    def _close(self, request: Request, reason: FinishReason) -> Output:
        """End what `_open` started; return the request's output."""
        self._steering.close(request.row)
        self._listeners.close(request.row)
        return self._ledger.output(request, reason)

    def _prefill(self, chunks: list[Chunk]) -> list[Output]:
        """Compute pieces of prompts; sample the first token of those that are complete."""
        logits_NV, experts = self._runner.prefill(chunks)
        self._scheduler.computed(chunks, experts)
        slots: list[int] = []
        sources: list[int] = []
        ended = 0
        for chunk in chunks:
            self.stats.tokens_prefilled += chunk.length
            if chunk.ends_prompt:
                taken = self._scheduler.promote(chunk.prefill)
                for slot in taken:
                    request = self._scheduler.decoding[slot]
                    self._ledger.record_prompt_experts(request, chunk.prefill.experts)
                self.stats.tokens_prefill_saved += (len(taken) - 1) * len(chunk.prefill.tokens)
                slots += taken
                sources += [ended] * len(taken)
                ended += 1
        if not slots:
            return []
        rows_of_slots = self._scheduler.row_of_slot[slots]
        batch = self._sampling.batch(rows_of_slots, self._runner.device)
        return self._extend(logits_NV[sources], np.array(slots), batch)

    def _decode(self) -> list[Output]:
        """Sample the next token of every decoding request."""
        count = len(self._scheduler.decoding)
        rows = self._scheduler.row_of_slot[:count]
        if self._decode_batch is None or self._decode_batch[0] != self._scheduler.changes:
            batch = self._sampling.batch(rows, self._runner.device)
            self._decode_batch = (self._scheduler.changes, batch)
        tokens = self._ledger.last_tokens[rows]
        logits_BV, experts = self._runner.decode(tokens, self._ledger.captures)
        if experts is not None:
            self._ledger.record_experts(rows, experts)
        self._scheduler.keep_filled()
        self._scheduler.queue.charge_step()
        self.stats.decode_steps += 1
        self.stats.tokens_decoded += count
        return self._extend(logits_BV, np.arange(count), self._decode_batch[1])

    def _extend(
        self, logits_BV: Tensor, slots: npt.NDArray[np.intp], batch: SamplingBatch
    ) -> list[Output]:
        """Sample one token for each slot, record it, and end the requests it finishes."""
        rows = self._scheduler.row_of_slot[slots]
        uniforms = self._sampling.uniforms(rows, self._ledger.counts[rows])
        logits_BV = self._steering.adjust(rows, logits_BV)
        forced = self._steering.forced(rows)
        finished = np.zeros(len(slots), dtype=np.bool_)
        for part in self._sampling.parts(rows, batch, forced, self._runner.device):
            at = part.rows
            logits = self._steering.masks.apply(rows[at], part.forced, logits_BV[at])
            draw = self._runner.draw(logits, uniforms[at], part)
            finished[at] = self._record(rows[at], draw)
        self.stats.tokens_generated += len(slots)
        outputs = []
        # From the last slot down: the slot that moves into a gap is never a finished one.
        for slot in np.sort(slots[finished])[::-1].tolist():
            request = self._scheduler.decoding[slot]
            outputs.append(self._close(request, self._ledger.reason(request.row)))
            self._scheduler.release(slot)
        return outputs

    def _record(self, rows: npt.NDArray[np.intp], draw: Draw) -> npt.NDArray[np.bool_]:
        """Record and tell the tokens of these rows; return which requests they finish."""
        tokens = draw.tokens_B.cpu().numpy()
        finished = self._ledger.record(rows, tokens, draw.logprobs_B.cpu().numpy(), self._version)
        if not self._steering.is_idle:
            self._steering.count(rows[~finished], tokens[~finished])
        self._listeners.tell(rows, draw, self._ledger, finished, self._version)
        return finished


def context_tokens(config: ZayaConfig, max_tokens: int | None) -> int:
    """Return the context of an engine made with `max_tokens`."""
    if max_tokens is not None:
        return max_tokens
    return min(config.max_position_embeddings, DEFAULT_CONTEXT_TOKENS)
