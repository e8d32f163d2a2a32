"""What a run will cost at most, what it did cost, and whether it fits the model.

Cost is counted as the paper counts it: newly generated tokens of all stages. The question, the
aggregation prompts and the copied tails are prefill; they are reported apart, because for the
recommended preset they outweigh the decoding.

Paper: VI-A(c).
"""

from dataclasses import dataclass

from openzaya.core.errors import ConfigError, ContextLengthError
from openzaya.ttc.config import MarkovianRSAConfig

PROMPT_TOKENS = 96
"""Allowance for the aggregation instruction, in tokens of a general tokenizer."""
PROMPT_TOKENS_PER_TAIL = 12
"""Allowance for one candidate heading and its line breaks."""


@dataclass(frozen=True, slots=True)
class Preview:
    """Upper bounds of a run, and expected figures when a mean length is known. All in tokens."""

    stages: int
    calls: int
    decode_cap: int
    """Most newly generated tokens of the whole run."""
    prefill_cap: int
    """Most prompt tokens of the whole run, tails included."""
    tail_prefill_cap: int
    """The part of prefill_cap that is copied tails."""
    context_bound: int
    """Longest prompt plus generation of any single call."""
    expected_decode: int | None = None
    expected_prefill: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run really used. All in tokens but `calls` and `failed_calls`."""

    generated_by_stage: tuple[int, ...]
    prefill: int
    calls: int
    """Calls to the sampler, failed tries included."""
    failed_calls: int
    cap: int
    """Most newly generated tokens the run could have used."""

    @property
    def generated(self) -> int:
        """Newly generated tokens of all stages: the paper's cost."""
        return sum(self.generated_by_stage)


def preview(
    config: MarkovianRSAConfig,
    question_tokens: int,
    *,
    mean_tokens: float | None = None,
    overhead_tokens: int | None = None,
) -> Preview:
    """Bound a run for a question of `question_tokens`.

    `mean_tokens` is the expected length of one trace without a cut; it gives the expected figures.
    `overhead_tokens` is what an aggregation prompt adds beside question and tails; by default a
    generous allowance.
    """
    if overhead_tokens is None:
        overhead_tokens = PROMPT_TOKENS + PROMPT_TOKENS_PER_TAIL * config.tails_per_prompt
    stages = range(config.num_stages)
    counts = [config.candidates_at(stage) for stage in stages]
    budgets = [config.budget_at(stage) for stage in stages]
    decode_cap = sum(n * budget for n, budget in zip(counts, budgets, strict=True))
    aggregations = sum(counts[1:])
    tails = config.tails_per_prompt * config.max_tail_tokens
    tail_prefill = aggregations * tails
    questions = sum(counts) * question_tokens + aggregations * overhead_tokens
    prompts = [question_tokens + (overhead_tokens + tails if stage else 0) for stage in stages]
    expected_decode = expected_prefill = None
    if mean_tokens is not None:
        lengths = [min(mean_tokens, budget) for budget in budgets]
        expected_decode = round(sum(n * x for n, x in zip(counts, lengths, strict=True)))
        tail = min(lengths[0], config.tail_tokens)
        expected_prefill = round(questions + aggregations * config.tails_per_prompt * tail)
    return Preview(
        stages=config.num_stages,
        calls=sum(counts),
        decode_cap=decode_cap,
        prefill_cap=questions + tail_prefill,
        tail_prefill_cap=tail_prefill,
        context_bound=max(p + b for p, b in zip(prompts, budgets, strict=True)),
        expected_decode=expected_decode,
        expected_prefill=expected_prefill,
    )


def check_context(bounds: Preview, question_tokens: int, context_tokens: int | None) -> None:
    """Refuse a run that cannot fit the model, before any work.

    Raises `ContextLengthError` when the question alone fills the context, and `ConfigError` when
    the budgets or tails do. A model of unknown context (None) passes.
    """
    if context_tokens is None or bounds.context_bound <= context_tokens:
        return
    if question_tokens >= context_tokens:
        raise ContextLengthError(
            f"the question is {question_tokens} tokens long and the model's context holds "
            f"{context_tokens}; shorten the question or choose a model with a longer context"
        )
    raise ConfigError(
        f"a call may need {bounds.context_bound} tokens (question, C tails of tau tokens, and its "
        f"budget), but the model's context holds {context_tokens}; lower budget_tokens (beta), "
        "final_budget_tokens (F), tail_tokens (tau) or tails_per_prompt (C), or choose a smaller "
        "preset"
    )
