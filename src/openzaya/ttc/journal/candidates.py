"""A candidate as the journal shows it: facts that lists show, and texts that are read singly."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from openzaya.ttc.events import CandidateDone, CandidateStarted
from openzaya.ttc.result import Candidate

View = dict[str, Any]
"""A CandidateView: the facts."""
Values = list[Any]
"""The facts as a row holds them."""

_FIELDS = (
    *("stage", "slot", "seed", "parents", "queued_s", "prompt"),
    *("state", "answer", "is_finished", "is_looping", "num_tokens", "num_prompt_tokens"),
    *("cached_tokens", "finish_reason", "attempts", "error", "upstream", "model"),
    *("began_s", "first_token_s", "ended_s", "spans"),
)
"""What a row holds of a candidate, in this order; of one that begins the first six.

Names in every row would take more room, and more time, than the values; so would times as seconds,
of which a row has whole microseconds.
"""
PROMPT, SPANS = _FIELDS.index("prompt"), _FIELDS.index("spans")
"""Where a row says which event has the frame of the prompt, and where parts are in the text."""
_TIMES = tuple(_FIELDS.index(f"{name}_s") for name in ("queued", "began", "first_token", "ended"))

_BEGINNING: View = {
    **dict.fromkeys(_FIELDS),
    "state": "running",
    "is_finished": False,
    "is_looping": False,
    "num_tokens": 0,
    "num_prompt_tokens": 0,
    "attempts": 0,
    "error": "",
}
_KEPT = tuple(f.name for f in fields(Candidate) if f.name in _FIELDS)


def whole_us(at_s: float | None) -> int | None:
    """Return a time in microseconds, as rows hold it."""
    return None if at_s is None else round(at_s * 1e6)


def started_values(event: CandidateStarted, prompt: int) -> Values:
    """Return what is stored of a candidate that begins; `prompt` is the event with its frame."""
    queued_us = whole_us(event.at)
    return [event.stage, event.slot, event.seed, event.parents, queued_us, prompt]


def done_values(
    event: CandidateDone, queued_s: float | None, first_token_s: float | None, spans: Sequence[int]
) -> Values:
    """Return what is stored of a complete candidate; `spans` say where parts are in its text."""
    c, served, began_s = event.candidate, event.candidate.served, queued_s
    cached = upstream = model = None
    if served is not None:
        cached, upstream, model = served.num_cached_tokens, served.upstream, served.model
        if queued_s is not None:
            began_s = queued_s + served.queued_s
            if served.first_token_s is not None:
                first_token_s = queued_s + served.first_token_s
    state = "cut" if c.finish_reason == "abort" else "done"
    return [
        *(c.stage, c.slot, c.seed, c.parents, whole_us(queued_s), None),
        *("failed" if c.is_failed else state, c.answer, c.is_finished, c.is_looping),
        *(c.num_tokens, c.num_prompt_tokens, cached, c.finish_reason, c.attempts, c.error),
        *(upstream, model, whole_us(began_s), whole_us(first_token_s), whole_us(event.at), spans),
    ]


def cut_values(view: View, at_s: float) -> Values:
    """Return what is stored of a candidate that began and will not be waited for."""
    cut = {**view, "state": "cut", "ended_s": at_s}
    values = [cut.get(name) for name in _FIELDS]
    for time in _TIMES:
        values[time] = whole_us(values[time])
    return values


def again_values(view: View) -> Values:
    """Return what is stored of a candidate that failed and is to be tried again."""
    kept = {name: view[name] for name in ("stage", "slot", "seed", "parents", "queued_s")}
    return cut_values({**_BEGINNING, **kept}, view["ended_s"])


def view_of(values: Values) -> View:
    """Return the facts, from a list of what is stored of them, which changes."""
    for time in _TIMES[: 1 if len(values) < len(_FIELDS) else None]:
        if values[time] is not None:
            values[time] /= 1e6
    view = dict(zip(_FIELDS, values, strict=False))
    if len(values) < len(_FIELDS):
        view = {**_BEGINNING, **view}
    del view["prompt"], view["spans"]
    view["parents"] = list(view["parents"])
    return view


def is_complete(view: Mapping[str, Any]) -> bool:
    """Say whether a candidate came to its end: well, failed, or cut with what it had."""
    return view["finish_reason"] is not None


def candidate_of(view: Mapping[str, Any], texts: Mapping[str, str]) -> Candidate:
    """Return a complete candidate as the run had it."""
    kept = {name: view[name] for name in _KEPT}
    return Candidate(**{**kept, "parents": tuple(view["parents"]), **texts})
