"""The answer of a run in the shape of the OpenAI API, with a `ttc` object beside it.

A finished run is answered from its result, a run of the past from the journal; both become an
`Outcome` first, so a repeated request gets the same body.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from openzaya.serve.gateway.backend import Wish
from openzaya.serve.tool_calls import Call, Schemas, ToolScanner
from openzaya.text.calls import TextCall, canonical_calls, split_calls
from openzaya.ttc import Candidate, Result, extract_answer
from openzaya.ttc.selection import Extract


@dataclass(frozen=True, slots=True)
class Final:
    """One candidate that a choice of the answer may be made of."""

    stage: int
    slot: int
    thinking: str
    answer_text: str
    answer: str | None
    num_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    finals: Sequence[Final]
    """The chosen candidate first, then others that answer differently, then the rest."""
    facts: Mapping[str, Any]
    """The `ttc` object."""
    question_tokens: int
    generated_tokens: int

    def choices(self, n: int) -> Sequence[Final]:
        """Return what the client gets: n candidates, or all there are."""
        return self.finals[:n]


def extractor(wish: Wish) -> Extract:
    """Return how votes are read: over tool calls and JSON values where the request has them."""

    def extract(answer_text: str) -> str | None:
        if wish.tools is not None:
            _, calls = take_calls(answer_text, wish.tools)
            if calls:
                return canonical_calls([TextCall(c.name, c.arguments) for c in calls])
        if wish.wants_json:
            try:
                value = json.loads(answer_text)
                return json.dumps(value, sort_keys=True, separators=(",", ":"))
            except (ValueError, RecursionError):
                return None
        return extract_answer(answer_text)

    return extract


def take_calls(answer_text: str, schemas: Schemas) -> tuple[str, list[Call]]:
    """Return the text outside of tool calls, and the calls, in either form that replies have."""
    scanner = ToolScanner(schemas)
    text, calls = scanner.feed(answer_text)
    text += scanner.finish()[0]
    text, more = split_calls(text)
    calls += [Call(f"call_{uuid4().hex[:24]}", call.name, call.arguments) for call in more]
    return text, calls


def outcome_of(result: Result, run_id: str, preset: str, strategy: str) -> Outcome:
    """Return what came of a run that has just ended."""
    usage = result.usage
    chosen = result.chosen
    last = chosen.stage if chosen else len(result.rounds) - 1
    stages = [r for r in result.rounds if r.stage == last]
    finals = [_final(c) for r in stages for c in r.candidates if not c.is_failed]
    generated = usage.generated_by_stage
    final_tokens = generated[-1] if len(generated) > result.config.rounds else 0
    facts: dict[str, Any] = {
        "run_id": run_id,
        "preset": preset,
        "strategy": strategy,
        "stages": len(result.rounds),
        "calls": usage.calls,
        "failed_calls": usage.failed_calls,
        "answers": [dict(r.answers) for r in result.rounds],
        "answer": result.answer,
        "selection": result.why,
        "winner": chosen and {"stage": chosen.stage, "slot": chosen.slot},
        "degraded": result.degraded,
        "interrupted": result.interrupted,
        "notes": list(result.notes),
        "seed": result.seed,
        "template_sha256": result.template_sha256,
        "tail_method": result.tail_method,
        "usage": {
            "generated": usage.generated,
            "final": final_tokens,
            "exploration": usage.generated - final_tokens,
            "generated_by_stage": list(generated),
            "prefill": usage.prefill,
            "cached": getattr(usage, "cached", None),
            "cap": usage.cap,
        },
    }
    return Outcome(
        finals=ordered(finals, chosen and chosen.slot),
        facts=facts,
        question_tokens=getattr(usage, "question_tokens", 0),
        generated_tokens=usage.generated,
    )


def _final(candidate: Candidate) -> Final:
    return Final(
        candidate.stage,
        candidate.slot,
        candidate.thinking,
        candidate.answer_text,
        candidate.answer,
        candidate.num_tokens,
        candidate.finish_reason,
    )


def ordered(finals: Sequence[Final], chosen_slot: int | None) -> list[Final]:
    """Return candidates for `n` choices: the chosen one, one of every other answer, the rest.

    Answers that more candidates give come first; a class is represented by its shortest trace.
    """
    chosen = [f for f in finals if f.slot == chosen_slot]
    votes: dict[str, int] = {}
    for final in finals:
        if final.answer is not None:
            votes[final.answer] = votes.get(final.answer, 0) + 1
    seen = {final.answer for final in chosen}
    others: list[Final] = []
    for answer in sorted(votes, key=lambda a: (-votes[a], a)):
        if answer not in seen:
            mine = [f for f in finals if f.answer == answer]
            others.append(min(mine, key=lambda f: (f.num_tokens, f.slot)))
    first = [*chosen, *others]
    return [*first, *(f for f in finals if f not in first)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The bodies and chunks of one answer."""

    id: str
    created: int
    model: str
    wish: Wish
    counts_final_only: bool

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """Return the answer at once."""
        choices = []
        for index, final in enumerate(outcome.choices(self.wish.n)):
            message = {"role": "assistant", **self.message(final)}
            reason = self.reason(final, "tool_calls" in message)
            choices.append(
                {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            )
        return {
            **self._frame("chat.completion", choices),
            "usage": self.usage(outcome),
            "ttc": dict(outcome.facts),
        }

    def message(self, final: Final) -> dict[str, Any]:
        """Return what a candidate says."""
        text, calls = final.answer_text, []
        if self.wish.tools is not None:
            text, calls = take_calls(final.answer_text, self.wish.tools)
        told: dict[str, Any] = {"content": text}
        if final.thinking:
            told["reasoning_content"] = final.thinking
        if calls:
            told["content"] = text or None
            told["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        return told

    @staticmethod
    def reason(final: Final, has_calls: bool) -> str:
        """Return why a candidate ended, in the words of the OpenAI API."""
        if has_calls:
            return "tool_calls"
        return "stop" if final.finish_reason == "stop" else "length"

    def usage(self, outcome: Outcome) -> dict[str, Any]:
        """Return the tokens to bill: all that were generated, wherever they went.

        Deviation: D-060.
        """
        chosen = outcome.choices(self.wish.n)
        own = sum(final.num_tokens for final in chosen)
        completion = own if self.counts_final_only else outcome.generated_tokens
        return {
            "prompt_tokens": outcome.question_tokens,
            "completion_tokens": completion,
            "total_tokens": outcome.question_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": max(0, completion - own)},
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def chunk(
        self, delta: Mapping[str, Any] | None, index: int = 0, reason: str | None = None
    ) -> dict[str, Any]:
        """Return one chunk of a stream; without a delta it has no choices."""
        choices = []
        if delta is not None:
            choices = [
                {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
            ]
        chunk = self._frame("chat.completion.chunk", choices)
        if self.wish.include_usage:
            chunk["usage"] = None
        return chunk

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
