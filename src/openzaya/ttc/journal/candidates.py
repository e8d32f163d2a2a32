"""A candidate as the journal shows it: facts that lists show, and texts that are read singly."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from openzaya.ttc.events import CandidateDone, CandidateStarted
from openzaya.ttc.result import Candidate

View = dict[str, Any]
"""A CandidateView: the facts."""

_TEXTS = ("text", "thinking", "answer_text", "tail")
_KEPT = tuple(f.name for f in fields(Candidate) if f.name not in (*_TEXTS, "served"))

_BEGINNING: View = {
    "stage": 0,
    "slot": 0,
    "seed": 0,
    "parents": [],
    "state": "running",
    "answer": None,
    "is_finished": False,
    "is_looping": False,
    "num_tokens": 0,
    "num_prompt_tokens": 0,
    "cached_tokens": None,
    "finish_reason": None,
    "attempts": 0,
    "error": "",
    "upstream": None,
    "model": None,
    "queued_s": None,
    "began_s": None,
    "first_token_s": None,
    "ended_s": None,
}
"""A candidate of which nothing is known; what is stored of one is what differs."""


def started_facts(event: CandidateStarted, prompt: int) -> View:
    """Return what is stored of a candidate that begins; `prompt` is the event with its frame."""
    return {
        "stage": event.stage,
        "slot": event.slot,
        "seed": event.seed,
        "parents": event.parents,
        "queued_s": event.at,
        "prompt": prompt,
    }


def done_facts(event: CandidateDone, queued_s: float | None, first_token_s: float | None) -> View:
    """Return what is stored of a complete candidate."""
    candidate, served = event.candidate, event.candidate.served
    view: View = {name: getattr(candidate, name) for name in _KEPT}
    view["state"] = "failed" if candidate.is_failed else "done"
    if view["state"] == "done" and candidate.finish_reason == "abort":
        view["state"] = "cut"
    view["queued_s"] = view["began_s"] = queued_s
    view["first_token_s"] = first_token_s
    view["ended_s"] = event.at
    if served is not None:
        view["cached_tokens"] = served.num_cached_tokens
        view["upstream"] = served.upstream
        view["model"] = served.model
        if queued_s is not None:
            view["began_s"] = queued_s + served.queued_s
            if served.first_token_s is not None:
                view["first_token_s"] = queued_s + served.first_token_s
    return view


def cut_facts(facts: Mapping[str, Any], at_s: float) -> View:
    """Return what is stored of a candidate that began and will not be waited for."""
    return {**facts, "state": "cut", "ended_s": at_s}


def begun_again(view: View) -> View:
    """Return what is stored of a candidate that failed and is to be tried again."""
    kept = {name: view[name] for name in ("stage", "slot", "seed", "parents", "queued_s")}
    return cut_facts(kept, view["ended_s"])


def view_of(stored: Mapping[str, Any]) -> View:
    """Return the facts, from what is stored of them."""
    view = {**_BEGINNING, **stored}
    view.pop("prompt", None)
    return view


def place_of(view: Mapping[str, Any]) -> tuple[int, int]:
    """Return stage and slot."""
    return view["stage"], view["slot"]


def is_complete(view: Mapping[str, Any]) -> bool:
    """Say whether a candidate came to its end: well, failed, or cut with what it had."""
    return view["finish_reason"] is not None


def candidate_of(view: Mapping[str, Any], texts: Mapping[str, str]) -> Candidate:
    """Return a complete candidate as the run had it."""
    kept = {name: view[name] for name in _KEPT}
    return Candidate(**{**kept, "parents": tuple(view["parents"]), **texts})
