"""The answer of a run in the shape of the OpenAI API, with a `ttc` object beside it.

It is made from what the journal holds of the run, so a repeated request gets the same body.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openzaya.serve.errors import ApiError
from openzaya.serve.gateway.backend import Wish
from openzaya.serve.scanners import StopScanner
from openzaya.serve.tool_calls import Call, Schemas, ToolScanner
from openzaya.ttc import extract_answer
from openzaya.ttc.journal import Journal, JournalDamagedError
from openzaya.ttc.selection import Extract


@dataclass(frozen=True, slots=True)
class Final:
    """One candidate that a choice of the answer is made of."""

    thinking: str
    answer_text: str
    num_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    finals: Sequence[Final]
    """The chosen candidate first; n of them, or as many as there are."""
    facts: Mapping[str, Any]
    """The `ttc` object."""
    question_tokens: int
    generated_tokens: int
    created: int
    """Unix time of the run's beginning."""


def extractor(wish: Wish) -> Extract:
    """Return how votes are read: over tool calls and JSON values where the request has them."""

    def extract(answer_text: str) -> str | None:
        if wish.tools is not None:
            _, calls = take_calls(answer_text, wish.tools, wish.form is not None)
            if calls:
                return canonical(calls)
            if wish.must_call:
                return None
        if wish.wants_json:
            try:
                value = json.loads(answer_text)
                return json.dumps(value, sort_keys=True, separators=(",", ":"))
            except (ValueError, RecursionError):
                return None
        return extract_answer(answer_text)

    return extract


def take_calls(answer_text: str, schemas: Schemas, is_exact: bool) -> tuple[str, list[Call]]:
    """Return the text outside of tool calls, and the calls."""
    scanner = ToolScanner(schemas, is_exact)
    text, calls = scanner.feed(answer_text)
    return text + scanner.finish()[0], calls


def canonical(calls: Sequence[Call]) -> str:
    """Return what votes on tool calls are cast over: names and arguments, however they are laid."""
    told = [{"arguments": json.loads(call.arguments), "name": call.name} for call in calls]
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


async def outcome_of(journal: Journal, run_id: str, wish: Wish) -> Outcome:
    """Return what came of a run that has ended, from the journal.

    Raises ApiError 409 for one without a result, and what the journal raises.
    """
    detail = await journal.run(run_id)
    if detail["damage"]:  # what is left is shown, and is no answer
        raise JournalDamagedError(detail["damage"][0])
    run, winner = detail["run"], detail["winner"]
    if run["state"] not in ("done", "interrupted") or winner is None:
        raise ApiError(409, f"run {run_id} ended without an answer: {run['error'] or run['why']}")
    last = winner["stage"]
    views = [c for c in detail["candidates"] if c["stage"] == last and c["state"] == "done"]
    finals = []
    for view in ordered(views, winner["slot"])[: wish.n]:
        found = await journal.candidate(run_id, last, view["slot"], prompt=False)
        final = Final(*(found[name] for name in Final.__match_args__))
        if not wish.is_final(last):  # its call was not told where to stop
            stop = StopScanner(wish.stops)
            text = stop.feed(final.answer_text) + stop.finish()
            final = replace(final, answer_text=text)
        finals.append(final)
    return Outcome(
        finals=finals,
        facts=facts_of(detail),
        question_tokens=_question_tokens(detail, wish),
        generated_tokens=run["usage"]["generated"],
        created=int(run["created"]),
    )


def _question_tokens(detail: Mapping[str, Any], wish: Wish) -> int:
    """Return the length of the client's prompt as the server counted it, else our estimate.

    A stage whose candidates may have taken two calls tells the length of both together.
    """
    first = [c["num_prompt_tokens"] for c in detail["candidates"] if c["stage"] == 0]
    counted = [] if wish.config.reserve_at(0) else [count for count in first if count]
    return min(counted, default=detail["question_tokens"] or wish.question_tokens)


def facts_of(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `ttc` object of a run."""
    run = detail["run"]
    usage = run["usage"]
    by_stage = list(usage["generated_by_stage"])
    final = by_stage[-1] if len(by_stage) == run["preview"]["stages"] else 0
    return {
        "run_id": run["id"],
        "preset": run["preset"],
        "strategy": run["strategy"],
        "stages": len(detail["stages"]),
        "calls": run["calls"],
        "failed_calls": run["failed_calls"],
        "answers": [stage["answers"] for stage in detail["stages"]],
        "answer": run["answer"],
        "selection": run["why"],
        "winner": detail["winner"],
        "degraded": run["degraded"],
        "interrupted": run["state"] == "interrupted",
        "notes": detail["notes"],
        "seed": detail["seed"],
        "template_sha256": detail["template_sha256"],
        "tail_method": detail["tail_method"],
        "usage": {
            "generated": usage["generated"],
            "final": final,
            "exploration": usage["generated"] - final,
            "generated_by_stage": by_stage,
            "prefill": usage["prefill"],
            "cached": usage["cached"],
            "lost": usage.get("lost", 0),
            "cap": usage["cap"],
        },
    }


def ordered(views: Sequence[Mapping[str, Any]], chosen_slot: int) -> list[Mapping[str, Any]]:
    """Return candidates for `n` choices: the chosen one, one of every other answer, the rest.

    Answers that more candidates give come first; a class is represented by its shortest trace.
    """
    chosen = [view for view in views if view["slot"] == chosen_slot]
    votes = Counter(view["answer"] for view in views if view["answer"] is not None)
    told = {view["answer"] for view in chosen}
    others = []
    for answer in sorted(votes.keys() - told, key=lambda a: (-votes[a], a)):
        mine = [view for view in views if view["answer"] == answer]
        others.append(min(mine, key=lambda view: (view["num_tokens"], view["slot"])))
    first = [*chosen, *others]
    slots = {view["slot"] for view in first}
    return [*first, *(view for view in views if view["slot"] not in slots)]


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
        for index, final in enumerate(outcome.finals):
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
        text = final.answer_text
        calls: list[Call] = []
        if self.wish.tools is not None:
            text, calls = take_calls(final.answer_text, self.wish.tools, self.wish.form is not None)
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
        own = sum(final.num_tokens for final in outcome.finals)
        completion = own if self.counts_final_only else outcome.generated_tokens
        return {
            "prompt_tokens": outcome.question_tokens,
            "completion_tokens": completion,
            "total_tokens": outcome.question_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": max(0, completion - own)},
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
