"""Tails of reasoning and THE prompt that aggregates them: SFT data, RL and inference share it."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from openzaya.core.errors import DataError
from openzaya.core.joined import Joined
from openzaya.core.records import Message
from openzaya.text.jinja import compile_template, pinned_source
from openzaya.text.markers import strip_control_tokens
from openzaya.text.think import Thought

TailSource = Literal["thinking", "answer_or_thinking", "all", "answer"]

AGGREGATION_TEMPLATE_SHA256 = "c69a521f3094bde2c3897ba27c2e786e6fa2417bf5af166ee54c5dce921c1840"
"""Hash of text/templates/aggregation.jinja: models are trained on this very wording."""

_FENCED = re.compile(r"```[^\n]*\n.*?\n```", re.DOTALL)


def tail_of(
    thought: Thought,
    last_tokens: Callable[[str, int], str],
    tail_tokens: int,
    source: TailSource = "thinking",
    *,
    finished: bool = True,
) -> str:
    """Return what the next round may see of one candidate: the last `tail_tokens` (tau) tokens.

    `last_tokens(text, count)` is the tokenizer's or the sampler's suffix function. A shorter trace
    passes whole. Sources: "thinking" = reasoning only; "answer" = answer only; "all" = reasoning
    and answer; "answer_or_thinking" = the answer of a finished candidate, else reasoning and what
    there is of the answer (`finished` is False for a candidate cut at its budget). An answer that
    is too long keeps its last fenced code block whole if that takes at most 2 * tau tokens.
    Markers are removed before the cut: a tail cannot close the turn that quotes it.

    Paper: VI-A.
    """
    if tail_tokens < 1:
        raise DataError(f"tail_tokens is {tail_tokens}, expected at least 1; choose a longer tail")
    reasoning = strip_control_tokens(thought.reasoning)
    answer = strip_control_tokens(thought.answer)
    both = f"{reasoning}\n\n{answer}" if reasoning and answer else reasoning or answer
    if source == "thinking":
        return _cut(reasoning, last_tokens, tail_tokens)
    if source == "all":
        return _cut(both, last_tokens, tail_tokens)
    if source == "answer" or (thought.closed and finished and answer):
        return _cut_answer(answer, last_tokens, tail_tokens)
    return _cut(both, last_tokens, tail_tokens)


def aggregation_messages(
    messages: Sequence[Message], candidates: Sequence[str], hint: str = ""
) -> tuple[Message, ...]:
    """Replace the last turn, a user's question, by the question with candidates to combine.

    The rest of the conversation stays. One candidate gets the wording for continuation. `hint` is
    an optional last line on the format of the answer. Markers inside candidates are removed.
    Raises DataError without candidates or when the last turn is not the user's.

    Paper: VI-A.
    Deviation: D-013.
    """
    return _with_candidates("aggregation.jinja", messages, candidates, hint)


def selection_messages(
    messages: Sequence[Message], candidates: Sequence[str]
) -> tuple[Message, ...]:
    """Replace the last turn, a user's question, by the request to name the best candidate.

    Otherwise like `aggregation_messages`; the reply ends with the candidate's number, from 1.
    """
    return _with_candidates("selection.jinja", messages, candidates, "")


def _with_candidates(
    template: str, messages: Sequence[Message], candidates: Sequence[str], hint: str
) -> tuple[Message, ...]:
    if not candidates:
        raise DataError(
            f"a prompt of {template} was asked for with 0 candidates, expected at least 1; "
            "use the plain question instead"
        )
    if not messages or messages[-1].role != "user":
        found = messages[-1].role if messages else "nothing"
        raise DataError(
            f"the conversation ends with {found}, expected a user turn to put the candidates in; "
            "drop what follows the question"
        )
    shown = [strip_control_tokens(candidate).strip() for candidate in candidates]
    given = (messages[-1].content, hint, *shown)
    frame = _frame(template, len(shown), bool(hint))
    text = Joined.of(part if isinstance(part, str) else given[part] for part in frame)
    last = messages[-1]
    return (*messages[:-1], Message(last.role, text, last.reasoning))


@lru_cache(maxsize=256)
def _frame(name: str, num_candidates: int, has_hint: bool) -> tuple[str | int, ...]:
    """Return a template's own words, and numbers where something given stands.

    0 is the question, 1 the hint, from 2 the candidates. These templates only copy what they are
    given, so rendering them once for each shape tells all; it takes ten times as long as joining.
    """
    marks = [f"\0{number}\0" for number in range(2 + num_candidates)]
    text = compile_template(pinned_source(name)).render(
        question=marks[0], hint=marks[1] if has_hint else "", candidates=marks[2:]
    )
    parts = text.split("\0")
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts) if part)


def _cut(text: str, last_tokens: Callable[[str, int], str], count: int) -> str:
    return last_tokens(text, count).lstrip("\ufffd")


def _cut_answer(text: str, last_tokens: Callable[[str, int], str], count: int) -> str:
    if _cut(text, last_tokens, count) == text:
        return text
    blocks = _FENCED.findall(text)
    if blocks and _cut(blocks[-1], last_tokens, 2 * count) == blocks[-1]:
        return str(blocks[-1])
    return _cut(text, last_tokens, count)
