"""A candidate as the journal keeps it: facts that lists show, and texts that are read singly."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from openzaya.ttc.events import CandidateDone, CandidateStarted
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import JournalDamagedError
from openzaya.ttc.journal.prompts import unpack_text
from openzaya.ttc.journal.rows import load_content, load_facts, save_facts
from openzaya.ttc.result import Candidate

_TEXTS = ("text", "thinking", "answer_text", "tail")
_KEPT = [f.name for f in fields(Candidate) if f.name not in _TEXTS]


def started_view(event: CandidateStarted) -> dict[str, Any]:
    """Return the CandidateView of a candidate that begins."""
    return {
        "stage": event.stage,
        "slot": event.slot,
        "seed": event.seed,
        "parents": list(event.parents),
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
        "queued_s": event.at,
        "began_s": None,
        "first_token_s": None,
        "ended_s": None,
    }


def done_view(
    event: CandidateDone, queued_s: float | None, first_token_s: float | None
) -> dict[str, Any]:
    """Return the CandidateView of a complete candidate."""
    candidate = event.candidate
    view: dict[str, Any] = {name: getattr(candidate, name) for name in _KEPT if name != "served"}
    served = getattr(candidate, "served", None)
    state = "failed" if candidate.is_failed else "done"
    if state == "done" and candidate.finish_reason == "abort":
        state = "cut"
    began_s = queued_s
    if served is not None and queued_s is not None:
        began_s = queued_s + served.queued_s
        if served.first_token_s is not None:
            first_token_s = queued_s + served.first_token_s
    return view | {
        "parents": list(candidate.parents),
        "state": state,
        "cached_tokens": getattr(served, "num_cached_tokens", None),
        "upstream": getattr(served, "upstream", None),
        "model": getattr(served, "model", None),
        "queued_s": queued_s,
        "began_s": began_s,
        "first_token_s": first_token_s,
        "ended_s": event.at,
    }


def load_candidates(database: Database, run_id: str) -> list[Candidate]:
    """Return every complete candidate of a run. Raises JournalDamagedError."""
    found = []
    for view in load_facts(database, run_id):
        if view["finish_reason"] is not None:
            found.append(load_candidate(database, run_id, view))
    return found


def load_candidate(database: Database, run_id: str, view: Mapping[str, Any]) -> Candidate:
    """Return the candidate that a view is of, as the run had it."""
    stage, slot = view["stage"], view["slot"]
    packed = load_content(database, run_id, stage, slot, "text")
    if packed is None:
        raise JournalDamagedError(
            f"row {run_id}/{stage}/{slot}/text is missing from the journal; restore it from a copy"
        )
    kept = {name: view[name] for name in _KEPT if name in view}
    return Candidate(**{**kept, "parents": tuple(view["parents"]), **unpack_text(packed)})


def cut_open(database: Database, run_id: str, at_s: float, stage: int | None = None) -> list[Any]:
    """Mark what is running as cut, in one stage or in all; return the new views."""
    where = "AND state = 'running'" + ("" if stage is None else f" AND stage = {int(stage)}")
    views = [
        {**view, "state": "cut", "ended_s": at_s} for view in load_facts(database, run_id, where)
    ]
    for view in views:
        save_facts(database, run_id, view)
    return views
